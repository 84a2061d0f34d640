//! Rates of convergence against their theory, and Reddi et al.'s problem on which Adam goes the wrong way.
//!
//! ```text
//! cargo run --release --example convergence            # a table, and target/convergence.svg; some seconds
//! cargo run --release --example convergence -- --device gpu --json
//! ```
//!
//! 1. Quadratics ½·Σ λᵢxᵢ² with eigenvalues from 1 to κ. At its best rate gradient descent shrinks the error by
//!    (κ−1)/(κ+1) a step, Polyak's heavy ball by (√κ−1)/(√κ+1), Nesterov's method (constant momentum for strongly
//!    convex functions) by √((√κ−1)/√κ) at worst. The rate that is measured is the geometric mean over the last half of
//!    the steps.
//! 2. [Reddi et al., 2018](https://arxiv.org/abs/1904.09237), section 5: f(x) = C·x each third step, −x else, on −1 ≤ x
//!    ≤ 1, with C = 3 and β₂ = 1/(1 + C²). The sum of three steps falls towards x = −1; Adam goes to +1, AMSGrad to −1.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::coord::Shift;
use plotters::prelude::*;
use wgpu_optim::rules::{Adam, Momentum, Sgd};
use wgpu_optim::{AnyRule, Device, Optimizer, Schedule, Settings};

mod plot;
use plot::{Outcome, Picture, Where, colour};

/// Measure rates of convergence, and where Adam diverges.
#[derive(Debug, Parser)]
struct Args {
    /// Picture: SVG or PNG, by its name.
    #[arg(long, value_name = "FILE", default_value = "target/convergence.svg")]
    out: PathBuf,
    /// Steps of Reddi et al.'s problem.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(300..=1_000_000))]
    steps: u32,
    /// `auto` takes a hardware GPU, else the CPU; `gpu` takes a software adapter, too.
    #[arg(long, value_enum, default_value_t = Where::Auto)]
    device: Where,
    /// An object a line instead of a table.
    #[arg(long)]
    json: bool,
}

/// Eigenvalues of the quadratics, from 1 to κ.
const DIMENSIONS: usize = 20;

struct Rate {
    rule: &'static str,
    kappa: f64,
    theory: f64,
    measured: f64,
    /// ‖x‖ over ‖x₀‖ after each step.
    errors: Vec<f64>,
}

/// Each method at the rate and momentum that its theory gives for eigenvalues from 1 to κ: its name, rule, rate and
/// factor a step.
fn methods(kappa: f64) -> [(&'static str, AnyRule, f64, f64); 3] {
    let root = kappa.sqrt();
    let ball = ((root - 1.0) / (root + 1.0)).powi(2);
    [
        ("sgd", Sgd.into(), 2.0 / (kappa + 1.0), (kappa - 1.0) / (kappa + 1.0)),
        ("momentum", Momentum::torch(ball).into(), 4.0 / (root + 1.0).powi(2), (root - 1.0) / (root + 1.0)),
        (
            "nesterov",
            Momentum::torch((root - 1.0) / (root + 1.0)).nesterov().into(),
            1.0 / kappa,
            ((root - 1.0) / root).sqrt(),
        ),
    ]
}

fn quadratic(device: &Device, kappa: f64, method: (&'static str, AnyRule, f64, f64)) -> Outcome<Rate> {
    let (rule, any, lr, theory) = method;
    let eigenvalue = |i: usize| kappa.powf(i as f64 / (DIMENSIONS - 1) as f64);
    let mut optimizer = Optimizer::new(device, any, lr)?;
    // f64 where there is: f32 ends at 1e-7 of the start.
    let wide = matches!(device, Device::Cpu);
    let start = [1.0f64; DIMENSIONS];
    let id = if wide { optimizer.add(0, "x", &start)? } else { optimizer.add(0, "x", &start.map(|x| x as f32))? };
    let end = if wide { 1e-12 } else { 1e-5 };
    let (mut x, mut errors) = (start.to_vec(), vec![1.0]);
    while errors.len() < 20_000 && errors.last().is_some_and(|error| *error > end) {
        let gradient: Vec<_> = x.iter().enumerate().map(|(i, x)| eigenvalue(i) * x).collect();
        if wide {
            optimizer.write_gradient(id, &gradient)?;
        } else {
            optimizer.write_gradient(id, &gradient.iter().map(|g| *g as f32).collect::<Vec<_>>())?;
        }
        optimizer.step()?;
        x = match wide {
            true => optimizer.read_blocking(id)?,
            false => optimizer.read_blocking::<f32>(id)?.into_iter().map(f64::from).collect(),
        };
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        errors.push(norm / (DIMENSIONS as f64).sqrt());
    }
    let (half, last) = (errors.len() / 2, errors.len() - 1);
    let measured = (errors[last] / errors[half]).powf(1.0 / (last - half).max(1) as f64);
    Ok(Rate { rule, kappa, theory, measured, errors })
}

/// x after each step, kept between −1 and 1.
fn reddi(device: &Device, rule: Adam, steps: u32) -> Outcome<Vec<f64>> {
    let mut optimizer = Optimizer::new(device, rule, Settings::lr(0.5))?;
    // lr / √t, as in the paper.
    optimizer.set_schedule(0, Schedule::InverseSqrt { warmup: 1 })?;
    let id = optimizer.add(0, "x", &[0.0f32])?;
    let mut path = vec![0.0];
    for t in 1..=steps {
        let gradient = if t % 3 == 1 { 3.0 } else { -1.0 };
        optimizer.write_gradient(id, &[gradient as f32])?;
        optimizer.step()?;
        let x = optimizer.read_blocking::<f32>(id)?[0].clamp(-1.0, 1.0);
        optimizer.write(id, &[x])?;
        path.push(x.into());
    }
    Ok(path)
}

struct Sheet {
    rates: Vec<Rate>,
    reddi: [(&'static str, Vec<f64>); 2],
}

impl Picture for Sheet {
    fn size(&self) -> (u32, u32) {
        (1040, 640)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Outcome<()>
    where
        B::ErrorType: 'static,
    {
        let mut kappas: Vec<_> = self.rates.iter().map(|rate| rate.kappa).collect();
        kappas.dedup();
        let panels = area.split_evenly((2, 2));
        for (panel, kappa) in panels.iter().zip(kappas) {
            let ours: Vec<_> = self.rates.iter().filter(|rate| rate.kappa == kappa).collect();
            let most = ours.iter().map(|rate| rate.errors.len()).max().unwrap_or(1);
            let least = ours.iter().flat_map(|rate| rate.errors.last()).copied().fold(1.0, f64::min);
            let mut chart = ChartBuilder::on(panel)
                .caption(format!("quadratic, κ = {kappa} (dashed: theory)"), ("sans-serif", 17))
                .margin(8)
                .x_label_area_size(32)
                .y_label_area_size(56)
                .build_cartesian_2d(0..most, (least..2.0).log_scale())?;
            let mut mesh = chart.configure_mesh();
            mesh.x_desc("steps").y_desc("error").light_line_style(WHITE);
            mesh.y_label_formatter(&|y| format!("{y:.0e}")).draw()?;
            for rate in ours {
                let line = colour(rate.rule);
                let every = most / 200 + 1;
                let points = rate.errors.iter().enumerate().step_by(every).map(|(k, error)| (k, *error));
                let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], line.stroke_width(2));
                chart.draw_series(LineSeries::new(points, line.stroke_width(2)))?.label(rate.rule).legend(key);
                let theory = (0..rate.errors.len())
                    .step_by(every)
                    .map(|k| (k, rate.theory.powi(k as i32)))
                    .filter(|(_, y)| *y > least);
                chart.draw_series(DashedLineSeries::new(theory, 5, 5, line.stroke_width(1)))?;
            }
            let mut key = chart.configure_series_labels();
            key.position(SeriesLabelPosition::UpperRight).background_style(WHITE).border_style(BLACK).draw()?;
        }
        let steps = self.reddi[0].1.len();
        let mut chart = ChartBuilder::on(&panels[3])
            .caption("Reddi et al.: the minimum is at −1", ("sans-serif", 17))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(56)
            .build_cartesian_2d(0..steps, -1.1..1.1)?;
        chart.configure_mesh().x_desc("steps").y_desc("x").light_line_style(WHITE).draw()?;
        for (rule, path) in &self.reddi {
            let line = colour(rule);
            let points = path.iter().enumerate().step_by(steps / 400 + 1).map(|(k, x)| (k, *x));
            let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], line.stroke_width(2));
            chart.draw_series(LineSeries::new(points, line.stroke_width(2)))?.label(*rule).legend(key);
        }
        let mut key = chart.configure_series_labels();
        key.position(SeriesLabelPosition::MiddleRight).background_style(WHITE).border_style(BLACK).draw()?;
        Ok(())
    }
}

fn main() -> ExitCode {
    plot::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Outcome<()> {
    let device = args.device.device()?;
    let bar = ProgressBar::new(11);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    let mut rates = Vec::new();
    for kappa in [10.0, 100.0, 1000.0] {
        for method in methods(kappa) {
            bar.set_message(format!("{}, κ = {kappa}", method.0));
            rates.push(quadratic(&device, kappa, method)?);
            bar.inc(1);
        }
    }
    let beta2 = 1.0 / (1.0 + 3.0f64.powi(2));
    let adam = Adam { beta1: 0.0, beta2, ..Adam::uncorrected() };
    let amsgrad = Adam { beta1: 0.0, beta2, ..Adam::amsgrad_reddi() };
    bar.set_message("Reddi et al.");
    let path = |rule| {
        bar.inc(1);
        reddi(&device, rule, args.steps)
    };
    let reddi = [("adam", path(adam)?), ("amsgrad", path(amsgrad)?)];
    bar.finish_and_clear();
    let sheet = Sheet { rates, reddi };
    plot::save(&sheet, &args.out)?;
    let ends = sheet.reddi.each_ref().map(|(_, path)| path.last().copied().unwrap_or(f64::NAN));
    if args.json {
        for Rate { rule, kappa, theory, measured, errors } in &sheet.rates {
            let steps = errors.len() - 1;
            println!(
                "{}",
                serde_json::json!({ "rule": rule, "kappa": kappa, "steps": steps, "theory": theory, "measured": measured })
            );
        }
        for ((rule, _), end) in sheet.reddi.iter().zip(ends) {
            println!("{}", serde_json::json!({ "rule": rule, "reddi_x": end, "steps": args.steps }));
        }
    } else {
        println!("{}; factor on the error a step", device.name());
        println!("| κ    | method   | steps | theory  | measured |");
        println!("| ---: | -------- | ----: | ------: | -------: |");
        for Rate { rule, kappa, theory, measured, errors } in &sheet.rates {
            println!("| {kappa:4} | {rule:8} | {:5} | {theory:.5} | {measured:.6} |", errors.len() - 1);
        }
        println!(
            "Reddi et al., x after {} steps (minimum −1): Adam {:+.3}, AMSGrad {:+.3}",
            args.steps, ends[0], ends[1]
        );
        println!("{}", args.out.display());
    }
    // What the theory promises: descent and the ball at their rate, Nesterov's method no slower than its bound.
    let broken = |rate: &&Rate| match rate.rule {
        "nesterov" => rate.measured > rate.theory * 1.001,
        _ => (rate.measured - rate.theory).abs() > 0.02,
    };
    if let Some(rate) = sheet.rates.iter().find(broken) {
        return Err(format!("{} at κ = {}: {} for {}", rate.rule, rate.kappa, rate.measured, rate.theory).into());
    }
    if ends[0] < 0.9 || ends[1] > -0.9 {
        return Err("Adam and AMSGrad do not end where they should".into());
    }
    Ok(())
}
