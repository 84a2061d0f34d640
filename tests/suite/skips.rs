//! Steps that the device skips, and the loss scale that follows: counts, rates and states are as if they had never
//! been.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Lamb, Momentum, NAdam};
use wgpu_optim::{
    Averaging, BufferRange, ClipNorm, Device, Error, Gpu, Gradient, LossScaler, NonFinite, Optimizer, Schedule,
    Settings, rules,
};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{FOREIGN, buffer, content, device_like, everything, gradients, parameters};
use crate::guard::{LENGTHS, equal, many, ordinary};
use crate::tests;

tests!(
    an_overflow_changes_nothing,
    two_hundred_overflows_without_a_poll,
    set_lr_after_three_skips,
    a_missing_gradient_and_an_overflow,
    a_hundred_controlled_steps_in_one_encoder,
    two_thousand_steps_of_a_scaler,
    a_dropped_encoder_was_skipped,
    a_schedule_set_among_skips,
    the_scale_is_a_buffer,
    a_refused_submission_was_no_step,
    a_hundred_and_twenty_eight_outcomes_at_most,
    skips_are_not_forgotten,
    many_rows_wait_for_outcomes_earlier,
    outcomes_count_when_nothing_is_guarded_any_more,
);

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
    ensure(gpu.report().loss_scale == 4.0 && cpu.report().loss_scale == 4.0, "the scales differ")?;
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
                if name != "b" || !missing {
                    optimizer.write_gradient(name, &g)?;
                }
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

/// With the rate changed at each, a parameter that misses some, and overflows among them: nothing is known before the
/// submission.
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
        ensure(optimizer.report().skipped_steps == other.report().skipped_steps, "skipped")?;
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
    let BufferRange { buffer, offset, len, .. } = optimizer.loss_scale()?;
    ensure(len == 1 && content(gpu, &buffer)?[offset as usize / 4] == 1.0, "without a scaler it is 1")?;
    optimizer.set_loss_scaler(LossScaler { growth_interval: 1, ..LossScaler::default() })?;
    optimizer.step()?;
    ensure(content(gpu, &buffer)?[0] == 131_072.0, "it has grown")?;
    optimizer.set_loss_scale(512.0, 7, 3)?;
    let report = optimizer.read_report_blocking()?;
    let found = (report.loss_scale, report.growth_tracker, report.skipped_steps);
    ensure(found == (512.0, 7, 3), format!("{found:?}"))
}

/// Refused to us, or to the caller whose encoder it was: neither is counted, nor what the report says.
fn a_refused_submission_was_no_step(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    for ours in [true, false] {
        let mut optimizer = many(&gpu.into(), 1, |o| o.set_loss_scaler(LossScaler::default()))?;
        optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 100))?;
        optimizer.add_buffer(0, "callers", BufferRange::whole(&buffer(gpu, &[1.0; 8], FOREIGN)))?;
        optimizer.step()?;
        let g = buffer(gpu, &[1.0; 8], FOREIGN);
        optimizer.set_gradient("callers", Gradient::Buffer(BufferRange::whole(&g)))?;
        optimizer.step()?;
        optimizer.settle_blocking()?;
        let report = optimizer.report();
        g.destroy();
        if ours {
            let refused = optimizer.step();
            ensure(matches!(refused, Err(Error::Rejected { .. })), format!("{refused:?}"))?;
        } else {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            optimizer.encode(&mut encoder)?;
            let scope = gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
            gpu.queue().submit([encoder.finish()]);
            ensure(pollster::block_on(scope.pop()).is_some(), "the submission was not refused")?;
        }
        optimizer.settle_blocking()?;
        ensure(optimizer.report() == report, format!("{:?}, not {report:?}", optimizer.report()))?;
        let counts = (optimizer.steps("p0")?, optimizer.steps("callers")?, optimizer.schedule_step(0)?);
        ensure(counts == (2, 1, 2), format!("{counts:?}"))?;
        optimizer.set_gradient("callers", Gradient::Missing)?;
        optimizer.step()?;
        optimizer.settle_blocking()?;
        let counts = (optimizer.steps("p0")?, optimizer.steps("callers")?, optimizer.schedule_step(0)?);
        ensure(counts == (3, 1, 3), format!("{counts:?} after it"))?;
    }
    Ok(())
}

/// 300 rows of coefficients, for each outcome of the steps in flight: 16,384 are full after 53.
fn many_rows_wait_for_outcomes_earlier(gpu: &Gpu) -> Result<(), Failed> {
    let each = Settings { clip_norm: Some(ClipNorm::optax(1.0)), ..Settings::lr(0.01) };
    let mut optimizer = Optimizer::new(&gpu.into(), Momentum::default(), each)?;
    let names: Vec<_> = (0..300).map(|k| format!("p{k}")).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), &[1.0f32; 3][..])).collect();
    let ids = optimizer.add_all(0, &tensors)?;
    ids.iter().try_for_each(|&id| optimizer.set_gradient(id, Gradient::Own))?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut recorded = 0;
    let refused = loop {
        match optimizer.encode(&mut encoder) {
            Ok(()) => recorded += 1,
            Err(e) => break e,
        }
    };
    ensure(
        matches!(refused, Error::TooManyStepsInFlight { limit: 54 }) && recorded == 54,
        format!("{recorded}: {refused}"),
    )?;
    let refused = optimizer.wait_for_room();
    ensure(matches!(refused, Err(Error::TooManyStepsInFlight { .. })), format!("{refused:?}"))?;
    gpu.queue().submit([encoder.finish()]);
    for _ in 0..100 {
        optimizer.wait_for_room()?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        optimizer.encode(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
    }
    optimizer.settle_blocking()?;
    ensure(optimizer.steps("p299")? == 154, format!("{} steps", optimizer.steps("p299")?))
}

/// A skip in flight, the schedule begun anew, clipping off: the next step's number still depends on it.
fn outcomes_count_when_nothing_is_guarded_any_more(gpu: &Gpu) -> Result<(), Failed> {
    let gradient = |t: u64| if t == 0 { vec![f32::NAN; 67] } else { ordinary(67, t) };
    let make = |device: &Device| -> Result<Optimizer, Failed> {
        let mut optimizer = Optimizer::new(device, Adam::default(), 0.01)?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        optimizer.add(0, "w", &parameters(67, 1))?;
        Ok(optimizer)
    };
    let unguard = |optimizer: &mut Optimizer| -> Result<(), Error> {
        optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 10))?;
        optimizer.set_clip_norm(None)
    };
    let mut on_gpu = make(&gpu.into())?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for t in 0..3 {
        let (source, own) = (buffer(gpu, &gradient(t), FOREIGN), on_gpu.gradient("w")?.clone());
        encoder.copy_buffer_to_buffer(&source, 0, &own.buffer, own.offset, source.size());
        on_gpu.encode(&mut encoder)?;
        if t == 0 {
            unguard(&mut on_gpu)?;
        }
    }
    gpu.queue().submit([encoder.finish()]);
    on_gpu.settle_blocking()?;
    let mut cpu = make(&Device::Cpu)?;
    for t in 0..3 {
        cpu.write_gradient("w", &gradient(t))?;
        cpu.step()?;
        if t == 0 {
            unguard(&mut cpu)?;
        }
    }
    ensure(on_gpu.steps("w")? == 2 && cpu.steps("w")? == 2, format!("{} steps", on_gpu.steps("w")?))?;
    close("w", &on_gpu.read_blocking("w")?, &cpu.read_blocking("w")?, &[2.0; 67], TOLERANCE)
}

fn a_hundred_and_twenty_eight_outcomes_at_most(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = many(&gpu.into(), 1, |o| o.set_loss_scaler(LossScaler::default()))?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for _ in 0..128 {
        optimizer.encode(&mut encoder)?;
    }
    let refused = optimizer.encode(&mut encoder);
    ensure(matches!(refused, Err(Error::TooManyStepsInFlight { limit: 128 })), format!("{refused:?}"))?;
    gpu.queue().submit([encoder.finish()]);
    optimizer.step()?;
    optimizer.settle_blocking()?;
    ensure(optimizer.steps("p0")? == 129, format!("{} steps", optimizer.steps("p0")?))
}

/// The scaler goes while its steps are in flight, and steps that measure nothing follow.
fn skips_are_not_forgotten(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Lamb::default(), 0.01)?;
        optimizer.set_loss_scaler(LossScaler::default())?;
        optimizer.add(0, "w", &[1.0f32; 5])?;
        optimizer.write_gradient("w", &[f32::NAN; 5])?;
        for _ in 0..3 {
            optimizer.step()?;
        }
        optimizer.set_loss_scaler(None)?;
        optimizer.settle_blocking()?;
        ensure(optimizer.report().skipped_steps == 3, format!("{:?} on {}", optimizer.report(), device.name()))?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        optimizer.write_gradient("w", &[3.0, 0.0, 4.0, 0.0, 0.0f32])?;
        optimizer.step()?;
        optimizer.set_clip_norm(None)?;
        optimizer.write_gradient("w", &[1.0f32; 5])?;
        optimizer.step()?;
        let report = optimizer.read_report_blocking()?;
        let said = (report.grad_norm, report.found_inf, report.skipped_steps);
        ensure(said == (5.0, false, 3), format!("{said:?} on {}", device.name()))?;
        // Set by hand, while steps before it are under way: those belong to the old count.
        let mut large = Optimizer::new(&device, Adam::default(), 0.01)?;
        large.set_loss_scaler(LossScaler::default())?;
        large.add(0, "w", &vec![1.0f32; 1 << 18])?;
        large.write_gradient("w", &vec![f32::NAN; 1 << 18])?;
        for _ in 0..4 {
            large.step()?;
        }
        large.set_loss_scale(2.0, 0, 1)?;
        large.settle_blocking()?;
        ensure(large.report().skipped_steps == 1, format!("{:?}, set to 1", large.report()))?;
    }
    Ok(())
}
