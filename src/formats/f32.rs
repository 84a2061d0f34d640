//! IEEE 754 binary32. WGSL half: shaders/formats/f32.wgsl.

use super::Wgsl;

pub(super) const WGSL: Wgsl = Wgsl {
    texts: &[include_str!("../../shaders/formats/f32.wgsl")],
    four: "F32Four",
    one: "F32One",
    load: |_, buffer, at| format!("{buffer}[{at}]"),
    store: |_, buffer, at, x| format!("{buffer}[{at}] = {x};"),
};
