// Eight bits an unsigned number, in blocks of 256: how far its bits are below those of the largest of its block. Behind
// block8.wgsl. Rust half: src/formats/relative8.rs.

fn relative8(word: u32, absmax: f32) -> vec4<f32> {
    let codes = vec4<u32>(codes_of(word));
    let most = vec4(bitcast<u32>(absmax));
    let below = (vec4(255u) - codes) << vec4(20u);
    return bitcast<vec4<f32>>(select(most - below, vec4(0u), (codes == vec4(0u)) | (most < below)));
}

fn relative8_codes(x: vec4<f32>, absmax: f32, random: vec4<u32>) -> u32 {
    let r = select(vec4(0x80000u), random >> vec4(12u), WITH_RANDOM);
    let bits = bitcast<vec4<u32>>(x) & vec4(0x7fffffffu);
    let below = min((vec4(bitcast<u32>(absmax)) - bits + r) >> vec4(20u), vec4(254u));
    return word_of(vec4<i32>(select(vec4(255u) - below, vec4(0u), bits == vec4(0u))));
}
