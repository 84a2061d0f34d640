//! Schedule-Free trains at w and is evaluated at x.

use std::io::Cursor;

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, ScheduleFree};
use wgpu_optim::{Averaging, Device, Error, Gpu, LoadOptions, Optimizer, Precision, Slices};

use crate::checkpoint::saved;
use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{gradients, parameters};
use crate::tests;

tests!(
    x_is_the_average_of_z,
    a_step_while_evaluating_is_refused,
    a_checkpoint_stands_where_it_was_saved,
    a_part_of_such_a_checkpoint_is_refused,
    bf16_goes_by_its_master,
);

const LEN: usize = 1027;

fn trained(device: &Device, precision: Precision, steps: u64) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(device, ScheduleFree::adamw(), 0.01)?;
    optimizer.set_precision(0, precision)?;
    let other = optimizer.add_group(Adam::default(), 0.01)?;
    optimizer.add(0, "w", &parameters(LEN, 1))?;
    optimizer.add(0, "late", &parameters(7, 2))?;
    optimizer.add(other, "other", &parameters(7, 3))?;
    go_on(&mut optimizer, 0..steps)?;
    Ok(optimizer)
}

fn go_on(optimizer: &mut Optimizer, steps: std::ops::Range<u64>) -> Result<(), Failed> {
    for t in steps {
        optimizer.write_gradient("w", &ordinary(t))?;
        optimizer.write_gradient("other", &[0.5f32; 7])?;
        optimizer.step()?;
    }
    Ok(())
}

fn ordinary(t: u64) -> Vec<f32> {
    gradients(LEN, t).iter().map(|g| g.clamp(-3.0, 3.0)).collect()
}

/// x by its definition, from the z of each step: with a constant rate all weights are equal.
fn x_is_the_average_of_z(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = trained(&device, Precision::f32(), 0)?;
        let (late, mut x) = (optimizer.read_blocking::<f32>("late")?, vec![0.0f64; LEN]);
        for t in 0..10 {
            go_on(&mut optimizer, t..t + 1)?;
            let z = optimizer.read_state_blocking::<f32>("w", "z")?;
            x.iter_mut().zip(&z).for_each(|(x, &z)| *x += (f64::from(z) - *x) / (t + 1) as f64);
            let (w, other) = (optimizer.read_blocking::<f32>("w")?, optimizer.read_blocking::<f32>("other")?);
            optimizer.evaluate()?;
            let now = optimizer.read_blocking::<f32>("w")?;
            let expected: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            // w and z have been rounded in each step, whichever is larger.
            let scale: Vec<f32> = w.iter().zip(&z).map(|(w, z)| w.abs().max(z.abs())).collect();
            close("x", &now, &expected, &scale, TOLERANCE)?;
            ensure(t == 0 || now != w, "it has moved")?;
            optimizer.evaluate()?;
            same("twice", &optimizer.read_blocking("w")?, &now)?;
            // A parameter without a step has no z, and Adam no other point.
            same("late", &optimizer.read_blocking("late")?, &late)?;
            same("other", &optimizer.read_blocking("other")?, &other)?;
            optimizer.train()?;
            close("back", &optimizer.read_blocking("w")?, &w, &scale, 5e-7)?;
            optimizer.train()?;
        }
    }
    Ok(())
}

fn a_step_while_evaluating_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = trained(&device, Precision::f32(), 3)?;
        optimizer.evaluate()?;
        let x = optimizer.read_blocking::<f32>("w")?;
        let file = saved(&mut trained(&device, Precision::f32(), 3)?)?;
        optimizer.write_gradient("w", &ordinary(3))?;
        let refused = [
            ("step", optimizer.step()),
            ("add", optimizer.add(0, "more", &[1.0f32]).map(drop)),
            ("write", optimizer.write("w", &x)),
            ("rule", optimizer.set_rule(0, ScheduleFree { beta1: 0.5, ..ScheduleFree::adamw() })),
            ("averages", optimizer.set_averaging(0, Averaging::Ema(0.9))),
            ("load", optimizer.load_from(&mut Cursor::new(&file), LoadOptions::default()).map(drop)),
        ];
        for (what, refused) in refused {
            let named = matches!(&refused, Err(Error::Unsupported { reason, .. }) if reason.contains("train"));
            ensure(named, format!("{what}: {refused:?}"))?;
        }
        same("w", &optimizer.read_blocking("w")?, &x)?;
        optimizer.train()?;
        optimizer.step()?;
    }
    let mut optimizer = Optimizer::new(&Device::Cpu, ScheduleFree::sgd(), 0.1)?;
    let id = optimizer.add_slice::<f32>(0, "slice", 3)?;
    let (mut w, g) = ([1.0f32; 3], [1.0f32; 3]);
    optimizer.step_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&g) }])?;
    ensure(matches!(optimizer.evaluate(), Err(Error::Unsupported { .. })), "of a slice")
}

/// Saved at x or at w, and loaded where the other stands: the same steps follow.
fn a_checkpoint_stands_where_it_was_saved(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = trained(&device, Precision::f32(), 5)?;
        optimizer.evaluate()?;
        let x = optimizer.read_blocking::<f32>("w")?;
        let file = saved(&mut optimizer)?;
        optimizer.train()?;
        go_on(&mut optimizer, 5..8)?;
        let expected = optimizer.read_blocking::<f32>("w")?;
        let mut again = trained(&device, Precision::f32(), 2)?;
        again.load_from(&mut Cursor::new(&file), LoadOptions::default())?;
        same("x", &again.read_blocking("w")?, &x)?;
        ensure(again.step().is_err(), "it is evaluating")?;
        ensure(saved(&mut again)? == file, "another file")?;
        again.train()?;
        go_on(&mut again, 5..8)?;
        same("w", &again.read_blocking("w")?, &expected)?;
    }
    Ok(())
}

fn a_part_of_such_a_checkpoint_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = trained(&device, Precision::f32(), 5)?;
        let lenient = || LoadOptions { strict: false, ..LoadOptions::default() };
        let training = saved(&mut optimizer)?;
        optimizer.evaluate()?;
        let evaluating = saved(&mut optimizer)?;
        let mut more = trained(&device, Precision::f32(), 2)?;
        more.add(0, "more", &[1.0f32])?;
        more.load_from(&mut Cursor::new(&training), lenient())?;
        let before = saved(&mut more)?;
        let refused = more.load_from(&mut Cursor::new(&evaluating), lenient());
        ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))?;
        ensure(saved(&mut more)? == before, "it has changed")?;
        // Nor without values, nor where parameters would be stuck.
        let mut same_names = trained(&device, Precision::f32(), 2)?;
        let without = LoadOptions { parameters: false, ..LoadOptions::default() };
        let refused = same_names.load_from(&mut Cursor::new(&evaluating), without);
        ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))?;
        same_names.step()?;
        let mut rounded = trained(&device, Precision::bf16(), 2)?;
        let refused = rounded.load_from(&mut Cursor::new(&evaluating), LoadOptions::default());
        ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))?;
        rounded.step()?;
    }
    Ok(())
}

fn bf16_goes_by_its_master(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut rounded = trained(&device, Precision::bf16(), 3)?;
        let refused = rounded.evaluate();
        ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
        rounded.step()?;
        let mut exact = trained(&device, Precision::bf16_exact_master(), 3)?;
        let w = exact.read_blocking::<f32>("w")?;
        exact.evaluate()?;
        ensure(exact.read_blocking::<f32>("w")? != w, "it has moved")?;
        exact.train()?;
        close("back", &exact.read_blocking("w")?, &w, &w, 1.0 / 128.0)?;
    }
    Ok(())
}
