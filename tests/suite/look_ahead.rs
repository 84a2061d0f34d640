//! Nesterov's two-point form: parameters go to the look-ahead point for the gradient, and the step takes that back.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum};
use wgpu_optim::{Device, Error, Gpu, Gradient, Optimizer, Slices};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::tests;

tests!(
    look_ahead_is_taken_back,
    look_ahead_repeated_stays,
    look_aheads_and_steps_in_one_encoder,
    slices_look_ahead_too,
    writing_ends_a_look_ahead,
);

/// x and y of the two-point form, by hand: v ← ρv − lr·g, x ← x + v, y = x + ρv.
fn look_ahead_is_taken_back(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::keras(0.9), 0.1)?;
        optimizer.add(0, "w", &[1.0f32; 5])?;
        let (mut x, mut v) = (1.0f64, 0.0f64);
        for t in 0..5 {
            optimizer.look_ahead()?;
            let y = x + 0.9 * v;
            close("y", &optimizer.read_blocking("w")?, &[y as f32; 5], &[1.0; 5], TOLERANCE)?;
            optimizer.write_gradient("w", &[t as f32; 5])?;
            optimizer.step()?;
            v = 0.9 * v - 0.1 * f64::from(t);
            x += v;
            close("x", &optimizer.read_blocking("w")?, &[x as f32; 5], &[1.0; 5], TOLERANCE)?;
        }
        ensure(x < 0.5, "it has moved")?;
    }
    Ok(())
}

fn look_ahead_repeated_stays(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::torch(0.9), 0.1)?;
        let group = optimizer.add_group(Adam::default(), 0.1)?;
        optimizer.add(0, "w", &[1.0f32; 70])?;
        optimizer.add(0, "late", &[1.0f32; 3])?;
        optimizer.add(group, "other", &[1.0f32; 70])?;
        for (name, len) in [("w", 70), ("late", 3), ("other", 70)] {
            optimizer.write_gradient(name, &vec![1.0f32; len])?;
        }
        optimizer.step()?;
        optimizer.look_ahead()?;
        let once = [optimizer.read_blocking::<f32>("w")?, optimizer.read_blocking("other")?];
        optimizer.look_ahead()?;
        same("w", &optimizer.read_blocking("w")?, &once[0])?;
        same("other", &optimizer.read_blocking("other")?, &once[1])?;
        close("w", &once[0], &[0.9 - 0.09; 70], &[1.0; 70], TOLERANCE)?;
        // A parameter without a gradient stays at its look-ahead point, whatever the others do.
        optimizer.set_gradient("late", Gradient::Missing)?;
        optimizer.step()?;
        optimizer.look_ahead()?;
        close("late", &optimizer.read_blocking("late")?, &[0.81; 3], &[1.0; 3], TOLERANCE)?;
        close("w", &optimizer.read_blocking("w")?, &[0.71 - 0.09 * 1.9; 70], &[1.0; 70], TOLERANCE)?;
    }
    Ok(())
}

fn look_aheads_and_steps_in_one_encoder(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Momentum::torch(0.9), 0.1)?;
    optimizer.add(0, "w", &[1.0f32; 5])?;
    optimizer.write_gradient("w", &[1.0f32; 5])?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let (mut x, mut v) = (1.0f64, 0.0f64);
    for t in 0..30u32 {
        // The rate changes between the look-ahead and the step: what was shifted is what is taken back.
        optimizer.set_lr(0, 0.2 / f64::from(1 + t))?;
        optimizer.encode_look_ahead(&mut encoder)?;
        let lr = 0.1 / f64::from(1 + t);
        optimizer.set_lr(0, lr)?;
        optimizer.encode(&mut encoder)?;
        v = 0.9 * v + 1.0;
        x -= lr * v;
    }
    gpu.queue().submit([encoder.finish()]);
    close("x", &optimizer.read_blocking("w")?, &[x as f32; 5], &[5.0; 5], TOLERANCE)
}

fn slices_look_ahead_too(_: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&Device::Cpu, Momentum::torch(0.9), 0.1)?;
    let id = optimizer.add_slice::<f64>(0, "w", 2)?;
    let (mut w, g) = ([1.0f64; 2], [1.0f64; 2]);
    optimizer.step_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&g) }])?;
    // It cannot reach the slice, and must not act as if it had.
    optimizer.look_ahead()?;
    ensure(w == [0.9; 2], format!("{w:?}"))?;
    optimizer.look_ahead_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&g) }])?;
    ensure((w[0] - 0.81).abs() < 1e-12, format!("{w:?}"))?;
    optimizer.step_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&g) }])?;
    ensure((w[0] - (0.9 - 0.19)).abs() < 1e-12, format!("{w:?}"))
}

fn writing_ends_a_look_ahead(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::torch(0.9), 0.1)?;
        optimizer.add_all(0, &[("a", &[1.0f32; 5][..]), ("b", &[1.0f32; 5])])?;
        for name in ["a", "b"] {
            optimizer.write_gradient(name, &[1.0f32; 5])?;
        }
        optimizer.step()?;
        optimizer.look_ahead()?;
        let refused = optimizer.write_state("a", "momentum_buffer", &[0.0f32; 5]);
        ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
        optimizer.write("a", &[2.0f32; 5])?;
        optimizer.write_state("a", "momentum_buffer", &[0.0f32; 5])?;
        optimizer.step()?;
        close("a", &optimizer.read_blocking("a")?, &[1.9; 5], &[2.0; 5], TOLERANCE)?;
        close("b", &optimizer.read_blocking("b")?, &[0.9 - 0.19; 5], &[1.0; 5], TOLERANCE)?;
    }
    Ok(())
}
