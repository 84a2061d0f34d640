// IEEE 754 binary16, in integers, since devices may take subnormal numbers for 0. Behind halves.wgsl. Rust half:
// src/formats/f16.rs.

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
    return f16_numbers(halves_of(words));
}

// The nearest numbers, half to even. NaN stays NaN, and what is larger than any number becomes infinite.
fn f16_words(x: vec4<f32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(x);
    let m = bits & vec4(0x7fffffffu);
    let normal = (m + vec4(0xfffu) + ((m >> vec4(13u)) & vec4(1u)) - vec4(0x38000000u)) >> vec4(13u);
    // Below 2⁻¹⁴: the last bit of 0.5 is f16's smallest step.
    let small = bitcast<vec4<u32>>(bitcast<vec4<f32>>(m) + 0.5) - vec4(0x3f000000u);
    let large = select(vec4(0x7c00u), vec4(0x7e00u), m > vec4(0x7f800000u));
    let finite = select(normal, small, m < vec4(0x38800000u));
    let sign = (bits >> vec4(16u)) & vec4(0x8000u);
    return words_of(sign | select(finite, large, m >= vec4(0x47800000u)));
}

// Number `at` of a buffer, of the word that it lies in.
fn f16_one(word: u32, at: u32) -> f32 {
    return f16_numbers(vec4(select(word & 0xffffu, word >> 16u, (at & 1u) == 1u))).x;
}
