//! Ward, Wu and Bottou's experiment (2019, arXiv:1806.01811, section 4): AdaGrad-Norm finds its rate wherever it
//! starts, SGD does not.
//!
//! Test accuracy on MNIST against b₀, from 1e-3 to 1e4, of AdaGrad-Norm (rate 1/b, b growing from b₀) and of SGD (rate
//! 1/b₀ throughout): logistic regression and a network with a hidden layer, on the whole batch and on mini-batches.
//!
//! ```text
//! cargo run --release --example adagrad_norm                # target/adagrad_norm.svg
//! cargo run --release --example adagrad_norm -- --points 15 --epochs 3 --out norm.png
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::coord::Shift;
use plotters::prelude::*;
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use wgpu_optim::rules::{AdaGradNorm, Sgd};
use wgpu_optim::{AnyRule, Device, Optimizer, Precision, Settings};

#[allow(dead_code, reason = "examples/mnist.rs uses the rest")]
#[path = "mnist/cpu.rs"]
mod cpu;
#[allow(dead_code, reason = "examples/mnist.rs uses the rest")]
#[path = "mnist/data.rs"]
mod data;
#[allow(dead_code, reason = "it has no device to choose: the experiment runs on the CPU")]
mod plot;
#[allow(dead_code, reason = "examples/mnist.rs uses the rest")]
#[path = "mnist/shape.rs"]
mod shape;

use data::{CLASSES, PIXELS, Samples};
use plot::{Outcome, Picture, colour};
use shape::Shape;

const HIDDEN: usize = 32;

/// Draw accuracy against the initial rate, of AdaGrad-Norm and of SGD.
#[derive(Debug, Parser)]
struct Args {
    /// Picture: SVG or PNG, by its name.
    #[arg(long, value_name = "FILE", default_value = "target/adagrad_norm.svg")]
    out: PathBuf,
    /// Values of b₀ between 1e-3 and 1e4.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=50))]
    points: u8,
    /// Images to train on.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u16).range(100..=8000))]
    images: u16,
    /// Passes over the images; the whole batch makes 20 steps for each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    epochs: u8,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Softmax regression.
struct Logistic {
    optimizer: Optimizer,
}

impl Logistic {
    fn new(rule: &AnyRule, lr: f64) -> Result<Self, wgpu_optim::Error> {
        let mut optimizer = Optimizer::new(&Device::Cpu, rule.clone(), Settings::lr(lr))?;
        optimizer.add_all(0, &[("w", &[0.0f32; PIXELS * CLASSES][..]), ("b", &[0.0; CLASSES])])?;
        Ok(Self { optimizer })
    }

    /// Each sample's probabilities.
    fn forward(&self, samples: &Samples, batch: &[u32]) -> Result<Vec<[f32; CLASSES]>, wgpu_optim::Error> {
        let (w, b): (Vec<f32>, Vec<f32>) = (self.optimizer.read_blocking("w")?, self.optimizer.read_blocking("b")?);
        let forward = |&k: &u32| {
            let image = &samples.images[k as usize * PIXELS..][..PIXELS];
            let mut logits: [f32; CLASSES] = std::array::from_fn(|c| b[c]);
            for (row, &x) in w.chunks(CLASSES).zip(image).filter(|(_, x)| **x > 0) {
                logits.iter_mut().zip(row).for_each(|(z, w)| *z += w * f32::from(x) / 255.0);
            }
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = logits.iter().map(|z| (z - largest).exp()).sum();
            logits.map(|z| (z - largest).exp() / total)
        };
        Ok(batch.par_iter().map(forward).collect())
    }

    fn train(&mut self, samples: &Samples, batch: &[u32]) -> Result<(), wgpu_optim::Error> {
        let mut errors = self.forward(samples, batch)?;
        for (error, &k) in errors.iter_mut().zip(batch) {
            error[usize::from(samples.labels[k as usize])] -= 1.0;
        }
        let share = 1.0 / batch.len() as f32;
        let mut gradient = vec![0.0; PIXELS * CLASSES];
        gradient.par_chunks_mut(CLASSES).enumerate().for_each(|(pixel, row)| {
            for (error, &k) in errors.iter().zip(batch) {
                let x = f32::from(samples.images[k as usize * PIXELS + pixel]) / 255.0 * share;
                if x > 0.0 {
                    row.iter_mut().zip(error).for_each(|(g, e)| *g += x * e);
                }
            }
        });
        let bias: Vec<f32> = (0..CLASSES).map(|c| errors.iter().map(|error| error[c]).sum::<f32>() * share).collect();
        self.optimizer.write_gradient("w", &gradient)?;
        self.optimizer.write_gradient("b", &bias)?;
        self.optimizer.step()
    }

    fn hits(&self, samples: &Samples) -> Result<usize, wgpu_optim::Error> {
        let all: Vec<_> = (0..samples.len() as u32).collect();
        let right = |(k, probabilities): (usize, &[f32; CLASSES])| {
            let own = probabilities[usize::from(samples.labels[k])];
            probabilities.iter().all(|p| *p <= own)
        };
        Ok(self.forward(samples, &all)?.iter().enumerate().filter(|pair| right(*pair)).count())
    }
}

/// What is trained, and on how much at a time.
const SETTINGS: [(&str, bool, bool); 4] = [
    ("logistic regression, whole batch", false, false),
    ("logistic regression, mini-batches of 100", false, true),
    ("one hidden layer, whole batch", true, false),
    ("one hidden layer, mini-batches of 100", true, true),
];

/// The accuracy that this rule ends with.
fn accuracy(
    args: &Args,
    data: &(Samples, Samples),
    rule: &AnyRule,
    lr: f64,
    network: bool,
    mini: bool,
) -> Outcome<f64> {
    let (train, test) = data;
    let mut rng = Pcg64Mcg::seed_from_u64(args.seed);
    let mut order: Vec<_> = (0..u32::from(args.images)).collect();
    let (size, steps) = if mini { (100, 1) } else { (order.len(), 20) };
    let shape = Shape { hidden: vec![HIDDEN], ..Shape::default() };
    let weights = shape.initial(&mut rng);
    let mut logistic = Logistic::new(rule, lr)?;
    let optimizer = shape.optimizer(&Device::Cpu, rule, (Settings::lr(lr), Precision::f32()), None)?;
    let mut layers = cpu::Network::<f32>::new(optimizer, &weights, &shape)?;
    for _ in 0..args.epochs {
        order.shuffle(&mut rng);
        for batch in order.chunks(size).cycle().take(steps * order.len().div_ceil(size)) {
            match network {
                true => _ = layers.train(train, batch)?,
                false => logistic.train(train, batch)?,
            }
        }
    }
    let hits = if network { layers.hits(test) } else { logistic.hits(test)? };
    Ok(hits as f64 / test.len() as f64)
}

/// Accuracy by b₀, of both rules.
struct Curve {
    name: &'static str,
    norm: Vec<(f64, f64)>,
    sgd: Vec<(f64, f64)>,
}

struct Sheet {
    curves: Vec<Curve>,
}

impl Picture for Sheet {
    fn size(&self) -> (u32, u32) {
        (1040, 640)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Outcome<()>
    where
        B::ErrorType: 'static,
    {
        for (panel, Curve { name, norm, sgd }) in area.split_evenly((2, 2)).iter().zip(&self.curves) {
            let mut chart = ChartBuilder::on(panel)
                .caption(*name, ("sans-serif", 17))
                .margin(8)
                .x_label_area_size(34)
                .y_label_area_size(44)
                .build_cartesian_2d((7e-4..1.5e4).log_scale(), 0.0..1.0)?;
            let mut mesh = chart.configure_mesh();
            mesh.x_desc("b₀, and 1 / SGD's rate").y_desc("test accuracy").light_line_style(WHITE);
            mesh.x_label_formatter(&|b| format!("{b:.0e}")).draw()?;
            for (rule, points) in [("adagrad-norm", norm), ("sgd", sgd)] {
                let line = colour(rule);
                let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], line.stroke_width(2));
                let drawn = chart.draw_series(LineSeries::new(points.iter().copied(), line.stroke_width(2)))?;
                drawn.label(rule).legend(key);
                chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, line.filled())))?;
            }
            let mut key = chart.configure_series_labels();
            key.position(SeriesLabelPosition::LowerMiddle).background_style(WHITE).border_style(BLACK).draw()?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    plot::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Outcome<()> {
    let data = data::embedded()?;
    let points = usize::from(args.points);
    let bar = ProgressBar::new((SETTINGS.len() * points * 2) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}")?);
    let mut curves = Vec::new();
    for (name, network, mini) in SETTINGS {
        bar.set_message(name);
        let mut curve = Curve { name, norm: Vec::new(), sgd: Vec::new() };
        for k in 0..points {
            let b0 = 10f64.powf(-3.0 + 7.0 * k as f64 / (points - 1) as f64);
            let norm = AnyRule::from(AdaGradNorm { b0, ..AdaGradNorm::default() });
            for (rule, lr, line) in [(norm, 1.0, &mut curve.norm), (Sgd.into(), 1.0 / b0, &mut curve.sgd)] {
                line.push((b0, accuracy(args, &data, &rule, lr, network, mini)?));
                bar.inc(1);
            }
        }
        curves.push(curve);
    }
    bar.finish_and_clear();
    println!("test accuracy, {} images, {} epochs; b₀ from 1e-3 to 1e4", args.images, args.epochs);
    for Curve { name, norm, sgd } in &curves {
        for (rule, line) in [("AdaGrad-Norm", norm), ("SGD", sgd)] {
            let numbers: Vec<_> = line.iter().map(|(_, y)| format!("{y:.2}")).collect();
            println!("{name:42} {rule:12} {}", numbers.join(" "));
        }
    }
    let sheet = Sheet { curves };
    plot::save(&sheet, &args.out)?;
    println!("{}", args.out.display());
    // The effect: from a b₀ that is far too small AdaGrad-Norm still learns.
    let small = |line: &[(f64, f64)]| line[0].1;
    match sheet.curves.iter().find(|curve| small(&curve.norm) < 0.6) {
        Some(curve) => {
            Err(format!("{}: AdaGrad-Norm from b₀ = 1e-3 ends at {:.2}", curve.name, small(&curve.norm)).into())
        }
        None => Ok(()),
    }
}
