//! One adapter, one program, the same bits: whatever the host knew when it recorded, and in whatever order parameters
//! were added.

use libtest_mimic::Failed;
use wgpu_optim::rules::{AdaGradNorm, Adam, Lamb};
use wgpu_optim::{AnyRule, BufferRange, ClipNorm, Gpu, Gradient, Optimizer};

use crate::compare::{ensure, same};
use crate::fixture::{FOREIGN, buffer, device_like, parameters};

crate::tests![
    pauses_do_not_change_a_bit,
    the_order_of_adding_does_not_change_a_bit,
    where_a_gradient_lies_does_not_change_a_bit,
    a_split_plan_heals,
];

const EXPERTS: usize = 6;

fn len(k: usize) -> usize {
    9_000 + 37 * k
}

/// Who is reached by a step: some of the experts, in the end all.
fn reached(step: u64, k: usize) -> bool {
    step >= 14 || ((step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (20 + 3 * k)) & 1 == 1
}

/// A mixture of experts whose steps may be skipped; `pause` says after which steps the host waits for the outcomes.
fn experts(gpu: &Gpu, rule: &AnyRule, order: &[usize], pause: impl Fn(u64) -> bool) -> Result<Vec<f32>, Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), rule.clone(), 0.01)?;
    optimizer.set_clip_norm(ClipNorm::torch(0.1))?;
    let names: Vec<_> = (0..EXPERTS).map(|k| format!("expert{k}")).collect();
    for &k in order {
        optimizer.add(0, &names[k], &parameters(len(k), k as u64 + 1))?;
    }
    for step in 0..20 {
        for (k, name) in names.iter().enumerate() {
            match reached(step, k) {
                true => optimizer.write_gradient(name.as_str(), &parameters(len(k), 1000 + step * 11 + k as u64))?,
                false => optimizer.set_gradient(name.as_str(), Gradient::Missing)?,
            }
        }
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        optimizer.encode(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
        if pause(step) {
            optimizer.settle_blocking()?;
        }
    }
    let all: Result<Vec<Vec<f32>>, _> = names.iter().map(|name| optimizer.read_blocking(name.as_str())).collect();
    Ok(all?.concat())
}

const IN_ORDER: [usize; EXPERTS] = [0, 1, 2, 3, 4, 5];

fn pauses_do_not_change_a_bit(gpu: &Gpu) -> Result<(), Failed> {
    for rule in [AnyRule::from(Adam::default()), AdaGradNorm::default().into()] {
        let never = experts(gpu, &rule, &IN_ORDER, |_| false)?;
        for (what, pauses) in [("always", [true; 3]), ("now and then", [false, true, false])] {
            let paused = experts(gpu, &rule, &IN_ORDER, |step| pauses[step as usize % 3])?;
            same(&format!("{}: {what}", rule.name()), &paused, &never)?;
        }
    }
    Ok(())
}

fn the_order_of_adding_does_not_change_a_bit(gpu: &Gpu) -> Result<(), Failed> {
    // Also where what a device binds cuts tensors.
    let small = device_like(gpu, |limits| limits.max_storage_buffer_binding_size = 1 << 16)?;
    for gpu in [gpu, &small] {
        for rule in [AnyRule::from(Adam::default()), AdaGradNorm::default().into(), Lamb::default().into()] {
            let one = experts(gpu, &rule, &IN_ORDER, |_| true)?;
            let other = experts(gpu, &rule, &[5, 2, 0, 4, 1, 3], |_| true)?;
            same(rule.name(), &other, &one)?;
        }
    }
    Ok(())
}

/// In the optimizer's memory, at the start of a buffer that ends with it, and at any offset between NaN: norms are sums
/// in one order.
fn where_a_gradient_lies_does_not_change_a_bit(gpu: &Gpu) -> Result<(), Failed> {
    for len in [1, 3, 4095, 4097, 10_007] {
        let gradient = parameters(len, 2);
        let step = |offset: Option<(usize, usize)>| -> Result<(Vec<f32>, u64), Failed> {
            let mut optimizer = Optimizer::new(&gpu.into(), Lamb::default(), 0.01)?;
            optimizer.set_clip_norm(ClipNorm::torch(0.1))?;
            let w = optimizer.add(0, "w", &parameters(len, 1))?;
            match offset {
                None => optimizer.write_gradient(w, &gradient)?,
                Some((before, behind)) => {
                    let nan = |n| std::iter::repeat_n(f32::NAN, n);
                    let all: Vec<_> = nan(before).chain(gradient.iter().copied()).chain(nan(behind)).collect();
                    let range = BufferRange::new(&buffer(gpu, &all, FOREIGN), 4 * before as u64, len);
                    optimizer.set_gradient(w, Gradient::Buffer(range))?;
                }
            }
            optimizer.step()?;
            let norm = optimizer.read_report_blocking()?.grad_norm;
            Ok((optimizer.read_blocking(w)?, norm.to_bits()))
        };
        let own = step(None)?;
        for offset in [(0, 0), (0, 1), (0, 9), (1, 0), (2, 5), (4, 0), (64, 3)] {
            let foreign = step(Some(offset))?;
            ensure(own.1 == foreign.1, format!("{len} elements at {offset:?}: the norm"))?;
            same(&format!("{len} elements at {offset:?}"), &foreign.0, &own.0)?;
        }
    }
    Ok(())
}

/// Step counts that came apart for the host alone are one cohort again, and the arena's holes do not multiply
/// dispatches.
fn a_split_plan_heals(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.01)?;
    optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
    for name in ["a", "b"] {
        optimizer.add(0, name, &[1.0f32; 64])?;
        optimizer.write_gradient(name, &[1.0f32; 64])?;
    }
    // In one encoder, so that the host knows no outcome: a step of each alone, and one of both.
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for missing in ["a", "b"] {
        optimizer.set_gradient(missing, Gradient::Missing)?;
        optimizer.encode(&mut encoder)?;
        optimizer.set_gradient(missing, Gradient::Own)?;
    }
    optimizer.encode(&mut encoder)?;
    if optimizer.dispatches() != 2 {
        return Err(format!("{} dispatches of two cohorts", optimizer.dispatches()).into());
    }
    gpu.queue().submit([encoder.finish()]);
    optimizer.settle_blocking()?;
    optimizer.step()?;
    let healed = optimizer.dispatches();
    if healed != 1 {
        return Err(format!("{healed} dispatches of one cohort").into());
    }
    // Of the arena, and of the caller's buffers.
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.01)?;
    let pool = buffer(gpu, &vec![1.0; 400 * 64], FOREIGN);
    let range = |k: u64| BufferRange::new(&pool, 256 * k, 16);
    let names: Vec<_> = (0..200).map(|k| (format!("t{k}"), format!("f{k}"))).collect();
    let ours: Vec<_> = names.iter().map(|(name, _)| (name.as_str(), &[1.0f32; 16][..])).collect();
    let callers: Vec<_> = (0..).zip(&names).map(|(k, (_, name))| (name.as_str(), range(k))).collect();
    for id in optimizer.add_all(0, &ours)? {
        optimizer.write_gradient(id, &[1.0f32; 16])?;
    }
    for (k, id) in (0..).zip(optimizer.add_buffers(0, &callers)?) {
        optimizer.set_gradient(id, Gradient::Buffer(range(200 + k)))?;
    }
    for k in (0..200).step_by(2) {
        optimizer.remove(format!("t{k}").as_str())?;
        optimizer.remove(format!("f{k}").as_str())?;
    }
    optimizer.step()?;
    let dispatches = optimizer.dispatches();
    if dispatches != 2 {
        return Err(format!("{dispatches} dispatches where holes are").into());
    }
    let w: Vec<f32> = optimizer.read_blocking("t199")?;
    same("t199", &optimizer.read_blocking("f199")?, &w)
}
