//! Schedules in the optimizer: the rate and the cycled momentum reach every rule, on the GPU and on the CPU.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::{Adam, Momentum};
use wgpu_optim::{
    BufferRange, Device, Error, Gpu, Gradient, Optimizer, Schedule, Settings, Slices, WeightDecay, rules,
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
            for text in ["cosine", "cosine(stps: 1)", "nothing(3)", "cosine(steps: -1)", ""] {
                ensure(matches!(Schedule::parse(text), Err(Error::Schedule { .. })), text)?;
            }
            Ok(())
        }),
    ]
}
