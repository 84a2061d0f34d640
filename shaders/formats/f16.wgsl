// IEEE 754 binary16. Two numbers are packed in a word, the first in its lower half. It is only read; in integers, since
// devices may take subnormal numbers for 0. Rust half: src/formats/f16.rs.

// What a buffer holds for a lane of four numbers. A single number lies in a word with its neighbour.
alias F16Four = vec2<u32>;
alias F16Two = u32;

fn f16_numbers(halves: vec4<u32>) -> vec4<f32> {
    let sign = (halves & vec4(0x8000u)) << vec4(16u);
    let magnitude = halves & vec4(0x7fffu);
    let normal = (magnitude << vec4(13u)) + vec4(0x38000000u);
    // Subnormal numbers count in 2⁻²⁴.
    let small = bitcast<vec4<u32>>(vec4<f32>(magnitude) * 5.9604645e-8);
    let large = (magnitude << vec4(13u)) + vec4(0x70000000u);
    let exact = select(select(normal, large, magnitude >= vec4(0x7c00u)), small, magnitude < vec4(0x400u));
    return bitcast<vec4<f32>>(sign | exact);
}

fn f16_four(words: vec2<u32>) -> vec4<f32> {
    return f16_numbers(vec4(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u));
}

// Number `at` of a buffer, of the word that it lies in.
fn f16_one(word: u32, at: u32) -> f32 {
    return f16_numbers(vec4(select(word & 0xffffu, word >> 16u, (at & 1u) == 1u))).x;
}
