//! `wgpu-optim schedule`.

use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{Table, presets};
use plotters::prelude::*;
use serde_json::json;
use wgpu_optim::{Error, Schedule};

use super::{Outcome, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The schedule as in Rust: `cosine(1000).warmup(100)`, `one_cycle(1000)`, `step(every: 30, gamma: 0.1)`,
    /// `sequence([(100, linear(0.1, 1, 100)), (0, cosine(900))])`. An unknown word lists all.
    #[arg(value_name = "SCHEDULE")]
    spec: String,
    /// The learning rate that it multiplies.
    #[arg(long, default_value_t = 1.0)]
    lr: f64,
    /// How many steps to show.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    steps: u64,
    /// Draw it into this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// One JSON object for each step instead of a table.
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "wgpu-optim schedule 'cosine(1000).warmup(100)' --lr 0.001 --steps 1100 --plot lr.svg";

pub(crate) fn run(args: &Args) -> Outcome {
    let schedule = Schedule::parse(&args.spec).map_err(|e| match e {
        Error::Schedule { .. } => format!("{e}\nA whole command: {EXAMPLE}"),
        out_of_range => out_of_range.to_string(),
    })?;
    let rate = |k| args.lr * schedule.at(k);
    if let Some(file) = &args.plot {
        plot(file, args.steps, &rate).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    if args.json {
        for k in 0..args.steps {
            say(None, &json!({ "step": k, "lr": rate(k), "momentum": schedule.momentum(k) }).to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["step", "lr", "momentum"]);
    let (every, last) = (args.steps.div_ceil(20), args.steps - 1);
    for k in (0..last).step_by(every as usize).chain([last]) {
        let momentum = schedule.momentum(k).map_or("–".into(), |m| format!("{m:.4}"));
        table.add_row([k.to_string(), format!("{:.6e}", rate(k)), momentum]);
    }
    say(None, &table.to_string());
    Ok(ExitCode::SUCCESS)
}

fn plot(file: &std::path::Path, steps: u64, rate: &dyn Fn(u64) -> f64) -> Result<(), Box<dyn std::error::Error>> {
    let every = steps.div_ceil(2000).max(1) as usize;
    let points: Vec<_> = (0..steps).step_by(every).map(|k| (k as f64, rate(k))).collect();
    let high = points.iter().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
    super::font()?;
    let root = SVGBackend::new(file, (800, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..steps as f64, 0.0..high * 1.05)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("step")
        .x_label_formatter(&|k| format!("{k:.0}"))
        .y_desc("learning rate")
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(LineSeries::new(points, BLUE.stroke_width(2)))?;
    root.present()?;
    Ok(())
}
