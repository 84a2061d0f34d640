//! What the tests and the binary need beside the public interface. Nothing here keeps its form between versions, and no
//! other file of the library imports it.

use std::mem::offset_of;

use crate::any_rule::AnyRule;
use crate::clipping::{Limit, NonFinite, Norm};
pub use crate::formats::Encoding;
use crate::gpu::block_table::{Block, Owner};
use crate::gpu::decision::{COEFFICIENT_STRIDE, PARTIAL};
use crate::gpu::kernel::KernelKey;
pub use crate::gpu::kernel::{
    Driver, Extras, GradientAccess, Lane, accumulate_shader, look_ahead_shader, swap_shader, swaps_of_halves,
    toward_shader,
};
use crate::gpu::lines::Job;
use crate::gpu::ring::MAX_IN_FLIGHT;
use crate::gpu::step_log::{Head, MEASURED, SIZE, StepEntry, StepHead, ZEROED};
pub use crate::noise::philox;
use crate::optimizer::{formats, measured_formats};
use crate::precision::Precision;
use crate::settings::CoefficientHead;
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

/// [`shader`] of memory in this precision. Of states in blocks of 256, threads have blocks of their own or share them.
pub fn shader_in(
    rule: &AnyRule,
    lane: Lane,
    gradient: GradientAccess,
    precision: Precision,
    (block_a_thread, extras): (bool, Extras),
) -> String {
    let extras = Extras { encoding: precision.encoding(), ..extras };
    let key = KernelKey::update(rule.description(), lane, gradient, extras);
    key.stored(formats(rule, extras.average, precision)).with_blocks(block_a_thread).compose()
}

/// A rule's configuration, as checkpoints keep it.
pub fn saved(rule: &AnyRule) -> String {
    rule.0.save()
}

/// Says whether a thread updates a block of 256 alone, or shares it; see [`shader_in`].
pub fn give_a_thread_a_block(gpu: &crate::Gpu, block_a_thread: bool) {
    gpu.give_a_thread_a_block(block_a_thread);
}

/// The WGSL of a norm-based rule's own passes.
pub fn norm_shader(rule: &AnyRule, driver: Driver, lane: Lane, precision: Precision, extras: Extras) -> String {
    KernelKey::of_norms(rule.description(), driver, lane, extras).stored(measured_formats(rule, precision)).compose()
}

/// A struct that Rust and WGSL share, as Rust lays it out.
#[derive(Debug)]
pub struct Layout {
    /// Its name in WGSL.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Names of the fields, and where they begin, in bytes.
    pub fields: Vec<(&'static str, usize)>,
}

macro_rules! layout {
    ($name:literal, $type:ty: $($field:ident)+) => {
        Layout {
            name: $name,
            size: size_of::<$type>(),
            fields: vec![$((stringify!($field), offset_of!($type, $field))),+],
        }
    };
}

/// All structs that both sides share whole.
pub fn layouts() -> [Layout; 3] {
    [
        layout!("Block", Block: start grad state len out cohort first limit own tensor),
        layout!("Owner", Owner: first count cohort cohorts kept unused),
        layout!("Job", Job: param grad lines line_step count step width adaptive clipping eps cohort parts turns),
    ]
}

/// All structs of which Rust has the first fields.
pub fn heads() -> [Layout; 2] {
    [
        layout!("Coefficients", CoefficientHead: grad_scale l2 decay average clip_value skip noise grad_power draw
            rounding unused),
        layout!("StepLog", Head: scale growth_tracker skipped bad norm norm_exponent last),
    ]
}

macro_rules! words {
    ($($type:ty: $($name:literal $(. $field:ident)+),+;)+) => {
        [$($(($name, offset_of!($type, $($field).+) / 4)),+),+]
    };
}

/// The constants of shaders/step_input.wgsl and shaders/prepare.wgsl that say where a number is, in words, and how many
/// words a struct has.
pub fn offsets() -> Vec<(&'static str, usize)> {
    let fields = words! {
        StepHead: "STEP".step, "POLICY".policy, "PARTIALS".partials, "CLIP".clip, "SCALING".scaling,
            "GROWTH".scaler.growth, "BACKOFF".scaler.backoff, "INTERVAL".scaler.interval,
            "MIN_SCALE".scaler.min_scale, "MEASURES".measures, "NAN".nan, "COHORTS".cohorts, "MEASURED".measured;
        StepEntry: "CANDIDATES".candidates, "WIDTH".width, "WORDS".words, "WEIGHT".weight, "TAKEN".taken,
            "SCHEDULED".scheduled, "FIRST".first, "COUNT".count, "WEIGHT_POWER".weight_power, "ENTRY_CLIP".clip,
            "GROUP_FIRST".group_first, "GROUP_COUNT".group_count, "GROUP_CLIP".group_clip;
        Limit: "KIND".kind, "MAX_NORM".max_norm, "EPS".eps, "FORM".form, "FACTOR".factor;
        CoefficientHead: "GRAD_SCALE".grad_scale, "SKIPPED".skip, "GRAD_POWER".grad_power;
    };
    let sizes = [
        ("HEAD", size_of::<StepHead>() / 4),
        ("ENTRY", size_of::<StepEntry>() / 4),
        ("STRIDE", COEFFICIENT_STRIDE as usize / 4),
    ];
    fields.into_iter().chain(sizes).collect()
}

/// Constants that both sides share, but for [`offsets`].
pub fn constants() -> [(&'static str, usize); 7] {
    [
        ("NO_CLIP", Limit::NONE as usize),
        ("SKIP", NonFinite::Skip as usize),
        ("ZERO", NonFinite::Zero as usize),
        ("ZEROED", ZEROED as usize),
        ("L1", Norm::L1.kind() as usize),
        ("L2", Norm::L2.kind() as usize),
        ("MAX", Norm::Max.kind() as usize),
    ]
}

/// Bytes that Rust counts on: of a cohort's coefficients, a partial norm, the step log; where that has outcomes,
/// how many, and where the norm of a step in two halves.
pub fn sizes() -> [usize; 6] {
    [COEFFICIENT_STRIDE as usize, PARTIAL as usize, SIZE as usize, size_of::<Head>(), MAX_IN_FLIGHT, MEASURED as usize]
}
