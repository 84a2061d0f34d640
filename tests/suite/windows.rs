//! What a gradient is after a step: one that was written stays, micro-batches are used up, one that nobody has written
//! is missing.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Sgd};
use wgpu_optim::{
    Accumulation, BufferRange, ClipNorm, Device, Error, Gpu, Gradient, LossScaler, Optimizer, Options, SaveOptions,
    Schedule, Settings, WeightDecay,
};

use crate::compare::ensure;
use crate::fixture::{FOREIGN, buffer};

crate::tests![
    a_window_ends_with_its_step,
    the_mean_is_over_the_window,
    a_frozen_parameter_forgets_its_micro_batches,
    a_skipped_step_uses_its_window_up,
    a_refused_submission_keeps_the_window,
    a_window_in_the_callers_buffer,
    what_nobody_writes_is_missing,
    a_step_without_any_gradient,
    parameters_get_other_names_and_groups,
    zero_grad_begins_another_window,
];

fn sgd(device: &Device, settings: impl Into<Settings>) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(device, Sgd, settings)?;
    optimizer.add_all(0, &[("a", &[0.0f32; 3][..]), ("b", &[0.0; 5])])?;
    Ok(optimizer)
}

/// Adds micro-batches of ones, this many.
fn batches(optimizer: &mut Optimizer, name: &str, times: usize) -> Result<(), Failed> {
    let id = optimizer.id(name)?;
    let len = if name == "a" { 3 } else { 5 };
    (0..times).try_for_each(|_| optimizer.accumulate(id, &vec![1.0f32; len]))?;
    Ok(())
}

/// Every element of a parameter.
fn is(optimizer: &Optimizer, name: &str, expected: f32, what: &str) -> Result<(), Failed> {
    let found: Vec<f32> = optimizer.read_blocking(name)?;
    let device = optimizer.device().name();
    ensure(found.iter().all(|x| *x == expected), format!("{what} on {device}: {name} {found:?}, not {expected}"))
}

fn on_both(gpu: &Gpu, test: impl Fn(&Device) -> Result<(), Failed>) -> Result<(), Failed> {
    test(&Device::Cpu)?;
    test(&gpu.into())
}

fn a_window_ends_with_its_step(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        for (accumulation, step) in [(Accumulation::Mean, 1.0), (Accumulation::Sum, 4.0)] {
            let mut optimizer = sgd(device, Settings { accumulation, ..Settings::lr(1.0) })?;
            batches(&mut optimizer, "a", 4)?;
            batches(&mut optimizer, "b", 4)?;
            optimizer.step()?;
            is(&optimizer, "b", -step, "the first window")?;
            batches(&mut optimizer, "a", 4)?;
            optimizer.step()?;
            is(&optimizer, "a", -2.0 * step, "the second window")?;
            is(&optimizer, "b", -step, "a window that does not reach it")?;
            optimizer.step()?;
            is(&optimizer, "a", -2.0 * step, "no window")?;
            ensure(optimizer.steps("a")? == 2 && optimizer.steps("b")? == 1, "steps")?;
            batches(&mut optimizer, "b", 1)?;
            optimizer.step()?;
            is(&optimizer, "b", -step - 1.0, "a window of one")?;
        }
        Ok(())
    })
}

/// optax' `MultiSteps`: who is reached by one of two micro-batches has half its gradient.
fn the_mean_is_over_the_window(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        let mut optimizer = sgd(device, 1.0)?;
        batches(&mut optimizer, "a", 2)?;
        batches(&mut optimizer, "b", 1)?;
        optimizer.step()?;
        is(&optimizer, "a", -1.0, "two of two")?;
        is(&optimizer, "b", -0.5, "one of two")?;
        // What was written counts whole, and stays.
        optimizer.write_gradient("b", &[1.0f32; 5])?;
        batches(&mut optimizer, "a", 4)?;
        optimizer.step()?;
        optimizer.step()?;
        is(&optimizer, "a", -2.0, "four of four")?;
        is(&optimizer, "b", -2.5, "written, twice")
    })
}

fn a_frozen_parameter_forgets_its_micro_batches(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        let mut optimizer = sgd(device, 1.0)?;
        optimizer.set_options("b", Options { frozen: true, ..Options::default() })?;
        for _ in 0..3 {
            batches(&mut optimizer, "a", 1)?;
            batches(&mut optimizer, "b", 7)?;
            optimizer.step()?;
        }
        pollster::block_on(optimizer.save_to(&mut Vec::new(), SaveOptions::default()))?;
        optimizer.set_options("b", Options::default())?;
        optimizer.step()?;
        is(&optimizer, "b", 0.0, "unfrozen, without a gradient")?;
        batches(&mut optimizer, "b", 1)?;
        optimizer.step()?;
        is(&optimizer, "b", -1.0, "unfrozen, one micro-batch")?;
        // Missing while its window fills: it is there with the first micro-batch.
        optimizer.set_gradient("a", Gradient::Missing)?;
        let before: Vec<f32> = optimizer.read_blocking("a")?;
        optimizer.step()?;
        is(&optimizer, "a", before[0], "missing")?;
        batches(&mut optimizer, "a", 2)?;
        optimizer.step()?;
        is(&optimizer, "a", before[0] - 1.0, "two micro-batches again")
    })
}

fn a_skipped_step_uses_its_window_up(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        let mut optimizer = sgd(device, 1.0)?;
        optimizer.set_loss_scaler(LossScaler { init_scale: 1.0, ..LossScaler::default() })?;
        batches(&mut optimizer, "a", 2)?;
        let b = optimizer.id("b")?;
        optimizer.accumulate(b, &[f32::INFINITY; 5])?;
        optimizer.step()?;
        optimizer.step()?;
        optimizer.settle_blocking()?;
        optimizer.set_loss_scaler(None)?;
        is(&optimizer, "a", 0.0, "skipped")?;
        batches(&mut optimizer, "a", 1)?;
        optimizer.step()?;
        is(&optimizer, "a", -1.0, "the next window")?;
        is(&optimizer, "b", 0.0, "not reached")
    })
}

fn a_refused_submission_keeps_the_window(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = sgd(&gpu.into(), 1.0)?;
    let doomed = buffer(gpu, &[1.0; 5], FOREIGN);
    optimizer.set_gradient("b", Gradient::Buffer(BufferRange::whole(&doomed)))?;
    batches(&mut optimizer, "a", 2)?;
    doomed.destroy();
    let refused = optimizer.step();
    ensure(matches!(refused, Err(Error::Rejected { .. })), format!("{refused:?}"))?;
    optimizer.set_gradient("b", Gradient::Missing)?;
    batches(&mut optimizer, "a", 2)?;
    optimizer.step()?;
    is(&optimizer, "a", -1.0, "the mean of four")?;
    ensure(optimizer.steps("a")? == 1, "one step")
}

fn a_window_in_the_callers_buffer(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = sgd(&gpu.into(), 1.0)?;
    let a = optimizer.id("a")?;
    // A buffer that can only be bound, and another one in the middle of the window.
    let bound = |x: f32| BufferRange::whole(&buffer(gpu, &[x; 3], wgpu::BufferUsages::STORAGE));
    optimizer.set_gradient(a, Gradient::Buffer(bound(7.0)))?;
    batches(&mut optimizer, "a", 2)?;
    optimizer.step()?;
    is(&optimizer, "a", -1.0, "in a buffer that is only bound")?;
    batches(&mut optimizer, "a", 1)?;
    optimizer.set_gradient(a, Gradient::Buffer(bound(2.0)))?;
    optimizer.step()?;
    is(&optimizer, "a", -3.0, "another buffer is what it holds")
}

/// AdamW does not decay what the loss does not reach.
fn what_nobody_writes_is_missing(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        let adamw = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(0.1) };
        let mut optimizer = Optimizer::new(device, Adam::default(), adamw)?;
        for name in ["used", "unused", "own", "cleared"] {
            optimizer.add(0, name, &[1.0f32])?;
        }
        optimizer.set_gradient("own", Gradient::Own)?;
        optimizer.zero_grad()?;
        optimizer.write_gradient("used", &[1.0f32])?;
        let forgotten: Vec<_> = optimizer.without_gradient().collect();
        ensure(forgotten == ["unused", "cleared"], format!("{forgotten:?}"))?;
        (0..3).try_for_each(|_| optimizer.step())?;
        ensure(optimizer.steps("used")? == 3 && optimizer.steps("unused")? == 0, "steps")?;
        is(&optimizer, "unused", 1.0, "never written")?;
        is(&optimizer, "cleared", 1.0, "zero_grad does not write")?;
        let own: Vec<f32> = optimizer.read_blocking("own")?;
        ensure(own[0] < 1.0, format!("a gradient of 0 decays: {own:?}"))?;
        if let Device::Gpu(_) = device {
            // Somebody who has the range writes there.
            _ = optimizer.gradient("unused")?;
            optimizer.step()?;
            ensure(optimizer.steps("unused")? == 1, "its range was taken")?;
        }
        Ok(())
    })
}

fn a_step_without_any_gradient(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        let mut optimizer = sgd(device, 1.0)?;
        optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 10))?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        optimizer.write_gradient("a", &[f32::NAN; 3])?;
        optimizer.step()?;
        optimizer.settle_blocking()?;
        ensure(optimizer.report().found_inf && optimizer.schedule_step(0)? == 0, format!("{:?}", optimizer.report()))?;
        optimizer.set_gradient("a", Gradient::Missing)?;
        optimizer.step()?;
        optimizer.settle_blocking()?;
        let report = optimizer.report();
        let nothing = !report.found_inf && report.grad_norm == 0.0 && report.skipped_steps == 1;
        ensure(nothing && optimizer.schedule_step(0)? == 1, format!("{report:?}"))?;
        if let Device::Gpu(gpu) = device {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            optimizer.encode(&mut encoder)?;
            drop(encoder);
            optimizer.settle_blocking()?;
            ensure(optimizer.schedule_step(0)? == 1, "a dropped encoder")?;
        }
        Ok(())
    })
}

fn parameters_get_other_names_and_groups(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        let mut optimizer = Optimizer::new(device, Adam::default(), 0.1)?;
        let ids = optimizer.add_all(0, &[("a", &[1.0f32; 3][..]), ("b", &[1.0; 5])])?;
        optimizer.set_schedule(0, Schedule::linear(1.0, 0.5, 10))?;
        let step = |optimizer: &mut Optimizer| -> Result<(), Failed> {
            optimizer.write_gradient(ids[0], &[0.5f32; 3])?;
            optimizer.write_gradient(ids[1], &[-0.5f32; 5])?;
            Ok(optimizer.step()?)
        };
        step(&mut optimizer)?;
        let slow = optimizer.add_group(Adam::default(), 0.0)?;
        optimizer.copy_schedule(0, slow)?;
        ensure(optimizer.schedule_step(slow)? == 1, "the schedule")?;
        optimizer.move_to_group("b", slow)?;
        optimizer.rename("b", "c")?;
        let before: (Vec<f32>, Vec<f32>) =
            (optimizer.read_blocking("c")?, optimizer.read_state_blocking("c", "exp_avg")?);
        ensure(before.1[0] != 0.0, "its state came along")?;
        step(&mut optimizer)?;
        is(&optimizer, "c", before.0[0], "at a rate of 0")?;
        let m: Vec<f32> = optimizer.read_state_blocking("c", "exp_avg")?;
        ensure(m != before.1 && optimizer.steps("c")? == 2 && optimizer.group_of("c")? == slow, "it goes on")?;
        ensure(matches!(optimizer.rename("a", "c"), Err(Error::DuplicateName { .. })), "a name twice")?;
        let other = optimizer.add_group(Sgd, 0.1)?;
        let refused = optimizer.move_to_group("a", other);
        ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
        // Its place in the arena is where it was, and goes back there.
        optimizer.move_to_group("c", 0)?;
        step(&mut optimizer)?;
        optimizer.move_to_group("c", slow)?;
        optimizer.remove("c")?;
        optimizer.add(0, "d", &[2.0f32; 5])?;
        optimizer.write_gradient("a", &[0.0f32; 3])?;
        Ok(optimizer.step()?)
    })
}

/// The mean is over the micro-batches since then.
fn zero_grad_begins_another_window(gpu: &Gpu) -> Result<(), Failed> {
    on_both(gpu, |device| {
        let mut optimizer = sgd(device, 1.0)?;
        batches(&mut optimizer, "a", 2)?;
        optimizer.zero_grad()?;
        batches(&mut optimizer, "b", 1)?;
        optimizer.step()?;
        is(&optimizer, "b", -1.0, "one of one")?;
        is(&optimizer, "a", 0.0, "forgotten")
    })
}
