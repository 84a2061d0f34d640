//! Fused optimizer steps for training on the GPU through wgpu: Vulkan, Metal, DX12, GL, WebGPU.
//!
//! ```
//! use wgpu_optim::{Device, Optimizer, Settings, WeightDecay, rules::Adam};
//!
//! let device = Device::Cpu; // or Device::auto_blocking(), Gpu::new_blocking()?.into(), Gpu::from_wgpu(device, queue).into()
//! let adamw = Settings { weight_decay: WeightDecay::Decoupled(0.01), ..Settings::lr(1e-3) };
//! let mut optimizer = Optimizer::new(&device, Adam::default(), adamw)?;
//! let ids = optimizer.add_all(0, &[("weight", &[0.5f32; 6][..]), ("bias", &[0.0f32; 2])])?;
//! optimizer.write_gradient("bias", &[1.0f32, -1.0])?; // on a GPU your kernels write it: Optimizer::gradient
//! optimizer.step()?; // or Optimizer::encode, into your own encoder
//! let bias: Vec<f32> = optimizer.read_blocking("bias")?;
//! # assert!((bias[0] + 0.001).abs() < 1e-6 && ids.len() == 2);
//! # Ok::<(), wgpu_optim::Error>(())
//! ```
//!
//! # How a step runs
//!
//! 1. [`Optimizer::step`] or [`Optimizer::encode`] (`src/optimizer/step.rs`) takes the plan of the last step, or makes one
//!    (`src/optimizer/plan.rs`): tensors with one step count that lie behind each other in the arena are one run.
//! 2. Each run's dispatches (`src/gpu/plan.rs`) were cut to the device's limits, with the bind groups that they need. Tensors that lie
//!    anywhere in the same buffers of yours are one dispatch, too (`src/gpu/pool.rs`): a table says where each part is.
//! 3. Each rule computes the step's coefficients in f64 (`Rule::hyper`, `src/rules/adam.rs` and its neighbours); rounded once, they
//!    go into a slot of the uniform buffer that no other step in flight shares (`src/gpu/slots.rs`).
//! 4. The kernel (`src/gpu/kernel.rs`) is the rule's text, `shaders/adam.wgsl`, with the driver behind it, `shaders/update.wgsl`,
//!    which loads parameter, gradient and states, applies decay and scale, calls `update`, and stores.
//! 5. Without a GPU the same `update`, in Rust beside the WGSL, runs over slices on all cores, compiled for each vector unit
//!    (`src/cpu.rs`).
//!
//! Where the device decides about the step (clipping by norm, loss scaling, [`NonFinite`]), three passes come first: partial norms
//! (`shaders/norm.wgsl`), the decision (`shaders/prepare.wgsl`), and each row of coefficients, picked out of those for every step
//! count that the device may have reached (`src/optimizer/guard.rs` writes them, `src/gpu/control.rs` keeps what is not known yet,
//! `src/gpu/norm.rs` records). Norm-based rules measure (`shaders/measure.wgsl`) and take their ratio (`shaders/trust.wgsl`) next.
//! Rows and columns of gradients are rewritten before all of that (`shaders/units.wgsl`, `src/gpu/units.rs`). Parameters with
//! coefficients of their own are still one dispatch: `src/gpu/tiles.rs` says which workgroup has which.
//!
//! A step is one compute pass in one submission; after the first it creates no buffer, bind group or pipeline (where steps may be
//! skipped: two small buffers for each more that is in flight), and nothing is read back. What a group steps with is set in `src/optimizer/groups.rs`: [`Settings`], [`Schedule`], [`Averaging`], [`Options`] of single
//! parameters; what concerns the step as a whole, in `src/optimizer/guard.rs`: [`ClipNorm`], [`NonFinite`], [`LossScaler`]. `src/gpu/memory.rs` holds the arena and the ranges of your buffers, `src/gpu/transfer.rs` reads and writes them.
//!
//! [`solve`] has full-batch and second-order methods, on the host and on the device; its docs say which, and where each is.
//!
//! `src/optimizer/checkpoint/` saves and loads, `src/torch.rs` knows PyTorch's parameter groups, `src/burn/` (feature `burn`) steps Burn's
//! modules. [`guide`] has a page for each use.
//!
//! # Features
//!
//! `cli` (default): the `wgpu-optim` binary, and what only it needs. `burn`: `wgpu_optim::burn`; Burn 0.22 needs Rust 1.95.
//!
//! # Numbers
//!
//! Coefficients (1 − β, lr/(1 − β₁ᵗ), …) are computed in f64 and rounded once; a kernel contains no `pow`. Between adapters results
//! may differ in the last places (WGSL allows 2.5 ulp for a division, and contraction of a·b + c); on one adapter two runs are equal
//! bit for bit. A NaN in a gradient makes its parameter NaN. An infinite gradient makes it ∓∞ with SGD and momentum (and NaN with
//! the step behind it), NaN with all other rules. A gradient whose square overflows (|g| above 1.8e19) makes no step with rules that
//! divide by a root of squares, and as the square then stays infinite, its parameter never moves again. Subnormal gradients count as
//! they are or as 0, as the device likes. Where gradients are measured, a NaN or ∞ makes no step at all unless another [`NonFinite`]
//! is set; in a norm-based rule it makes all of its tensor, or group, NaN.
//!
//! Norms are sums in a fixed order: in tiles of 4,096 elements, scaled by a power of two where squares would overflow or underflow,
//! and then over the tiles. A clipping coefficient below 1.2e-38 may be flushed to 0.
//!
//! # Limits
//!
//! f32 on the GPU, f32 and f64 on the CPU. A tensor is at most `max_buffer_size` bytes (256 MiB by default; [`Gpu::new`] asks for
//! what the adapter has) and may exceed `max_storage_buffer_binding_size`. A rule binds 2 storage buffers, one a state, one for an
//! average, and two where parameters have coefficients of their own: eight for an averaged AMSGrad with noise, which any WebGPU device has.
//! Ranges of pools bind each buffer once, and one more for the table where there is room. Ranges of your buffers start at any
//! multiple of 4 bytes; at multiples of 16 they step four elements at a time. 128 steps may be recorded and not yet finished.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod averaging;
#[cfg(feature = "burn")]
pub mod burn;
mod clipping;
mod cpu;
mod derivatives;
mod error;
mod gpu;
pub mod guide;
mod noise;
mod optimizer;
mod rule;
pub mod rules;
mod scaling;
mod schedule;
mod settings;
pub mod solve;
mod stopping;
mod torch;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use averaging::Averaging;
pub use clipping::{AdaptiveClip, ClipNorm, NonFinite, Norm, Unit};
pub use derivatives::{Difference, GradientReport, check_gradient, numerical_gradient};
pub use error::{Error, Result, require};
pub use gpu::kernel::{
    Extras, GradientAccess, Lane, Stage, accumulate_shader, look_ahead_shader, norm_shader, shader, swap_shader,
};
pub use gpu::memory::BufferRange;
pub use gpu::passes::pass_shaders;
pub use gpu::{Device, Gpu};
pub use noise::{Noise, philox};
pub use optimizer::{
    Gradient, Key, LoadOptions, Mismatch, Optimizer, ParameterId, Placed, Progress, SaveOptions, Slices,
};
#[doc(hidden)]
pub use rule::__next;
pub use rule::{AnyRule, Fields, Real, Rule, Scope, Step, largest, ratio};
pub use scaling::{LossScaler, Report};
pub use schedule::Schedule;
pub use settings::{Accumulation, Options, Settings, WeightDecay};
pub use stopping::{EarlyStopping, Mode, ReduceOnPlateau, Threshold, Verdict};
