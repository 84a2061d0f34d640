// bfloat16: the upper half of an f32. Two numbers are packed in a word, the first in its lower half. It is only read.
// Rust half: src/formats/bf16.rs.

// What a buffer holds for a lane of four numbers. A single number lies in a word with its neighbour.
alias Bf16Four = vec2<u32>;
alias Bf16Two = u32;

fn bf16_four(words: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}

// Number `at` of a buffer, of the word that it lies in.
fn bf16_one(word: u32, at: u32) -> f32 {
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (at & 1u) == 1u));
}
