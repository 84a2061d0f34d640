//! bfloat16, the upper half of an f32: read only, as gradients. WGSL half: shaders/formats/bf16.wgsl.

use half::bf16;

use super::{Lane, Wgsl};

pub(super) const WGSL: Wgsl = Wgsl {
    text: include_str!("../../shaders/formats/bf16.wgsl"),
    four: "Bf16Four",
    one: "Bf16Two",
    load: |lane, buffer, at| match lane {
        Lane::Four => format!("bf16_four({buffer}[{at}])"),
        Lane::Tail => format!("bf16_one({buffer}[({at}) >> 1u], {at})"),
    },
    // `BufferRange::check` lets no parameter and no state be of this format.
    store: |_, _, _, _| String::new(),
};

/// Each rounded to the nearest number, half to even. NaN stays NaN, and what is larger than any number becomes
/// infinite.
pub(super) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| bf16::from_f32(x).to_ne_bytes()).collect()
}

pub(super) fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|two| bf16::from_ne_bytes([two[0], two[1]]).to_f32()).collect()
}
