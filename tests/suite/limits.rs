//! Limits on the norms of all gradients, of a group's and of a parameter's, one behind the other.

use libtest_mimic::Failed;
use wgpu_optim::rules::Sgd;
use wgpu_optim::{ClipNorm, Device, Gpu, NonFinite, Norm, Optimizer, Options, Settings};

use crate::compare::{TOLERANCE, close, ensure};
use crate::fixture::{device_like, parameters};

crate::tests![all_then_groups_then_each, a_groups_norm_alone, more_rows_than_a_dispatch_is_wide];

/// Name, group, elements.
const TENSORS: [(&str, usize, usize); 5] = [("a", 0, 70), ("b", 1, 5003), ("c", 0, 3), ("d", 1, 1), ("e", 2, 9001)];

fn norm(norm: Norm, g: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| g.iter().map(|&g| f(g)).sum::<f64>();
    match norm {
        Norm::L1 => sum(f64::abs),
        Norm::L2 => sum(|g| g * g).sqrt(),
        Norm::Rms => (sum(|g| g * g) / g.len() as f64).sqrt(),
        Norm::Max => g.iter().fold(0.0, |most, g| g.abs().max(most)),
    }
}

/// To this limit, if there is one.
fn clip(limit: Option<ClipNorm>, parts: &mut [&mut Vec<f64>]) {
    let Some(limit) = limit else { return };
    let all: Vec<_> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let factor = (limit.max_norm / (norm(limit.norm, &all) + limit.eps)).min(1.0);
    parts.iter_mut().flat_map(|part| part.iter_mut()).for_each(|g| *g *= factor);
}

fn all_then_groups_then_each(gpu: &Gpu) -> Result<(), Failed> {
    for kind in [Norm::L1, Norm::L2, Norm::Max, Norm::Rms] {
        let gradients: Vec<_> = (0..).zip(TENSORS).map(|(k, (_, _, len))| parameters(len, 50 + k)).collect();
        let whole = norm(kind, &gradients.concat().iter().map(|&g| f64::from(g)).collect::<Vec<_>>());
        let limit = |part: f64| ClipNorm { max_norm: part * whole, norm: kind, eps: 1e-6, only_down: true };
        let settings = [(Some(limit(0.2)), None), (Some(limit(0.3)), Some(limit(0.25))), (None, Some(limit(0.1)))];
        for all in [None, Some(limit(0.7))] {
            let mut expected: Vec<Vec<f64>> =
                gradients.iter().map(|g| g.iter().map(|&g| f64::from(g)).collect()).collect();
            clip(all, &mut expected.iter_mut().collect::<Vec<_>>());
            for (k, (of_group, of_each)) in settings.into_iter().enumerate() {
                let ours = expected.iter_mut().zip(TENSORS).filter(|(_, (_, group, _))| *group == k);
                let mut ours: Vec<_> = ours.map(|(g, _)| g).collect();
                clip(of_group, &mut ours);
                ours.into_iter().for_each(|g| clip(of_each, &mut [g]));
            }
            for device in [Device::Cpu, gpu.into()] {
                let of = |k: usize| Settings {
                    group_clip_norm: settings[k].0,
                    clip_norm: settings[k].1,
                    ..Settings::lr(1.0)
                };
                let mut optimizer = Optimizer::new(&device, Sgd, of(0))?;
                optimizer.add_group(Sgd, of(1))?;
                optimizer.add_group(Sgd, of(2))?;
                optimizer.set_clip_norm(all)?;
                for ((name, group, len), g) in TENSORS.into_iter().zip(&gradients) {
                    optimizer.add(group, name, &vec![0.0f32; len])?;
                    optimizer.write_gradient(name, g)?;
                }
                // Cohorts of its own: a group's norm is that of all of them.
                optimizer.set_options("c", Options { weight_decay: false, ..Options::default() })?;
                optimizer.step()?;
                for ((name, _, _), g) in TENSORS.into_iter().zip(&expected) {
                    let g: Vec<_> = g.iter().map(|g| -*g as f32).collect();
                    let largest = g.iter().fold(0.0f32, |most, g| g.abs().max(most));
                    let what = format!("{name}, {kind:?}, {all:?} on {}", device.name());
                    close(&what, &optimizer.read_blocking(name)?, &g, &vec![largest; g.len()], TOLERANCE)?;
                }
            }
        }
    }
    Ok(())
}

/// A NaN of one group's is not another's, where it goes on into the step.
fn a_groups_norm_alone(gpu: &Gpu) -> Result<(), Failed> {
    let limited = Settings { group_clip_norm: Some(ClipNorm::optax(0.5)), ..Settings::lr(1.0) };
    for device in [Device::Cpu, gpu.into()] {
        let mut optimizer = Optimizer::new(&device, Sgd, limited)?;
        optimizer.add_group(Sgd, limited)?;
        optimizer.set_non_finite(NonFinite::Propagate);
        for (k, bad) in [1.0f32, f32::NAN].into_iter().enumerate() {
            let name = format!("g{k}");
            optimizer.add(k, &name, &[0.0f32; 4])?;
            optimizer.write_gradient(name.as_str(), &[1.0, 1.0, bad, 1.0])?;
        }
        optimizer.step()?;
        let (good, bad): (Vec<f32>, Vec<f32>) = (optimizer.read_blocking("g0")?, optimizer.read_blocking("g1")?);
        close("the other group", &good, &[-0.25; 4], &[1.0; 4], TOLERANCE)?;
        ensure(bad.iter().all(|w| w.is_nan()), format!("{bad:?} on {}", device.name()))?;
    }
    Ok(())
}

fn more_rows_than_a_dispatch_is_wide(gpu: &Gpu) -> Result<(), Failed> {
    let narrow = device_like(gpu, |limits| limits.max_compute_workgroups_per_dimension = 50)?;
    let each = Settings { clip_norm: Some(ClipNorm::optax(1.0)), ..Settings::lr(1.0) };
    let mut optimizer = Optimizer::new(&(&narrow).into(), wgpu_optim::rules::Lamb::default(), each)?;
    let mut cpu = Optimizer::new(&Device::Cpu, wgpu_optim::rules::Lamb::default(), each)?;
    for optimizer in [&mut optimizer, &mut cpu] {
        for k in 0..170u32 {
            let id = optimizer.add(0, &format!("p{k}"), &[1.0f32; 3])?;
            optimizer.write_gradient(id, &[0.5 + k as f32; 3])?;
        }
        optimizer.step()?;
    }
    for k in [0, 49, 50, 120, 169] {
        let name = format!("p{k}");
        let (x, b) = (optimizer.read_blocking(name.as_str())?, cpu.read_blocking(name.as_str())?);
        close(&name, &x, &b, &[1.0; 3], TOLERANCE)?;
    }
    Ok(())
}
