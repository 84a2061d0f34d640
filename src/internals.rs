//! What the tests and the binary need beside the public interface. Nothing here keeps its form between versions, and no
//! other file of the library imports it.

pub use crate::gpu::kernel::{
    Driver, Extras, GradientAccess, Lane, accumulate_shader, look_ahead_shader, norm_shader, shader, swap_shader,
};
pub use crate::gpu::passes::pass_shaders;
pub use crate::noise::philox;
