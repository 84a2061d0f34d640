// bfloat16: the upper half of an f32. Behind halves.wgsl. Rust half: src/formats/bf16.rs.

// What a buffer holds for a lane of four numbers. A single number lies in a word with its neighbour.
alias Bf16Four = vec2<u32>;
alias Bf16Two = u32;

fn bf16_four(words: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}

// The nearest numbers, half to even. NaN stays NaN.
fn bf16_words(x: vec4<f32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(x);
    let upper = bits >> vec4(16u);
    let nearest = (bits + vec4(0x7fffu) + (upper & vec4(1u))) >> vec4(16u);
    let is_nan = (bits & vec4(0x7fffffffu)) > vec4(0x7f800000u);
    return words_of(select(nearest, upper | vec4(0x40u), is_nan));
}

// One of the two numbers around each, so that the mean is the number. Of the random bits the upper 16 count. NaN and ∞
// stay what they are, and what is finite stays finite.
fn bf16_random(x: vec4<f32>, random: vec4<u32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(x);
    let magnitude = bits & vec4(0x7fffffffu);
    let near = min((magnitude + (random >> vec4(16u))) >> vec4(16u), vec4(0x7f7fu));
    let other = (magnitude >> vec4(16u)) | select(vec4(0u), vec4(0x40u), magnitude > vec4(0x7f800000u));
    let sign = (bits >> vec4(16u)) & vec4(0x8000u);
    return words_of(sign | select(near, other, magnitude >= vec4(0x7f800000u)));
}

// Number `at` of a buffer, of the word that it lies in.
fn bf16_one(word: u32, at: u32) -> f32 {
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (at & 1u) == 1u));
}
