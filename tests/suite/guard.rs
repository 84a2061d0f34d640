//! What is decided about a step as a whole: norms, clipping, overflow, loss scale. On the device, and the same on the CPU.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum, NAdam, Sgd};
use wgpu_optim::{
    Averaging, BufferRange, ClipNorm, Device, Error, Gpu, Gradient, LossScaler, NonFinite, Norm, Optimizer, Report,
    Schedule, Settings, rules,
};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{FOREIGN, buffer, content, everything, gradients, parameters, surrounded};
use crate::tests;

tests!(
    norms_of_every_kind_and_size,
    no_finite_gradient_overflows,
    padding_has_no_part_in_a_norm,
    every_rule_clips_as_on_the_cpu,
    each_parameter_has_its_own_limit,
    non_finite_policies,
    an_overflow_changes_nothing,
    two_hundred_overflows_without_a_poll,
    set_lr_after_three_skips,
    a_missing_gradient_and_an_overflow,
    a_hundred_controlled_steps_in_one_encoder,
    two_thousand_steps_of_a_scaler,
    a_dropped_encoder_was_skipped,
    a_schedule_set_among_skips,
    the_scale_is_a_buffer,
    guards_come_and_go,
    guards_refuse,
);

/// Tensors of these lengths, with gradients.
const LENGTHS: [usize; 5] = [1003, 70, 1, 4096, 9001];

fn many(device: &Device, seed: u64, set: impl Fn(&mut Optimizer) -> Result<(), Error>) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(device, Adam::default(), 0.01)?;
    set(&mut optimizer)?;
    for (k, len) in LENGTHS.into_iter().enumerate() {
        let name = format!("p{k}");
        optimizer.add(0, &name, &parameters(len, seed + k as u64))?;
        optimizer.write_gradient(name.as_str(), &ordinary(len, seed + k as u64))?;
    }
    Ok(optimizer)
}

/// Gradients without the extremes, which would be the whole norm.
fn ordinary(len: usize, seed: u64) -> Vec<f32> {
    gradients(len, seed).iter().map(|g| g.clamp(-1e3, 1e3)).collect()
}

fn near(what: &str, x: f64, b: f64) -> Result<(), Failed> {
    ensure(x == b || (x - b).abs() <= TOLERANCE * b.abs(), format!("{what}: {x:e} against {b:e}"))
}

fn equal(what: &str, a: &Optimizer, b: &Optimizer) -> Result<(), Failed> {
    for ((name, a), (_, b)) in everything(a)?.iter().zip(&everything(b)?) {
        same(&format!("{what} {name}"), a, b)?;
    }
    Ok(())
}

fn norms_of_every_kind_and_size(gpu: &Gpu) -> Result<(), Failed> {
    for norm in [Norm::L1, Norm::L2, Norm::Max, Norm::Rms] {
        for len in [0, 1, 3, 4095, 4096, 4097, 1 << 20, (1 << 22) + 5] {
            let gradient = ordinary(len, len as u64);
            let wide = || gradient.iter().map(|&x| f64::from(x).abs());
            let expected = match norm {
                Norm::L1 => wide().sum(),
                Norm::L2 => wide().map(|x| x * x).sum::<f64>().sqrt(),
                Norm::Max => wide().fold(0.0, f64::max),
                Norm::Rms => (wide().map(|x| x * x).sum::<f64>() / (len.max(1) as f64)).sqrt(),
            };
            for device in [gpu.into(), Device::Cpu] {
                let mut optimizer = Optimizer::new(&device, Sgd, 0.1)?;
                optimizer.set_clip_norm(ClipNorm { norm, ..ClipNorm::torch(1.0) })?;
                optimizer.add(0, "w", &vec![0.0f32; len])?;
                optimizer.write_gradient("w", &gradient)?;
                optimizer.step()?;
                let found = optimizer.read_report_blocking()?.grad_norm;
                near(&format!("{norm:?} of {len} on {}", device.name()), found, expected)?;
            }
        }
    }
    Ok(())
}

/// Squares of these overflow, or underflow, in f32.
fn no_finite_gradient_overflows(gpu: &Gpu) -> Result<(), Failed> {
    for magnitude in [f32::MAX, 1e30, 1e19, 1e-19, 1e-30, 1e-36, 0.0] {
        for norm in [Norm::L1, Norm::L2, Norm::Max] {
            let gradient: Vec<f32> = (0..9000).map(|i| if i % 2 == 0 { magnitude } else { -magnitude }).collect();
            let m = f64::from(magnitude);
            let expected = match norm {
                Norm::L1 => 9000.0 * m,
                Norm::L2 => 9000f64.sqrt() * m,
                _ => m,
            };
            for device in [gpu.into(), Device::Cpu] {
                let what = format!("{norm:?} of {magnitude:e} on {}", device.name());
                let mut optimizer = Optimizer::new(&device, Momentum::default(), 0.0)?;
                optimizer.set_clip_norm(ClipNorm { norm, ..ClipNorm::normalize(1e10) })?;
                optimizer.add(0, "w", &vec![0.0f32; 9000])?;
                optimizer.write_gradient("w", &gradient)?;
                optimizer.step()?;
                near(&what, optimizer.read_report_blocking()?.grad_norm, expected)?;
                // What is clipped has the norm 1e10 · norm / (norm + 1e-6).
                let clipped = optimizer.read_state_blocking::<f32>("w", "momentum_buffer")?;
                let b = (1e10 * m / (expected + 1e-6)) as f32;
                close(&what, &clipped[..1], &[b], &[b], TOLERANCE)?;
            }
        }
    }
    Ok(())
}

fn padding_has_no_part_in_a_norm(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = many(&gpu.into(), 1, |o| o.set_clip_norm(ClipNorm::torch(1.0)))?;
    // All of the gradients' buffer, padding and what is free of it, is NaN; then the gradients themselves are written again.
    let range = optimizer.gradient("p0")?.clone();
    gpu.queue().write_buffer(&range.buffer, 0, bytemuck::cast_slice(&vec![f32::NAN; range.buffer.size() as usize / 4]));
    for (k, len) in LENGTHS.into_iter().enumerate() {
        optimizer.write_gradient(format!("p{k}").as_str(), &ordinary(len, 1 + k as u64))?;
    }
    let mut clean = many(&gpu.into(), 1, |o| o.set_clip_norm(ClipNorm::torch(1.0)))?;
    optimizer.step()?;
    clean.step()?;
    let (report, expected) = (optimizer.read_report_blocking()?, clean.read_report_blocking()?);
    ensure(report == expected && report.grad_norm > 0.0, format!("{report:?} against {expected:?}"))?;
    equal("padded with NaN", &optimizer, &clean)
}

fn every_rule_clips_as_on_the_cpu(gpu: &Gpu) -> Result<(), Failed> {
    let (start, len) = (parameters(5003, 5), 5003);
    for (name, rule) in rules::all() {
        for clip in [ClipNorm::torch(1.0), ClipNorm::optax(1e9)] {
            let run = |device: &Device, foreign: bool| -> Result<(Vec<f32>, Report), Failed> {
                let mut optimizer = Optimizer::new(device, rule.clone(), Settings::lr(0.01))?;
                optimizer.set_clip_norm(clip)?;
                if foreign {
                    optimizer.add_buffer(0, "w", surrounded(gpu, &start, FOREIGN))?;
                } else {
                    optimizer.add(0, "w", &start)?;
                }
                for t in 0..4 {
                    let g = ordinary(len, t);
                    if foreign {
                        optimizer.set_gradient("w", Gradient::Buffer(surrounded(gpu, &g, FOREIGN)))?;
                    } else {
                        optimizer.write_gradient("w", &g)?;
                    }
                    optimizer.step()?;
                }
                Ok((optimizer.read_blocking("w")?, optimizer.read_report_blocking()?))
            };
            let (cpu, expected) = run(&Device::Cpu, false)?;
            ensure(cpu != start, format!("{name}: nothing moved"))?;
            for foreign in [false, true] {
                let (x, report) = run(&gpu.into(), foreign)?;
                close(&format!("{name} {clip:?} {foreign}"), &x, &cpu, &start, TOLERANCE)?;
                near(name, report.grad_norm, expected.grad_norm)?;
            }
        }
    }
    Ok(())
}

fn each_parameter_has_its_own_limit(gpu: &Gpu) -> Result<(), Failed> {
    for clip in [ClipNorm::optax(1.0), ClipNorm::block_rms(0.5), ClipNorm { norm: Norm::Max, ..ClipNorm::torch(0.1) }] {
        let settings = Settings { clip_norm: Some(clip), grad_scale: 0.5, maximize: true, ..Settings::lr(0.0) };
        let mut clipped = Vec::new();
        for device in [gpu.into(), Device::Cpu] {
            let mut optimizer = Optimizer::new(&device, Momentum::default(), settings)?;
            for (k, len) in LENGTHS.into_iter().enumerate() {
                optimizer.add(0, &format!("p{k}"), &vec![1.0f32; len])?;
                optimizer.write_gradient(format!("p{k}").as_str(), &ordinary(len, k as u64))?;
            }
            optimizer.step()?;
            for (k, len) in LENGTHS.into_iter().enumerate() {
                let v = optimizer.read_state_blocking::<f32>(format!("p{k}").as_str(), "momentum_buffer")?;
                let norm = match clip.norm {
                    Norm::Max => v.iter().fold(0.0, |a, x| f64::max(a, x.abs().into())),
                    Norm::Rms => (v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / len as f64).sqrt(),
                    _ => v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(),
                };
                if len > 1 {
                    let (norm, limit) = (norm * (1.0 + clip.eps), clip.max_norm);
                    ensure((norm / limit - 1.0).abs() < 3e-5, format!("{clip:?} of p{k}: {norm} not {limit}"))?;
                }
                clipped.push(v);
            }
        }
        for k in 0..LENGTHS.len() {
            let (x, b) = (&clipped[k], &clipped[LENGTHS.len() + k]);
            close(&format!("{clip:?} p{k}"), x, b, &vec![0.0; b.len()], TOLERANCE)?;
        }
    }
    Ok(())
}

fn non_finite_policies(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let run = |policy: Option<NonFinite>, clip: bool, bad: f32| -> Result<(Vec<f32>, Report), Failed> {
            let mut optimizer = Optimizer::new(&device, Sgd, 1.0)?;
            policy.into_iter().for_each(|policy| optimizer.set_non_finite(policy));
            if clip {
                optimizer.set_clip_norm(ClipNorm::optax(2.5))?;
            }
            optimizer.add(0, "w", &[0.0f32; 5])?;
            optimizer.write_gradient("w", &[3.0, bad, -4.0, 0.0, 0.0])?;
            optimizer.step()?;
            Ok((optimizer.read_blocking("w")?, optimizer.read_report_blocking()?))
        };
        let kinds = |x: &[f32]| -> String {
            x.iter().map(|x| if x.is_nan() { 'N' } else { (x.abs() as u8 + b'0') as char }).collect()
        };
        let name = device.name();
        let expect = |policy, clip, bad, expected: &str| -> Result<(), Failed> {
            let (x, report) = run(policy, clip, bad)?;
            let found = kinds(&x);
            ensure(found == expected, format!("{policy:?} {clip} {bad} on {name}: {found}, not {expected}"))?;
            ensure(
                report.found_inf == (policy.is_some_and(|p| p != NonFinite::Propagate) || clip),
                format!("{report:?}"),
            )?;
            ensure(report.skipped_steps == u64::from(expected == "00000"), format!("{report:?}"))
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            expect(None, true, bad, "00000")?;
            expect(Some(NonFinite::Skip), false, bad, "00000")?;
            expect(Some(NonFinite::Zero), false, bad, "30400")?;
        }
        expect(Some(NonFinite::Zero), true, f32::NAN, "10200")?;
        let (x, _) = run(Some(NonFinite::Zero), true, f32::INFINITY)?;
        close("zeroed", &x, &[-1.5, 0.0, 2.0, 0.0, 0.0], &[1.0; 5], TOLERANCE)?;
        // As PyTorch: an ∞ makes it NaN and all else 0, a NaN makes all NaN.
        let (x, report) = run(Some(NonFinite::Propagate), true, f32::INFINITY)?;
        ensure(kinds(&x) == "0N000", format!("{x:?}"))?;
        ensure(report.grad_norm == f64::INFINITY, format!("{report:?}"))?;
        let (x, report) = run(Some(NonFinite::Propagate), true, f32::NAN)?;
        ensure(kinds(&x) == "NNNNN" && report.grad_norm.is_nan(), format!("{x:?}"))?;
    }
    Ok(())
}

fn an_overflow_changes_nothing(gpu: &Gpu) -> Result<(), Failed> {
    for (name, rule) in rules::all() {
        for device in [gpu.into(), Device::Cpu] {
            let mut optimizer =
                Optimizer::new(&device, rule.clone(), Settings { zero_grad: true, ..Settings::lr(0.01) })?;
            optimizer.set_loss_scaler(LossScaler::default())?;
            optimizer.set_averaging(0, Averaging::Ema(0.9))?;
            optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 100))?;
            optimizer.add_all(0, &[("a", parameters(1003, 1).as_slice()), ("b", &parameters(70, 2))])?;
            let write = |optimizer: &mut Optimizer, bad: f32| -> Result<(), Error> {
                let mut g = gradients(1003, 3);
                g[997] += bad;
                optimizer.write_gradient("a", &g)?;
                optimizer.write_gradient("b", &gradients(70, 4))
            };
            write(&mut optimizer, 0.0)?;
            optimizer.step()?;
            optimizer.settle_blocking()?;
            let state = |o: &Optimizer| -> Result<_, Failed> {
                let mut all = everything::<f32>(o)?;
                all.push(("average".into(), o.read_state_blocking("a", "average")?));
                all.push(("schedule".into(), vec![o.schedule_step(0)? as f32, o.lr(0)? as f32]));
                Ok(all)
            };
            let before = state(&optimizer)?;
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                write(&mut optimizer, bad)?;
                optimizer.step()?;
                optimizer.settle_blocking()?;
                for ((what, b), (_, x)) in before.iter().zip(&state(&optimizer)?) {
                    same(&format!("{name} {what} on {}", device.name()), x, b)?;
                }
                same("zeroed all the same", &optimizer.read_gradient_blocking("a")?, &[0.0; 1003])?;
            }
            let report = optimizer.report();
            ensure(report.skipped_steps == 3 && report.loss_scale == 8192.0, format!("{report:?}"))?;
            write(&mut optimizer, 0.0)?;
            optimizer.step()?;
            optimizer.settle_blocking()?;
            ensure(optimizer.steps("a")? == 2 && optimizer.schedule_step(0)? == 2, "it goes on")?;
            ensure(state(&optimizer)? != before, "nothing moved")?;
        }
    }
    Ok(())
}

fn two_hundred_overflows_without_a_poll(gpu: &Gpu) -> Result<(), Failed> {
    let run = |device: &Device| -> Result<Optimizer, Failed> {
        let mut optimizer = many(device, 7, |o| o.set_loss_scaler(LossScaler::default()))?;
        for t in 0..3 {
            for (k, len) in LENGTHS.into_iter().enumerate() {
                optimizer.write_gradient(format!("p{k}").as_str(), &ordinary(len, t + k as u64))?;
            }
            optimizer.step()?;
        }
        let good = optimizer.read_gradient_blocking::<f32>("p3")?;
        optimizer.write_gradient("p3", &vec![f32::INFINITY; LENGTHS[3]])?;
        for _ in 0..200 {
            optimizer.step()?;
        }
        optimizer.settle_blocking()?;
        // 2¹⁶ · 2⁻²⁰⁰, but not below 2⁻¹²⁶.
        let report = optimizer.report();
        ensure(report.loss_scale == 2f64.powi(-126) && report.skipped_steps == 200, format!("{report:?}"))?;
        optimizer.set_loss_scale(4.0, 0, 200)?;
        optimizer.write_gradient("p3", &good)?;
        for _ in 0..3 {
            optimizer.step()?;
        }
        optimizer.settle_blocking()?;
        Ok(optimizer)
    };
    let (gpu, cpu) = (run(&gpu.into())?, run(&Device::Cpu)?);
    ensure(gpu.steps("p0")? == 6 && cpu.steps("p0")? == 6, format!("{} steps", gpu.steps("p0")?))?;
    ensure(gpu.scale() == 4.0 && cpu.scale() == 4.0, "the scales differ")?;
    for k in 0..LENGTHS.len() {
        let (x, b) =
            (gpu.read_blocking::<f32>(format!("p{k}").as_str())?, cpu.read_blocking::<f32>(format!("p{k}").as_str())?);
        close("p", &x, &b, &vec![2.0; b.len()], TOLERANCE)?;
    }
    Ok(())
}

/// A step with these gradients' first element, and all steps in as few submissions as given.
fn set_lr_after_three_skips(gpu: &Gpu) -> Result<(), Failed> {
    let run = |device: &Device| -> Result<Optimizer, Failed> {
        let mut optimizer = Optimizer::new(device, NAdam::default(), 0.01)?;
        optimizer.set_non_finite(NonFinite::Skip);
        optimizer.set_schedule(0, Schedule::cosine(20))?;
        optimizer.add(0, "w", &parameters(301, 1))?;
        for t in 0..9 {
            let mut g = ordinary(301, t);
            if (2..5).contains(&t) {
                g[300] = f32::NAN;
            }
            if t == 5 {
                optimizer.set_lr(0, 0.5)?;
            }
            optimizer.write_gradient("w", &g)?;
            optimizer.step()?;
        }
        optimizer.settle_blocking()?;
        ensure(optimizer.steps("w")? == 6 && optimizer.schedule_step(0)? == 6, format!("{}", optimizer.steps("w")?))?;
        Ok(optimizer)
    };
    let (gpu, cpu) = (run(&gpu.into())?, run(&Device::Cpu)?);
    close("w", &gpu.read_blocking("w")?, &cpu.read_blocking("w")?, &[3.0; 301], TOLERANCE)
}

fn a_missing_gradient_and_an_overflow(gpu: &Gpu) -> Result<(), Failed> {
    let names = ["a", "b", "c"];
    let run = |device: &Device, settle: bool| -> Result<Optimizer, Failed> {
        let mut optimizer = Optimizer::new(device, NAdam::default(), 0.01)?;
        optimizer.set_loss_scaler(LossScaler { growth_interval: 3, ..LossScaler::default() })?;
        optimizer.set_schedule(0, Schedule::linear(1.0, 0.1, 10))?;
        for (k, name) in names.into_iter().enumerate() {
            optimizer.add(0, name, &parameters(1003 + k, k as u64))?;
        }
        for t in 1..=12u64 {
            let missing = t == 3 || t == 7;
            optimizer.set_gradient("b", if missing { Gradient::Missing } else { Gradient::Own })?;
            for (k, name) in names.into_iter().enumerate() {
                let mut g = ordinary(1003 + k, t * 3 + k as u64);
                if t == 7 || t == 9 {
                    g[0] = f32::INFINITY;
                }
                optimizer.write_gradient(name, &g)?;
            }
            optimizer.step()?;
            if settle {
                optimizer.settle_blocking()?;
            }
        }
        optimizer.settle_blocking()?;
        let steps = names.map(|name| optimizer.steps(name).unwrap_or_default());
        ensure(steps == [10, 9, 10], format!("{steps:?}"))?;
        ensure(optimizer.schedule_step(0)? == 10, "the schedule")?;
        Ok(optimizer)
    };
    let device = gpu.into();
    let (on_gpu, cpu) = (run(&device, false)?, run(&Device::Cpu, false)?);
    equal("known at once or later", &on_gpu, &run(&device, true)?)?;
    for name in names {
        let (x, b) = (on_gpu.read_blocking::<f32>(name)?, cpu.read_blocking::<f32>(name)?);
        close(name, &x, &b, &vec![2.0; b.len()], TOLERANCE)?;
    }
    Ok(())
}

/// With the rate changed at each, a parameter that misses some, and overflows among them: nothing is known before the submission.
fn a_hundred_controlled_steps_in_one_encoder(gpu: &Gpu) -> Result<(), Failed> {
    let (len, steps) = (301, 100);
    let gradient = |t: usize| {
        let mut g = ordinary(len, t as u64);
        if t % 7 == 3 {
            g[17] = f32::NAN;
        }
        g
    };
    let set = |optimizer: &mut Optimizer, t: usize| -> Result<(), Error> {
        optimizer.set_lr(0, 0.01 / (1.0 + t as f64))?;
        optimizer.set_gradient("b", if t % 10 == 3 { Gradient::Missing } else { Gradient::Own })
    };
    let make = |device: &Device| -> Result<Optimizer, Failed> {
        let mut optimizer = Optimizer::new(device, Adam::default(), 0.01)?;
        optimizer.set_clip_norm(ClipNorm::torch(10.0))?;
        optimizer.set_schedule(0, Schedule::cosine(200))?;
        optimizer.add_all(0, &[("a", parameters(len, 1).as_slice()), ("b", &parameters(len, 2))])?;
        Ok(optimizer)
    };
    let mut optimizer = make(&gpu.into())?;
    let sources: Vec<_> = (0..steps).map(|t| buffer(gpu, &gradient(t), FOREIGN)).collect();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for (t, source) in sources.iter().enumerate() {
        for name in ["a", "b"] {
            let own = optimizer.gradient(name).or_else(|_| optimizer.parameter(name))?.clone();
            if name == "a" || t % 10 != 3 {
                encoder.copy_buffer_to_buffer(source, 0, &own.buffer, own.offset, source.size());
            }
        }
        set(&mut optimizer, t)?;
        optimizer.encode(&mut encoder)?;
    }
    gpu.queue().submit([encoder.finish()]);
    optimizer.settle_blocking()?;
    for mut other in [make(&gpu.into())?, make(&Device::Cpu)?] {
        for t in 0..steps {
            other.write_gradient("a", &gradient(t))?;
            set(&mut other, t)?;
            if t % 10 != 3 {
                other.write_gradient("b", &gradient(t))?;
            }
            other.step()?;
        }
        other.settle_blocking()?;
        for name in ["a", "b"] {
            let (found, expected) = (optimizer.steps(name)?, other.steps(name)?);
            ensure(found == expected, format!("{name}: {found} steps, not {expected}"))?;
            let (x, b) = (optimizer.read_blocking::<f32>(name)?, other.read_blocking::<f32>(name)?);
            match other.device() {
                Device::Gpu(_) => same(name, &x, &b)?,
                Device::Cpu => close(name, &x, &b, &vec![2.0; len], 5.0 * TOLERANCE)?,
            }
        }
        ensure(optimizer.skipped_steps() == other.skipped_steps(), "skipped")?;
    }
    Ok(())
}

/// PyTorch's GradScaler, written from its documentation: scale, tracker, and whether the step is taken.
struct TorchScaler {
    scale: f32,
    tracker: u32,
    interval: u32,
}

impl TorchScaler {
    fn update(&mut self, found_inf: bool) -> bool {
        if found_inf {
            self.scale *= 0.5;
            self.tracker = 0;
            return false;
        }
        self.tracker += 1;
        if self.tracker == self.interval {
            if (self.scale * 2.0).is_finite() {
                self.scale *= 2.0;
            }
            self.tracker = 0;
        }
        true
    }
}

/// Against that model with momentum by hand in f64, and the CPU: scales exactly, parameters within the tolerance.
fn two_thousand_steps_of_a_scaler(gpu: &Gpu) -> Result<(), Failed> {
    let (len, lr, interval) = (67, 1e-3, 20);
    let scaler = LossScaler { growth_interval: interval, ..LossScaler::default() };
    let start = parameters(len, 1);
    let mut model = TorchScaler { scale: 65536.0, tracker: 0, interval };
    let mut w: Vec<f64> = start.iter().map(|&x| x.into()).collect();
    let mut v = vec![0.0f64; len];
    let mut ours = Vec::new();
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::default(), lr)?;
        optimizer.set_loss_scaler(scaler)?;
        optimizer.add(0, "w", &start)?;
        ours.push(optimizer);
    }
    let mut taken = 0;
    for t in 0..2000u64 {
        let mut gradient: Vec<f32> = parameters(len, t).iter().map(|g| g * model.scale).collect();
        match t % 97 {
            31 => gradient[5] = f32::NAN,
            64 => gradient[66] = f32::INFINITY,
            // A scale that has grown too far overflows in 16 bits.
            _ if model.scale > 1e8 => gradient[0] = f32::NEG_INFINITY,
            _ => {}
        }
        let found_inf = gradient.iter().any(|g| !g.is_finite());
        let scale = f64::from(model.scale);
        if model.update(found_inf) {
            taken += 1;
            for ((w, v), g) in w.iter_mut().zip(&mut v).zip(&gradient) {
                *v = 0.9 * *v + f64::from(*g) / scale;
                *w -= lr * *v;
            }
        }
        for optimizer in &mut ours {
            optimizer.write_gradient("w", &gradient)?;
            optimizer.step()?;
            if t % 100 == 99 {
                let report = optimizer.read_report_blocking()?;
                let expected = (f64::from(model.scale), model.tracker, t + 1 - taken);
                let found = (report.loss_scale, report.growth_tracker, report.skipped_steps);
                ensure(
                    found == expected,
                    format!("step {t} on {}: {found:?}, not {expected:?}", optimizer.device().name()),
                )?;
            }
        }
    }
    let b: Vec<f32> = w.iter().map(|&x| x as f32).collect();
    for optimizer in &mut ours {
        optimizer.settle_blocking()?;
        ensure(optimizer.steps("w")? == taken, format!("{} steps, not {taken}", optimizer.steps("w")?))?;
        // Each of 2,000 steps rounds the parameter by up to half an ulp.
        close("w", &optimizer.read_blocking("w")?, &b, &[4.0; 67], 2000.0 / (1 << 24) as f64)?;
    }
    same("GPU and CPU", &ours[0].read_blocking("w")?, &ours[1].read_blocking("w")?).or_else(|_| {
        close(
            "GPU and CPU",
            &ours[0].read_blocking("w")?,
            &ours[1].read_blocking("w")?,
            &[4.0; 67],
            2000.0 / (1 << 24) as f64,
        )
    })
}

fn a_dropped_encoder_was_skipped(gpu: &Gpu) -> Result<(), Failed> {
    let set = |o: &mut Optimizer| o.set_loss_scaler(LossScaler::default());
    let (mut optimizer, mut reference) = (many(&gpu.into(), 1, set)?, many(&gpu.into(), 1, set)?);
    for t in 0..4 {
        if t == 2 {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            optimizer.encode(&mut encoder)?;
        }
        optimizer.step()?;
        reference.step()?;
    }
    optimizer.settle_blocking()?;
    reference.settle_blocking()?;
    ensure(optimizer.steps("p0")? == 4, format!("{} steps", optimizer.steps("p0")?))?;
    equal("after a drop", &optimizer, &reference)
}

/// A schedule's own count starts while steps before it are still unknown.
fn a_schedule_set_among_skips(gpu: &Gpu) -> Result<(), Failed> {
    let run = |device: &Device| -> Result<Optimizer, Failed> {
        let mut optimizer = many(device, 3, |o| o.set_clip_norm(ClipNorm::torch(1.0)))?;
        for t in 0..8 {
            let mut g = ordinary(70, t);
            if t == 1 || t == 5 {
                g[69] = f32::NAN;
            }
            optimizer.write_gradient("p1", &g)?;
            if t == 3 {
                optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 20))?;
            }
            if t == 6 {
                // Nothing more can be skipped, but what was is not known yet.
                optimizer.set_non_finite(NonFinite::Propagate);
            }
            optimizer.step()?;
        }
        optimizer.settle_blocking()?;
        ensure(optimizer.schedule_step(0)? == 4 && optimizer.steps("p1")? == 6, "counts")?;
        Ok(optimizer)
    };
    let (on_gpu, cpu) = (run(&gpu.into())?, run(&Device::Cpu)?);
    close("p1", &on_gpu.read_blocking("p1")?, &cpu.read_blocking("p1")?, &[2.0; 70], TOLERANCE)
}

fn the_scale_is_a_buffer(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = many(&gpu.into(), 1, |_| Ok(()))?;
    let BufferRange { buffer, offset, len } = optimizer.loss_scale()?;
    ensure(len == 1 && content(gpu, &buffer)?[offset as usize / 4] == 1.0, "without a scaler it is 1")?;
    optimizer.set_loss_scaler(LossScaler { growth_interval: 1, ..LossScaler::default() })?;
    optimizer.step()?;
    ensure(content(gpu, &buffer)?[0] == 131_072.0, "it has grown")?;
    optimizer.set_loss_scale(512.0, 7, 3)?;
    let report = optimizer.read_report_blocking()?;
    let found = (report.loss_scale, report.growth_tracker, report.skipped_steps);
    ensure(found == (512.0, 7, 3), format!("{found:?}"))
}

/// Each way back is the way without.
fn guards_come_and_go(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let (mut optimizer, mut plain) = (many(&device, 1, |_| Ok(()))?, many(&device, 1, |_| Ok(()))?);
        for t in 0..6 {
            match t {
                1 => optimizer.set_clip_norm(ClipNorm::torch(1e9))?,
                2 => optimizer.set_loss_scaler(LossScaler { init_scale: 1.0, ..LossScaler::default() })?,
                3 => optimizer.set_clip_norm(None)?,
                4 => optimizer.set_loss_scaler(None)?,
                _ => {}
            }
            optimizer.step()?;
            plain.step()?;
        }
        equal("guards", &optimizer, &plain)?;
    }
    Ok(())
}

fn guards_refuse(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = many(&device, 1, |_| Ok(()))?;
        let bad = |result: Result<(), Error>| {
            ensure(matches!(result, Err(Error::Hyperparameter { .. })), format!("{result:?}"))
        };
        for x in [f64::NAN, -1.0, f64::INFINITY, 1e39] {
            bad(optimizer.set_clip_norm(ClipNorm::torch(x)))?;
            bad(optimizer.set_clip_norm(ClipNorm { eps: x, ..ClipNorm::torch(1.0) }))?;
            bad(optimizer.set_settings(0, Settings { clip_norm: Some(ClipNorm::optax(x)), ..Settings::lr(0.1) }))?;
            bad(optimizer.set_loss_scaler(LossScaler { init_scale: x, ..LossScaler::default() }))?;
            bad(optimizer.set_loss_scaler(LossScaler { growth_factor: x, ..LossScaler::default() }))?;
            bad(optimizer.set_loss_scaler(LossScaler { backoff_factor: x, ..LossScaler::default() }))?;
            bad(optimizer.set_loss_scale(x, 0, 0))?;
        }
        bad(optimizer.set_loss_scaler(LossScaler { growth_interval: 0, ..LossScaler::default() }))?;
        let refused =
            |result: Result<(), Error>| ensure(matches!(result, Err(Error::Unsupported { .. })), format!("{result:?}"));
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        let each = Settings { clip_norm: Some(ClipNorm::optax(1.0)), ..Settings::lr(0.1) };
        refused(optimizer.set_settings(0, each))?;
        refused(optimizer.add_group(Sgd, each).map(drop))?;
        optimizer.set_clip_norm(None)?;
        optimizer.set_settings(0, each)?;
        refused(optimizer.set_clip_norm(ClipNorm::torch(1.0)))?;
        let other = ClipNorm { norm: Norm::L1, ..ClipNorm::torch(1.0) };
        refused(optimizer.add_group(Sgd, Settings { clip_norm: Some(other), ..each }).map(drop))?;
        refused(optimizer.look_ahead())?;
    }
    let mut cpu = many(&Device::Cpu, 1, |_| Ok(()))?;
    ensure(matches!(cpu.loss_scale(), Err(Error::Unsupported { .. })), "a buffer on the CPU")
}
