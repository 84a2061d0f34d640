//! What short numbers do to Adam: the largest single update, a second moment without gradients, and a model of text
//! whose gradients are sparse. Each in f32, with states in 8 bits as here, with parameters
//! in bf16 beside them, and with states rounded to the nearest, with and without 0.
//!
//! ```text
//! cargo run --release --example precision             # a table, and target/precision.svg; a minute
//! cargo run --release --example precision -- --steps 500 --json
//! ```
//!
//! 1. The largest update of Adam in learning rates, over 300 steps of 4,096 elements. In f32 it can be 7.3
//!    (Cauchy–Schwarz). Where a second moment becomes 0 and the first does not, the step is m/ε.
//! 2. Half of the elements get no gradient for 3,000 steps: what is left of their second moments. β₂ᵗ is right.
//! 3. Predicting the next letter of this repository's documentation by three tables of logits, for the last one, two
//!    and three letters. A step touches a few rows. The loss is that of the last tenth of the text, which is held out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::coord::Shift;
use plotters::prelude::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::rules::Adam;
use wgpu_optim::{Device, Error, Optimizer, Precision, Rounding, States};

#[allow(dead_code, reason = "it has colours of its own, and the experiments run on the CPU")]
mod plot;
use plot::{Outcome, Picture};

/// Show what short numbers do to Adam.
#[derive(Debug, Parser)]
struct Args {
    /// Picture: SVG or PNG, by its name.
    #[arg(long, value_name = "FILE", default_value = "target/precision.svg")]
    out: PathBuf,
    /// Steps of the model of text.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    steps: u32,
    /// Seeds of the model of text.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=20))]
    seeds: u64,
    /// An object a line instead of tables.
    #[arg(long)]
    json: bool,
}

/// Name, precision and colour.
type Kind = (&'static str, Precision, RGBColor);

fn kinds() -> [Kind; 5] {
    let of = |states, rounding| Precision { states, rounding, min_8bit_size: 256, ..Precision::f32() };
    let bf16 = Precision { states: States::Block8, min_8bit_size: 256, ..Precision::bf16() };
    [
        ("f32", Precision::f32(), RGBColor(120, 120, 120)),
        ("block8", of(States::Block8, Rounding::Stochastic), RGBColor(214, 39, 40)),
        ("bf16 and block8", bf16, RGBColor(148, 103, 189)),
        ("block8, to the nearest", of(States::Block8, Rounding::Nearest), RGBColor(255, 127, 14)),
        ("nearest, 0 included", of(States::Torchao, Rounding::Nearest), RGBColor(31, 119, 180)),
    ]
}

fn adam(precision: Precision, lr: f64, tensors: &[(&str, &[f32])]) -> Result<Optimizer, Error> {
    let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), lr)?;
    adam.set_precision(0, precision)?;
    adam.add_all(0, tensors)?;
    Ok(adam)
}

/// A standard normal.
fn normal(random: &mut impl Rng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

type Gradients = fn(&mut Pcg64Mcg) -> f64;

const GRADIENTS: [(&str, Gradients); 4] = [
    ("normal", |r| 0.01 * normal(r)),
    ("lognormal, σ = 1", |r| normal(r).exp() * normal(r).signum()),
    ("lognormal, σ = 3", |r| (3.0 * normal(r)).exp() * normal(r).signum()),
    ("2 % are not 0", |r| if r.random::<f64>() < 0.02 { normal(r) } else { 0.0 }),
];

/// The largest update in learning rates.
fn largest_update(precision: Precision, gradients: Gradients) -> Result<f64, Error> {
    let (lr, mut before) = (1e-3, vec![0f32; 4096]);
    let mut adam = adam(precision, lr, &[("w", &before)])?;
    let (mut random, mut largest) = (Pcg64Mcg::seed_from_u64(1), 0f64);
    for _ in 0..300 {
        let gradient: Vec<f32> = before.iter().map(|_| gradients(&mut random) as f32).collect();
        adam.write_gradient("w", &gradient)?;
        adam.step()?;
        let now: Vec<f32> = adam.read_blocking("w")?;
        let moved = now.iter().zip(&before).map(|(a, b)| f64::from((a - b).abs()) / lr);
        largest = moved.fold(largest, f64::max);
        before = now;
    }
    Ok(largest)
}

/// What is left of idle second moments, each 100 steps.
fn idle(precision: Precision) -> Result<Vec<(f64, f64)>, Error> {
    let mut adam = adam(precision, 1e-3, &[("w", &[0f32; 1024])])?;
    let (mut random, mut left) = (Pcg64Mcg::seed_from_u64(2), Vec::new());
    let mut first = 0.0;
    for t in 0..=3050usize {
        if t >= 50 && (t - 50).is_multiple_of(100) {
            let v: Vec<f32> = adam.read_state_blocking("w", "exp_avg_sq")?;
            let sum: f64 = v.iter().skip(1).step_by(2).map(|&x| f64::from(x)).sum();
            first = if t == 50 { sum } else { first };
            left.push(((t - 50) as f64, sum / first));
        }
        let gradient = |k: usize| if k.is_multiple_of(2) || t < 50 { 0.01 * normal(&mut random) as f32 } else { 0.0 };
        adam.write_gradient("w", &(0..1024).map(gradient).collect::<Vec<_>>())?;
        adam.step()?;
    }
    Ok(left)
}

const ROWS: usize = 2048;
const BATCH: usize = 128;

/// The text, letters as numbers, and how many there are.
fn text() -> (Vec<usize>, usize) {
    let all = [
        include_str!("../README.md"),
        include_str!("../benches/README.md"),
        include_str!("../src/guide/rules.md"),
        include_str!("../src/guide/solvers.md"),
        include_str!("../src/guide/own_rule.md"),
        include_str!("../src/guide/precision.md"),
        include_str!("../src/guide/numbers.md"),
    ]
    .concat();
    let letter = |c: char| if c.is_ascii_graphic() || c == ' ' || c == '\n' { c } else { '?' };
    let mut known: Vec<char> = all.chars().map(letter).collect();
    let letters: Vec<char> = known.clone();
    known.sort_unstable();
    known.dedup();
    (letters.iter().filter_map(|c| known.binary_search(c).ok()).collect(), known.len())
}

/// The rows of each table that the letters before this one pick.
fn rows(text: &[usize], at: usize, letters: usize) -> [usize; 3] {
    let [a, b, c] = [3, 2, 1].map(|back| text[at - back]);
    let hash = |x: usize| (x.wrapping_mul(0x9e37_79b9) >> 7) % ROWS;
    [c, hash(b * letters + c), hash((a * letters + b) * letters + c)]
}

/// The probabilities of the next letter.
fn forward(tables: &[Vec<f32>], rows: [usize; 3], letters: usize) -> Vec<f32> {
    let logit = |k: usize| tables.iter().zip(rows).map(|(table, row)| table[row * letters + k]).sum::<f32>();
    let mut p: Vec<f32> = (0..letters).map(logit).collect();
    let most = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    p.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f32 = p.iter().sum();
    p.iter_mut().for_each(|x| *x /= sum);
    p
}

/// The loss on the last tenth, in bits a letter, each tenth of the steps.
fn train(precision: Precision, steps: u32, seed: u64, bar: &ProgressBar) -> Result<Vec<(f64, f64)>, Error> {
    let (text, letters) = text();
    let start = text.len() / 10 * 9;
    let mut tables = vec![vec![0f32; letters * letters], vec![0.0; ROWS * letters], vec![0.0; ROWS * letters]];
    let names = ["one", "two", "three"];
    let tensors: Vec<_> = names.iter().zip(&tables).map(|(name, table)| (*name, table.as_slice())).collect();
    // Of 0.002, 0.005, 0.01, 0.02 and 0.05 the best in f32.
    let mut adam = adam(precision, 0.005, &tensors)?;
    let (mut random, mut losses) = (Pcg64Mcg::seed_from_u64(seed), Vec::new());
    for step in 0..=steps {
        if step % (steps / 20).max(1) == 0 {
            let loss = |at: usize| -f64::from(forward(&tables, rows(&text, at, letters), letters)[text[at]]).log2();
            let all = (start..text.len()).step_by(2).map(loss).sum::<f64>();
            losses.push((f64::from(step), all / (text.len() - start).div_ceil(2) as f64));
        }
        let mut gradients: Vec<_> = tables.iter().map(|table| vec![0f32; table.len()]).collect();
        for _ in 0..BATCH {
            let at = random.random_range(3..start);
            let rows = rows(&text, at, letters);
            let mut error = forward(&tables, rows, letters);
            error[text[at]] -= 1.0;
            for (gradient, row) in gradients.iter_mut().zip(rows) {
                let of_row = &mut gradient[row * letters..(row + 1) * letters];
                of_row.iter_mut().zip(&error).for_each(|(g, e)| *g += e / BATCH as f32);
            }
        }
        for (name, gradient) in names.iter().zip(&gradients) {
            adam.write_gradient(*name, gradient)?;
        }
        adam.step()?;
        for (name, table) in names.iter().zip(&mut tables) {
            *table = adam.read_blocking(*name)?;
        }
        bar.inc(1);
    }
    Ok(losses)
}

/// All that is drawn.
struct Sheet {
    /// By kinds of gradients, then by precisions.
    updates: Vec<Vec<f64>>,
    idle: Vec<Vec<(f64, f64)>>,
    /// By precisions, then by seeds.
    losses: Vec<Vec<Vec<(f64, f64)>>>,
}

impl Picture for Sheet {
    fn size(&self) -> (u32, u32) {
        (1350, 420)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Outcome<()>
    where
        B::ErrorType: 'static,
    {
        let panels = area.split_evenly((1, 3));
        let font = ("sans-serif", 17);
        let mut chart = ChartBuilder::on(&panels[0])
            .caption("largest update of 300 steps, in learning rates", font)
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..GRADIENTS.len() as f64, (0.3..1e8f64).log_scale())?;
        let name = |x: &f64| GRADIENTS.get(*x as usize).map_or(String::new(), |(name, _)| (*name).into());
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE).disable_x_mesh().x_labels(5).x_label_offset(50).x_label_formatter(&name);
        mesh.y_label_formatter(&|y| format!("{y:.0e}")).draw()?;
        for (k, (label, _, colour)) in kinds().into_iter().enumerate() {
            let bar = |(at, found): (usize, &Vec<f64>)| {
                let left = at as f64 + 0.1 + 0.16 * k as f64;
                Rectangle::new([(left, 0.3), (left + 0.14, found[k])], colour.filled())
            };
            let key = move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled());
            chart.draw_series(self.updates.iter().enumerate().map(bar))?.label(label).legend(key);
        }
        let limit = [(0.0, 7.27), (GRADIENTS.len() as f64, 7.27)];
        chart.draw_series(DashedLineSeries::new(limit, 5, 5, BLACK.stroke_width(1)))?;
        let mut key = chart.configure_series_labels();
        key.position(SeriesLabelPosition::UpperLeft).background_style(WHITE).border_style(BLACK).draw()?;

        let most = self.idle.iter().flatten().map(|(_, y)| *y).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&panels[1])
            .caption("idle second moments: the part that is left", font)
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..3000.0, (0.03..1.3 * most).log_scale())?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE).x_desc("steps without a gradient").x_labels(4).draw()?;
        for ((_, _, colour), left) in kinds().into_iter().zip(&self.idle) {
            chart.draw_series(LineSeries::new(left.iter().copied(), colour.stroke_width(2)))?;
        }
        let exact = (0..=30).map(|k| (100.0 * f64::from(k), 0.999f64.powi(100 * k)));
        chart.draw_series(DashedLineSeries::new(exact, 5, 5, BLACK.stroke_width(1)))?;

        let all = || self.losses.iter().flatten().flatten().filter(|(x, _)| *x > 0.0).map(|(_, y)| *y);
        let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max).min(7.0));
        let steps = self.losses[0][0].last().map_or(1.0, |(x, _)| *x);
        let mut chart = ChartBuilder::on(&panels[2])
            .caption("a model of text: bits a letter, not trained on", font)
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..steps, least - 0.1..most)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc("steps").x_labels(5).draw()?;
        for ((_, _, colour), seeds) in kinds().into_iter().zip(&self.losses) {
            for losses in seeds {
                let shown = losses.iter().copied().filter(|(_, y)| *y <= most);
                chart.draw_series(LineSeries::new(shown, colour.stroke_width(2)))?;
            }
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    plot::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Outcome<()> {
    let all = kinds();
    let bar = ProgressBar::new(all.len() as u64 * args.seeds * u64::from(args.steps + 1));
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left {msg}")?);
    let mut sheet = Sheet { updates: Vec::new(), idle: Vec::new(), losses: Vec::new() };
    for (_, gradients) in GRADIENTS {
        let found = all.iter().map(|(_, precision, _)| largest_update(*precision, gradients));
        sheet.updates.push(found.collect::<Result<_, _>>()?);
    }
    for (_, precision, _) in all {
        sheet.idle.push(idle(precision)?);
        let seeds = (0..args.seeds).map(|seed| train(precision, args.steps, seed, &bar));
        sheet.losses.push(seeds.collect::<Result<_, _>>()?);
    }
    bar.finish_and_clear();
    plot::save(&sheet, &args.out)?;
    let last = |points: &[(f64, f64)]| points.last().map_or(f64::NAN, |(_, y)| *y);
    if !args.json {
        println!(
            "| precision              | largest update, lr: {} | idle | bits a letter |",
            GRADIENTS.map(|g| g.0).join("; ")
        );
    }
    for (k, (name, ..)) in all.iter().enumerate() {
        let updates: Vec<f64> = sheet.updates.iter().map(|of| of[k]).collect();
        let (left, bits): (_, Vec<f64>) = (last(&sheet.idle[k]), sheet.losses[k].iter().map(|l| last(l)).collect());
        if args.json {
            let of = serde_json::json!({ "precision": name, "largest_updates": updates, "idle": left, "bits": bits });
            println!("{of}");
            continue;
        }
        let updates: Vec<_> =
            updates.iter().map(|x| if *x < 100.0 { format!("{x:.1}") } else { format!("{x:.0e}") }).collect();
        let bits: Vec<_> = bits.iter().map(|x| format!("{x:.3}")).collect();
        println!("| {name:22} | {} | {:.1} % | {} |", updates.join("; "), 100.0 * left, bits.join(", "));
    }
    if !args.json {
        println!("{}", args.out.display());
    }
    Ok(())
}
