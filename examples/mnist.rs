//! Handwritten digits, learnt wholly on the device: a 784-128-10 network whose forward and backward passes are this example's own
//! kernels, with the optimizer's step recorded into the same encoder.
//!
//! ```text
//! cargo run --release --example mnist                            # 8,000 embedded images, 2,000 to test
//! cargo run --release --example mnist -- --data DIR --epochs 5   # all of MNIST, from its four IDX files
//! cargo run --release --example mnist -- --optimizer amsgrad --device gpu
//! ```
//!
//! Measured with Adam after 5 epochs over all of MNIST (seed 0): 97.60 % of the test images on the CPU (2 threads), 97.55 % on llvmpipe
//! through Vulkan. From one seed the losses of the first 100 steps on both devices are within 3.5e-7 of each other (`--check`, which
//! fails above 1e-3).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::{AnyRule, Device, Gpu, Settings, rules};

#[path = "mnist/cpu.rs"]
mod cpu;
#[path = "mnist/data.rs"]
mod data;
#[path = "mnist/gpu.rs"]
mod gpu;

use data::{CLASSES, PIXELS, Samples};

const HIDDEN: usize = 128;
/// The parameters: names and lengths.
const SHAPES: [(&str, usize); 4] = [("w1", PIXELS * HIDDEN), ("b1", HIDDEN), ("w2", HIDDEN * CLASSES), ("b2", CLASSES)];
type Weights = [Vec<f32>; 4];
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Train a small network on MNIST. The last line printed is the accuracy on the test images.
#[derive(Debug, Parser)]
struct Args {
    /// Directory with MNIST's four IDX files, gzipped or not; default: 10,000 embedded images.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Any rule by name; a wrong one lists them.
    #[arg(long, default_value = "adam")]
    optimizer: String,
    #[arg(long, default_value_t = 3)]
    epochs: usize,
    /// Learning rate; default: the rule's own, 0.1 for sgd, 0.05 for momentum.
    #[arg(long)]
    lr: Option<f64>,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Seed of the initial weights and of the order of the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// `auto` takes a hardware GPU, else the CPU; `gpu` takes a software adapter too.
    #[arg(long, value_enum, default_value_t = Where::Auto)]
    device: Where,
    /// Instead of training: the gradients against numerical ones, and the losses of the first 100 steps on CPU and GPU.
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Where {
    Auto,
    Gpu,
    Cpu,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    let rule = rules::by_name(&args.optimizer)?;
    let lr = args.lr.unwrap_or(match rule.name() {
        "sgd" => 0.1,
        "momentum" => 0.05,
        _ => rule.default_lr(),
    });
    let (train, test) = match &args.data {
        Some(directory) => data::directory(directory)?,
        None => data::embedded()?,
    };
    if args.check {
        return check(args, &rule, lr, &train, &test);
    }
    let device = match args.device {
        Where::Auto => Device::auto_blocking(),
        Where::Gpu => Gpu::new_blocking()?.into(),
        Where::Cpu => Device::Cpu,
    };
    println!("{} with lr {lr} on {}: {} images, {} to test", args.optimizer, device.name(), train.len(), test.len());
    let batch = usize::from(args.batch);
    let steps = train.len().div_ceil(batch);
    let bar = ProgressBar::new((args.epochs * steps) as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}")?);
    let mut rng = Pcg64Mcg::seed_from_u64(args.seed);
    let weights = initial(&mut rng);
    let (correct, start) = match &device {
        Device::Gpu(gpu) => {
            let mut network = gpu::Network::new(gpu, &weights, &rule, Settings::lr(lr), (&train, &test), batch)?;
            let start = std::time::Instant::now();
            for epoch in 1..=args.epochs {
                network.start(&shuffled(&mut rng, train.len()));
                for step in 1..=steps {
                    network.train()?;
                    // The one read-back: the losses of the last steps, now and then.
                    if step % 50 == 0 || step == steps {
                        let losses = network.losses(step)?;
                        report(&bar, epoch, &losses[losses.len().saturating_sub(50)..])?;
                    }
                    bar.inc(1);
                }
            }
            (network.hits()?, start)
        }
        Device::Cpu => {
            let mut network = cpu::Network::<f32>::new(&weights, &rule, Settings::lr(lr))?;
            let start = std::time::Instant::now();
            for epoch in 1..=args.epochs {
                let mut losses = Vec::new();
                for (step, samples) in shuffled(&mut rng, train.len()).chunks(batch).enumerate() {
                    losses.push(network.train(&train, samples)?);
                    if (step + 1) % 50 == 0 || step + 1 == steps {
                        report(&bar, epoch, &losses[losses.len().saturating_sub(50)..])?;
                    }
                    bar.inc(1);
                }
            }
            (network.hits(&test), start)
        }
    };
    bar.finish_and_clear();
    println!("{} epochs in {:.1} s", args.epochs, start.elapsed().as_secs_f64());
    println!("test accuracy {:.2} %", 100.0 * correct as f64 / test.len() as f64);
    Ok(())
}

/// Shows the mean of the last losses; an error once it is none.
fn report(bar: &ProgressBar, epoch: usize, losses: &[f32]) -> Outcome<()> {
    let mean = losses.iter().sum::<f32>() / losses.len() as f32;
    bar.set_message(format!("epoch {epoch}, loss {mean:.4}"));
    if mean.is_finite() { Ok(()) } else { Err(format!("the loss is {mean}: try a lower --lr").into()) }
}

/// Uniform within ±√(6 / inputs) for the weights (He et al. 2015), 0 for the biases.
fn initial(rng: &mut Pcg64Mcg) -> Weights {
    let mut layer = |inputs: usize, len: usize| -> Vec<f32> {
        let bound = (6.0 / inputs as f32).sqrt();
        (0..len).map(|_| rng.random_range(-bound..bound)).collect()
    };
    [layer(PIXELS, SHAPES[0].1), vec![0.0; HIDDEN], layer(HIDDEN, SHAPES[2].1), vec![0.0; CLASSES]]
}

fn shuffled(rng: &mut Pcg64Mcg, len: usize) -> Vec<u32> {
    let mut order: Vec<_> = (0..len as u32).collect();
    order.shuffle(rng);
    order
}

/// The network's gradients against central differences in f64; the GPU's gradients and first 100 losses against the CPU's.
fn check(args: &Args, rule: &AnyRule, lr: f64, train: &Samples, test: &Samples) -> Outcome<()> {
    let batch = usize::from(args.batch).min(train.len());
    let mut rng = Pcg64Mcg::seed_from_u64(args.seed);
    let weights = initial(&mut rng);
    let order = shuffled(&mut rng, train.len());
    let mut exact = cpu::Network::<f64>::new(&weights, rule, Settings::lr(lr))?;
    let (_, gradients) = exact.gradients(train, &order[..batch]);
    let (mut worst, h) = (0.0f64, 1e-6);
    for (k, gradient) in gradients.iter().enumerate() {
        for _ in 0..25 {
            let i = rng.random_range(0..gradient.len());
            let at = exact.weights[k][i];
            let mut loss = |x| {
                exact.weights[k][i] = x;
                exact.gradients(train, &order[..batch]).0
            };
            let numerical = (loss(at + h) - loss(at - h)) / (2.0 * h);
            exact.weights[k][i] = at;
            worst = worst.max((numerical - gradient[i]).abs() / gradient[i].abs().max(1e-3));
        }
    }
    println!("gradients against central differences, 100 weights, f64: worst relative error {worst:.1e}");
    let gpu = Gpu::new_blocking()?;
    let make = || gpu::Network::new(&gpu, &weights, rule, Settings::lr(lr), (train, test), batch);
    let mut on_gpu = make()?;
    on_gpu.start(&order);
    let mut apart = 0.0f64;
    for (g, b) in on_gpu.gradients()?.iter().zip(&gradients) {
        let scale = b.iter().map(|b| b.abs()).fold(0.0, f64::max);
        let errors = g.iter().zip(b).map(|(&g, b)| (f64::from(g) - b).abs() / scale);
        apart = errors.fold(apart, |worst, e| if e <= worst { worst } else { e });
    }
    println!("gradients on {} against f64: worst error {apart:.1e} of the largest", gpu.name());
    let (mut on_gpu, mut on_cpu) = (make()?, cpu::Network::<f32>::new(&weights, rule, Settings::lr(lr))?);
    on_gpu.start(&order);
    let batches: Vec<_> = order.chunks(batch).take(100).collect();
    let mut cpu_losses = Vec::new();
    for batch in &batches {
        on_gpu.train()?;
        cpu_losses.push(on_cpu.train(train, batch)?);
    }
    let gpu_losses = on_gpu.losses(batches.len())?;
    let relative = gpu_losses.iter().zip(&cpu_losses).map(|(g, c)| f64::from((g - c).abs() / c));
    let losses = relative.fold(0.0, |worst, e| if e <= worst { worst } else { e });
    let (first, last) = (cpu_losses[0], cpu_losses[batches.len() - 1]);
    println!("losses of the first {} steps, {first:.3} … {last:.3}: CPU and GPU within {losses:.1e}", batches.len());
    let within = worst < 1e-4 && apart < 1e-4 && losses < 1e-3 && last < first;
    if !within {
        return Err("more than the 1e-4, 1e-4 and 1e-3 that are allowed, or the loss does not fall".into());
    }
    Ok(())
}
