//! GPU = CPU for every rule and variant; two runs are the same bit for bit.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::{
    AdaptiveClip, AnyRule, ClipNorm, Device, Gpu, Gradient, NOT_BELOW_ZERO, Optimizer, Settings, WeightDecay, rules,
};

use crate::compare::{TOLERANCE, close, displaced, ensure, same};
use crate::fixture::{FOREIGN, gradients, gradients_for, intact, parameters, surrounded};
use crate::tests;

tests!(
    every_rule_at_every_length,
    rules_on_two_to_the_24_plus_one,
    every_rule_in_the_callers_buffers,
    every_setting,
    subnormal_gradients_count_as_they_are_or_as_zero,
    nan_and_infinite_gradients_give_the_same_kind,
    a_norm_of_nan_makes_all_of_it_nan,
    two_runs_are_bitwise_equal,
);

const LENGTHS: [usize; 12] = [0, 1, 2, 3, 4, 5, 255, 256, 257, 65_535, 65_536, 65_537];

fn settings(rule: &AnyRule) -> Settings {
    Settings::lr(rule.default_lr())
}

/// Vectors by name, the parameter first.
type Vectors = Vec<(&'static str, Vec<f32>)>;

/// Parameter and states after some steps with these gradients; on the CPU also the largest magnitude that each element
/// of them has had, as vectors behind them.
fn run(
    device: &Device,
    rule: &AnyRule,
    settings: Settings,
    start: &[f32],
    steps: &[Vec<f32>],
) -> Result<Vectors, Failed> {
    let mut optimizer = Optimizer::new(device, rule.clone(), settings)?;
    let w = optimizer.add(0, "w", start)?;
    let mut scales = vec![("scale", start.iter().map(|x| x.abs()).collect::<Vec<_>>())];
    for gradient in steps {
        optimizer.write_gradient(w, gradient)?;
        optimizer.step()?;
        if matches!(device, Device::Cpu) {
            let now = read(&optimizer, rule)?;
            scales.resize_with(now.len(), || ("scale", Vec::new()));
            for ((_, scale), (_, now)) in scales.iter_mut().zip(now) {
                scale.resize(now.len(), 0.0);
                scale.iter_mut().zip(now).for_each(|(scale, x)| *scale = scale.max(x.abs()));
            }
        }
    }
    let mut all = read(&optimizer, rule)?;
    if matches!(device, Device::Cpu) {
        all.extend(scales);
    }
    Ok(all)
}

fn read(optimizer: &Optimizer, rule: &AnyRule) -> Result<Vectors, Failed> {
    let mut all = vec![("parameter", optimizer.read_blocking("w")?)];
    for state in rule.states() {
        all.push((state, optimizer.read_state_blocking("w", state)?));
    }
    Ok(all)
}

/// Parameters and states agree. A state's error is measured against the largest gradient (or its square) that went into
/// it.
fn agree(
    what: &str,
    gpu: &[(&str, Vec<f32>)],
    cpu: &[(&str, Vec<f32>)],
    start: &[f32],
    steps: &[Vec<f32>],
) -> Result<(), Failed> {
    ensure(2 * gpu.len() == cpu.len(), format!("{what}: {} vectors against {}", gpu.len(), cpu.len()))?;
    let scales = &cpu[gpu.len()..];
    let largest = |i: usize| steps.iter().map(|g| g[i].abs()).fold(0.0, f32::max);
    let gradient: Vec<f32> = (0..start.len()).map(largest).collect();
    for (((name, x), (_, b)), (_, scale)) in gpu.iter().zip(cpu).zip(scales) {
        let what = format!("{what} {name} of {}", start.len());
        match *name {
            "parameter" => {
                close(&what, x, b, scale, TOLERANCE)?;
                displaced(&what, x, b, start, scale, TOLERANCE)?;
            }
            name if name == "b" || NOT_BELOW_ZERO.contains(&name) => {
                // WGSL lets a device flush what is subnormal, in each step.
                let flushed = (steps.len() as f64 * f64::from(f32::MIN_POSITIVE) / TOLERANCE) as f32;
                close(&what, x, b, &vec![flushed; x.len()], TOLERANCE)?;
            }
            // Others change sign, so that only what went in says how exact they can be, and what they have been.
            _ => {
                let scale: Vec<_> = gradient.iter().zip(scale).map(|(g, scale)| g.max(*scale)).collect();
                close(&what, x, b, &scale, TOLERANCE)?;
            }
        }
    }
    Ok(())
}

fn every_rule_at_every_length(gpu: &Gpu) -> Result<(), Failed> {
    for (name, rule) in rules::all() {
        for len in LENGTHS {
            let start = parameters(len, 1);
            let steps: Vec<_> = (0..4).map(|t| gradients_for(&rule, len, t)).collect();
            let on_gpu = run(&gpu.into(), &rule, settings(&rule), &start, &steps)?;
            let on_cpu = run(&Device::Cpu, &rule, settings(&rule), &start, &steps)?;
            agree(name, &on_gpu, &on_cpu, &start, &steps)?;
            if len >= 4 {
                ensure(on_gpu[0].1 != start, format!("{name}: nothing moved"))?;
            }
        }
    }
    Ok(())
}

fn rules_on_two_to_the_24_plus_one(gpu: &Gpu) -> Result<(), Failed> {
    let len = (1 << 24) + 1;
    let start = parameters(len, 2);
    // Where an element is does not depend on the rule: those that keep nothing, one to three states, and norms.
    for name in ["sgd", "momentum", "adam", "ademamix", "lamb", "adagrad-norm"] {
        let rule = rules::by_name(name)?;
        let steps = [gradients_for(&rule, len, 3)];
        let on_gpu = run(&gpu.into(), &rule, settings(&rule), &start, &steps)?;
        let on_cpu = run(&Device::Cpu, &rule, settings(&rule), &start, &steps)?;
        agree(name, &on_gpu, &on_cpu, &start, &steps)?;
    }
    Ok(())
}

fn every_rule_in_the_callers_buffers(gpu: &Gpu) -> Result<(), Failed> {
    for (name, rule) in rules::all() {
        for len in LENGTHS {
            let start = parameters(len, 4);
            let steps: Vec<_> = (0..3).map(|t| gradients_for(&rule, len, t)).collect();
            let mut optimizer = Optimizer::new(&gpu.into(), rule.clone(), settings(&rule))?;
            let range = surrounded(gpu, &start, FOREIGN);
            let w = optimizer.add_buffer(0, "w", range.clone())?;
            for gradient in &steps {
                let gradient = surrounded(gpu, gradient, wgpu::BufferUsages::STORAGE);
                optimizer.set_gradient(w, Gradient::Buffer(gradient))?;
                optimizer.step()?;
            }
            let on_gpu = read(&optimizer, &rule)?;
            same(name, &intact(gpu, &range)?, &on_gpu[0].1)?;
            let on_cpu = run(&Device::Cpu, &rule, settings(&rule), &start, &steps)?;
            agree(name, &on_gpu, &on_cpu, &start, &steps)?;
        }
    }
    Ok(())
}

fn every_setting(gpu: &Gpu) -> Result<(), Failed> {
    let base = Settings::lr(0.01);
    let variants = [
        Settings { maximize: true, ..base },
        Settings { grad_scale: 0.125, ..base },
        Settings { lr_factor: 0.3, ..base },
        Settings { weight_decay: WeightDecay::L2(0.1), ..base },
        Settings { weight_decay: WeightDecay::L2(0.1), maximize: true, ..base },
        Settings { weight_decay: WeightDecay::Decoupled(0.1), ..base },
        Settings { weight_decay: WeightDecay::DecoupledFromLr(0.1), lr_factor: 0.3, ..base },
        Settings { clip_value: Some(0.01), ..base },
        Settings { clip_value: Some(0.5), weight_decay: WeightDecay::L2(0.1), maximize: true, ..base },
        Settings { zero_grad: true, ..base },
        Settings { clip_norm: Some(ClipNorm::optax(0.5)), ..base },
        Settings { clip_norm: Some(ClipNorm::block_rms(0.1)), weight_decay: WeightDecay::L2(0.1), ..base },
        Settings { adaptive_clip: Some(AdaptiveClip::torch(0.01)), ..base },
    ];
    let start = parameters(1027, 5);
    for (name, rule) in rules::all() {
        let steps = [gradients_for(&rule, 1027, 6), gradients_for(&rule, 1027, 7)];
        let plain = |rule: &AnyRule| run(&Device::Cpu, rule, base, &start, &steps);
        for settings in variants {
            let on_gpu = run(&gpu.into(), &rule, settings, &start, &steps)?;
            let on_cpu = run(&Device::Cpu, &rule, settings, &start, &steps)?;
            let what = format!("{name} {settings:?}");
            agree(&what, &on_gpu, &on_cpu, &start, &steps)?;
            let scale_free = matches!(settings, Settings { grad_scale: 0.125, .. });
            // LARS divides by the norm that was clipped.
            let normed = rule.name() == "lars" && (settings.clip_norm.is_some() || settings.adaptive_clip.is_some());
            // Nor does a limit change a sign.
            let signs = ["sign-sgd", "rprop", "rprop-lagged"].contains(&name)
                && Settings { clip_value: None, clip_norm: None, adaptive_clip: None, ..settings } == base;
            if !settings.zero_grad && !scale_free && !normed && !signs {
                ensure(on_cpu[0].1 != plain(&rule)?[0].1, format!("{what}: no effect"))?;
            }
        }
    }
    Ok(())
}

/// WGSL lets a device flush subnormals to 0. Then the result is that of a gradient of 0.
fn subnormal_gradients_count_as_they_are_or_as_zero(gpu: &Gpu) -> Result<(), Failed> {
    let tiny: Vec<f32> = (1..=64).map(|i| f32::from_bits(i * 100_003)).collect();
    let (start, zero) = (parameters(64, 8), vec![0.0; 64]);
    for (name, rule) in rules::all() {
        let go = |device: &Device, g: &Vec<f32>| run(device, &rule, settings(&rule), &start, &[g.clone(), g.clone()]);
        let on_gpu = go(&gpu.into(), &tiny)?;
        let (kept, flushed) = (go(&Device::Cpu, &tiny)?, go(&Device::Cpu, &zero)?);
        let is = |i: usize, cpu: &[(&str, Vec<f32>)]| {
            close(name, &on_gpu[0].1[i..=i], &cpu[0].1[i..=i], &start[i..=i], TOLERANCE)
        };
        for i in 0..64 {
            is(i, &kept).or_else(|_| is(i, &flushed))?;
        }
    }
    Ok(())
}

/// NaN, ±∞, or finite.
fn kind(x: f32) -> &'static str {
    match x {
        _ if x.is_nan() => "NaN",
        f32::INFINITY => "∞",
        f32::NEG_INFINITY => "−∞",
        _ => "finite",
    }
}

fn nan_and_infinite_gradients_give_the_same_kind(gpu: &Gpu) -> Result<(), Failed> {
    let bad = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0, f32::NAN];
    let (start, good) = (vec![1.0; 5], vec![1.0; 5]);
    for (name, rule) in rules::all() {
        if rule.reduce().is_some() {
            continue; // Its norm is of all elements: the next test.
        }
        // As the guide says: rules whose step is a multiple of the gradient go to ∓∞ and from there to NaN, rules that
        // take its sign or clip it move as ever, all others go to NaN at once.
        let unrectified = ["radam", "radam-optax", "adabelief-rectified"].contains(&name);
        let (first, then) = match rule.name() {
            "sgd" | "momentum" | "asgd" | "qhm" | "aggmo" | "accsgd" | "pnm" | "acprop" | "adabound" => {
                (["−∞", "∞"], ["NaN"; 2])
            }
            "lion" | "signum" | "sophia" | "adopt" | "rprop" => (["finite"; 2], ["finite"; 2]),
            _ if unrectified || name == "schedule-free-sgd" => (["−∞", "∞"], ["NaN"; 2]),
            _ => (["NaN"; 2], ["NaN"; 2]),
        };
        // It has no step at first.
        let lagged = if name == "rprop-lagged" { "finite" } else { "NaN" };
        let nan = "NaN";
        for (steps, [plus, minus], nan) in
            [(vec![bad.clone()], first, lagged), (vec![bad.clone(), good.clone()], then, nan)]
        {
            let expected = [nan, plus, minus, "finite", nan];
            for device in [gpu.into(), Device::Cpu] {
                let all = run(&device, &rule, settings(&rule), &start, &steps)?;
                let kinds: Vec<_> = all[0].1.iter().map(|&x| kind(x)).collect();
                ensure(kinds == expected, format!("{name} on {}: {kinds:?}, not {expected:?}", device.name()))?;
            }
        }
    }
    Ok(())
}

fn a_norm_of_nan_makes_all_of_it_nan(gpu: &Gpu) -> Result<(), Failed> {
    for (name, rule) in rules::all().into_iter().filter(|(_, rule)| rule.reduce().is_some()) {
        for device in [gpu.into(), Device::Cpu] {
            let all = run(&device, &rule, settings(&rule), &[1.0; 5], &[vec![1.0, f32::NAN, 2.0, 3.0, 0.5]])?;
            let nan = all[0].1.iter().all(|x| x.is_nan());
            ensure(nan, format!("{name} on {}: {:?}", device.name(), all[0].1))?;
        }
    }
    Ok(())
}

fn two_runs_are_bitwise_equal(gpu: &Gpu) -> Result<(), Failed> {
    let (start, steps) = (parameters(10_007, 9), [gradients(10_007, 10), gradients(10_007, 11)]);
    for (name, rule) in rules::all() {
        let go = || run(&gpu.into(), &rule, settings(&rule), &start, &steps);
        for ((state, a), (_, b)) in go()?.iter().zip(&go()?) {
            same(&format!("{name} {state}"), a, b)?;
        }
    }
    Ok(())
}

/// The same on the CPU alone: f32 against f64, and no finite history that ends in NaN.
pub(crate) fn cpu_trials() -> Vec<Trial> {
    vec![
        Trial::test("cpu::f32_is_near_f64", || {
            let start = parameters(20_011, 12);
            let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            for (name, rule) in rules::all() {
                let steps: Vec<_> = (0..5).map(|t| gradients_for(&rule, 20_011, t)).collect();
                let f32 = run(&Device::Cpu, &rule, settings(&rule), &start, &steps)?;
                let mut optimizer = Optimizer::new(&Device::Cpu, rule.clone(), settings(&rule))?;
                optimizer.add(0, "w", &wide(&start))?;
                for g in &steps {
                    // What f32 cannot square is not f64's to judge.
                    let g: Vec<_> = wide(g).iter().map(|g| g.clamp(-1e15, 1e15)).collect();
                    optimizer.write_gradient("w", &g)?;
                    optimizer.step()?;
                }
                let f64: Vec<f32> = optimizer.read_blocking::<f64>("w")?.iter().map(|&x| x as f32).collect();
                let judged = |i: &usize| steps.iter().all(|g| g[*i].abs() < 1e15);
                let pick = |v: &[f32]| (0..start.len()).filter(judged).map(|i| v[i]).collect::<Vec<_>>();
                let scale = &f32[f32.len() / 2].1;
                close(name, &pick(&f32[0].1), &pick(&f64), &pick(scale), TOLERANCE)?;
            }
            Ok(())
        }),
        Trial::test("cpu::a_gradient_whose_square_overflows_makes_no_step", || {
            for name in ["adagrad", "rmsprop", "rmsprop-centered", "adadelta", "adam", "amsgrad", "nadam"] {
                let rule = rules::by_name(name)?;
                let all = run(&Device::Cpu, &rule, settings(&rule), &[1.0; 4], &[vec![1e30; 4], vec![1e20; 4]])?;
                same(name, &all[0].1, &[1.0; 4])?;
            }
            Ok(())
        }),
        Trial::test("cpu::no_finite_gradient_gives_nan", || {
            let start = vec![1.0; 8];
            let history = [0.0, 1e30, -1e30, 1e-30, f32::MAX, f32::MIN_POSITIVE, 3.0, 3.0];
            let steps: Vec<_> = (0..8).map(|t| (0..8).map(|i| history[(i * 3 + t) % 8]).collect()).collect();
            let constant: Vec<_> = (0..50).map(|_| vec![0.1, 1e-3, 7.0, 1e10, 1e18, 1e19, 1e20, f32::MAX]).collect();
            for (name, rule) in rules::all().into_iter().filter(|(_, rule)| rule.name() == "rmsprop") {
                for steps in [&steps, &constant] {
                    let all = run(&Device::Cpu, &rule, settings(&rule), &start, steps)?;
                    ensure(!all[0].1.iter().any(|x| x.is_nan()), format!("{name}: {:?}", all[0].1))?;
                }
            }
            Ok(())
        }),
    ]
}
