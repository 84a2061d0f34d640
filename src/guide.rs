//! A page for each use: [your own wgpu code](own_wgpu_code), [checkpoints and PyTorch](checkpoints), [a rule of your own](own_rule). For
//! Burn see `wgpu_optim::burn` (feature `burn`).

/// The optimizer on your device, recorded into your encoder, on your buffers.
///
/// - [`Gpu::from_wgpu`](crate::Gpu::from_wgpu) takes any device with [`Gpu::REQUIRED_FEATURES`](crate::Gpu::REQUIRED_FEATURES) and
///   [`Gpu::REQUIRED_LIMITS`](crate::Gpu::REQUIRED_LIMITS), and leaves its callbacks alone. A rule that binds more than the device can
///   is refused by [`Optimizer::new`](crate::Optimizer::new).
/// - Memory: the optimizer's own ([`Optimizer::add_all`](crate::Optimizer::add_all): one dispatch a group; bind
///   [`Optimizer::parameter`](crate::Optimizer::parameter) and [`Optimizer::gradient`](crate::Optimizer::gradient)), or yours
///   ([`Optimizer::add_buffers`](crate::Optimizer::add_buffers)), which may move ([`Optimizer::place`](crate::Optimizer::place)).
/// - [`Optimizer::encode`](crate::Optimizer::encode) records a compute pass and submits nothing. Settings hold from the step that is
///   recorded next. Errors are returned, never raised on your device.
/// - A capture (RenderDoc, Xcode) shows the pass as `wgpu-optim`, with the groups *rows and columns*, *norms and coefficients*, *update*.
///
/// The whole program, `examples/share_device.rs`; the optimizer's ten lines are numbered:
///
/// ```no_run
#[doc = include_str!("../examples/share_device.rs")]
/// ```
pub mod own_wgpu_code {}

/// Stopping and going on, here, on another device, or from and to PyTorch.
///
/// - [`Optimizer::save`](crate::Optimizer::save) and [`Optimizer::load`](crate::Optimizer::load): everything but the gradients, in one
///   safetensors file, exact to the bit; tensors by name, `fc.weight`, `fc.weight.exp_avg`, …, so that Python reads it, too:
///   `safetensors.safe_open(path, "np").get_tensor("fc.weight.exp_avg")`.
/// - Loading is strict: what is missing, unexpected or different is listed in [`Error::Mismatch`](crate::Error::Mismatch), all of it, and
///   nothing has changed. [`LoadOptions::strict`](crate::LoadOptions::strict) `= false` takes what fits.
/// - In a browser, [`Optimizer::save_to`](crate::Optimizer::save_to) a `Vec<u8>` and
///   [`Optimizer::load_from`](crate::Optimizer::load_from) a `Cursor`.
/// - [`Optimizer::load_torch`](crate::Optimizer::load_torch) goes on where PyTorch stopped, and
///   [`Optimizer::save_torch`](crate::Optimizer::save_torch) goes back. PyTorch's half is `examples/torch_optimizer.py`:
///
/// ```python
#[doc = include_str!("../examples/torch_optimizer.py")]
/// ```
pub mod checkpoints {}

/// A [`Rule`](crate::Rule) outside of the crate: its WGSL, the same arithmetic in Rust, and everything else for nothing.
///
/// `examples/custom_rule.rs`, Lion:
///
/// ```no_run
#[doc = include_str!("../examples/custom_rule.rs")]
/// ```
pub mod own_rule {}
