//! All learning-rate schedules on one sheet.
//!
//! ```text
//! cargo run --release --example schedules                     # target/schedules.svg, at once
//! cargo run --release --example schedules -- --out all.png --steps 500
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use plotters::coord::Shift;
use plotters::prelude::*;
use wgpu_optim::Schedule;

#[allow(dead_code, reason = "schedules have neither colours nor a device of their own")]
mod plot;
use plot::{Outcome, Picture};

/// Draw all learning-rate schedules: the factor on the rate, and the momentum where it cycles.
#[derive(Debug, Parser)]
struct Args {
    /// Picture: SVG or PNG, by its name.
    #[arg(long, value_name = "FILE", default_value = "target/schedules.svg")]
    out: PathBuf,
    /// Steps of each.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(20..=100_000))]
    steps: u64,
}

/// Each over n steps.
fn schedules(n: u64) -> Vec<(&'static str, Schedule)> {
    let polynomial = |power, cycle, steps| Schedule::Polynomial { from: 1.0, to: 0.0, steps, power, cycle };
    let cyclic = |per_cycle, momentum| Schedule::Cyclic {
        low: 0.1,
        up: n / 10,
        down: n / 10,
        per_cycle,
        per_step: 1.0,
        momentum,
    };
    let plain = Schedule::CosineRestarts { to: 0.0, steps: n / 7, t_mult: 2.0, m_mult: 1.0 };
    vec![
        ("constant", Schedule::Constant(0.7)),
        ("step", Schedule::Step { every: n / 5, gamma: 0.5 }),
        ("multi-step", Schedule::MultiStep { milestones: vec![n / 3, 3 * n / 4], gamma: 0.3 }),
        ("exponential", Schedule::Exponential { gamma: 0.1, every: n as f64 / 2.0 }),
        ("linear", Schedule::linear(1.0, 0.0, n)),
        ("polynomial, power 2, cycling", polynomial(2.0, true, n / 3)),
        ("cosine, after a warm-up", Schedule::cosine(9 * n / 10).warmup(n / 10)),
        ("cosine with warm restarts", plain),
        ("inverse square root", Schedule::InverseSqrt { warmup: n / 10 }),
        ("Robbins–Monro, 1/t", Schedule::robbins_monro()),
        (
            "Noam (× 100)",
            Schedule::Product(vec![Schedule::Constant(100.0), Schedule::Noam { d_model: 512, warmup: n / 5 }]),
        ),
        ("warm-up, stable, decay", Schedule::warmup_stable_decay(n / 10, n / 2, n / 4, 0.1)),
        ("one-cycle", Schedule::one_cycle(n, 0.3, 25.0, 1e4, true, false, [0.85, 0.95])),
        ("cyclic, halved each cycle", cyclic(0.5, None)),
        ("cyclic, with the momentum", cyclic(1.0, Some((0.8, 0.9)))),
        ("piecewise", Schedule::Piecewise { boundaries: vec![n / 4, n / 2], values: vec![0.2, 1.0, 0.5] }),
    ]
}

struct Sheet {
    schedules: Vec<(&'static str, Schedule)>,
    steps: u64,
}

impl Picture for Sheet {
    fn size(&self) -> (u32, u32) {
        (1040, 720)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Outcome<()>
    where
        B::ErrorType: 'static,
    {
        for (panel, (name, schedule)) in area.split_evenly((4, 4)).iter().zip(&self.schedules) {
            let mut chart = ChartBuilder::on(panel)
                .caption(*name, ("sans-serif", 15))
                .margin(8)
                .x_label_area_size(20)
                .y_label_area_size(28)
                .build_cartesian_2d(0..self.steps, 0.0..1.05)?;
            let mut mesh = chart.configure_mesh();
            mesh.x_labels(4).y_labels(5).light_line_style(WHITE).y_label_formatter(&|y| format!("{y:.1}")).draw()?;
            let rate = (0..self.steps).map(|k| (k, schedule.at(k)));
            chart.draw_series(LineSeries::new(rate, RGBColor(214, 39, 40).stroke_width(2)))?;
            let momentum = (0..self.steps).filter_map(|k| Some((k, schedule.momentum(k)?)));
            chart.draw_series(DashedLineSeries::new(momentum, 4, 3, RGBColor(31, 119, 180).stroke_width(1)))?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    plot::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Outcome<()> {
    let sheet = Sheet { schedules: schedules(args.steps), steps: args.steps };
    plot::save(&sheet, &args.out)?;
    println!("{}: {} schedules (dashed: the momentum)", args.out.display(), sheet.schedules.len());
    Ok(())
}
