//! The average of the parameters, updated in the step's own pass.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum, Sgd};
use wgpu_optim::{
    AnyRule, Averaging, BufferRange, Device, Error, Gpu, Gradient, Optimizer, Settings, Slices, Warmup, rules,
};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{FOREIGN, buffer, device_like, gradients_for, parameters, surrounded};
use crate::tests;

tests!(
    each_kind_is_its_formula,
    every_rule_averages_and_steps_as_without,
    swapped_and_back_is_the_same,
    a_missing_step_keeps_the_average,
    what_has_no_average_stays_in_a_swap,
    a_swapped_group_is_left_alone,
    in_the_callers_memory,
    averaging_refuses,
    an_average_never_starts_from_a_zero_that_nobody_meant,
    averages_begin_while_training,
    the_first_average_is_swapped_in,
);

fn averaged(device: &Device, kind: Averaging, start: &[f32], g: &[f32], steps: usize) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(device, Sgd, 0.1)?;
    optimizer.set_averaging(0, kind)?;
    optimizer.add(0, "w", start)?;
    optimizer.write_gradient("w", g)?;
    for _ in 0..steps {
        optimizer.step()?;
    }
    Ok(optimizer)
}

fn each_kind_is_its_formula(gpu: &Gpu) -> Result<(), Failed> {
    let w = |t: u32| 1.0 - 0.1 * f64::from(t);
    let ema =
        |from_zero: bool| (1..=7).fold(0.0, |a, t| if t == 1 && !from_zero { w(t) } else { 0.8 * a + 0.2 * w(t) });
    let kinds = [
        (Averaging::Ema(0.8), ema(false)),
        (Averaging::EmaFromZero(0.8), ema(true)),
        (Averaging::EmaDebiased(0.8), ema(true) / (1.0 - 0.8f64.powi(7))),
        (Averaging::Swa { from: 1, every: 1 }, (1..=7).map(w).sum::<f64>() / 7.0),
        (Averaging::Swa { from: 3, every: 2 }, (w(3) + w(5) + w(7)) / 3.0),
        (Averaging::Swa { from: 8, every: 1 }, 0.0),
    ];
    for device in [gpu.into(), Device::Cpu] {
        for (kind, expected) in kinds {
            let optimizer = averaged(&device, kind, &[1.0; 67], &[1.0; 67], 7)?;
            let average = optimizer.read_state_blocking("w", "average")?;
            close(&format!("{kind:?}"), &average, &[expected as f32; 67], &[1.0; 67], TOLERANCE)?;
        }
    }
    Ok(())
}

fn every_rule_averages_and_steps_as_without(gpu: &Gpu) -> Result<(), Failed> {
    let start = parameters(1027, 1);
    for (name, rule) in rules::all() {
        let g = gradients_for(&rule, 1027, 2);
        let run = |device: &Device, average: bool| -> Result<Optimizer, Failed> {
            let mut optimizer = Optimizer::new(device, rule.clone(), Settings::lr(0.01))?;
            if average {
                optimizer.set_averaging(0, Averaging::Ema(0.9))?;
            }
            optimizer.add(0, "w", &start)?;
            for _ in 0..4 {
                optimizer.write_gradient("w", &g)?;
                optimizer.step()?;
            }
            Ok(optimizer)
        };
        let (on_gpu, on_cpu) = (run(&gpu.into(), true)?, run(&Device::Cpu, true)?);
        same(name, &on_gpu.read_blocking("w")?, &run(&gpu.into(), false)?.read_blocking("w")?)?;
        same(name, &on_cpu.read_blocking("w")?, &run(&Device::Cpu, false)?.read_blocking("w")?)?;
        let average = |optimizer: &Optimizer| optimizer.read_state_blocking::<f32>("w", "average");
        close(name, &average(&on_gpu)?, &average(&on_cpu)?, &start, TOLERANCE)?;
        ensure(average(&on_gpu)? != on_gpu.read_blocking::<f32>("w")?, "the average is the parameter")?;
    }
    Ok(())
}

fn swapped_and_back_is_the_same(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = averaged(&device, Averaging::Ema(0.9), &parameters(301, 1), &parameters(301, 2), 3)?;
        let read = |o: &Optimizer| -> Result<[Vec<f32>; 2], Failed> {
            Ok([o.read_blocking("w")?, o.read_state_blocking("w", "average")?])
        };
        let [w, average] = read(&optimizer)?;
        optimizer.swap_averages(0)?;
        let [a, b] = read(&optimizer)?;
        same("swapped in", &a, &average)?;
        same("put away", &b, &w)?;
        for refused in [optimizer.step(), optimizer.look_ahead()] {
            ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
        }
        optimizer.swap_averages(0)?;
        let [a, b] = read(&optimizer)?;
        same("back", &a, &w)?;
        same("average", &b, &average)?;
        optimizer.step()?;
        ensure(optimizer.read_blocking::<f32>("w")? != w && optimizer.steps("w")? == 4, "it goes on")?;
    }
    Ok(())
}

fn a_missing_step_keeps_the_average(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = averaged(&device, Averaging::Ema(0.9), &[1.0; 5], &[1.0; 5], 2)?;
        let before = optimizer.read_state_blocking::<f32>("w", "average")?;
        optimizer.set_gradient("w", Gradient::Missing)?;
        optimizer.step()?;
        same("average", &optimizer.read_state_blocking("w", "average")?, &before)?;
    }
    Ok(())
}

/// Buffers of the caller's (with a tail), and slices.
fn in_the_callers_memory(gpu: &Gpu) -> Result<(), Failed> {
    let (start, g) = (parameters(263, 1), parameters(263, 2));
    let mut foreign = Optimizer::new(&gpu.into(), Adam::default(), 0.1)?;
    let mut slices = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
    for optimizer in [&mut foreign, &mut slices] {
        optimizer.set_averaging(0, Averaging::EmaDebiased(0.9))?;
    }
    let (w, gradient) = (buffer(gpu, &start, FOREIGN), buffer(gpu, &g, FOREIGN));
    foreign.add_buffer(0, "w", BufferRange::whole(&w))?;
    foreign.set_gradient("w", Gradient::Buffer(BufferRange::whole(&gradient)))?;
    let (mut w, id) = (start.clone(), slices.add_slice::<f32>(0, "w", 263)?);
    for _ in 0..3 {
        foreign.step()?;
        slices.step_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&g) }])?;
    }
    let averages = [&foreign, &slices].map(|o| o.read_state_blocking::<f32>("w", "average"));
    let [a, b] = averages;
    close("average", &a?, &b?, &start, TOLERANCE)?;
    let refused = slices.swap_averages(0);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    foreign.swap_averages(0)?;
    close("swapped", &foreign.read_blocking("w")?, &slices.read_state_blocking("w", "average")?, &start, TOLERANCE)
}

/// Frozen parameters, and all of them before the first step that counts.
fn what_has_no_average_stays_in_a_swap(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = averaged(&device, Averaging::Ema(0.9), &[1.0; 5], &[1.0; 5], 0)?;
        optimizer.add(0, "frozen", &[7.0f32; 3])?;
        optimizer.set_options("frozen", wgpu_optim::Options { frozen: true, ..Default::default() })?;
        optimizer.step()?;
        optimizer.step()?;
        for _ in 0..2 {
            optimizer.swap_averages(0)?;
            same("frozen", &optimizer.read_blocking("frozen")?, &[7.0; 3])?;
        }
        close("w", &optimizer.read_blocking("w")?, &[0.8; 5], &[1.0; 5], TOLERANCE)?;
        let mut early = averaged(&device, Averaging::Swa { from: 3, every: 1 }, &[1.0; 5], &[1.0; 5], 2)?;
        early.swap_averages(0)?;
        close("early", &early.read_blocking("w")?, &[0.8; 5], &[1.0; 5], TOLERANCE)?;
        early.swap_averages(0)?;
        early.step()?;
        close("average", &early.read_state_blocking("w", "average")?, &[0.7; 5], &[1.0; 5], TOLERANCE)?;
    }
    Ok(())
}

fn a_swapped_group_is_left_alone(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::default(), 0.1)?;
        optimizer.set_averaging(0, Averaging::Ema(0.9))?;
        optimizer.add(0, "w", &[1.0f32; 5])?;
        optimizer.write_gradient("w", &[1.0f32; 5])?;
        optimizer.step()?;
        optimizer.look_ahead()?;
        let shifted = optimizer.swap_averages(0);
        ensure(matches!(shifted, Err(Error::Unsupported { .. })), format!("{shifted:?}"))?;
        // The average may be written meanwhile, the velocity not.
        optimizer.write_state("w", "average", &[0.5f32; 5])?;
        optimizer.step()?;
        let before = optimizer.read_blocking::<f32>("w")?;
        optimizer.swap_averages(0)?;
        let refused = [
            optimizer.add(0, "x", &[1.0f32]).map(|_| ()),
            optimizer.write("w", &[1.0f32; 5]),
            optimizer.write_state("w", "average", &[1.0f32; 5]),
            optimizer.set_steps("w", 0),
            optimizer.set_averaging(0, Averaging::Ema(0.5)),
            optimizer.step(),
        ];
        for refused in refused {
            ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
        }
        optimizer.swap_averages(0)?;
        same("w", &optimizer.read_blocking("w")?, &before)?;
        optimizer.step()?;
    }
    Ok(())
}

fn averaging_refuses(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.1)?;
    optimizer.add(0, "w", &[1.0f32; 5])?;
    let none = optimizer.swap_averages(0);
    ensure(matches!(none, Err(Error::Unsupported { .. })), format!("{none:?}"))?;
    let group = optimizer.add_group(Adam::default(), 0.1)?;
    for (bad, key) in [
        (Averaging::Ema(1.0), "decay"),
        (Averaging::EmaDebiased(f64::NAN), "decay"),
        (Averaging::Swa { from: 0, every: 1 }, "from"),
        (Averaging::Swa { from: 1, every: 0 }, "every"),
        (Averaging::EmaFrom { decay: 0.9, from: 0, warmup: None }, "from"),
        (Averaging::EmaFrom { decay: 0.9, from: 1, warmup: Some(Warmup { inv_gamma: 0.0, power: 1.0 }) }, "inv_gamma"),
    ] {
        let refused = optimizer.set_averaging(group, bad);
        let named = matches!(refused, Err(Error::Hyperparameter { name, .. }) if name == key);
        ensure(named, format!("{refused:?}"))?;
    }
    // Adam's four buffers and the average are five.
    let low = device_like(gpu, |limits| limits.max_storage_buffers_per_shader_stage = 4)?;
    let refused = Optimizer::new(&(&low).into(), Adam::default(), 0.1)?.set_averaging(0, Averaging::Ema(0.9));
    ensure(matches!(refused, Err(Error::OverLimit { needed: 5, .. })), format!("{refused:?}"))?;
    optimizer.step()?;
    Ok(())
}

/// The parameter stays where it is, so that each average of it is it.
fn an_average_never_starts_from_a_zero_that_nobody_meant(gpu: &Gpu) -> Result<(), Failed> {
    let ema = Averaging::Ema(0.999);
    let late = Averaging::Swa { from: 1000, every: 1 };
    let warm = Averaging::EmaFrom { decay: 0.9, from: 15, warmup: Some(Warmup { inv_gamma: 1.0, power: 0.75 }) };
    for device in [gpu.into(), Device::Cpu] {
        let go = |optimizer: &mut Optimizer, kind: Averaging| -> Result<(), Failed> {
            optimizer.set_averaging(0, kind)?;
            Ok((0..10).try_for_each(|_| optimizer.step())?)
        };
        let check = |what: &str, mut optimizer: Optimizer| -> Result<(), Failed> {
            optimizer.swap_averages(0)?;
            close(what, &optimizer.read_blocking("w")?, &[5.0; 3], &[5.0; 3], TOLERANCE)
        };
        let start = |kind: Averaging| -> Result<Optimizer, Failed> { averaged(&device, kind, &[5.0; 3], &[0.0; 3], 0) };
        for second in [ema, Averaging::EmaDebiased(0.999), warm, Averaging::Swa { from: 5, every: 3 }] {
            let mut optimizer = start(late)?;
            go(&mut optimizer, late)?;
            go(&mut optimizer, second)?;
            check(&format!("{second:?} behind what never began"), optimizer)?;
            let mut optimizer = start(second)?;
            optimizer.set_steps("w", 100)?;
            go(&mut optimizer, second)?;
            check(&format!("{second:?} behind set_steps"), optimizer)?;
        }
        // Moved before there is one.
        let mut optimizer = start(late)?;
        go(&mut optimizer, late)?;
        let other = optimizer.add_group(Sgd, 0.1)?;
        optimizer.set_averaging(other, ema)?;
        optimizer.move_to_group("w", other)?;
        optimizer.swap_averages(other)?;
        close("moved", &optimizer.read_blocking("w")?, &[5.0; 3], &[5.0; 3], TOLERANCE)?;
        optimizer.swap_averages(other)?;
        (0..3).try_for_each(|_| optimizer.step())?;
        optimizer.swap_averages(other)?;
        close("moved, and stepped", &optimizer.read_blocking("w")?, &[5.0; 3], &[5.0; 3], TOLERANCE)?;
        // What is there goes on: another kind, another count.
        let mut optimizer = start(ema)?;
        go(&mut optimizer, ema)?;
        optimizer.set_steps("w", 3)?;
        go(&mut optimizer, Averaging::EmaDebiased(0.99))?;
        check("an average that is there", optimizer)?;
        // An average from elsewhere counts all steps, in whichever order it comes.
        for first in [false, true] {
            let mut optimizer = start(Averaging::Swa { from: 1, every: 1 })?;
            if first {
                optimizer.set_steps("w", 9)?;
            }
            optimizer.write_state("w", "average", &[3.0f32; 3])?;
            if !first {
                optimizer.set_steps("w", 9)?;
            }
            optimizer.step()?;
            close("its tenth", &optimizer.read_state_blocking("w", "average")?, &[3.2; 3], &[5.0; 3], TOLERANCE)?;
        }
    }
    Ok(())
}

/// In the arena, in the caller's buffers, of rules with states and without.
fn averages_begin_while_training(gpu: &Gpu) -> Result<(), Failed> {
    let kind = Averaging::Swa { from: 1, every: 1 };
    for rule in [AnyRule::from(Sgd), Adam::default().into()] {
        for device in [gpu.into(), Device::Cpu] {
            let mut optimizer = Optimizer::new(&device, rule.clone(), 0.5)?;
            optimizer.add(0, "a", &[1.0f32; 70])?;
            optimizer.add(0, "b", &[1.0f32; 3])?;
            if let Device::Gpu(gpu) = &device {
                for name in ["c", "d"] {
                    let id = optimizer.add_buffer(0, name, surrounded(gpu, &[1.0; 5], FOREIGN))?;
                    optimizer.set_gradient(id, Gradient::Buffer(surrounded(gpu, &[0.0; 5], FOREIGN)))?;
                }
            }
            let names: Vec<_> = optimizer.parameters().map(|(_, name)| name.to_owned()).collect();
            let step = |optimizer: &mut Optimizer| -> Result<(), Failed> {
                for name in &names {
                    let len = optimizer.read_blocking::<f32>(name.as_str())?.len();
                    optimizer.write_gradient(name.as_str(), &vec![1.0f32; len])?;
                }
                Ok(optimizer.step()?)
            };
            step(&mut optimizer)?;
            optimizer.set_averaging(0, kind)?;
            optimizer.add(0, "new", &[1.0f32; 5])?;
            let mut seen = vec![0.0f32; names.len()];
            for _ in 0..3 {
                step(&mut optimizer)?;
                for (seen, name) in seen.iter_mut().zip(&names) {
                    *seen += optimizer.read_blocking::<f32>(name.as_str())?[0] / 3.0;
                }
            }
            optimizer.remove("b")?;
            optimizer.swap_averages(0)?;
            for (seen, name) in seen.iter().zip(&names).filter(|(_, name)| *name != "b") {
                let average: Vec<f32> = optimizer.read_blocking(name.as_str())?;
                let what = format!("{} {name} on {}", rule.name(), device.name());
                close(&what, &average, &vec![*seen; average.len()], &vec![1.0; average.len()], TOLERANCE)?;
            }
            same("new", &optimizer.read_blocking("new")?, &[1.0; 5])?;
        }
    }
    Ok(())
}

/// The step at which an average begins is the first behind which a swap has one.
fn the_first_average_is_swapped_in(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        for kind in [Averaging::Swa { from: 3, every: 5 }, Averaging::EmaFrom { decay: 0.9, from: 3, warmup: None }] {
            let mut optimizer = averaged(&device, kind, &[1.0; 5], &[1.0; 5], 3)?;
            let w: Vec<f32> = optimizer.read_blocking("w")?;
            // A step that the swap does not know of would be lost in it.
            optimizer.write("w", &[9.0f32; 5])?;
            optimizer.swap_averages(0)?;
            same(&format!("{kind:?}"), &optimizer.read_blocking("w")?, &w)?;
        }
    }
    Ok(())
}
