//! `--check-gradients`: the network's gradients, layer by layer, against numerical ones, and the GPU against the CPU.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::{Device, Error, Gpu, check_gradient, largest, ratio};

use crate::data::Samples;
use crate::plot::Outcome;
use crate::trainer::{Subject, shuffled};
use crate::{Args, cpu, gpu};

/// The network's gradients against central differences in f64; the GPU's gradients and first 100 losses against the CPU's.
pub(crate) fn check(args: &Args, subject: &Subject, (train, test): (&Samples, &Samples)) -> Outcome<()> {
    let Subject { rule, settings, shape, .. } = subject;
    let batch = usize::from(args.batch).min(train.len());
    let mut rng = Pcg64Mcg::seed_from_u64(args.seed);
    let weights = shape.initial(&mut rng);
    let order = shuffled(&mut rng, train.len());
    let optimizer = |device: &Device| shape.optimizer(device, rule, *settings, None);
    let mut exact = cpu::Network::<f64>::new(optimizer(&Device::Cpu)?, &weights, shape)?;
    let (_, gradients) = exact.gradients(train, &order[..batch]);
    let mut worst = 0.0;
    println!("gradients against central differences, 25 of each tensor, f64: worst relative error");
    for (k, tensor) in shape.tensors().iter().enumerate().filter(|(_, tensor)| tensor.learnt) {
        let (name, gradient) = (&tensor.name, &gradients[k]);
        let start = exact.weights[k].clone();
        let loss = |x: &[f64]| -> Result<f64, Error> {
            exact.weights[k].copy_from_slice(x);
            Ok(exact.gradients(train, &order[..batch]).0)
        };
        let some: Vec<_> = (0..25).map(|_| rng.random_range(0..gradient.len())).collect();
        let report = check_gradient(loss, &start, gradient, some)?;
        exact.weights[k] = start;
        println!("  {name} {:.1e}: {:.6e} for {:.6e}", report.error, report.analytic, report.numerical);
        worst = largest(worst, report.error);
    }
    if worst.is_nan() || worst >= 1e-4 {
        return Err("more than the 1e-4 that is allowed".into());
    }
    let gpu = Gpu::new_blocking()?;
    let make = || gpu::Network::new(&gpu, optimizer(&(&gpu).into())?, &weights, (train, &[test]), (batch, shape));
    let mut on_gpu = make()?;
    on_gpu.start(0, &order);
    let mut apart = 0.0f64;
    for (g, b) in on_gpu.gradients()?.iter().zip(gradients.iter().filter(|g| !g.is_empty())) {
        let scale = b.iter().map(|b| b.abs()).fold(0.0, f64::max);
        let errors = g.iter().zip(b).map(|(&g, b)| (f64::from(g) - b).abs() / scale);
        apart = errors.fold(apart, largest);
    }
    println!("gradients on {} against f64: worst error {apart:.1e} of the largest", gpu.name());
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
    let within = apart < 1e-4 && losses < 1e-3 && last < first;
    if !within {
        return Err("more than the 1e-4 and 1e-3 that are allowed, or the loss does not fall".into());
    }
    Ok(())
}
