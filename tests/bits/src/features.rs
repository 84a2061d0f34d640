//! The list of what the driver around a rule can do, one set of features a line of the output.

use wgpu_optim::{
    Accumulation, AdaptiveClip, Averaging, ClipNorm, LossScaler, Noise, NonFinite, Norm, Schedule, Settings, Warmup,
    WeightDecay,
};

/// The rules of [`Rules::Handful`], and with `--full` or on the CPU of [`Rules::Few`].
pub(crate) const HANDFUL: [&str; 10] = [
    "sgd",
    "momentum",
    "adam",
    "amsgrad",
    "rmsprop-centered",
    "lamb",
    "lars",
    "novograd",
    "adagrad-norm",
    "adagrad-norm-tensor",
];

/// The rules of [`Rules::Few`], one elementwise and one norm-based: a GPU compiles kernels for each.
const FEW: [&str; 2] = ["adam", "lamb"];

/// Rules with a look-ahead.
pub(crate) const LOOK_AHEAD: [&str; 4] = ["momentum", "momentum-dampened", "momentum-lr-inside", "momentum-ema"];

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Rules {
    All,
    Handful,
    Few,
    LookAhead,
}

/// Where parameters are. On the CPU all but slices are the optimizer's own.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// In the optimizer's memory.
    Arena,
    /// Each in a buffer of the caller's.
    Buffers,
    /// In one buffer of the caller's at odd offsets with holes, the gradients in another.
    Pool,
    /// Parameters and gradients in one buffer.
    Shared,
    /// In the caller's slices: on the CPU only.
    Slices,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Lens {
    /// Every remainder by 4, and one element more or less than a workgroup or a block.
    Tails,
    /// Tails, and 40 small tensors.
    Many,
    /// One that is too large for a pool, and two small ones.
    Large,
    /// Rows of up to 270,000 elements and columns of up to 4,500: such that a GPU measures in parts.
    Matrices,
}

/// How gradients come.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Input {
    Write,
    /// Micro-batches from the host.
    Accumulate,
    /// Micro-batches from buffers; on the CPU from the host.
    AccumulateBuffers,
}

/// A second group, which has every other tensor.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Second {
    None,
    /// With another rule.
    Momentum,
    /// With the same rule.
    Same,
}

#[derive(Clone)]
pub(crate) struct Features {
    pub(crate) name: &'static str,
    pub(crate) rules: Rules,
    pub(crate) place: Place,
    pub(crate) lens: Lens,
    pub(crate) settings: Settings,
    pub(crate) second: Second,
    pub(crate) clip: Option<ClipNorm>,
    pub(crate) policy: Option<NonFinite>,
    pub(crate) scaler: Option<LossScaler>,
    pub(crate) averaging: Option<Averaging>,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) input: Input,
    /// What one element of the gradients is instead in some steps.
    pub(crate) bad: fn(usize) -> Option<f32>,
    /// Some gradients are missing in some steps.
    pub(crate) missing: bool,
    /// Some parameters are frozen, have a rate of their own or no decay.
    pub(crate) options: bool,
    /// Parameters are matrices.
    pub(crate) shapes: bool,
    pub(crate) look_ahead: bool,
    /// Steps that are recorded into one encoder, with other learning rates; 0 for `step`.
    pub(crate) encoded: usize,
    /// Something about parameters or groups changes every other step.
    pub(crate) changes: bool,
    /// The factor on all gradients.
    pub(crate) scale: f32,
}

fn overflows(step: usize) -> Option<f32> {
    [0, 3, 8, 9, 17].contains(&step).then_some(f32::INFINITY)
}

fn nans(step: usize) -> Option<f32> {
    (step % 4 == 2).then_some(if step % 8 == 2 { f32::NAN } else { f32::NEG_INFINITY })
}

/// Late, since what it reaches is NaN from then on.
fn one_nan(step: usize) -> Option<f32> {
    (step == 16).then_some(f32::NAN)
}

/// Finite, and infinite with a factor of 4.
fn huge(step: usize) -> Option<f32> {
    [2, 3, 11].contains(&step).then_some(3e38)
}

fn settings() -> Settings {
    Settings::lr(0.01)
}

fn scaler() -> LossScaler {
    LossScaler { init_scale: 1024.0, growth_interval: 3, ..LossScaler::default() }
}

fn limit(norm: Norm, max_norm: f64) -> ClipNorm {
    ClipNorm { norm, ..ClipNorm::torch(max_norm) }
}

fn plain(name: &'static str) -> Features {
    Features {
        name,
        rules: Rules::Few,
        place: Place::Arena,
        lens: Lens::Tails,
        settings: settings(),
        second: Second::None,
        clip: None,
        policy: None,
        scaler: None,
        averaging: None,
        schedule: None,
        input: Input::Write,
        bad: |_| None,
        missing: false,
        options: false,
        shapes: false,
        look_ahead: false,
        encoded: 0,
        changes: false,
        scale: 1.0,
    }
}

/// With settings.
fn set(name: &'static str, settings: Settings) -> Features {
    Features { settings, ..plain(name) }
}

/// With a limit on the norm of all gradients.
fn clipped(name: &'static str, clip: ClipNorm) -> Features {
    Features { clip: Some(clip), ..plain(name) }
}

/// With a loss scale and overflows.
fn scaled(name: &'static str) -> Features {
    Features { scaler: Some(scaler()), bad: overflows, scale: 1024.0, ..plain(name) }
}

fn averaged(name: &'static str, averaging: Averaging) -> Features {
    Features { averaging: Some(averaging), ..plain(name) }
}

/// Sets of features for all of [`HANDFUL`], on a GPU too: together they use all that there is.
const WIDE: [&str; 10] = [
    "rich-each-pool",
    "pool",
    "missing-scaler",
    "clip-two-scaler-pool",
    "noise-scaler-pool",
    "ema-zero-pool",
    "accumulate-buffers-scaler-pool",
    "rows-scaler",
    "zero-grad-scaler-shared",
    "changes-scaler",
];

/// All sets of features.
pub(crate) fn all() -> Vec<Features> {
    let mut all = rich();
    all.extend(places());
    all.extend(decay());
    all.extend(norms());
    all.extend(overflow());
    all.extend(averages());
    all.extend(batches());
    all.extend(rows());
    all.extend(rest());
    for features in all.iter_mut().filter(|features| WIDE.contains(&features.name)) {
        features.rules = Rules::Handful;
    }
    all
}

/// For all rules.
fn rich() -> Vec<Features> {
    let one_cycle = Schedule::one_cycle(20, 0.3, 25.0, 100.0, true, false, [0.85, 0.95]);
    let combined =
        Settings { weight_decay: WeightDecay::Decoupled(0.1), grad_scale: 0.5, clip_value: Some(0.25), ..settings() };
    let rich = Features {
        rules: Rules::All,
        settings: combined,
        second: Second::Momentum,
        clip: Some(ClipNorm::torch(5.0)),
        averaging: Some(Averaging::Ema(0.9)),
        schedule: Some(one_cycle),
        missing: true,
        ..scaled("rich")
    };
    let each = Settings {
        weight_decay: WeightDecay::L2(0.1),
        clip_norm: Some(ClipNorm::torch(0.5)),
        noise: Some(Noise { eta: 1e-4, gamma: 0.55, seed: 1 << 33 | 7 }),
        ..settings()
    };
    vec![
        Features { rules: Rules::All, ..plain("plain") },
        rich.clone(),
        Features { rules: Rules::All, place: Place::Slices, averaging: None, ..rich.clone() }.named("rich-slices"),
        Features { place: Place::Pool, ..set("rich-each-pool", each) },
        Features { rules: Rules::Few, place: Place::Pool, lens: Lens::Many, ..rich.clone() }.named("rich-pool"),
        Features { rules: Rules::Few, place: Place::Buffers, ..rich }.named("rich-buffers"),
    ]
}

fn places() -> Vec<Features> {
    vec![
        Features { lens: Lens::Many, ..plain("many") },
        Features { lens: Lens::Large, ..plain("large") },
        Features { lens: Lens::Large, place: Place::Pool, ..clipped("large-pool-clip", ClipNorm::torch(1.0)) },
        Features { place: Place::Buffers, ..plain("buffers") },
        Features { place: Place::Pool, lens: Lens::Many, ..plain("pool") },
        Features { place: Place::Shared, ..plain("shared") },
        Features { place: Place::Slices, ..plain("slices") },
        Features { place: Place::Pool, missing: true, ..plain("missing-pool") },
        Features { missing: true, ..plain("missing") },
        Features { missing: true, lens: Lens::Many, second: Second::Momentum, ..plain("missing-two-groups") },
        Features { missing: true, second: Second::Momentum, ..scaled("missing-scaler") },
    ]
}

fn decay() -> Vec<Features> {
    let from_lr = Settings { weight_decay: WeightDecay::DecoupledFromLr(0.01), ..settings() };
    let l2 = Settings { weight_decay: WeightDecay::L2(0.05), ..settings() };
    let decoupled = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..settings() };
    let one_cycle = Schedule::one_cycle(20, 0.3, 25.0, 100.0, true, false, [0.85, 0.95]);
    vec![
        set("l2-maximize", Settings { maximize: true, grad_scale: 0.25, ..l2 }),
        Features { place: Place::Buffers, ..set("decoupled", decoupled) },
        Features { schedule: Some(Schedule::cosine(15).warmup(5)), options: true, ..set("from-lr-cosine", from_lr) },
        Features { options: true, ..set("options-l2", l2) },
        Features { options: true, place: Place::Pool, lens: Lens::Many, ..set("options-decoupled-pool", decoupled) },
        Features { options: true, scaler: Some(scaler()), scale: 1024.0, ..set("options-scaler", decoupled) },
        Features { schedule: Some(one_cycle.clone()), ..plain("one-cycle") },
        Features { schedule: Some(one_cycle), missing: true, ..scaled("one-cycle-scaler") },
        Features { scale: 1e32, ..set("two-factors", Settings { grad_scale: 1e-32, ..settings() }) },
        Features { encoded: 4, ..set("encoded", decoupled) },
        Features { encoded: 4, settings: decoupled, ..scaled("encoded-scaler") },
    ]
}

fn norms() -> Vec<Features> {
    let value = Settings { clip_value: Some(0.1), ..settings() };
    let group = |norm| Settings { group_clip_norm: Some(limit(norm, 0.5)), ..settings() };
    let each = |norm| Settings { clip_norm: Some(limit(norm, 0.1)), ..settings() };
    let three = Settings {
        group_clip_norm: Some(ClipNorm::optax(2.0)),
        clip_norm: Some(ClipNorm::block_rms(0.02)),
        maximize: true,
        ..settings()
    };
    let two = |features| Features { second: Second::Momentum, ..features };
    vec![
        Features { place: Place::Pool, ..set("clip-value", value) },
        clipped("clip-l2", ClipNorm::torch(1.0)),
        clipped("clip-optax-two-groups", ClipNorm::optax(1.0)),
        clipped("clip-l1", limit(Norm::L1, 5.0)),
        Features { place: Place::Pool, lens: Lens::Many, ..clipped("clip-max-pool", limit(Norm::Max, 0.05)) },
        Features { place: Place::Buffers, ..clipped("clip-rms-buffers", limit(Norm::Rms, 0.01)) },
        two(clipped("normalize", ClipNorm::normalize(3.0))),
        Features { settings: value, lens: Lens::Many, ..two(clipped("clip-l2-value", ClipNorm::torch(1.0))) },
        clipped("measure", ClipNorm::torch(f64::INFINITY)),
        Features { scale: 1e30, ..clipped("clip-huge", ClipNorm::torch(1.0)) },
        Features { scale: 1e-30, ..clipped("normalize-tiny", ClipNorm::normalize(1.0)) },
        two(set("clip-group", group(Norm::L2))),
        Features { place: Place::Pool, ..two(set("clip-group-l1-pool", group(Norm::L1))) },
        two(set("clip-group-max", group(Norm::Max))),
        set("clip-each", each(Norm::L2)),
        Features { place: Place::Buffers, ..set("clip-each-l1-buffers", each(Norm::L1)) },
        Features { place: Place::Pool, lens: Lens::Many, ..set("clip-each-max-pool", each(Norm::Max)) },
        set("clip-each-rms", each(Norm::Rms)),
        Features { settings: three, ..two(clipped("clip-three", ClipNorm::torch(4.0))) },
        Features { settings: three, place: Place::Pool, missing: true, ..two(scaled("clip-two-scaler-pool")) },
    ]
}

fn overflow() -> Vec<Features> {
    let (zero, propagate) = (Some(NonFinite::Zero), Some(NonFinite::Propagate));
    let four = Settings { grad_scale: 4.0, ..settings() };
    let noise = Noise { eta: 1e-3, gamma: 0.55, seed: 7 };
    let noisy = Settings { noise: Some(noise), ..settings() };
    vec![
        scaled("scaler"),
        Features { place: Place::Pool, ..scaled("scaler-pool") },
        Features { policy: zero, bad: nans, ..scaled("scaler-zero") },
        Features { policy: propagate, bad: one_nan, ..scaled("scaler-propagate") },
        Features { bad: nans, policy: Some(NonFinite::Skip), ..plain("skip") },
        Features { bad: nans, policy: zero, ..plain("zero") },
        Features { bad: nans, policy: zero, ..clipped("zero-clip", ClipNorm::torch(1.0)) },
        Features { bad: one_nan, policy: propagate, ..plain("propagate") },
        Features { bad: one_nan, policy: propagate, ..clipped("propagate-clip", ClipNorm::torch(1.0)) },
        Features { bad: one_nan, ..plain("nan-unseen") },
        Features { bad: huge, policy: Some(NonFinite::Skip), ..set("overflow-by-factor", four) },
        Features { bad: huge, settings: four, ..clipped("huge-clip", ClipNorm::torch(1.0)) },
        set("noise", noisy),
        Features { missing: true, place: Place::Pool, settings: noisy, ..scaled("noise-scaler-pool") },
    ]
}

fn averages() -> Vec<Features> {
    let warm = Averaging::EmaFrom { decay: 0.9, from: 5, warmup: Some(Warmup { inv_gamma: 1.0, power: 0.75 }) };
    vec![
        averaged("ema", Averaging::Ema(0.9)),
        Features { place: Place::Buffers, ..averaged("ema-debiased-buffers", Averaging::EmaDebiased(0.9)) },
        Features { place: Place::Pool, lens: Lens::Many, ..averaged("ema-zero-pool", Averaging::EmaFromZero(0.9)) },
        Features { missing: true, ..averaged("ema-from-warm-missing", warm) },
        averaged("swa", Averaging::Swa { from: 4, every: 3 }),
        Features { averaging: Some(Averaging::Swa { from: 4, every: 3 }), missing: true, ..scaled("swa-scaler") },
        Features { averaging: Some(warm), second: Second::Momentum, ..scaled("ema-from-scaler") },
    ]
}

fn batches() -> Vec<Features> {
    let sum = Settings { accumulation: Accumulation::Sum, ..settings() };
    let from = |input, features| Features { input, ..features };
    let (host, buffers) = (Input::Accumulate, Input::AccumulateBuffers);
    vec![
        from(host, plain("accumulate-mean")),
        from(host, set("accumulate-sum", sum)),
        from(host, Features { place: Place::Pool, ..scaled("accumulate-scaler-pool") }),
        from(host, clipped("accumulate-clip", ClipNorm::torch(0.5))),
        from(buffers, plain("accumulate-buffers")),
        from(buffers, Features { place: Place::Buffers, ..set("accumulate-buffers-sum", sum) }),
        from(buffers, Features { place: Place::Pool, lens: Lens::Many, ..scaled("accumulate-buffers-scaler-pool") }),
    ]
}

fn rows() -> Vec<Features> {
    let shaped = |features| Features { shapes: true, ..features };
    let large = |features| Features { lens: Lens::Matrices, ..shaped(features) };
    let adaptive = |clip| Settings { adaptive_clip: Some(clip), ..settings() };
    let (torch, optax) = (adaptive(AdaptiveClip::torch(0.01)), adaptive(AdaptiveClip::optax(0.01)));
    let central = Settings { centralize: true, ..settings() };
    let both = Settings { centralize: true, grad_scale: 0.5, ..torch };
    let zeroed = Settings { zero_grad: true, ..settings() };
    vec![
        shaped(set("centralize", central)),
        large(set("centralize-large", central)),
        Features { place: Place::Pool, missing: true, ..shaped(set("adaptive-rows-pool", torch)) },
        large(set("adaptive-rows-large", torch)),
        shaped(set("adaptive-columns", optax)),
        large(Features { place: Place::Buffers, ..set("adaptive-columns-large", optax) }),
        shaped(Features { settings: both, ..scaled("rows-scaler") }),
        Features { policy: Some(NonFinite::Zero), bad: nans, ..shaped(set("rows-zero", both)) },
        shaped(Features { settings: both, bad: one_nan, ..plain("rows-nan") }),
        set("zero-grad", zeroed),
        Features { place: Place::Pool, lens: Lens::Many, ..set("zero-grad-pool", zeroed) },
        Features { place: Place::Shared, settings: zeroed, ..scaled("zero-grad-scaler-shared") },
        Features { second: Second::Momentum, ..shaped(set("rows-zero-grad", Settings { zero_grad: true, ..both })) },
    ]
}

fn rest() -> Vec<Features> {
    let ahead = |features| Features { look_ahead: true, rules: Rules::LookAhead, ..features };
    let l2 = Settings { weight_decay: WeightDecay::L2(0.05), ..settings() };
    vec![
        ahead(plain("look-ahead")),
        ahead(Features { place: Place::Pool, missing: true, ..set("look-ahead-pool", l2) }),
        ahead(Features { place: Place::Buffers, averaging: Some(Averaging::Ema(0.9)), ..plain("look-ahead-buffers") }),
        ahead(Features { place: Place::Slices, ..plain("look-ahead-slices") }),
        ahead(Features { policy: Some(NonFinite::Zero), ..clipped("look-ahead-clip", ClipNorm::torch(1.0)) }),
        Features { changes: true, second: Second::Same, ..plain("changes") },
        Features { changes: true, second: Second::Same, place: Place::Buffers, ..plain("changes-buffers") },
        Features { changes: true, second: Second::Same, ..scaled("changes-scaler") },
        Features { changes: true, second: Second::Same, missing: true, place: Place::Pool, ..plain("changes-pool") },
    ]
}

impl Features {
    fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub(crate) fn has(&self, rule: &str, full: bool) -> bool {
        match self.rules {
            Rules::All => true,
            Rules::Few if !full => FEW.contains(&rule),
            Rules::Few => HANDFUL.contains(&rule),
            Rules::Handful => HANDFUL.contains(&rule),
            Rules::LookAhead => LOOK_AHEAD.contains(&rule),
        }
    }

    /// Lengths, each as rows and columns.
    pub(crate) fn shapes(&self) -> Vec<[usize; 2]> {
        let tails = vec![[1, 1], [1, 3], [2, 2], [1, 5], [7, 9], [8, 8], [13, 5], [63, 65], [17, 241]];
        match self.lens {
            Lens::Tails => tails,
            Lens::Many => tails.into_iter().chain((0..40).map(|k| [1, 7 * k % 61 + 1])).collect(),
            Lens::Large => vec![[1, (1 << 18) + 5], [8, 8], [1, 3]],
            Lens::Matrices => vec![[7, 9], [63, 65], [2, 270_000], [4_500, 3], [5, 1], [1, 5]],
        }
    }
}
