//! The paths that optimizers take down six landscapes: a ravine, Beale, Rosenbrock, a saddle, Himmelblau, a ravine with
//! noise.
//!
//! ```text
//! cargo run --release --example trajectories                  # target/trajectories.svg, a few seconds
//! cargo run --release --example trajectories -- --gif         # and target/trajectories.gif
//! cargo run --release --example trajectories -- --device gpu --rules sgd,adam --out ravine.png
//! ```
//!
//! Each step is `Optimizer::step`, on the CPU or on the GPU. Look for: SGD's zig-zag across the ravine, momentum's
//! overshoot, AdaGrad's steps that shrink, and who leaves the saddle.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::coord::Shift;
use plotters::prelude::*;
use wgpu_optim::{Device, Noise, Optimizer, Settings, rules};

mod plot;
use plot::{Outcome, Picture, Where, colour};

/// Draw the paths of optimizers on six landscapes.
#[derive(Debug, Parser)]
struct Args {
    /// Picture: SVG or PNG, by its name.
    #[arg(long, value_name = "FILE", default_value = "target/trajectories.svg")]
    out: PathBuf,
    /// Also an animation beside it, FILE.gif.
    #[arg(long)]
    gif: bool,
    /// Rules, by name.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "sgd,momentum,nesterov,adagrad,rmsprop,adadelta,adam,amsgrad,adamax,nadam"
    )]
    rules: Vec<String>,
    /// Steps of each path.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// `auto` takes a hardware GPU, else the CPU; `gpu` takes a software adapter, too.
    #[arg(long, value_enum, default_value_t = Where::Auto)]
    device: Where,
}

type Point = [f64; 2];

struct Landscape {
    name: &'static str,
    f: fn(Point) -> f64,
    gradient: fn(Point) -> Point,
    start: Point,
    x: [f64; 2],
    y: [f64; 2],
    minima: &'static [Point],
    /// Of SGD; momentum takes a fifth of it. Near the largest that does not diverge.
    lr: f64,
    /// Of the rules that divide by the size of the gradient: about a thirtieth of the way.
    adaptive_lr: f64,
    noise: f64,
}

const RAVINE: Landscape = Landscape {
    name: "ravine, condition 100",
    f: |[x, y]| 0.5 * (x * x + 100.0 * y * y),
    gradient: |[x, y]| [x, 100.0 * y],
    start: [-4.0, 0.8],
    x: [-5.0, 1.5],
    y: [-1.2, 1.2],
    minima: &[[0.0, 0.0]],
    lr: 0.0185,
    adaptive_lr: 0.15,
    noise: 0.0,
};

const LANDSCAPES: [Landscape; 6] = [
    RAVINE,
    Landscape {
        name: "Beale",
        f: |[x, y]| (1.5 - x + x * y).powi(2) + (2.25 - x + x * y * y).powi(2) + (2.625 - x + x * y * y * y).powi(2),
        gradient: |[x, y]| {
            let (a, b, c) = (1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y);
            let dx = 2.0 * (a * (y - 1.0) + b * (y * y - 1.0) + c * (y * y * y - 1.0));
            [dx, 2.0 * x * (a + 2.0 * b * y + 3.0 * c * y * y)]
        },
        start: [0.7, 1.4],
        x: [-0.5, 4.0],
        y: [-1.2, 1.8],
        minima: &[[3.0, 0.5]],
        lr: 0.01,
        adaptive_lr: 0.1,
        noise: 0.0,
    },
    Landscape {
        name: "Rosenbrock",
        f: |[x, y]| (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2),
        gradient: |[x, y]| {
            let fall = y - x * x;
            [-2.0 * (1.0 - x) - 400.0 * x * fall, 200.0 * fall]
        },
        start: [-1.2, 1.0],
        x: [-1.8, 1.6],
        y: [-0.6, 2.0],
        minima: &[[1.0, 1.0]],
        lr: 0.0012,
        adaptive_lr: 0.08,
        noise: 0.0,
    },
    Landscape {
        name: "saddle, x² − y²",
        f: |[x, y]| x * x - y * y,
        gradient: |[x, y]| [2.0 * x, -2.0 * y],
        start: [-1.5, 0.001],
        x: [-1.8, 0.8],
        y: [-1.4, 1.4],
        minima: &[],
        lr: 0.02,
        adaptive_lr: 0.03,
        noise: 0.0,
    },
    Landscape {
        name: "Himmelblau",
        f: |[x, y]| (x * x + y - 11.0).powi(2) + (x + y * y - 7.0).powi(2),
        gradient: |[x, y]| {
            let (a, b) = (x * x + y - 11.0, x + y * y - 7.0);
            [4.0 * x * a + 2.0 * b, 2.0 * a + 4.0 * y * b]
        },
        start: [-0.4, -0.6],
        x: [-5.0, 5.0],
        y: [-5.0, 5.0],
        minima: &[[3.0, 2.0], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]],
        lr: 0.01,
        adaptive_lr: 0.15,
        noise: 0.0,
    },
    Landscape { name: "ravine, noisy gradients", noise: 8.0, ..RAVINE },
];

impl Landscape {
    /// A rate that suits the rule; AdaDelta has none of its own, and starts from √ε.
    fn lr(&self, rule: &str) -> f64 {
        match rule {
            "sgd" => self.lr,
            rule if rule.starts_with("momentum") || rule.starts_with("nesterov") => self.lr / 5.0,
            "adagrad" => 4.0 * self.adaptive_lr,
            "adadelta" => 60.0 * self.adaptive_lr,
            // Its first step is ten times lr.
            "rmsprop" => self.adaptive_lr / 4.0,
            _ => self.adaptive_lr,
        }
    }

    fn path(&self, device: &Device, rule: &str, steps: u32) -> Outcome<Vec<Point>> {
        let noise = (self.noise > 0.0).then_some(Noise { eta: self.noise, gamma: 0.3, seed: 3 });
        let settings = Settings { noise, ..Settings::lr(self.lr(rule)) };
        let mut optimizer = Optimizer::new(device, rules::by_name(rule)?, settings)?;
        let id = optimizer.add(0, "x", &self.start.map(|x| x as f32))?;
        let mut path = vec![self.start];
        let mut at = self.start;
        for _ in 0..steps {
            optimizer.write_gradient(id, &(self.gradient)(at).map(|g| g as f32))?;
            optimizer.step()?;
            let now = optimizer.read_blocking::<f32>(id)?;
            at = [now[0].into(), now[1].into()];
            if !at.iter().all(|x| x.abs() < 1e6) {
                break;
            }
            path.push(at);
        }
        Ok(path)
    }

    /// Segments of the lines on which f has this value, on a grid of n × n cells: marching squares.
    fn contour(&self, level: f64, n: usize) -> Vec<[Point; 2]> {
        let at = |i: usize, j: usize| {
            let across = |[from, to]: [f64; 2], k: usize| from + (to - from) * k as f64 / n as f64;
            [across(self.x, i), across(self.y, j)]
        };
        let mut segments = Vec::new();
        for i in 0..n {
            for j in 0..n {
                let corners = [at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)];
                let crossing = |k: usize| {
                    let (a, b) = (corners[k], corners[(k + 1) % 4]);
                    let (fa, fb) = ((self.f)(a) - level, (self.f)(b) - level);
                    let t = fa / (fa - fb);
                    ((fa < 0.0) != (fb < 0.0)).then(|| [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])])
                };
                let crossings: Vec<_> = (0..4).filter_map(crossing).collect();
                segments.extend(crossings.chunks_exact(2).map(|pair| [pair[0], pair[1]]));
            }
        }
        segments
    }

    /// Values from the lowest to the highest in the picture, closer where it is low.
    fn levels(&self) -> Vec<f64> {
        let n = 40;
        let across = |[from, to]: [f64; 2], k: usize| from + (to - from) * k as f64 / n as f64;
        let values = (0..=n).flat_map(|i| (0..=n).map(move |j| (i, j)));
        let values = values.map(|(i, j)| (self.f)([across(self.x, i), across(self.y, j)]));
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), f| (low.min(f), high.max(f)));
        (1..14).map(|k| low + (high - low) * (f64::from(k) / 14.0).powi(3)).collect()
    }
}

/// The six landscapes with the paths up to a step.
struct Sheet<'a> {
    rules: &'a [String],
    /// By landscape and rule.
    paths: &'a [Vec<Vec<Point>>],
    contours: &'a [Vec<[Point; 2]>],
    upto: usize,
}

impl Picture for Sheet<'_> {
    fn size(&self) -> (u32, u32) {
        (1080, 690)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Outcome<()>
    where
        B::ErrorType: 'static,
    {
        let (panels, key) = area.split_vertically(650);
        for (k, (panel, landscape)) in panels.split_evenly((2, 3)).iter().zip(&LANDSCAPES).enumerate() {
            let mut chart = ChartBuilder::on(panel)
                .caption(landscape.name, ("sans-serif", 17))
                .margin(8)
                .x_label_area_size(22)
                .y_label_area_size(34)
                .build_cartesian_2d(landscape.x[0]..landscape.x[1], landscape.y[0]..landscape.y[1])?;
            chart.configure_mesh().disable_mesh().x_labels(5).y_labels(5).draw()?;
            let inside = |[x, y]: &Point| {
                (landscape.x[0]..landscape.x[1]).contains(x) && (landscape.y[0]..landscape.y[1]).contains(y)
            };
            let grey = RGBColor(190, 190, 200);
            let lines = self.contours[k].iter().map(|[a, b]| PathElement::new([(a[0], a[1]), (b[0], b[1])], grey));
            chart.draw_series(lines)?;
            let minima = landscape.minima.iter().map(|m| Cross::new((m[0], m[1]), 5, BLACK.stroke_width(2)));
            chart.draw_series(minima)?;
            for (rule, path) in self.rules.iter().zip(&self.paths[k]) {
                let path = &path[..path.len().min(self.upto + 1)];
                let colour = colour(rule);
                // Step by step: plotters draws the tip of a sharp turn in one line far beyond it. What leaves the
                // picture is left out.
                let steps = path.windows(2).filter(|step| step.iter().all(inside));
                let lines = steps.map(|step| step.iter().map(|p| (p[0], p[1])).collect::<Vec<_>>());
                chart.draw_series(lines.map(|line| PathElement::new(line, colour.stroke_width(2))))?;
                let last = path.last().filter(|point| inside(point));
                chart.draw_series(last.map(|p| Circle::new((p[0], p[1]), 4, colour.filled())))?;
            }
        }
        for (k, rule) in self.rules.iter().enumerate() {
            let x = 20 + 1040 / self.rules.len() as i32 * k as i32;
            key.draw(&PathElement::new([(x, 18), (x + 20, 18)], colour(rule).stroke_width(3)))?;
            key.draw(&Text::new(rule.clone(), (x + 25, 10), ("sans-serif", 15)))?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    plot::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Outcome<()> {
    let device = args.device.device()?;
    let bar = ProgressBar::new((LANDSCAPES.len() * args.rules.len()) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    let mut paths = Vec::new();
    for landscape in &LANDSCAPES {
        bar.set_message(landscape.name);
        let path = |rule: &String| {
            bar.inc(1);
            landscape.path(&device, rule, args.steps)
        };
        paths.push(args.rules.iter().map(path).collect::<Result<Vec<_>, _>>()?);
    }
    bar.finish_and_clear();
    let contour = |landscape: &Landscape| landscape.levels().iter().flat_map(|&f| landscape.contour(f, 48)).collect();
    let contours: Vec<_> = LANDSCAPES.iter().map(contour).collect();
    let sheet = |upto| Sheet { rules: &args.rules, paths: &paths, contours: &contours, upto };
    plot::save(&sheet(args.steps as usize), &args.out)?;
    println!("{} by {}", args.out.display(), device.name());
    if args.gif {
        let path = args.out.with_extension("gif");
        plot::font()?;
        let area = BitMapBackend::gif(&path, sheet(0).size(), 80)?.into_drawing_area();
        // Steps are slow at first, so that one sees them.
        let frames = 60.min(args.steps);
        for frame in 1..=frames {
            area.fill(&WHITE)?;
            let part = f64::from(frame) / f64::from(frames);
            sheet((f64::from(args.steps) * part * part).ceil() as usize).draw(&area)?;
            area.present()?;
        }
        println!("{}", path.display());
    }
    for (landscape, paths) in LANDSCAPES.iter().zip(&paths) {
        let ends = args.rules.iter().zip(paths).map(|(rule, path)| {
            let end = path.last().map_or(f64::NAN, |&end| (landscape.f)(end));
            format!("{rule} {end:.2e}")
        });
        println!("{:24} f after {} steps: {}", landscape.name, args.steps, ends.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}
