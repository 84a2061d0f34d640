//! A random program of API calls as data, and as the Rust that it stands for.

use std::fmt;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use wgpu_optim::{
    Accumulation, AdaptiveClip, Averaging, ClipNorm, LossScaler, Noise, NonFinite, Options, Schedule, Settings, Warmup,
    WeightDecay, rules,
};

/// Names of parameters: calls pick one of them, whether it exists or not.
pub(super) const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Lengths: of less than a lane, of no whole number of them, of matrices, and of more than one partial norm.
const LENGTHS: [usize; 6] = [3, 64, 1, 70, 256, 5001];

#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) groups: Vec<GroupSetup>,
    /// Group, name and length of the parameters to begin with.
    pub(super) tensors: Vec<Tensor>,
    pub(super) calls: Vec<Call>,
    /// How the second optimizer on the GPU goes about it.
    pub(super) mode: Mode,
}

#[derive(Clone, Debug)]
pub(super) struct GroupSetup {
    pub(super) rule: &'static str,
    pub(super) settings: Settings,
    pub(super) averaging: Option<Averaging>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) group: usize,
    pub(super) name: usize,
    pub(super) len: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub(super) memory: Memory,
    pub(super) record: Record,
    /// Parameters are added in the opposite order; and see [`Mode::exact_master`].
    pub(super) reversed: bool,
    /// Outcomes are waited for after each call.
    pub(super) settled: bool,
}

impl Mode {
    /// Whether parameters are stored in bf16 with what they lack of f32, which changes nothing else: in the optimizer's
    /// memory, where nobody asks for adaptive clipping, and where kernels have a buffer to spare (with three states and
    /// an average they bind all eight).
    pub(super) fn exact_master(self, program: &Program) -> bool {
        let adaptive = format!("{program:?}").contains("adaptive_clip: Some");
        let few = |group: &GroupSetup| rules::by_name(group.rule).is_ok_and(|rule| rule.states().len() < 3);
        self.reversed && self.memory == Memory::Arena && !adaptive && program.groups.iter().all(few)
    }
}

/// Where parameters and gradients lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Memory {
    Arena,
    /// One caller's buffer for all.
    Pool,
    /// One for all parameters, one for all gradients.
    Pools,
    /// Buffers for each.
    Apart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Record {
    /// `step`.
    Step,
    /// `encode`, and a submission.
    Encode,
    /// `encode`, submitted with what follows, as late as may be.
    Together,
}

#[derive(Clone, Debug)]
pub(super) enum Call {
    Step,
    WriteGradient {
        to: usize,
        seed: u8,
        bad: Option<f32>,
    },
    /// Of every parameter.
    WriteGradients(u8),
    Accumulate {
        to: Vec<usize>,
        seed: u8,
    },
    /// Into a caller's buffer, or back.
    MoveGradient {
        to: usize,
        seed: u8,
    },
    Missing(usize),
    ZeroGrad,
    /// Recorded, and never submitted.
    DroppedStep,
    /// The gradient of this parameter lies in a destroyed buffer.
    RefusedStep(usize),
    LookAhead,
    Write {
        to: usize,
        seed: u8,
    },
    WriteState {
        to: usize,
        seed: u8,
    },
    SetSteps(usize, u64),
    SetOptions(usize, Options),
    SetSettings(usize, Settings),
    /// Other numbers of the group's rule, or another rule.
    SetRule(usize, &'static str),
    SetSchedule(usize, Option<Schedule>),
    SetScheduleStep(usize, u64),
    SetAveraging(usize, Averaging),
    Swap(usize),
    /// On the averages: they are swapped, and back.
    Evaluate(usize),
    SetClipNorm(Option<ClipNorm>),
    SetNonFinite(NonFinite),
    SetLossScaler(Option<LossScaler>),
    SetLossScale(f64, u32, u64),
    Add(Tensor),
    Remove(usize),
    /// To a name that may be taken.
    Rename(usize, usize),
    Move(usize, usize),
    CopySchedule(usize, usize),
    Reload(Reload),
    /// Of the second optimizer on the GPU alone.
    Pause(Pause),
}

/// Which file is loaded into what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reload {
    /// Each its own, into a new optimizer; the first on the GPU goes on without.
    Own,
    /// The CPU's on the GPU.
    FromCpu,
    /// The GPU's on the CPU.
    FromGpu,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    Submit,
    Poll,
    Sleep,
    Settle,
}

pub(super) fn programs() -> impl Strategy<Value = Program> {
    let tensors = vec((0..2usize, select(LENGTHS.as_slice())), 1..=NAMES.len());
    let calls = (vec(of_all(), 0..=1), vec(any::<u8>().prop_map(Call::WriteGradients), 0..=1), vec(call(), 1..24));
    let calls = calls.prop_map(|(first, second, rest)| first.into_iter().chain(second).chain(rest).collect());
    (vec(group(), 1..=2), tensors, calls, mode()).prop_map(|(groups, tensors, calls, mode)| {
        let tensor = |(name, (group, len)): (usize, (usize, usize))| Tensor { group: group % groups.len(), name, len };
        let tensors = tensors.into_iter().enumerate().map(tensor).collect();
        Program { tensors, groups, calls, mode }
    })
}

fn group() -> impl Strategy<Value = GroupSetup> {
    let names: Vec<_> = rules::all().into_iter().map(|(name, _)| name).collect();
    // What the oracle computes, and what has a look-ahead, more often.
    let rule = prop_oneof![2 => Just("sgd"), 1 => Just("momentum"), 6 => select(names)];
    let averaging = option::weighted(0.4, averaging());
    (rule, settings(), averaging).prop_map(|(rule, settings, averaging)| GroupSetup { rule, settings, averaging })
}

fn mode() -> impl Strategy<Value = Mode> {
    let memory = prop_oneof![3 => Just(Memory::Arena), 1 => Just(Memory::Pool), 1 => Just(Memory::Pools), 1 => Just(Memory::Apart)];
    let record = prop_oneof![1 => Just(Record::Step), 1 => Just(Record::Encode), 2 => Just(Record::Together)];
    (memory, record, any::<bool>(), proptest::bool::weighted(0.2))
        .prop_map(|(memory, record, reversed, settled)| Mode { memory, record, reversed, settled })
}

/// Changes to settings, each by itself.
type Change = fn(&mut Settings);

fn settings() -> impl Strategy<Value = Settings> {
    const CHANGES: [Change; 18] = [
        |s| s.lr = 0.02,
        |s| s.lr_factor = 0.5,
        |s| s.maximize = true,
        |s| s.grad_scale = 0.5,
        |s| s.accumulation = Accumulation::Sum,
        |s| s.zero_grad = true,
        |s| s.weight_decay = WeightDecay::L2(0.002),
        |s| s.weight_decay = WeightDecay::Decoupled(0.1),
        |s| s.weight_decay = WeightDecay::DecoupledFromLr(0.01),
        |s| s.clip_value = Some(0.5),
        |s| s.clip_norm = Some(ClipNorm::torch(1.0)),
        |s| s.clip_norm = Some(ClipNorm::optax(1e3)),
        |s| s.clip_norm = Some(ClipNorm::block_rms(0.5)),
        |s| s.centralize = true,
        |s| s.adaptive_clip = Some(AdaptiveClip::torch(0.1)),
        |s| s.adaptive_clip = Some(AdaptiveClip::optax(0.1)),
        |s| s.noise = Some(Noise { eta: 1e-4, gamma: 0.55, seed: 7 }),
        |s| s.lr = 0.0,
    ];
    let some = prop_oneof![3 => vec(select(CHANGES.as_slice()), 0..=0), 4 => vec(select(CHANGES.as_slice()), 1..=3)];
    some.prop_map(|changes| {
        let mut settings = Settings::lr(0.05);
        changes.iter().for_each(|change| change(&mut settings));
        settings
    })
}

fn averaging() -> impl Strategy<Value = Averaging> {
    select(vec![
        Averaging::Ema(0.5),
        Averaging::EmaDebiased(0.9),
        Averaging::EmaFromZero(0.5),
        Averaging::EmaFrom { decay: 0.5, from: 2, warmup: None },
        Averaging::EmaFrom { decay: 0.9, from: 1, warmup: Some(Warmup { inv_gamma: 1.0, power: 0.75 }) },
        Averaging::Swa { from: 1, every: 1 },
        Averaging::Swa { from: 3, every: 2 },
    ])
}

fn options() -> impl Strategy<Value = Options> {
    let lr_scale = select(vec![1.0, 0.5, 2.0]);
    let shape = prop_oneof![2 => Just(None), 1 => Just(Some([16, 4])), 1 => Just(Some([32, 8]))];
    (lr_scale, proptest::bool::weighted(0.8), proptest::bool::weighted(0.4), shape)
        .prop_map(|(lr_scale, weight_decay, frozen, shape)| Options { lr_scale, weight_decay, frozen, shape })
}

fn schedule() -> impl Strategy<Value = Schedule> {
    select(vec![
        Schedule::linear(1.0, 0.0, 30),
        Schedule::Step { every: 2, gamma: 0.5 },
        Schedule::cosine(20).warmup(3),
        Schedule::Cyclic { low: 0.1, up: 4, down: 4, per_cycle: 0.5, per_step: 1.0, momentum: Some((0.5, 0.9)) },
    ])
}

/// What concerns a step as a whole.
fn of_all() -> impl Strategy<Value = Call> {
    let clip = select(vec![
        ClipNorm::torch(1.0),
        ClipNorm::optax(1e6),
        ClipNorm { norm: wgpu_optim::Norm::L1, ..ClipNorm::torch(5.0) },
        ClipNorm { norm: wgpu_optim::Norm::Max, ..ClipNorm::torch(0.5) },
        ClipNorm { norm: wgpu_optim::Norm::Rms, ..ClipNorm::normalize(0.5) },
    ]);
    let scaler = (0..7i32, 1..4u32).prop_map(|(log, growth_interval)| LossScaler {
        init_scale: 2f64.powi(log - 2),
        growth_interval,
        ..LossScaler::default()
    });
    prop_oneof![
        3 => option::weighted(0.7, clip).prop_map(Call::SetClipNorm),
        3 => select(vec![NonFinite::Skip, NonFinite::Zero, NonFinite::Propagate]).prop_map(Call::SetNonFinite),
        3 => option::weighted(0.7, scaler).prop_map(Call::SetLossScaler),
        1 => (0..5i32, 0..3u32, 0..9u64)
            .prop_map(|(log, tracker, skipped)| Call::SetLossScale(2f64.powi(log), tracker, skipped)),
        2 => select(vec![Reload::Own, Reload::FromCpu, Reload::FromGpu]).prop_map(Call::Reload),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let to = || 0..NAMES.len();
    let group = || 0..2usize;
    let seed = any::<u8>;
    let bad = option::weighted(0.3, select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]));
    let of_gradients = prop_oneof![
        12 => (to(), seed(), bad).prop_map(|(to, seed, bad)| Call::WriteGradient { to, seed, bad }),
        8 => seed().prop_map(Call::WriteGradients),
        12 => (btree_set(to(), 1..=3), seed())
            .prop_map(|(to, seed)| Call::Accumulate { to: to.into_iter().collect(), seed }),
        3 => (to(), seed()).prop_map(|(to, seed)| Call::MoveGradient { to, seed }),
        3 => to().prop_map(Call::Missing),
        3 => Just(Call::ZeroGrad),
    ];
    let of_parameters = prop_oneof![
        2 => (to(), seed()).prop_map(|(to, seed)| Call::Write { to, seed }),
        2 => (to(), seed()).prop_map(|(to, seed)| Call::WriteState { to, seed }),
        3 => (to(), 0..6u64).prop_map(|(to, steps)| Call::SetSteps(to, steps)),
        4 => (to(), options()).prop_map(|(to, options)| Call::SetOptions(to, options)),
        2 => (group(), to(), select(LENGTHS.as_slice()))
            .prop_map(|(group, name, len)| Call::Add(Tensor { group, name, len })),
        2 => to().prop_map(Call::Remove),
        2 => (to(), to()).prop_map(|(to, name)| Call::Rename(to, name)),
        2 => (to(), group()).prop_map(|(to, group)| Call::Move(to, group)),
    ];
    let of_groups = prop_oneof![
        3 => (group(), settings()).prop_map(|(group, settings)| Call::SetSettings(group, settings)),
        1 => (group(), select(vec!["", "sgd"])).prop_map(|(group, rule)| Call::SetRule(group, rule)),
        2 => (group(), option::weighted(0.8, schedule())).prop_map(|(group, schedule)| Call::SetSchedule(group, schedule)),
        2 => (group(), 0..8u64).prop_map(|(group, step)| Call::SetScheduleStep(group, step)),
        1 => (group(), group()).prop_map(|(from, to)| Call::CopySchedule(from, to)),
        2 => (group(), averaging()).prop_map(|(group, averaging)| Call::SetAveraging(group, averaging)),
        1 => group().prop_map(Call::Swap),
        5 => group().prop_map(Call::Evaluate),
    ];
    let of_steps = prop_oneof![
        24 => Just(Call::Step),
        2 => Just(Call::LookAhead),
        2 => Just(Call::DroppedStep),
        2 => to().prop_map(Call::RefusedStep),
    ];
    let pause = select(vec![Pause::Submit, Pause::Poll, Pause::Sleep, Pause::Settle]).prop_map(Call::Pause);
    prop_oneof![30 => of_steps, 26 => of_gradients, 12 => of_parameters, 12 => of_groups, 12 => of_all(), 8 => pause]
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, group) in self.groups.iter().enumerate() {
            let (rule, settings) = (format!("rules::by_name({:?})?", group.rule), Rust(&group.settings));
            match k {
                0 => writeln!(f, "let mut optimizer = Optimizer::new(device, {rule}, {settings})?;")?,
                _ => writeln!(f, "optimizer.add_group({rule}, {settings})?;")?,
            }
            if let Some(averaging) = &group.averaging {
                writeln!(f, "optimizer.set_averaging({k}, Averaging::{averaging:?})?;")?;
            }
        }
        for tensor in &self.tensors {
            writeln!(f, "{}", Call::Add(*tensor))?;
        }
        for call in &self.calls {
            writeln!(f, "{call}")?;
        }
        write!(f, "// {:?}", self.mode)
    }
}

/// Settings as they are written: what differs from a learning rate alone.
struct Rust<'a>(&'a Settings);

impl fmt::Display for Rust<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, plain) = (self.0, Settings::lr(self.0.lr));
        let fields: [(&str, bool, &dyn fmt::Debug); 11] = [
            ("lr_factor: ", now.lr_factor != plain.lr_factor, &now.lr_factor),
            ("maximize: ", now.maximize, &now.maximize),
            ("weight_decay: WeightDecay::", now.weight_decay != plain.weight_decay, &now.weight_decay),
            ("grad_scale: ", now.grad_scale != plain.grad_scale, &now.grad_scale),
            ("clip_value: ", now.clip_value.is_some(), &now.clip_value),
            ("clip_norm: ", now.clip_norm.is_some(), &now.clip_norm),
            ("centralize: ", now.centralize, &now.centralize),
            ("adaptive_clip: ", now.adaptive_clip.is_some(), &now.adaptive_clip),
            ("noise: ", now.noise.is_some(), &now.noise),
            ("accumulation: Accumulation::", now.accumulation != plain.accumulation, &now.accumulation),
            ("zero_grad: ", now.zero_grad, &now.zero_grad),
        ];
        let said: Vec<_> = fields
            .iter()
            .filter(|(_, differs, _)| *differs)
            .map(|(name, _, value)| format!("{name}{value:?}, "))
            .collect();
        match said.is_empty() {
            true => write!(f, "{:?}", now.lr),
            false => write!(f, "Settings {{ {}..Settings::lr({:?}) }}", said.concat(), now.lr),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |to: &usize| NAMES[*to];
        match self {
            Self::Step => write!(f, "optimizer.step()?;"),
            Self::WriteGradient { to, seed, bad: None } => {
                write!(f, "optimizer.write_gradient({:?}, &gradient(len, {seed}))?;", name(to))
            }
            Self::WriteGradient { to, seed, bad: Some(bad) } => {
                write!(f, "optimizer.write_gradient({:?}, &gradient(len, {seed}) with {bad:?} at its end)?;", name(to))
            }
            Self::WriteGradients(seed) => {
                write!(f, "for name in all {{ optimizer.write_gradient(name, &gradient(len, {seed}))?; }}")
            }
            Self::Accumulate { to, seed } => {
                let names: Vec<_> = to.iter().map(name).collect();
                write!(f, "for name in {names:?} {{ optimizer.accumulate(name, &gradient(len, {seed}))?; }}")
            }
            Self::MoveGradient { to, seed } => {
                let to = name(to);
                write!(
                    f,
                    "optimizer.set_gradient({to:?}, Gradient::Buffer(a new one of gradient(len, {seed})))?; // or back"
                )
            }
            Self::Missing(to) => write!(f, "optimizer.set_gradient({:?}, Gradient::Missing)?;", name(to)),
            Self::ZeroGrad => write!(f, "optimizer.zero_grad()?;"),
            Self::DroppedStep => write!(f, "optimizer.encode(&mut an encoder that is dropped)?;"),
            Self::RefusedStep(to) => {
                write!(f, "optimizer.step().unwrap_err(); // the gradient of {:?} is in a destroyed buffer", name(to))
            }
            Self::LookAhead => write!(f, "optimizer.look_ahead()?;"),
            Self::Write { to, seed } => write!(f, "optimizer.write({:?}, &parameters(len, {seed}))?;", name(to)),
            Self::WriteState { to, seed } => {
                write!(f, "optimizer.write_state({:?}, its first state, &positive(len, {seed}))?;", name(to))
            }
            Self::SetSteps(to, steps) => write!(f, "optimizer.set_steps({:?}, {steps})?;", name(to)),
            Self::SetOptions(to, options) => write!(f, "optimizer.set_options({:?}, {options:?})?;", name(to)),
            Self::SetSettings(group, settings) => write!(f, "optimizer.set_settings({group}, {})?;", Rust(settings)),
            Self::SetRule(group, "") => write!(f, "optimizer.set_rule({group}, the same with other numbers)?;"),
            Self::SetRule(group, rule) => write!(f, "optimizer.set_rule({group}, rules::by_name({rule:?})?)?;"),
            Self::SetSchedule(group, schedule) => write!(f, "optimizer.set_schedule({group}, {schedule:?})?;"),
            Self::SetScheduleStep(group, step) => write!(f, "optimizer.set_schedule_step({group}, {step})?;"),
            Self::SetAveraging(group, kind) => write!(f, "optimizer.set_averaging({group}, Averaging::{kind:?})?;"),
            Self::Swap(group) => write!(f, "optimizer.swap_averages({group})?;"),
            Self::Evaluate(group) => {
                write!(f, "optimizer.swap_averages({group})?; /* read it */ optimizer.swap_averages({group})?;")
            }
            Self::SetClipNorm(clip) => write!(f, "optimizer.set_clip_norm({clip:?})?;"),
            Self::SetNonFinite(policy) => write!(f, "optimizer.set_non_finite(NonFinite::{policy:?});"),
            Self::SetLossScaler(scaler) => write!(f, "optimizer.set_loss_scaler({scaler:?})?;"),
            Self::SetLossScale(scale, tracker, skipped) => {
                write!(f, "optimizer.set_loss_scale({scale:?}, {tracker}, {skipped})?;")
            }
            Self::Add(Tensor { group, name, len }) => {
                write!(f, "optimizer.add({group}, {:?}, &parameters({len}, {name}))?;", NAMES[*name])
            }
            Self::Remove(to) => write!(f, "optimizer.remove({:?})?;", name(to)),
            Self::Rename(to, other) => write!(f, "optimizer.rename({:?}, {:?})?;", name(to), name(other)),
            Self::Move(to, group) => write!(f, "optimizer.move_to_group({:?}, {group})?;", name(to)),
            Self::CopySchedule(from, to) => write!(f, "optimizer.copy_schedule({from}, {to})?;"),
            Self::Reload(from) => write!(f, "// save, load: {from:?}"),
            Self::Pause(pause) => write!(f, "// {pause:?}"),
        }
    }
}
