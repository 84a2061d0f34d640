//! Fused optimizer steps for training on the GPU through wgpu.

mod cpu;
mod error;
mod gpu;
mod optimizer;
mod rule;
pub mod rules;
mod settings;

pub use error::{Error, Result, require};
pub use gpu::kernel::{GradientAccess, Lane, look_ahead_shader, shader};
pub use gpu::memory::BufferRange;
pub use gpu::{Device, Gpu};
pub use optimizer::{Gradient, Key, Optimizer, ParameterId, Slices};
#[doc(hidden)]
pub use rule::__next;
pub use rule::{AnyRule, Fields, Real, Rule, Step, largest, ratio};
pub use settings::{Settings, WeightDecay};
