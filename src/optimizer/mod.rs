//! What a user calls: groups, parameters and their memory.
//!
//! `add.rs` adds parameters, `groups.rs` configures groups, `safeguards.rs` what concerns a step as a whole. `step.rs`
//! steps with the program that `program.rs` makes, `cpu_step.rs` on the CPU. `access.rs` reads and writes, `checkpoint`
//! saves and loads. What a group and a parameter are stands in `group.rs`, `parameter.rs` and `storage.rs`.

use std::collections::{BTreeMap, HashMap};

use crate::any_rule::AnyRule;
use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::gpu::arena::Arena;
use crate::gpu::kernel::AVERAGE;
use crate::gpu::memory::BufferRange;
use crate::gpu::program::{BindGroups, Program};
use crate::gpu::ring::{CoefficientRing, MAX_HYPER};
use crate::gpu::step_log::{InFlight, StepLog};
use crate::precision::Precision;
use crate::rule::Stage;
use crate::scaling::{Report, Safeguards};
use crate::settings::Settings;

mod access;
mod accumulate;
mod add;
mod averages;
mod checkpoint;
mod claims;
mod cpu_step;
mod evaluate;
mod group;
mod groups;
mod moves;
mod parameter;
mod program;
mod relocate;
mod safeguards;
mod small_lr;
mod step;
mod storage;

pub use checkpoint::{LoadOptions, Progress, SaveOptions, TorchOptions};
pub use cpu_step::Slices;
pub use relocate::Location;
pub(crate) use storage::{formats, measured_formats};

use accumulate::Held;
use claims::Claims;
use group::{Arenas, Group};
use parameter::{At, HostMemory, Memory, Own, Parameter};

/// A parameter's handle. It is not given to another parameter, even after this one is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(pub(crate) u64);

/// How methods name a parameter: by its handle or by its name. Both convert into this, so pass either.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// By handle.
    Id(ParameterId),
    /// By name.
    Name(&'a str),
}

impl From<ParameterId> for Key<'_> {
    fn from(id: ParameterId) -> Self {
        Self::Id(id)
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

/// Where the next steps find a parameter's gradient; see [`Optimizer::set_gradient`].
#[derive(Clone, Debug)]
pub enum Gradient {
    /// In the optimizer's own memory, beside the parameter. For parameters of [`Optimizer::add`] and
    /// [`Optimizer::add_all`].
    Own,
    /// In the caller's buffer.
    Buffer(BufferRange),
    /// Nowhere until it is written again, as `grad = None` in PyTorch: steps leave the parameter out, and its values,
    /// states and step count stay.
    Missing,
}

/// Parameter groups, each with a rule, settings and any number of parameters.
///
/// On a GPU a parameter lives in the optimizer's memory ([`Optimizer::add`]: a whole group is one dispatch) or in your
/// buffer ([`Optimizer::add_buffer`]). On the CPU it is a `Vec` of `f32` or `f64`, or your slice
/// ([`Optimizer::add_slice`]).
///
/// ```
/// use wgpu_optim::{Device, Optimizer, rules::Adam};
/// let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
/// let w = optimizer.add(0, "w", &[3.0f32, -2.0])?;
/// for _ in 0..200 {
///     let gradient: Vec<f32> = optimizer.read_blocking(w)?.iter().map(|w: &f32| 2.0 * w).collect();
///     optimizer.write_gradient(w, &gradient)?;
///     optimizer.step()?;
/// }
/// assert!(optimizer.read_blocking::<f32>("w")?.iter().all(|w| w.abs() < 0.01));
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
///
/// # Methods by what you want to do
///
/// **Make it.** [`new`](Self::new) makes an optimizer with one group, number 0; [`add_group`](Self::add_group) adds
/// others.
///
/// **Add parameters.**
///
/// - In the optimizer's memory: [`add`](Self::add), [`add_all`](Self::add_all).
/// - In your buffers: [`add_buffer`](Self::add_buffer), [`add_buffers`](Self::add_buffers);
///   [`relocate`](Self::relocate) when they move.
/// - In your slices, on the CPU: [`add_slice`](Self::add_slice).
/// - Later: [`remove`](Self::remove), [`rename`](Self::rename), [`move_to_group`](Self::move_to_group) with its state.
/// - [`id`](Self::id) finds a handle by name, [`parameters`](Self::parameters) lists all, [`group_of`](Self::group_of)
///   says which group.
///
/// **Give gradients.** Until one of these makes its gradient present, a parameter takes no part in steps.
///
/// - From the host: [`write_gradient`](Self::write_gradient).
/// - From your kernels, into the optimizer's memory: [`gradient`](Self::gradient) is the range to bind.
/// - In your buffers: [`set_gradient`](Self::set_gradient).
/// - From micro-batches: [`accumulate`](Self::accumulate), [`encode_accumulate`](Self::encode_accumulate).
/// - [`zero_grad`](Self::zero_grad) and [`encode_zero_grad`](Self::encode_zero_grad) write 0 to gradients that are
///   present.
/// - [`without_gradient`](Self::without_gradient) lists the parameters that the next step would leave out.
///
/// **Step.**
///
/// - On either device, by itself: [`step`](Self::step).
/// - In your encoder: [`encode`](Self::encode), after [`wait_for_room`](Self::wait_for_room) or, without blocking,
///   [`room`](Self::room).
/// - In two halves, around a norm that is not this optimizer's alone: [`encode_measure`](Self::encode_measure),
///   [`measured`](Self::measured), [`encode_apply`](Self::encode_apply).
/// - Your slices, on the CPU: [`step_slices`](Self::step_slices).
/// - Nesterov's look-ahead, before the gradient: [`look_ahead`](Self::look_ahead),
///   [`encode_look_ahead`](Self::encode_look_ahead), [`look_ahead_slices`](Self::look_ahead_slices).
///
/// **Settings and schedules of a group.**
///
/// - All settings: [`settings`](Self::settings), [`set_settings`](Self::set_settings).
/// - Learning rate: [`lr`](Self::lr), [`set_lr`](Self::set_lr).
/// - Schedule: [`set_schedule`](Self::set_schedule), [`schedule_step`](Self::schedule_step),
///   [`set_schedule_step`](Self::set_schedule_step), [`copy_schedule`](Self::copy_schedule).
/// - Rule, with other β, ε, …: [`rule`](Self::rule), [`set_rule`](Self::set_rule).
/// - States in 8 bits, gradients in 16: [`precision`](Self::precision), [`set_precision`](Self::set_precision).
/// - One parameter frozen, with a rate of its own, or without decay: [`options`](Self::options),
///   [`set_options`](Self::set_options), [`set_options_where`](Self::set_options_where).
///
/// **Clipping and loss scaling of all groups.**
///
/// - A limit on the norm of all gradients: [`set_clip_norm`](Self::set_clip_norm). What NaN and ∞ do:
///   [`set_non_finite`](Self::set_non_finite).
/// - Loss scale: [`set_loss_scaler`](Self::set_loss_scaler), [`set_loss_scale`](Self::set_loss_scale);
///   [`loss_scale`](Self::loss_scale) is its buffer on the GPU.
/// - What steps have said, without waiting: norm, loss scale, skipped steps: [`report`](Self::report).
/// - Waiting for it: [`read_report`](Self::read_report), [`read_report_blocking`](Self::read_report_blocking),
///   [`settle`](Self::settle), [`settle_blocking`](Self::settle_blocking).
///
/// **Averages.** [`set_averaging`](Self::set_averaging) keeps one of a group's parameters,
/// [`swap_averages`](Self::swap_averages) evaluates on it. Schedule-Free is evaluated at another point:
/// [`evaluate`](Self::evaluate), and [`train`](Self::train) to go on.
///
/// **Read and write.** On a GPU reading waits for all submitted work. The blocking forms do not exist in a browser.
///
/// - Parameter: [`read`](Self::read), [`read_blocking`](Self::read_blocking), [`write`](Self::write);
///   [`parameter`](Self::parameter) is its range on the GPU.
/// - Gradient: [`read_gradient`](Self::read_gradient), [`read_gradient_blocking`](Self::read_gradient_blocking),
///   [`write_gradient`](Self::write_gradient); [`gradient`](Self::gradient) is its range.
/// - State: [`read_state`](Self::read_state), [`read_state_blocking`](Self::read_state_blocking),
///   [`write_state`](Self::write_state); [`state_range`](Self::state_range) is its range.
/// - Parameter in 16 bits, for forward passes: [`mirror`](Self::mirror) is its range,
///   [`read_mirror`](Self::read_mirror), [`read_mirror_blocking`](Self::read_mirror_blocking);
///   [`encode_mirrors`](Self::encode_mirrors) writes all of them.
/// - Step count: [`steps`](Self::steps), [`set_steps`](Self::set_steps).
///
/// **Checkpoints.**
///
/// - A file: [`save`](Self::save), [`load`](Self::load); with options [`save_with`](Self::save_with),
///   [`load_with`](Self::load_with).
/// - A stream: [`save_to`](Self::save_to), [`load_from`](Self::load_from).
/// - PyTorch's file: [`save_torch`](Self::save_torch), [`load_torch`](Self::load_torch),
///   [`load_torch_with`](Self::load_torch_with). Its stream: [`save_torch_to`](Self::save_torch_to),
///   [`load_torch_from`](Self::load_torch_from), [`load_torch_from_with`](Self::load_torch_from_with). That of
///   bitsandbytes: [`save_bitsandbytes`](Self::save_bitsandbytes),
///   [`save_bitsandbytes_to`](Self::save_bitsandbytes_to).
///
/// **Devices.** [`device`](Self::device) is the one that it steps on. [`dispatches`](Self::dispatches) and
/// [`preparing_dispatches`](Self::preparing_dispatches) count what the last step recorded.
#[derive(Debug)]
pub struct Optimizer {
    device: Device,
    groups: Vec<Group>,
    parameters: BTreeMap<u64, Parameter>,
    names: HashMap<String, ParameterId>,
    next: u64,
    ring: Option<CoefficientRing>,
    program: Option<Program>,
    look_ahead_program: Option<Program>,
    /// Of the last accumulations, the latest first.
    accumulations: Vec<(Vec<accumulate::Addition>, Program)>,
    bind_groups: BindGroups,
    /// What a step uploads, kept for their allocation.
    words: Vec<u32>,
    safeguards: Safeguards,
    /// The device's half of the safeguards.
    log: Option<StepLog>,
    /// The group of the last warning that its learning rate is too small.
    warned_of_lr: Option<usize>,
    /// What the CPU's steps say.
    report: Report,
    /// The most micro-batches that a parameter has received since the last step.
    window: u32,
    /// Shifts, gradients and the window before a submission that may be refused; the vector is kept for its allocation.
    before: (Vec<(f64, Held)>, u32),
    recorded: Option<Recorded>,
    /// The step that [`Optimizer::encode_measure`] has begun, and what it uploaded.
    measured: Option<(InFlight, Vec<u32>)>,
    /// Who uses which memory; `None` until it is asked for.
    claims: Option<Claims>,
    /// Cohorts of a program, kept for their allocation.
    cohorts: Vec<parameter::Cohort>,
}

/// What has changed, and which programs do not hold any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// What a step does, or where it finds a gradient.
    Step,
    /// Which parameters there are, their options, or where they lie.
    Parameters,
    /// A parameter went, with its memory.
    Removed,
}

/// How the step that was recorded last is counted.
#[derive(Clone, Copy, Debug)]
enum Recorded {
    /// At once: the device takes it for certain.
    Counted,
    /// Under this number, once the device has told what became of it.
    Pending(u64),
}

impl Optimizer {
    /// Makes an optimizer with one group, number 0. `settings` is a learning rate or [`Settings`].
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] for a value outside its range; on a GPU [`Error::Shader`] if the rule does not
    /// compile, and [`Error::OverLimit`] if it binds more buffers than the device allows.
    pub fn new(device: &Device, rule: impl Into<AnyRule>, settings: impl Into<Settings>) -> Result<Self> {
        let mut optimizer = Self {
            device: device.clone(),
            groups: Vec::new(),
            parameters: BTreeMap::new(),
            names: HashMap::new(),
            next: 0,
            ring: None,
            program: None,
            look_ahead_program: None,
            accumulations: Vec::new(),
            bind_groups: BindGroups::new(),
            words: Vec::new(),
            safeguards: Safeguards::default(),
            log: None,
            warned_of_lr: None,
            report: Report::default(),
            window: 0,
            before: Default::default(),
            recorded: None,
            measured: None,
            claims: None,
            cohorts: Vec::new(),
        };
        optimizer.add_group(rule, settings)?;
        Ok(optimizer)
    }

    /// Adds a group with its own rule and settings, and returns its number.
    ///
    /// # Errors
    /// As [`Optimizer::new`].
    pub fn add_group(&mut self, rule: impl Into<AnyRule>, settings: impl Into<Settings>) -> Result<usize> {
        let (rule, settings) = (rule.into(), settings.into());
        rule.0.check()?;
        settings.check()?;
        self.check_clipping(self.safeguards.clip.as_ref(), self.groups.len(), Some(&settings))?;
        let (hyper, states) = (rule.hyper_names().len(), rule.declared_states().len());
        if !matches!(rule.stages(), [Stage::Map] | [Stage::Reduce(_), Stage::Map]) {
            let reason = "a rule's stages are Map, or Reduce and Map";
            return Err(Error::Unsupported { operation: "a group", name: rule.name().into(), reason });
        }
        if rule.reduce().is_some_and(|reduce| !rule.hyper_names().contains(&reduce.into)) {
            let reason = "its reduction sets a coefficient that it does not have";
            return Err(Error::Unsupported { operation: "a group", name: rule.name().into(), reason });
        }
        if rule.reduce().is_some() && !rule.0.measures() {
            let reason = "its stages have a Reduce, but its Rule::MEASURES is false";
            return Err(Error::Unsupported { operation: "a group", name: rule.name().into(), reason });
        }
        if hyper > MAX_HYPER || states > crate::cpu::MAX_STATES || rule.states().contains(&AVERAGE) {
            let reason = "a rule may have 32 coefficients and 8 states, none of them called `average`";
            return Err(Error::Unsupported { operation: "a group", name: rule.name().into(), reason });
        }
        let mut group = Group {
            rule,
            settings,
            schedule: None,
            averaging: None,
            swapped: false,
            evaluating: false,
            precision: Precision::f32(),
            steps: 0,
            pending: 0,
            storage: Vec::new(),
            arenas: [(); 2].map(|()| Arenas { owned: Arena::new(Vec::new()), states: Arena::new(Vec::new()) }),
            others: Vec::new(),
            shared: Memory::F64(HostMemory { own: None, states: Vec::new() }),
        };
        group.list_storage();
        group.make_arenas();
        if let Device::Gpu(gpu) = &self.device {
            gpu.check_alive()?;
            group.compile(gpu, &group.settings, group.extras(false))?;
        }
        group.shared = group.make_shared(&self.device)?;
        self.groups.push(group);
        self.invalidate(Change::Step);
        Ok(self.groups.len() - 1)
    }

    /// Removes the group that was added last, which has no parameters.
    #[cfg(all(feature = "js", target_family = "wasm"))]
    pub(crate) fn take_back_group(&mut self) {
        self.groups.pop();
        self.invalidate(Change::Step);
    }

    /// Drops what was made before this change and does not hold any more.
    fn invalidate(&mut self, change: Change) {
        self.program = None;
        self.measured = None;
        if change >= Change::Parameters {
            self.look_ahead_program = None;
        }
        if change == Change::Removed {
            self.accumulations.clear();
        }
    }

    /// The device that it steps on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The handle of the parameter with this name.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn id(&self, name: &str) -> Result<ParameterId> {
        self.find(Key::Name(name))
    }

    /// Handles and names of all parameters, in the order in which they were added.
    pub fn parameters(&self) -> impl Iterator<Item = (ParameterId, &str)> {
        self.parameters.iter().map(|(&id, parameter)| (ParameterId(id), parameter.name.as_str()))
    }

    /// No change to a group whose parameters do not stand where they are trained.
    fn check_in_place(&self, group: usize, operation: &'static str) -> Result<()> {
        self.check_training(group, operation)?;
        self.check_swapped(group, operation)
    }

    /// No change to a group whose averages stand where its parameters belong.
    fn check_swapped(&self, group: usize, operation: &'static str) -> Result<()> {
        if !self.group(group)?.swapped {
            return Ok(());
        }
        let reason = "its averages stand where the parameters belong: swap back first";
        Err(Error::Unsupported { operation, name: format!("group {group}"), reason })
    }

    fn group(&self, index: usize) -> Result<&Group> {
        self.groups.get(index).ok_or(Error::UnknownGroup { index, groups: self.groups.len() })
    }

    fn find(&self, key: Key<'_>) -> Result<ParameterId> {
        let (found, name) = match key {
            Key::Id(id) => (self.parameters.contains_key(&id.0).then_some(id), format!("number {}", id.0)),
            Key::Name(name) => (self.names.get(name).copied(), format!("`{name}`")),
        };
        found.ok_or(Error::UnknownParameter { name })
    }

    fn get<'k>(&self, key: impl Into<Key<'k>>) -> Result<&Parameter> {
        let id = self.find(key.into())?;
        self.parameters.get(&id.0).ok_or(Error::UnknownParameter { name: format!("number {}", id.0) })
    }
}
