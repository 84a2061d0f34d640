//! What is decided about a step as a whole: norms, clipping, overflow, loss scale. On the device, and the same on the
//! CPU.

use libtest_mimic::Failed;
use wgpu_optim::rules::{AdaGradNorm, Adam, Lamb, Momentum, Sgd};
use wgpu_optim::{
    AnyRule, ClipNorm, Device, Error, Extent, Gpu, Gradient, LossScaler, Noise, NonFinite, Norm, Optimizer, Options,
    Report, Settings, rules,
};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{FOREIGN, device_like, everything, gradients, parameters, surrounded};
use crate::tests;

tests!(
    norms_of_every_kind_and_size,
    no_finite_gradient_overflows,
    padding_has_no_part_in_a_norm,
    every_rule_clips_as_on_the_cpu,
    each_parameter_has_its_own_limit,
    non_finite_policies,
    guards_come_and_go,
    guards_refuse,
    a_small_device_cuts_and_agrees,
    a_group_has_one_norm_whatever_its_cohorts,
    nan_is_worse_than_infinity,
    settings_that_the_device_cannot_bind_are_refused,
    a_look_ahead_cannot_meet_a_skip,
    a_norm_of_what_is_not_zeroed,
    an_rms_is_of_those_that_step,
    an_old_outcome_leaves_a_set_report,
);

/// Tensors of these lengths, with gradients.
pub(crate) const LENGTHS: [usize; 5] = [1003, 70, 1, 4096, 9001];

pub(crate) fn many(
    device: &Device,
    seed: u64,
    set: impl Fn(&mut Optimizer) -> Result<(), Error>,
) -> Result<Optimizer, Failed> {
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
pub(crate) fn ordinary(len: usize, seed: u64) -> Vec<f32> {
    gradients(len, seed).iter().map(|g| g.clamp(-1e3, 1e3)).collect()
}

fn near(what: &str, x: f64, b: f64) -> Result<(), Failed> {
    ensure(x == b || (x - b).abs() <= TOLERANCE * b.abs(), format!("{what}: {x:e} against {b:e}"))
}

pub(crate) fn equal(what: &str, a: &Optimizer, b: &Optimizer) -> Result<(), Failed> {
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
    for magnitude in [f32::MAX, 1e30, 1e19, 1e18, 3e17, 1e17, 1e14, 1e13, 1e-11, 1e-13, 1e-19, 1e-30, 1e-36, 0.0] {
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
    // All of the gradients' buffer, padding and what is free of it, is NaN; then the gradients themselves are written
    // again.
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
            // What an element has been at most: it may end near 0.
            let mut scale: Vec<_> = start.iter().map(|x| x.abs()).collect();
            let mut run = |device: &Device, foreign: bool| -> Result<(Vec<f32>, Report), Failed> {
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
                    if matches!(device, Device::Cpu) {
                        let now = optimizer.read_blocking::<f32>("w")?;
                        scale.iter_mut().zip(now).for_each(|(scale, x)| *scale = scale.max(x.abs()));
                    }
                }
                Ok((optimizer.read_blocking("w")?, optimizer.read_report_blocking()?))
            };
            let (cpu, expected) = run(&Device::Cpu, false)?;
            ensure(cpu != start, format!("{name}: nothing moved"))?;
            let found = [run(&gpu.into(), false)?, run(&gpu.into(), true)?];
            for (foreign, (x, report)) in [false, true].into_iter().zip(found) {
                close(&format!("{name} {clip:?} {foreign}"), &x, &cpu, &scale, TOLERANCE)?;
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
            bad(optimizer.set_clip_norm(ClipNorm::normalize(x)))?;
            bad(optimizer.set_clip_norm(ClipNorm { eps: x, ..ClipNorm::torch(1.0) }))?;
            bad(optimizer.set_settings(0, Settings { clip_norm: Some(ClipNorm::normalize(x)), ..Settings::lr(0.1) }))?;
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
        optimizer.set_settings(0, each)?;
        let other = ClipNorm { norm: Norm::L1, ..ClipNorm::torch(1.0) };
        refused(optimizer.add_group(Sgd, Settings { clip_norm: Some(other), ..each }).map(drop))?;
        refused(optimizer.set_settings(0, Settings { group_clip_norm: Some(other), ..each }))?;
        refused(optimizer.set_clip_norm(other))?;
        refused(optimizer.look_ahead())?;
    }
    let mut cpu = many(&Device::Cpu, 1, |_| Ok(()))?;
    ensure(matches!(cpu.loss_scale(), Err(Error::Unsupported { .. })), "a buffer on the CPU")
}

/// Everything with coefficients a tensor, in windows of a small device, is what it is in one.
fn a_small_device_cuts_and_agrees(gpu: &Gpu) -> Result<(), Failed> {
    let small = device_like(gpu, |limits| {
        limits.max_storage_buffer_binding_size = 1 << 15;
        limits.max_compute_workgroups_per_dimension = 7;
    })?;
    let noise = Some(Noise { eta: 0.01, gamma: 0.5, seed: 3 });
    let run = |device: &Device, rule: &AnyRule| -> Result<Optimizer, Failed> {
        let mut optimizer = Optimizer::new(device, rule.clone(), Settings { noise, ..Settings::lr(0.01) })?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        for (k, len) in [9001, 70, 40_000].into_iter().enumerate() {
            let name = format!("p{k}");
            optimizer.add(0, &name, &parameters(len, k as u64))?;
            optimizer.write_gradient(name.as_str(), &ordinary(len, k as u64))?;
        }
        optimizer.step()?;
        optimizer.step()?;
        Ok(optimizer)
    };
    for rule in [Lamb::default().into(), AdaGradNorm::default().into(), Adam::amsgrad().into()] {
        let (a, b) = (run(&(&small).into(), &rule)?, run(&gpu.into(), &rule)?);
        ensure(a.dispatches() > b.dispatches(), format!("{} and {} dispatches", a.dispatches(), b.dispatches()))?;
        for ((name, x), (_, b)) in everything(&a)?.iter().zip(&everything(&b)?) {
            close(&format!("{rule:?} {name}"), x, b, &vec![2.0; b.len()], TOLERANCE)?;
        }
    }
    Ok(())
}

/// Options make cohorts, whose tensors lie between each other in the arena.
fn a_group_has_one_norm_whatever_its_cohorts(gpu: &Gpu) -> Result<(), Failed> {
    let run = |device: &Device| -> Result<Vec<f32>, Failed> {
        let mut optimizer = Optimizer::new(device, AdaGradNorm::default(), 1.0)?;
        let names = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight"];
        for (k, name) in names.into_iter().enumerate() {
            optimizer.add(0, name, &parameters(300, k as u64))?;
            optimizer.write_gradient(name, &ordinary(300, k as u64))?;
        }
        let half = Options { lr_scale: 0.5, ..Options::default() };
        optimizer.set_options_where(|name| name.ends_with("bias"), half)?;
        optimizer.step()?;
        optimizer.step()?;
        let mut all: Vec<f32> = optimizer.read_state_blocking("0.bias", "b")?;
        for name in names {
            all.extend(optimizer.read_blocking::<f32>(name)?);
        }
        let mut rule = optimizer.set_rule(0, AdaGradNorm { over: Extent::Tensor, ..AdaGradNorm::default() });
        ensure(matches!(rule, Err(Error::Unsupported { .. })), format!("another scope: {rule:?}"))?;
        rule = optimizer.set_rule(0, AdaGradNorm { b0: 0.2, ..AdaGradNorm::default() });
        ensure(rule.is_ok(), format!("{rule:?}"))?;
        Ok(all)
    };
    let (x, b) = (run(&gpu.into())?, run(&Device::Cpu)?);
    close("w", &x, &b, &vec![2.0; b.len()], TOLERANCE)
}

fn settings_that_the_device_cannot_bind_are_refused(gpu: &Gpu) -> Result<(), Failed> {
    let small = device_like(gpu, |limits| limits.max_storage_buffers_per_shader_stage = 5)?;
    let mut optimizer = Optimizer::new(&(&small).into(), Adam::default(), 0.1)?;
    optimizer.add(0, "w", &[1.0f32; 3])?;
    optimizer.write_gradient("w", &[1.0f32; 3])?;
    let before = *optimizer.settings(0)?;
    let noise = Some(Noise { eta: 0.1, gamma: 0.5, seed: 3 });
    let refused = optimizer.set_settings(0, Settings { noise, ..before });
    ensure(matches!(refused, Err(Error::OverLimit { needed: 6, available: 5, .. })), format!("{refused:?}"))?;
    ensure(*optimizer.settings(0)? == before, "changed all the same")?;
    optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
    optimizer.step()?;
    optimizer.settle_blocking()?;
    ensure(optimizer.steps("w")? == 1, "it goes on")
}

/// An ∞ in one tensor, a NaN in another.
fn nan_is_worse_than_infinity(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Sgd, 1.0)?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        optimizer.set_non_finite(NonFinite::Propagate);
        optimizer.add_all(0, &[("a", &[0.0f32; 3][..]), ("b", &[0.0; 3])])?;
        optimizer.write_gradient("a", &[1.0, f32::INFINITY, 2.0])?;
        optimizer.write_gradient("b", &[1.0, f32::NAN, 2.0])?;
        optimizer.step()?;
        let x = optimizer.read_blocking::<f32>("a")?;
        ensure(x.iter().all(|x| x.is_nan()), format!("{x:?} on {}", device.name()))?;
        ensure(optimizer.read_report_blocking()?.grad_norm.is_nan(), "the norm")?;
        // Zeroed, they leave the norm of the rest.
        optimizer.set_non_finite(NonFinite::Zero);
        optimizer.step()?;
        let report = optimizer.read_report_blocking()?;
        near("the rest", report.grad_norm, 10f64.sqrt())?;
        ensure(report.found_inf, format!("{report:?}"))?;
    }
    Ok(())
}

fn a_look_ahead_cannot_meet_a_skip(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::default(), 0.1)?;
        optimizer.add(0, "w", &[1.0f32; 3])?;
        optimizer.write_gradient("w", &[1.0f32; 3])?;
        optimizer.step()?;
        optimizer.look_ahead()?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        let refused = optimizer.step();
        ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
        optimizer.set_non_finite(NonFinite::Propagate);
        optimizer.step()?;
        ensure(optimizer.steps("w")? == 2, "it goes on")?;
    }
    Ok(())
}

/// Squares overflow, or underflow: a second pass over the elements, which leaves the same ones out.
fn a_norm_of_what_is_not_zeroed(gpu: &Gpu) -> Result<(), Failed> {
    for magnitude in [1e30f32, 1e-30] {
        let mut gradient = vec![magnitude; 5000];
        (gradient[3], gradient[300], gradient[4999]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        for (norm, expected) in [(Norm::L1, 4997.0), (Norm::L2, 4997f64.sqrt()), (Norm::Max, 1.0)] {
            for device in [gpu.into(), Device::Cpu] {
                let mut optimizer = Optimizer::new(&device, Sgd, 1.0)?;
                optimizer.set_clip_norm(ClipNorm { norm, ..ClipNorm::optax(f64::INFINITY) })?;
                optimizer.set_non_finite(NonFinite::Zero);
                optimizer.add(0, "w", &vec![0.0f32; 5000])?;
                optimizer.write_gradient("w", &gradient)?;
                optimizer.step()?;
                let report = optimizer.read_report_blocking()?;
                let what = format!("{norm:?} of {magnitude:e} on {}", device.name());
                near(&what, report.grad_norm, expected * f64::from(magnitude))?;
                let w = optimizer.read_blocking::<f32>("w")?;
                let right = w.iter().zip(&gradient).all(|(w, g)| *w == if g.is_finite() { -g } else { 0.0 });
                ensure(report.found_inf && right, format!("{what}: {report:?}"))?;
            }
        }
    }
    Ok(())
}

/// Its length is that of the members: neither the missing nor the frozen.
fn an_rms_is_of_those_that_step(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Sgd, 1.0)?;
        optimizer.set_clip_norm(ClipNorm::block_rms(1.0))?;
        for (name, len) in [("a", 4), ("b", 5), ("missing", 100), ("frozen", 50)] {
            optimizer.add(0, name, &vec![0.0f32; len])?;
            optimizer.write_gradient(name, &vec![2.0f32; len])?;
        }
        optimizer.set_gradient("missing", Gradient::Missing)?;
        optimizer.set_options("frozen", Options { frozen: true, ..Options::default() })?;
        optimizer.step()?;
        near("an RMS", optimizer.read_report_blocking()?.grad_norm, 2.0)?;
        close("a", &optimizer.read_blocking("a")?, &[-1.0; 4], &[1.0; 4], TOLERANCE)?;
    }
    Ok(())
}

/// The scale and its tracker are set while steps before them are under way, whose outcomes come later.
fn an_old_outcome_leaves_a_set_report(gpu: &Gpu) -> Result<(), Failed> {
    let len = 1 << 18;
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Adam::default(), 0.01)?;
        optimizer.set_loss_scaler(LossScaler::default())?;
        optimizer.add(0, "w", &vec![1.0f32; len])?;
        optimizer.write_gradient("w", &vec![f32::NAN; len])?;
        for _ in 0..4 {
            optimizer.step()?;
        }
        optimizer.set_loss_scale(2.0, 5, 1)?;
        optimizer.settle_blocking()?;
        for report in [optimizer.report(), optimizer.read_report_blocking()?] {
            let found = (report.loss_scale, report.growth_tracker, report.skipped_steps);
            ensure(found == (2.0, 5, 1), format!("{report:?} on {}", device.name()))?;
        }
        optimizer.step()?;
        optimizer.settle_blocking()?;
        let report = optimizer.report();
        let found = (report.loss_scale, report.growth_tracker, report.skipped_steps);
        ensure(found == (1.0, 0, 2), format!("{report:?} after one more on {}", device.name()))?;
    }
    Ok(())
}
