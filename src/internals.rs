//! What the tests and the binary need beside the public interface. Nothing here keeps its form between versions, and no
//! other file of the library imports it.

pub use crate::gpu::kernel::{
    Driver, Extras, GradientAccess, Lane, accumulate_shader, look_ahead_shader, norm_shader, shader, swap_shader,
};
pub use crate::noise::philox;
use crate::{gpu, solve};

/// The WGSL of the passes before the update, and of the solvers' passes: name, entry point, text.
pub fn pass_shaders() -> Vec<(&'static str, &'static str, String)> {
    let mut shaders = gpu::passes::shaders();
    shaders.extend(solve::shaders());
    shaders
}
