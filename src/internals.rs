//! What the tests and the binary need beside the public interface. Nothing here keeps its form between versions, and no
//! other file of the library imports it.

use crate::any_rule::AnyRule;
use crate::gpu::kernel::KernelKey;
pub use crate::gpu::kernel::{Driver, Extras, GradientAccess, Lane, accumulate_shader, look_ahead_shader, swap_shader};
pub use crate::noise::philox;
use crate::{gpu, solve};

/// The WGSL of the passes before the update, and of the solvers' passes: name, entry point, text.
pub fn pass_shaders() -> Vec<(&'static str, &'static str, String)> {
    let mut shaders = gpu::passes::shaders();
    shaders.extend(solve::shaders());
    shaders
}

/// The WGSL that runs for this rule: what `wgpu-optim shader` prints and the tests translate to every backend's
/// language.
///
/// ```
/// use wgpu_optim::internals::{Extras, GradientAccess, Lane, shader};
/// use wgpu_optim::rules::Adam;
/// let wgsl = shader(&Adam::default().into(), Lane::Four, GradientAccess::Read, Extras::default());
/// assert!(wgsl.contains("fn update(") && wgsl.contains("@compute"));
/// ```
pub fn shader(rule: &AnyRule, lane: Lane, gradient: GradientAccess, extras: Extras) -> String {
    KernelKey::update(rule.description(), lane, gradient, extras).compose()
}

/// The WGSL of a norm-based rule's own passes.
pub fn norm_shader(rule: &AnyRule, driver: Driver, extras: Extras) -> String {
    KernelKey::of_norms(rule.description(), driver, extras).compose()
}
