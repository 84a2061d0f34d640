// The lower 16 bits of an f32 whose upper half is stored as bf16, rounded to the nearest, ties away from 0. Behind
// bf16.wgsl. Rust half: src/formats/remainder.rs.

// What a buffer holds for a lane of four numbers.
alias RemainderFour = vec2<u32>;

// The numbers of these upper halves and remainders.
fn joined(upper: vec4<f32>, lower: vec2<u32>) -> vec4<f32> {
    let remainder = halves_of(lower);
    return bitcast<vec4<f32>>((bitcast<vec4<u32>>(upper) - ((remainder >> vec4(15u)) << vec4(16u))) | remainder);
}

// Of a NaN the one whose remainder is 0: rounding others up would make them 0.
fn whole_bits(x: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(x);
    return select(bits, vec4(0x7fc00000u), (bits & vec4(0x7fffffffu)) > vec4(0x7f800000u));
}

fn upper_words(x: vec4<f32>) -> vec2<u32> {
    let bits = whole_bits(x);
    return words_of((bits >> vec4(16u)) + ((bits >> vec4(15u)) & vec4(1u)));
}

fn lower_words(x: vec4<f32>) -> vec2<u32> {
    return words_of(whole_bits(x) & vec4(0xffffu));
}
