// Numbers of 16 bits, two in a word, the first in its lower half. Before the formats that have them. Rust half:
// src/formats/halves.rs.

fn halves_of(words: vec2<u32>) -> vec4<u32> {
    return vec4(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
}

fn words_of(halves: vec4<u32>) -> vec2<u32> {
    return vec2(halves.x | (halves.y << 16u), halves.z | (halves.w << 16u));
}
