//! Schedules in the optimizer: the rate and the cycled momentum reach every rule, on the GPU and on the CPU.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::{Adam, Momentum};
use wgpu_optim::{
    BufferRange, Device, EarlyStopping, Error, Gpu, Gradient, Mode, Optimizer, ReduceOnPlateau, Schedule, Settings,
    Slices, Threshold, Verdict, WeightDecay, rules,
};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{FOREIGN, buffer, gradients, parameters};
use crate::tests;

tests!(
    slices_take_their_own_groups_further,
    a_rate_beyond_f32_is_refused,
    a_schedule_is_set_lr_by_hand,
    momentum_is_cycled,
    a_refused_step_keeps_the_schedule,
    decay_follows_the_schedule
);

const LEN: usize = 1003;

fn optimizer(device: &Device, rule: impl Into<wgpu_optim::AnyRule>, settings: Settings) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(device, rule, settings)?;
    optimizer.add(0, "w", &parameters(LEN, 1))?;
    optimizer.write_gradient("w", &gradients(LEN, 2))?;
    Ok(optimizer)
}

fn a_schedule_is_set_lr_by_hand(gpu: &Gpu) -> Result<(), Failed> {
    let schedule = Schedule::cosine(20).warmup(5);
    for device in [gpu.into(), Device::Cpu] {
        for name in ["sgd", "nesterov", "adam", "rmsprop-momentum-keras"] {
            let rule = rules::by_name(name)?;
            let mut scheduled = optimizer(&device, rule.clone(), Settings::lr(0.1))?;
            scheduled.set_schedule(0, schedule.clone())?;
            let mut by_hand = optimizer(&device, rule, Settings::lr(0.1))?;
            for k in 0..30 {
                ensure(scheduled.lr(0)? == 0.1 * schedule.at(k), format!("lr at {k}"))?;
                scheduled.step()?;
                by_hand.set_settings(0, Settings { lr_factor: schedule.at(k), ..Settings::lr(0.1) })?;
                by_hand.step()?;
            }
            same(name, &scheduled.read_blocking("w")?, &by_hand.read_blocking("w")?)?;
        }
    }
    Ok(())
}

fn slices_take_their_own_groups_further(_: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
    let group = optimizer.add_group(Adam::default(), 0.1)?;
    optimizer.add(0, "own", &[1.0f32; 3])?;
    let (id, mut w) = (optimizer.add_slice::<f32>(group, "slice", 3)?, [1.0f32; 3]);
    for _ in 0..5 {
        optimizer.step()?;
        optimizer.step_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&[1.0; 3]) }])?;
    }
    let steps = (optimizer.schedule_step(0)?, optimizer.schedule_step(group)?);
    ensure(steps == (5, 5), format!("{steps:?}"))
}

fn a_rate_beyond_f32_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = optimizer(&device, Adam::default(), Settings::lr(0.1))?;
        let before = optimizer.read_blocking::<f32>("w")?;
        optimizer.set_schedule(0, Schedule::Exponential { gamma: 1e30, every: 1.0 })?;
        optimizer.set_schedule_step(0, 5)?;
        let refused = optimizer.step();
        ensure(matches!(refused, Err(Error::Hyperparameter { .. })), format!("{refused:?}"))?;
        same("w", &optimizer.read_blocking("w")?, &before)?;
        ensure(optimizer.steps("w")? == 0 && optimizer.schedule_step(0)? == 5, "counted")?;
    }
    Ok(())
}

fn momentum_is_cycled(gpu: &Gpu) -> Result<(), Failed> {
    let schedule = Schedule::one_cycle(20, 0.3, 25.0, 1e4, true, false, [0.85, 0.95]);
    for device in [gpu.into(), Device::Cpu] {
        let mut momentum = optimizer(&device, Momentum::default(), Settings::lr(0.1))?;
        let mut adam = optimizer(&device, Adam::default(), Settings::lr(0.1))?;
        let mut by_hand = [
            optimizer(&device, Momentum::default(), Settings::lr(0.1))?,
            optimizer(&device, Adam::default(), Settings::lr(0.1))?,
        ];
        momentum.set_schedule(0, schedule.clone())?;
        adam.set_schedule(0, schedule.clone())?;
        for k in 0..20 {
            momentum.step()?;
            adam.step()?;
            let cycled = schedule.momentum(k).ok_or("no momentum")?;
            by_hand[0].set_rule(0, Momentum::torch(cycled))?;
            by_hand[1].set_rule(0, Adam { beta1: cycled, ..Adam::default() })?;
            for optimizer in &mut by_hand {
                optimizer.set_settings(0, Settings { lr_factor: schedule.at(k), ..Settings::lr(0.1) })?;
                optimizer.step()?;
            }
        }
        same("momentum", &momentum.read_blocking("w")?, &by_hand[0].read_blocking("w")?)?;
        same("adam", &adam.read_blocking("w")?, &by_hand[1].read_blocking("w")?)?;
    }
    Ok(())
}

fn a_refused_step_keeps_the_schedule(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = optimizer(&gpu.into(), Adam::default(), Settings::lr(0.1))?;
    optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 1000))?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for _ in 0..128 {
        optimizer.encode(&mut encoder)?;
    }
    let before = optimizer.lr(0)?;
    ensure(matches!(optimizer.encode(&mut encoder), Err(Error::TooManyStepsInFlight { .. })), "129 steps")?;
    ensure(optimizer.lr(0)? == before, "the schedule moved")?;
    drop(encoder);
    // A submission that wgpu refuses takes the schedule back.
    let gone = buffer(gpu, &[0.0; 9], FOREIGN);
    optimizer.add_buffer(0, "gone", BufferRange::whole(&gone))?;
    optimizer.set_gradient("gone", Gradient::Buffer(BufferRange::whole(&buffer(gpu, &[0.0; 9], FOREIGN))))?;
    optimizer.step()?;
    let before = optimizer.lr(0)?;
    gone.destroy();
    ensure(matches!(optimizer.step(), Err(Error::Rejected { .. })), "a destroyed buffer")?;
    ensure(optimizer.lr(0)? == before && optimizer.schedule_step(0)? == 129, "the schedule moved")?;
    optimizer.remove("gone")?;
    optimizer.set_schedule_step(0, 500)?;
    ensure((optimizer.lr(0)? - 0.05).abs() < 1e-12, "set_schedule_step")?;
    let bad = Schedule::Step { every: 0, gamma: 0.1 };
    let refused = optimizer.set_schedule(0, bad);
    ensure(matches!(refused, Err(Error::Hyperparameter { name: "every", .. })), format!("{refused:?}"))?;
    ensure((optimizer.lr(0)? - 0.05).abs() < 1e-12, "a refused schedule replaced the old one")
}

/// Loshchilov and Hutter's decay is multiplied by the schedule alone, AdamW's by the rate.
fn decay_follows_the_schedule(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        for (decay, kept) in [(WeightDecay::DecoupledFromLr(0.1), 0.95), (WeightDecay::Decoupled(0.1), 0.995)] {
            let mut optimizer =
                Optimizer::new(&device, Adam::default(), Settings { weight_decay: decay, ..Settings::lr(0.1) })?;
            optimizer.add(0, "w", &[2.0f32; 7])?;
            optimizer.write_gradient("w", &[0.0f32; 7])?;
            optimizer.set_schedule(0, Schedule::Constant(0.5))?;
            optimizer.step()?;
            close("w", &optimizer.read_blocking("w")?, &[2.0 * kept; 7], &[2.0; 7], TOLERANCE)?;
        }
    }
    Ok(())
}

/// Every schedule survives being written and read, stays finite, and refuses what makes no sense.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("schedule::text_round_trip", || {
            let all = [
                Schedule::Step { every: 30, gamma: 0.1 },
                Schedule::MultiStep { milestones: vec![10, 20], gamma: 0.5 },
                Schedule::cosine(100).warmup(10),
                Schedule::robbins_monro(),
                Schedule::warmup_stable_decay(10, 50, 20, 0.1),
                Schedule::one_cycle(100, 0.3, 25.0, 1e4, true, true, [0.85, 0.95]),
                Schedule::Product(vec![Schedule::InverseSqrt { warmup: 4 }, Schedule::Constant(0.5)]),
            ];
            for schedule in all {
                let text = ron::to_string(&schedule)?;
                ensure(Schedule::parse(&text)? == schedule, text)?;
                let json = serde_json::to_string(&schedule)?;
                ensure(serde_json::from_str::<Schedule>(&json)? == schedule, json)?;
                ensure((0..300).all(|k| schedule.at(k).is_finite() && schedule.at(k) >= 0.0), format!("{schedule:?}"))?;
            }
            Ok(())
        }),
        Trial::test("schedule::robbins_monro_sums", || {
            // Σα diverges (like ln n), Σα² converges (to π²/6).
            let schedule = Schedule::robbins_monro();
            let sums = |n: u64| (0..n).fold((0.0, 0.0), |(s, q), k| (s + schedule.at(k), q + schedule.at(k).powi(2)));
            let (few, many) = (sums(1000), sums(1_000_000));
            ensure((many.0 - few.0 - 1000f64.ln()).abs() < 1e-2, format!("{many:?}"))?;
            ensure((many.1 - std::f64::consts::PI.powi(2) / 6.0).abs() < 1e-5, format!("{many:?}"))
        }),
        Trial::test("schedule::edges", || {
            let end = u64::MAX;
            let all = [
                Schedule::CosineRestarts { to: 0.1, steps: 10, t_mult: 1.0, m_mult: 1.0 },
                Schedule::CosineRestarts { to: 0.1, steps: 10, t_mult: 1.000_001, m_mult: 0.999 },
                Schedule::Polynomial { from: 1.0, to: 0.0, steps: 10, power: 1.0, cycle: true },
                Schedule::Cyclic { low: 0.1, up: 0, down: 0, per_cycle: 1.0, per_step: 1.0, momentum: None },
                Schedule::Step { every: 0, gamma: 0.5 },
                Schedule::cosine(0),
                Schedule::InverseLinear { rate: 1.0, every: Some(0) },
            ];
            for schedule in all {
                ensure(schedule.at(end).is_finite() && schedule.at(0).is_finite(), format!("{schedule:?}"))?;
            }
            // Of points with one k the last holds: no warm-up, no decay.
            ensure(Schedule::warmup_stable_decay(0, 10, 10, 0.1).at(0) == 1.0, "no warm-up")?;
            ensure(Schedule::warmup_stable_decay(0, 10, 0, 0.1).at(10) == 0.1, "no decay")?;
            ensure(Schedule::cosine(10).warmup(0) == Schedule::cosine(10), "warmup(0)")?;
            // Restarts against the sum, step by step.
            let restarts = Schedule::CosineRestarts { to: 0.0, steps: 7, t_mult: 2.0, m_mult: 0.5 };
            let (mut start, mut len, mut height) = (0u64, 7u64, 1.0);
            for k in 0..2000 {
                if k >= start + len {
                    (start, len, height) = (start + len, len * 2, height * 0.5);
                }
                let way = (k - start) as f64 / len as f64;
                let expected = height * (1.0 + (std::f64::consts::PI * way).cos()) / 2.0;
                ensure((restarts.at(k) - expected).abs() < 1e-12, format!("{k}: {} {expected}", restarts.at(k)))?;
            }
            Ok(())
        }),
        Trial::test("schedule::refuses", || {
            let bad = [
                ("cosine(steps: 0)", "steps"),
                ("cosine(steps: 10, to: -0.1)", "to"),
                ("exponential(gamma: 0.9, every: 0)", "every"),
                ("cosine_restarts(steps: 10, t_mult: 0.5)", "t_mult"),
                ("multi_step(milestones: [20, 10], gamma: 0.1)", "milestones"),
                ("piecewise(boundaries: [5], values: [1.0])", "values"),
                ("cyclic(low: 0.1, up: 0, down: 5)", "up"),
                ("ramps(points: [])", "points"),
                ("ramps(points: [(0, 1)], momentum: [1.5])", "momentum"),
                ("cyclic(low: 0.1, up: 18446744073709551615, down: 5)", "up"),
                ("cyclic(low: 0.1, up: 5, down: 5, per_cycle: 2, momentum: (0.8, 0.9))", "per_cycle"),
                ("sequence([])", "sequence"),
                ("sequence([(3, constant(-1)), (0, constant(1))])", "value"),
            ];
            for (text, key) in bad {
                let parsed = Schedule::parse(text);
                let named = matches!(&parsed, Err(Error::Hyperparameter { name, .. }) if *name == key);
                ensure(named, format!("{text}: {parsed:?}"))?;
            }
            let deep = "product([".repeat(10_000);
            let bad = [
                ("cosine", "1:1: `cosine` needs arguments; for example `cosine(1000)`"),
                ("cosine()", "`cosine` needs arguments; for example `cosine(1000)`"),
                ("cosine(stps: 1)", "1:8: unknown field `stps`"),
                ("cosine(1, 2)", "1:11: `cosine` takes 1 arguments without a name"),
                ("cosine(10, steps: 10)", "1:12: `steps` is given twice"),
                ("cosine(steps: -1)", "1:1: invalid value"),
                ("cosine(1e)", "1:8: `1e` is not a number"),
                ("cosine(1e999)", "1:8: `1e999` is not a number"),
                ("cosine(10", "1:10: `,` or `)` must follow"),
                ("cosine(10) more", "1:12: the schedule ends before `m`"),
                ("cosine(10).warm(3)", "1:12: only a warm-up"),
                ("cosine(10).warmup(-3)", "1:12: only a warm-up"),
                ("warmup(100)", "as in `cosine(1000).warmup(100)`"),
                ("product([\n  constant(0.5),\n  nothing(3)])", "3:3: `nothing` is not known; there are constant, "),
                ("sequence([(3, constant)])", "1:15: `constant` needs arguments"),
                ("", "1:1: a schedule starts with a word; there are constant, step,"),
                ("(3)", "1:1: a schedule starts with a word"),
                ("cosine(ü: 1)", "1:8: unknown field `ü`"),
                (&deep, "more than 64 values within each other"),
            ];
            for (text, said) in bad {
                let parsed = Schedule::parse(text);
                let says = matches!(&parsed, Err(Error::Schedule { reason, .. }) if reason.contains(said));
                ensure(says, format!("{parsed:?} for {said}"))?;
            }
            Ok(())
        }),
        Trial::test("schedule::reads_as_it_is_called", || {
            let one_cycle = Schedule::one_cycle(100, 0.25, 10.0, 1e3, false, true, [0.8, 0.9]);
            let texts = [
                ("cosine(10_000).warmup(500)", Schedule::cosine(10_000).warmup(500)),
                ("linear(1.0, 0.0, 1000)", Schedule::linear(1.0, 0.0, 1000)),
                ("linear(from: 1, to: 0, steps: 1000)", Schedule::linear(1.0, 0.0, 1000)),
                ("robbins_monro()", Schedule::robbins_monro()),
                ("robbins-monro", Schedule::robbins_monro()),
                ("warmup_stable_decay(10, 70, 20, 0.1)", Schedule::warmup_stable_decay(10, 70, 20, 0.1)),
                ("one_cycle(100, 0.25, 10, 1e3, false, true, [0.8, 0.9])", one_cycle.clone()),
                (
                    "one_cycle(100, 0.25, 10, final_div: 1e3, cosine: false, three_phase: true, momentum: (0.8, 0.9))",
                    one_cycle,
                ),
                ("inverse_sqrt(4)", Schedule::InverseSqrt { warmup: 4 }),
                (
                    " product( [ constant(0.5) , cosine(9,).warmup(1) , ] ) ",
                    Schedule::Product(vec![Schedule::Constant(0.5), Schedule::cosine(9).warmup(1)]),
                ),
            ];
            for (text, schedule) in texts {
                let parsed = Schedule::parse(text)?;
                ensure(parsed == schedule, format!("{text}: {parsed:?}"))?;
            }
            Ok(())
        }),
        Trial::test("schedule::one_cycle_is_torchs", one_cycle_is_torchs),
        Trial::test("schedule::constructors_pass_their_check", constructors_pass_their_check),
        Trial::test("schedule::plateaus_of_negative_metrics", plateaus_of_negative_metrics),
        Trial::test("schedule::stopping_goes_on_where_it_was_saved", stopping_goes_on_where_it_was_saved),
    ]
}

/// PyTorch 2.11's `OneCycleLR` with `max_lr` 1 where a phase ends before step 0 or behind the last step: rate and
/// momentum of each step.
fn one_cycle_is_torchs() -> Result<(), Failed> {
    type Case<'a> = ((u64, f64, bool, bool), &'a [(f64, f64)]);
    let cases: [Case<'_>; 8] = [
        (
            (10, 0.05, true, false),
            &[
                (0.9931806789787544, 0.8506819348298639),
                (0.9397371166557421, 0.8560263124396755),
                (0.8386414312497273, 0.8661359214187129),
                (0.7008489089356355, 0.8799152287673515),
                (0.5412915075774754, 0.8958710327263834),
                (0.3772597474005747, 0.9122742743570399),
                (0.2265290148351029, 0.9273474079061212),
                (0.10543332358282206, 0.9394570254698197),
                (0.027095270784166084, 0.9472908620850317),
                (4e-06, 0.95),
            ],
        ),
        (
            (3, 0.3, false, false),
            &[
                (0.9523811428571428, 0.8547619047619047),
                (0.4761925714285714, 0.9023809523809524),
                (4.000000000004e-06, 0.95),
            ],
        ),
        (
            (8, 0.0, false, false),
            &[
                (0.8750005, 0.8624999999999999),
                (0.750001, 0.875),
                (0.6250015, 0.8875),
                (0.5000020000000001, 0.8999999999999999),
                (0.3750025, 0.9125),
                (0.250003, 0.9249999999999999),
                (0.12500350000000005, 0.9375),
                (4.000000000004e-06, 0.95),
            ],
        ),
        (
            (10, 0.6, true, true),
            &[
                (0.040000000000000036, 0.95),
                (0.1316718427000253, 0.9404508497187474),
                (0.3716718427000253, 0.9154508497187474),
                (0.6683281572999747, 0.8845491502812526),
                (0.9083281572999747, 0.8595491502812526),
                (1.0, 0.85),
                (0.9083281572999747, 0.8595491502812526),
                (0.6683281572999747, 0.8845491502812526),
                (0.37167184270002523, 0.9154508497187474),
                (0.13167184270002527, 0.9404508497187474),
            ],
        ),
        (
            (6, 1.0, false, false),
            &[
                (0.04, 0.95),
                (0.232, 0.9299999999999999),
                (0.424, 0.9099999999999999),
                (0.616, 0.89),
                (0.808, 0.87),
                (1.0, 0.85),
            ],
        ),
        (
            (6, 0.0, false, true),
            &[
                (0.02857257142857143, 0.95),
                (0.022858857142857143, 0.95),
                (0.01714514285714286, 0.95),
                (0.011431428571428568, 0.95),
                (0.005717714285714284, 0.95),
                (3.9999999999970615e-06, 0.95),
            ],
        ),
        (
            (5, 0.6, false, true),
            &[
                (0.04, 0.95),
                (0.52, 0.8999999999999999),
                (1.0, 0.85),
                (0.52, 0.8999999999999999),
                (0.040000000000000036, 0.95),
            ],
        ),
        ((1, 0.3, true, false), &[(4e-06, 0.95)]),
    ];
    for ((steps, up, cosine, three_phase), expected) in cases {
        let schedule = Schedule::one_cycle(steps, up, 25.0, 1e4, cosine, three_phase, [0.85, 0.95]);
        schedule.check()?;
        ensure(expected.len() as u64 == steps, format!("{steps}"))?;
        for (k, &(lr, momentum)) in (0..).zip(expected) {
            let ours = (schedule.at(k), schedule.momentum(k).unwrap_or(f64::NAN));
            // PyTorch ends in differences of numbers near 1.
            let close = (ours.0 - lr).abs() < 4.0 * f64::EPSILON && (ours.1 - momentum).abs() < 4.0 * f64::EPSILON;
            ensure(close, format!("{schedule:?} at {k}: {ours:?}, {lr}, {momentum}"))?;
        }
        ensure(schedule.at(u64::MAX) == schedule.at(steps - 1), "behind the end")?;
    }
    // PyTorch divides by 0 where the rise has no length: the rate is at its peak at once.
    ensure(Schedule::one_cycle(10, 0.1, 25.0, 1e4, true, false, [0.85, 0.95]).at(0) == 1.0, "a rise of no length")
}

/// What each constructor makes of good arguments passes its check and is a factor at every step; of bad ones, the check
/// names one.
fn constructors_pass_their_check() -> Result<(), Failed> {
    const NUMBERS: [f64; 9] = [0.0, 1e-3, 0.3, 0.6, 1.0, 25.0, -0.1, f64::NAN, f64::INFINITY];
    const STEPS: [u64; 8] = [0, 1, 2, 3, 10, 1000, (1 << 53) - 1, u64::MAX];
    let countable = |steps: u64| (1..1 << 53).contains(&steps);
    let factor = |x: f64| x >= 0.0 && x.is_finite();
    let holds = |schedule: &Schedule, good: bool| -> Result<(), Failed> {
        let checked = schedule.check();
        ensure(checked.is_ok() == good, format!("{schedule:?}: {checked:?}"))?;
        for k in STEPS.into_iter().chain(4..30) {
            let (rate, momentum) = (schedule.at(k), schedule.momentum(k).unwrap_or(0.0));
            ensure(!good || factor(rate) && (0.0..1.0).contains(&momentum), format!("{schedule:?} at {k}: {rate}"))?;
        }
        // Text does not carry what is not finite.
        let text = ron::to_string(schedule)?;
        ensure(!good || Schedule::parse(&text)? == *schedule, text)
    };
    holds(&Schedule::robbins_monro(), true)?;
    for steps in STEPS {
        holds(&Schedule::cosine(steps), countable(steps))?;
        holds(&Schedule::cosine(10).warmup(steps), steps == 0 || countable(steps))?;
        for a in NUMBERS {
            for b in NUMBERS {
                holds(&Schedule::linear(a, b, steps), factor(a) && factor(b) && countable(steps))?;
                for kind in 0..4 {
                    let (up, div, final_div) = [(a, 25.0, 1e4), (a, b, 1.0), (0.3, a, b), (b, 1.0, a)][kind];
                    let (cosine, three_phase) = (kind % 2 == 0, kind > 1);
                    let above_0 = |x: f64| x > 0.0 && x.is_finite();
                    let good = countable(steps) && (0.0..=1.0).contains(&up) && above_0(div) && above_0(final_div);
                    for momentum in [[0.85, 0.95], [0.95, 1.0]] {
                        let good = good && momentum[1] < 1.0;
                        let one_cycle = Schedule::one_cycle(steps, up, div, final_div, cosine, three_phase, momentum);
                        holds(&one_cycle, good)?;
                    }
                }
            }
            for (stable, decay) in STEPS.into_iter().zip(STEPS.into_iter().rev()) {
                holds(&Schedule::warmup_stable_decay(steps, stable, decay, a), factor(a))?;
            }
        }
    }
    Ok(())
}

/// A relative threshold is a part of the magnitude: what does not get better by it is a plateau, whatever the sign.
fn plateaus_of_negative_metrics() -> Result<(), Failed> {
    for (mode, sign) in [(Mode::Min, 1.0), (Mode::Max, -1.0)] {
        for start in [-8.0, -1e-3, 0.0, 1e-3, 8.0] {
            let threshold = Threshold::Relative(0.01);
            let new = || ReduceOnPlateau { mode, patience: 2, threshold, ..ReduceOnPlateau::new(1.0) };
            // Better by a twentieth of what counts.
            let (mut plateau, mut still) = (new(), new());
            let rates: Vec<_> =
                (0..4).map(|k| plateau.observe(sign * (start - 5e-4 * f64::abs(start) * f64::from(k)))).collect();
            ensure(rates == [1.0, 1.0, 1.0, 0.1], format!("{mode:?} from {start}: {rates:?}"))?;
            let rates: Vec<_> = (0..4).map(|_| still.observe(sign * start)).collect();
            ensure(rates == [1.0, 1.0, 1.0, 0.1], format!("{mode:?} at {start}: {rates:?}"))?;
            // Better by twice what counts; of 0 there is no part.
            let (mut better, mut metric) = (new(), start);
            for _ in 0..20 {
                better.observe(sign * metric);
                metric -= 0.02 * f64::abs(metric);
            }
            ensure((better.lr == 1.0 && better.bad == 0) == (start != 0.0), format!("{better:?}"))?;
        }
    }
    // What is no number, or infinite, is no best one.
    let mut plateau = ReduceOnPlateau { patience: 1, ..ReduceOnPlateau::new(1.0) };
    let rates: Vec<_> = [f64::NEG_INFINITY, f64::NAN].into_iter().map(|metric| plateau.observe(metric)).collect();
    ensure(rates == [1.0, 0.1] && plateau.best.is_none(), format!("{plateau:?}"))
}

/// At every point of a run: what goes on from text says what the one that was not saved says.
fn stopping_goes_on_where_it_was_saved() -> Result<(), Failed> {
    let metrics = [3.0, 2.0, f64::NAN, 2.5, 1.5, 1.49, 1.6, 1.7, 1.8];
    for at in 0..metrics.len() {
        let mut whole = EarlyStopping::new(Mode::Min, 2, 0.1)?;
        let (mut resumed, mut plateau) = (whole.clone(), ReduceOnPlateau { patience: 1, ..ReduceOnPlateau::new(1.0) });
        let mut resumed_plateau = plateau.clone();
        for (k, metric) in metrics.into_iter().enumerate() {
            if k == at {
                let text = ron::to_string(&whole)?;
                resumed = ron::from_str(&text)?;
                ensure(resumed == whole, text)?;
                resumed = serde_json::from_str(&serde_json::to_string(&resumed)?)?;
                resumed_plateau = serde_json::from_str(&serde_json::to_string(&plateau)?)?;
            }
            let verdict = whole.observe(metric, || format!("epoch {k}"));
            let rate = plateau.observe(metric);
            if k < at {
                continue;
            }
            let again = resumed.observe(metric, || format!("epoch {k}"));
            ensure(verdict == again, format!("{verdict:?} {again:?} at {k} of {at}"))?;
            ensure(rate == resumed_plateau.observe(metric), "the rate")?;
        }
        ensure(whole == resumed && plateau == resumed_plateau, format!("{whole:?} {resumed:?}"))?;
        ensure(whole.best() == Some((1.5, &"epoch 4".to_owned())), format!("{:?}", whole.best()))?;
        ensure(whole.observe(1.9, String::new) == Verdict::Stop, "the patience")?;
    }
    Ok(())
}
