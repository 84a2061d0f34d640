//! `--check-gradients`: the network's gradients, layer by layer, against numerical ones, and the GPU against the CPU.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::{Device, Error, Gpu, Precision, Settings, check_gradient, largest, ratio, rules::Sgd};

use crate::data::Samples;
use crate::plot::Outcome;
use crate::trainer::{Subject, shuffled};
use crate::{Args, cpu, gpu};

/// Samples of the numerical part: among more, some unit is within a difference of its kink.
const FEW: usize = 16;
/// Numerical gradients, and GPU against f64; losses, weights and statistics after some steps, CPU against GPU.
const GRADIENTS: f64 = 1e-4;
const STEPS: f64 = 1e-3;

/// The network's gradients against central differences in f64; the GPU's gradients, first 100 steps of plain descent
/// (Adam would amplify the rounding of gradients near 0) and test results against the CPU's.
pub(crate) fn check(args: &Args, subject: &Subject, (train, test): (&Samples, &Samples)) -> Outcome<()> {
    let shape = &subject.shape;
    let batch = usize::from(args.batch).min(train.len());
    let mut rng = Pcg64Mcg::seed_from_u64(args.seed);
    let weights = shape.initial(&mut rng);
    let order = shuffled(&mut rng, train.len());
    let optimizer =
        |device: &Device| shape.optimizer(device, &Sgd.into(), (Settings::lr(0.05), Precision::f32()), None);
    let mut exact = cpu::Network::<f64>::new(optimizer(&Device::Cpu)?, &weights, shape)?;
    let few = &order[..batch.min(FEW)];
    let (_, gradients) = exact.gradients(train, few);
    let mut worst = 0.0;
    println!("gradients against central differences, 25 of each tensor, f64: worst relative error");
    for (k, tensor) in shape.tensors().iter().enumerate().filter(|(_, tensor)| tensor.learnt) {
        let (name, gradient) = (&tensor.name, &gradients[k]);
        let start = exact.weights[k].clone();
        let loss = |x: &[f64]| -> Result<f64, Error> {
            exact.weights[k].copy_from_slice(x);
            Ok(exact.gradients(train, few).0)
        };
        let some: Vec<_> = (0..25).map(|_| rng.random_range(0..gradient.len())).collect();
        let report = check_gradient(loss, &start, gradient, some)?;
        exact.weights[k] = start;
        println!("  {name} {:.1e}: {:.6e} for {:.6e}", report.error, report.analytic, report.numerical);
        worst = largest(worst, report.error);
    }
    require(worst < GRADIENTS, format!("more than the {GRADIENTS:.0e} that is allowed"))?;
    let (_, gradients) = exact.gradients(train, &order[..batch]);
    let gpu = Gpu::new_blocking()?;
    let make = || gpu::Network::new(&gpu, optimizer(&(&gpu).into())?, &weights, (train, &[test]), (batch, shape));
    let mut on_gpu = make()?;
    on_gpu.start(0, &order);
    let there = on_gpu.gradients()?;
    let apart = distance(there.iter().zip(gradients.iter().filter(|g| !g.is_empty())));
    println!("gradients on {} against f64: worst error {apart:.1e} of the largest", gpu.name());
    require(apart < GRADIENTS, format!("more than the {GRADIENTS:.0e} that is allowed"))?;
    let (mut on_gpu, mut on_cpu) = (make()?, cpu::Network::<f32>::new(optimizer(&Device::Cpu)?, &weights, shape)?);
    on_gpu.start(0, &order);
    let batches: Vec<_> = order.chunks(batch).take(100).collect();
    let mut cpu_losses = Vec::new();
    for batch in &batches {
        on_gpu.train()?;
        on_cpu.step = cpu_losses.len() as u32;
        cpu_losses.push(on_cpu.train(train, batch)?);
    }
    let gpu_losses = on_gpu.losses(batches.len())?;
    let relative = gpu_losses.iter().zip(&cpu_losses).map(|(g, c)| f64::from(ratio((g - c).abs(), g.max(*c))));
    let losses = relative.fold(0.0, largest);
    let (first, last) = (cpu_losses[0], cpu_losses[batches.len() - 1]);
    println!("losses of the first {} steps, {first:.3} … {last:.3}: CPU and GPU within {losses:.1e}", batches.len());
    let mut weights = Vec::new();
    for tensor in shape.tensors() {
        weights.push(on_gpu.optimizer.read_blocking::<f32>(tensor.name.as_str())?);
    }
    let here = on_cpu.weights.iter().map(|w| w.iter().map(|&w| f64::from(w)).collect()).collect::<Vec<Vec<_>>>();
    let moved = distance(weights.iter().zip(&here));
    let hits = (on_gpu.hits(0)?, on_cpu.hits(test));
    println!("weights and statistics then: within {moved:.1e}; test images right: {} and {}", hits.0, hits.1);
    require(losses < STEPS && moved < STEPS, format!("more than the {STEPS:.0e} that is allowed"))?;
    // Now and then a sample is as near to one class as to another.
    require(hits.0.abs_diff(hits.1) <= 1 + test.len() / 1000, "CPU and GPU do not get the same images right".into())?;
    require(batches.len() < 10 || last < first, "the loss does not fall".into())
}

fn require(right: bool, else_say: String) -> Outcome<()> {
    if right { Ok(()) } else { Err(else_say.into()) }
}

/// The worst error, of the largest element of its tensor.
fn distance<'a>(pairs: impl Iterator<Item = (&'a Vec<f32>, &'a Vec<f64>)>) -> f64 {
    pairs.fold(0.0, |worst, (a, b)| {
        let scale = b.iter().map(|b| b.abs()).fold(f64::MIN_POSITIVE, f64::max);
        let errors = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).abs() / scale);
        errors.fold(worst, largest)
    })
}
