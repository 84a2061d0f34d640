//! Fused optimizer steps for programs that train on the GPU through wgpu: Vulkan, Metal, DX12, GL, WebGPU.
//!
//! A step is one compute pass, recorded into your encoder, on your buffers; nothing is read back. The same rules run on
//! the CPU, in f32 and f64. You compute the gradients.
//!
//! # In your own encoder
//!
//! ```no_run
//! use wgpu_optim::{BufferRange, Gpu, Gradient, Optimizer, rules::Adam};
//!
//! fn train(
//!     device: wgpu::Device,
//!     queue: wgpu::Queue,
//!     weights: wgpu::Buffer,
//!     gradients: wgpu::Buffer,
//! ) -> wgpu_optim::Result<()> {
//!     let gpu = Gpu::from_wgpu(device.clone(), queue.clone());
//!     let mut adam = Optimizer::new(&gpu.into(), Adam::default(), 1e-3)?;
//!     let w = adam.add_buffer(0, "w", BufferRange::whole(&weights))?;
//!     adam.set_gradient(w, Gradient::Buffer(BufferRange::whole(&gradients)))?;
//!     for _ in 0..1000 {
//!         let mut encoder = device.create_command_encoder(&Default::default());
//!         // … record your forward and backward passes …
//!         adam.wait_for_room()?; // waits only if the GPU is 128 steps behind
//!         adam.encode(&mut encoder)?;
//!         queue.submit([encoder.finish()]);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! [`guide::own_encoder`] says where parameters and gradients may live; [`guide::never_waiting`] adds clipping, loss
//! scaling, schedules and averages, which the device decides about by itself.
//!
//! # On the CPU
//!
//! ```
//! use wgpu_optim::{Device, Optimizer, Settings, WeightDecay, rules::Adam};
//!
//! let adamw = Settings { weight_decay: WeightDecay::Decoupled(0.01), ..Settings::lr(1e-3) };
//! let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), adamw)?;
//! optimizer.add_all(0, &[("weight", &[0.5f32; 6][..]), ("bias", &[0.0f32; 2])])?;
//! optimizer.write_gradient("bias", &[1.0f32, -1.0])?;
//! optimizer.step()?;
//! let bias: Vec<f32> = optimizer.read_blocking("bias")?;
//! assert!((bias[0] + 0.001).abs() < 1e-6);
//! # Ok::<(), wgpu_optim::Error>(())
//! ```
//!
//! This is the same on a GPU: take [`Device::auto_blocking`], `Gpu::new_blocking()?.into()` or
//! `Gpu::from_wgpu(device, queue).into()`.
//!
//! # With Burn
//!
//! Feature `burn`; see [`guide::with_burn`].
//!
//! ```
//! # #[cfg(feature = "burn")] {
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use wgpu_optim::{burn::ModuleOptimizer, rules::Adam};
//!
//! let device = Device::flex().autodiff(); // on a GPU: wgpu_optim::burn::wgpu_device()?
//! let mut optimizer = ModuleOptimizer::new(&wgpu_optim::Device::Cpu, Adam::default(), 1e-3)?;
//! let model: Linear = LinearConfig::new(3, 1).init(&device);
//! let loss = model.forward(Tensor::<2>::ones([8, 3], &device)).powi_scalar(2).mean();
//! let gradients = GradientsParams::from_grads(loss.backward(), &model);
//! let model = optimizer.step(1e-3, model, gradients)?;
//! # }
//! # Ok::<(), wgpu_optim::Error>(())
//! ```
//!
//! # A checkpoint
//!
//! ```
//! use wgpu_optim::{Device, Optimizer, rules::Adam};
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("run.safetensors");
//!
//! let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
//! adam.add(0, "w", &[1.0f32, 2.0])?;
//! adam.save(&path)?;
//!
//! let mut again = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
//! again.add(0, "w", &[0.0f32; 2])?;
//! again.load(&path)?; // goes on where the other stopped
//! # assert_eq!(again.read_blocking::<f32>("w")?, [1.0, 2.0]);
//! # Ok::<(), wgpu_optim::Error>(())
//! ```
//!
//! It holds everything but the gradients, and loads on any device. [`Optimizer::load_torch`] and
//! [`Optimizer::save_torch`] exchange states with PyTorch. See [`guide::checkpoints`].
//!
//! # Where to read on
//!
//! - [`Optimizer`] has an index of its methods by what you want to do.
//! - [`guide`] has a page for each use, [`guide::rules`] every rule with its options, [`guide::numbers`] what NaN does
//!   and all limits.
//! - [`solve`] has full-batch methods, on the host and on the device: L-BFGS, Newton, Levenberg–Marquardt and others.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `burn`: `wgpu_optim::burn`, an optimizer for Burn's modules. Burn 0.22 needs Rust 1.95.
//! - `js`: the classes of the npm package, and `adopt_device` and `adopt_buffer` for what JavaScript made. For
//!   `wasm32-unknown-unknown`; see [`guide::browser`].
//! - `cli`: the `wgpu-optim` command, and what only it needs. `cargo run` in the repository turns it on.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod any_rule;
mod averaging;
mod bitsandbytes;
#[cfg(feature = "burn")]
pub mod burn;
#[cfg(feature = "check")]
#[doc(hidden)]
pub mod check;
mod clipping;
mod cpu;
mod derivatives;
mod error;
mod formats;
mod gpu;
pub mod guide;
#[doc(hidden)]
pub mod internals;
#[cfg(all(feature = "js", target_family = "wasm"))]
pub mod js;
mod json;
mod noise;
mod optimizer;
mod precision;
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

pub use any_rule::AnyRule;
pub use averaging::{Averaging, Warmup};
pub use clipping::{AdaptiveClip, ClipNorm, NonFinite, Norm};
pub use derivatives::{Difference, GradientReport, check_gradient, check_gradient_with, numerical_gradient};
pub use error::{Error, Mismatch, Result, require};
pub use formats::{Extent, Format, Storage};
pub use gpu::memory::BufferRange;
pub use gpu::{Device, Gpu};
pub use noise::Noise;
pub use optimizer::{
    Gradient, Key, LoadOptions, Location, Optimizer, ParameterId, Progress, SaveOptions, Slices, TorchOptions,
};
pub use precision::{Precision, Rounding, States};
#[doc(hidden)]
pub use rule::__next;
pub use rule::{Fields, NOT_BELOW_ZERO, NOT_MOMENTS, Real, Reduce, Rule, Stage, Step, largest, ratio, sign_of, within};
pub use scaling::{LossScaler, Report};
pub use schedule::Schedule;
pub use settings::{Accumulation, Options, Settings, WeightDecay};
pub use stopping::{EarlyStopping, Mode, ReduceOnPlateau, Threshold, Verdict};
pub use torch::from_torch;
