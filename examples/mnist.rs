//! Trains a network on handwritten digits, wholly on the device. Its dense layers are 784-128-10, or as `--hidden`
//! says. The forward and backward passes are this example's own kernels; the optimizer's step is recorded into the same
//! encoder.
//!
//! ```text
//! cargo run --release --example mnist                            # 8,000 embedded images, 2,000 to test
//! cargo run --release --example mnist -- --data DIR --epochs 5   # all of MNIST, from its four IDX files
//! cargo run --release --example mnist -- --optimizer amsgrad --device gpu --resume run.safetensors
//! cargo run --release --example mnist -- --hidden 128,64 --batch-norm --dropout 0.2 --ema 0.99 --schedule cosine
//! cargo run --release --example mnist -- --compare sgd,momentum,adagrad,adam --out target/mnist.svg
//! cargo run --release --example mnist -- --precision f32,block8,relative8,torchao --out target/precisions.svg
//! cargo run --release --example mnist -- --device cpu --precision f32,exact-master,bf16,bf16-block8,bf16-nearest
//! cargo run --release --example mnist -- --optimizer momentum --sweep-lr 1e-4..10 --out target/rates.svg
//! ```
//!
//! Measured with Adam after 5 epochs over all of MNIST (seed 0) on the CPU (2 threads): 97.57 % of the test images, 5
//! s; with `--hidden 128,64 --batch-norm` 97.80 %, 8 s. On the embedded images CPU and llvmpipe both end at 94.45 %
//! after 4 epochs with `--schedule 'cosine(500)' --ema 0.98 --clip 1`, in one run or in two (`--resume`). The losses of
//! the first 100 steps differ by at most 3.5e-7 (`--check-gradients`, which fails above 1e-3).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use wgpu_optim::{Device, Format, Precision, Rounding, Schedule, Settings, States, WeightDecay, rules};

#[path = "mnist/check.rs"]
mod check;
#[path = "mnist/cpu.rs"]
mod cpu;
#[path = "mnist/curves.rs"]
mod curves;
#[path = "mnist/data.rs"]
mod data;
#[path = "mnist/gpu.rs"]
mod gpu;
mod plot;
#[path = "mnist/shape.rs"]
mod shape;
#[path = "mnist/trainer.rs"]
mod trainer;

use curves::Curves;
use plot::{Outcome, Where};
use shape::Shape;
use trainer::{Curve, Data, Subject, train};

/// Rates of a sweep.
const RATES: u32 = 6;

/// Train a small network on MNIST. The last line printed is the accuracy on the test images.
#[derive(Debug, Parser)]
struct Args {
    /// Directory with MNIST's four IDX files, gzipped or not; default: 10,000 embedded images.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Any rule by name; a wrong one lists them.
    #[arg(long, default_value = "adam")]
    optimizer: String,
    #[arg(long, default_value_t = 3, value_parser = epochs)]
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
    /// Over the whole run: `cosine`, `linear` (to 0), `one-cycle`, `step` (a tenth after each third), `inverse-sqrt`,
    /// `robbins-monro`. Or any schedule with its steps, as `wgpu-optim schedule` reads it: `cosine(300).warmup(20)`.
    #[arg(long)]
    schedule: Option<String>,
    /// The largest norm of all gradients together.
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// Evaluate an exponential moving average of the weights, with this decay.
    #[arg(long, value_name = "DECAY")]
    ema: Option<f64>,
    /// L2 regularisation.
    #[arg(long, value_name = "LAMBDA", default_value_t = 0.0)]
    l2: f64,
    /// The multiclass SVM's loss instead of softmax and cross-entropy.
    #[arg(long)]
    hinge: bool,
    /// Units of each hidden layer.
    #[arg(long, value_name = "UNITS", value_delimiter = ',', default_value = "128")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    hidden: Vec<u16>,
    /// Normalize each hidden unit over the batch, and in tests by running statistics; needs two samples in a batch.
    #[arg(long)]
    batch_norm: bool,
    /// Drop this part of the hidden units in each training step.
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = part)]
    dropout: f32,
    /// Show the samples of the first epoch from easy (near their class' mean) to hard.
    #[arg(long)]
    curriculum: bool,
    /// Hold a tenth of the images out, stop once they have been no better for more than this many epochs, and keep the
    /// best weights.
    #[arg(long, value_name = "EPOCHS", conflicts_with = "resume")]
    early_stop: Option<u64>,
    /// Save after each epoch, and go on from this file if it exists, with the optimizer settings in it. Other options
    /// must not change.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Draw loss and accuracy: SVG or PNG, by its name.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How parameters, and the states of large layers, are stored; of several, a run each.
    #[arg(long, value_enum, value_name = "NAME,…", value_delimiter = ',', default_value = "f32")]
    precision: Vec<Precise>,
    /// Loss and accuracy as numbers.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Train with several optimizers from one seed.
    #[arg(long, value_name = "RULES", value_delimiter = ',', conflicts_with_all = ["optimizer", "resume", "sweep_lr"])]
    compare: Option<Vec<String>>,
    /// Train at six rates, and choose the best by a tenth of the images held out.
    #[arg(long, value_name = "LO..HI", value_parser = rates, conflicts_with_all = ["lr", "resume"])]
    sweep_lr: Option<(f64, f64)>,
    /// Instead of training: each layer's gradients against numerical ones, then 100 steps of SGD on CPU and on the GPU,
    /// which there must be.
    #[arg(long, conflicts_with_all = ["compare", "sweep_lr"])]
    check_gradients: bool,
}

/// A precision by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Precise {
    F32,
    /// States in 8 bits, second moments rounded stochastically.
    Block8,
    /// States in 8 bits, second moments as logarithms.
    Relative8,
    /// States in 8 bits, rounded to the nearest, 0 included, as torchao.
    Torchao,
    /// Parameters in bf16 and what they lack of f32, gradients in bf16; on the CPU.
    ExactMaster,
    /// Parameters, gradients and states in bf16, rounded stochastically; on the CPU.
    Bf16,
    /// Parameters and gradients in bf16, states in 8 bits; on the CPU.
    Bf16Block8,
    /// As bf16, rounded to the nearest; on the CPU.
    Bf16Nearest,
}

impl Precise {
    fn precision(self) -> Precision {
        let of = |states| Precision { states, ..Precision::f32() };
        match self {
            Self::F32 => Precision::f32(),
            Self::Block8 => Precision::block8(),
            Self::Relative8 => of(States::Relative8),
            Self::Torchao => of(States::Torchao),
            Self::ExactMaster => Precision::bf16_exact_master(),
            Self::Bf16 => Precision::bf16(),
            Self::Bf16Block8 => Precision { states: States::Block8, ..Precision::bf16() },
            Self::Bf16Nearest => Precision { rounding: Rounding::Nearest, ..Precision::bf16() },
        }
    }
}

/// `1e-4..1`.
fn rates(text: &str) -> Result<(f64, f64), String> {
    let ends = text.split_once("..").and_then(|(lo, hi)| Some((lo.parse().ok()?, hi.parse().ok()?)));
    let ends = ends.filter(|(lo, hi): &(f64, f64)| *lo > 0.0 && lo < hi && hi.is_finite());
    ends.ok_or_else(|| "two rates above 0, the lower one first: 1e-4..1".into())
}

fn epochs(text: &str) -> Result<usize, String> {
    text.parse::<u16>().map(usize::from).map_err(|e| e.to_string())
}

fn part(text: &str) -> Result<f32, String> {
    let part = text.parse().ok().filter(|part| (0.0..1.0).contains(part));
    part.ok_or_else(|| "0 to below 1".into())
}

impl Args {
    /// Whether more than one is trained.
    fn several(&self) -> bool {
        self.sweep_lr.is_some() || self.compare.is_some() || self.precision.len() > 1
    }

    fn schedule(&self, data: &Data) -> Outcome<Option<Schedule>> {
        let each = data.train.len().div_ceil(usize::from(self.batch)) as u64;
        let steps = each * self.epochs.max(1) as u64;
        let Some(text) = &self.schedule else { return Ok(None) };
        Ok(Some(match text.as_str() {
            "cosine" => Schedule::cosine(steps),
            "linear" => Schedule::linear(1.0, 0.0, steps),
            "one-cycle" => Schedule::one_cycle(steps, 0.3, 25.0, 1e4, true, false, [0.85, 0.95]),
            "step" => Schedule::Step { every: steps.div_ceil(3), gamma: 0.1 },
            "inverse-sqrt" => Schedule::InverseSqrt { warmup: each.div_ceil(10) },
            "robbins-monro" => Schedule::robbins_monro(),
            text => Schedule::parse(text).map_err(|e| {
                let whole = "cosine, linear, one-cycle, step, inverse-sqrt, robbins-monro";
                format!("{e}\nA word alone, over the whole run: {whole}")
            })?,
        }))
    }

    /// What is to be trained, one after the other.
    fn subjects(&self) -> Outcome<Vec<Subject>> {
        let names = self.compare.clone().unwrap_or_else(|| vec![self.optimizer.clone()]);
        let shape = Shape {
            hidden: self.hidden.iter().copied().map(usize::from).collect(),
            hinge: self.hinge,
            dropout: self.dropout,
            batch_norm: self.batch_norm,
        };
        let mut subjects = Vec::new();
        for name in names {
            let rule = rules::by_name(&name)?;
            let own = match rule.name() {
                "sgd" => 0.1,
                "momentum" => 0.05,
                _ => rule.default_lr(),
            };
            let lrs = match self.sweep_lr {
                Some((lo, hi)) => {
                    let way = |k: u32| f64::from(k) / f64::from(RATES - 1);
                    // Three digits are a rate that people can type.
                    let round = |lr: f64| format!("{lr:.2e}").parse().unwrap_or(lr);
                    (0..RATES).map(|k| round(lo * (hi / lo).powf(way(k)))).collect()
                }
                None => vec![self.lr.unwrap_or(own)],
            };
            let weight_decay = if self.l2 == 0.0 { WeightDecay::None } else { WeightDecay::L2(self.l2) };
            let settings = |lr| Settings { weight_decay, ..Settings::lr(lr) };
            for (lr, precise) in lrs.iter().flat_map(|lr| self.precision.iter().map(move |precise| (*lr, *precise))) {
                let name = match precise {
                    Precise::F32 => name.clone(),
                    precise => {
                        let of = clap::ValueEnum::to_possible_value(&precise);
                        format!("{name} {}", of.map_or_else(String::new, |of| of.get_name().to_owned()))
                    }
                };
                let (settings, precision) = (settings(lr), precise.precision());
                subjects.push(Subject { name, rule: rule.clone(), settings, precision, shape: shape.clone() });
            }
        }
        Ok(subjects)
    }
}

fn main() -> ExitCode {
    plot::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Outcome<()> {
    if args.precision.len() > 1 && args.resume.is_some() {
        return Err("--resume goes on with one run: give one --precision".into());
    }
    let subjects = args.subjects()?;
    let (mut train_on, test) = match &args.data {
        Some(directory) => data::directory(directory)?,
        None => data::embedded()?,
    };
    let batch = usize::from(args.batch);
    if args.batch_norm && (batch == 1 || args.check_gradients && train_on.len() == 1) {
        return Err("--batch-norm needs two samples in a batch".into());
    }
    if args.check_gradients {
        return check::check(args, &subjects[0], (&train_on, &test));
    }
    let mut held = None;
    if args.early_stop.is_some() || args.sweep_lr.is_some() {
        let tenth = train_on.len() / 10;
        if tenth == 0 {
            return Err(format!("of {} images there is no tenth to hold out", train_on.len()).into());
        }
        let at = train_on.len() - tenth;
        let (rest, last) = train_on.split(at);
        (train_on, held) = (rest, Some(last));
    }
    if args.batch_norm && train_on.len() % batch == 1 {
        let images = train_on.len();
        return Err(
            format!("--batch-norm needs two samples in a batch; of {images} images the last one has one").into()
        );
    }
    let data = Data { train: train_on, test, held };
    let device = args.device.device()?;
    let on_gpu = matches!(device, Device::Gpu(_));
    if on_gpu && subjects.iter().any(|subject| subject.precision.parameters != Format::F32) {
        return Err("on a GPU this example's own kernels read parameters in f32: add --device cpu".into());
    }
    let names: Vec<_> =
        subjects.iter().map(|subject| format!("{} with lr {}", subject.name, subject.settings.lr)).collect();
    let (images, tests) = (data.train.len(), data.test.len());
    println!("{} on {}: {images} images, {tests} to test", names.join(", "), device.name());
    let steps = images.div_ceil(batch);
    let bar = ProgressBar::new((subjects.len() * args.epochs * steps) as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}")?);
    let start = Instant::now();
    let mut curves = Vec::new();
    for (k, subject) in subjects.iter().enumerate() {
        curves.push(train(args, subject, &device, &data, &bar)?);
        bar.set_position(((k + 1) * args.epochs * steps) as u64);
    }
    bar.finish_and_clear();
    let epochs: usize = curves.iter().map(|curve| curve.epochs).sum();
    println!("{epochs} epochs in {:.1} s", start.elapsed().as_secs_f64());
    if curves.len() > 1 {
        table(&curves);
    }
    if let Some(path) = &args.csv {
        std::fs::write(path, Curves(&curves).csv()?).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if let Some(path) = &args.out {
        plot::save(&Curves(&curves), path)?;
    }
    let trained = curves.iter().filter(|curve| !curve.diverged);
    let best = trained.max_by(|a, b| a.held.unwrap_or(a.last()).total_cmp(&b.held.unwrap_or(b.last())));
    let Some(best) = best else { return Err("the loss is no number: lower rates are needed".into()) };
    if args.sweep_lr.is_some() {
        println!("best on the images held out: lr {}", best.lr);
    } else if args.several() {
        println!("best on the test images: {}", best.name);
    }
    println!("test accuracy {:.2} %", 100.0 * best.last());
    Ok(())
}

/// A line a run.
fn table(curves: &[Curve]) {
    println!("{:18} {:>9} {:>10} {:>9} {:>9}", "optimizer", "lr", "last loss", "held out", "test");
    for curve in curves {
        let loss = match (curve.diverged, curve.losses.last()) {
            (true, _) => "diverges".into(),
            (false, Some((_, loss))) => format!("{loss:.4}"),
            (false, None) => "–".into(),
        };
        let percent = |part: Option<f64>| part.map_or("–".into(), |part| format!("{:.2} %", 100.0 * part));
        let (held, test) = (percent(curve.held), percent(curve.accuracy.last().map(|(_, part)| *part)));
        println!("{:18} {:>9} {loss:>10} {held:>9} {test:>9}", curve.name, curve.lr);
    }
}
