//! `wgpu-optim bench`: rules on the CPU and on adapters. Each is compared with the CPU, then timed in turn with a copy
//! of the same memory traffic. A verdict in words follows.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::ProgressBar;
use wgpu_optim::{AnyRule, Device, Error, Extent, Gpu, rules};

use super::{Adapters, Outcome, devices, progress, say};
use baselines::{ByHand, Unfused};
use clock::{Clock, Pair, interleave, wall};
use copy::{CpuCopy, GpuCopy};
use row::{Baseline, COMPARED, Row, TOLERANCE};
use shapes::Shape;
use subject::{Memory, Subject};

mod baselines;
mod clock;
mod copy;
mod features;
mod plot;
mod precision;
mod report;
mod row;
mod scale;
mod shapes;
mod subject;
mod verdict;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rules to run, separated by commas, or `all`; default: ten that people use. A wrong name lists them.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    rules: Vec<String>,
    /// Tensors to step: one of a length (1000000, 2^20), several of one length (200x4096), gpt2 (148 tensors), resnet50
    /// (161 tensors).
    #[arg(long, alias = "sizes", value_delimiter = ',', value_name = "SHAPE,…", default_value = "2^20")]
    shapes: Vec<Shape>,
    /// Where the tensors are.
    #[arg(long, value_delimiter = ',', value_name = "WHERE,…", default_value = "arena")]
    memory: Vec<Memory>,
    #[command(flatten)]
    adapters: Adapters,
    /// Also time what people use instead of our Adam: the kernel that they write by hand, one kernel for each
    /// operation, one CPU thread.
    #[arg(long)]
    baselines: bool,
    /// Also time clipping, loss scaling and averaging against plain Adam.
    #[arg(long)]
    features: bool,
    /// Also time the rules with memory in these precisions, beside f32.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    precision: Vec<precision::Name>,
    /// Also time the start: from no device to the end of the first step.
    #[arg(long)]
    startup: bool,
    /// One JSON object for each row instead of tables and verdict.
    #[arg(long)]
    json: bool,
    /// Draw GB/s against size, with the copy, into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// What runs by default.
const COMMON: [&str; 10] =
    ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "amsgrad", "nadam", "lamb"];

impl Args {
    /// Whether nothing was asked for but how the rules do.
    fn overview(&self) -> bool {
        let one = self.shapes.len() == 1 && self.shapes.iter().all(|shape| shape.lens.len() == 1);
        self.rules.is_empty() && one && self.memory == [Memory::Arena] && !self.json
    }

    fn chosen(&self) -> Result<Vec<(String, AnyRule)>, Error> {
        if self.rules.iter().any(|name| name == "all") {
            return Ok(rules::all().into_iter().map(|(name, rule)| (name.to_owned(), rule)).collect());
        }
        let default = if self.rules.is_empty() { &COMMON[..] } else { &[] };
        let names = self.rules.iter().map(String::as_str).chain(default.iter().copied());
        names.map(|name| Ok((name.to_owned(), rules::by_name(name)?))).collect()
    }
}

pub(crate) fn run(args: &Args) -> Outcome {
    let (chosen, overview) = (args.chosen()?, args.overview());
    if args.plot.is_some() && args.shapes.iter().all(|shape| shape.lens.len() != 1) {
        return Err("--plot draws shapes of one tensor, for example --shapes 2^10,2^14,2^20,2^24".into());
    }
    let devices = devices(&args.adapters)?;
    if !args.json {
        verdict::announce(chosen.len(), &args.shapes, &devices.gpus);
    }
    let gpus = devices.said();
    let bar = (!args.json).then(|| progress(chosen.len() * args.shapes.len() * args.memory.len() * (1 + gpus.len())));
    let (mut rows, mut baselines) = (Vec::new(), Vec::new());
    for shape in &args.shapes {
        let data = data(shape.elements());
        for &memory in &args.memory {
            for (name, rule) in &chosen {
                measure(&gpus, (name, rule), shape, memory, &data, bar.as_ref(), &mut rows)?;
            }
        }
        if args.baselines || overview {
            measure_by_hand(&gpus, shape, &data, &mut baselines)?;
        }
        if args.baselines {
            measure_baselines(&gpus, shape, &data, &mut baselines)?;
        }
    }
    bar.iter().for_each(ProgressBar::finish_and_clear);
    match args.json {
        true => rows.iter().for_each(|row| say(None, &report::json_row(row))),
        false => report::rows(&rows, &gpus, overview),
    }
    if args.baselines {
        report::baselines(&baselines, args.json);
    }
    if args.features {
        let mut rows = Vec::new();
        for shape in &args.shapes {
            for device in gpus.iter().map(Device::from).chain([Device::Cpu]) {
                rows.extend(features::measure(&device, shape.elements())?);
            }
        }
        match args.json {
            true => rows.iter().for_each(|row| say(None, &features::json(row))),
            false => features::print(&rows),
        }
    }
    if !args.precision.is_empty() {
        let mut rows = Vec::new();
        for shape in &args.shapes {
            for device in gpus.iter().map(Device::from).chain([Device::Cpu]) {
                for (name, rule) in &chosen {
                    for &of in &args.precision {
                        rows.push(precision::measure(&device, (name, rule), of, shape.elements())?);
                    }
                }
            }
        }
        match args.json {
            true => rows.iter().for_each(|row| say(None, &precision::json(row))),
            false => precision::print(&rows),
        }
    }
    if args.startup {
        scale::startup(&gpus, args.json)?;
    }
    if let Some(file) = &args.plot {
        plot::draw(file, &rows)?;
    }
    if !args.json {
        verdict::print(&rows, &baselines, &gpus, overview);
    }
    if rows.iter().any(Row::differs) {
        return Err(format!("CPU and GPU differ by more than {TOLERANCE:.0e}: see the last column").into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Parameters of ordinary size. Gradients are the same numbers, from a later element on.
fn data(len: usize) -> Vec<f32> {
    // A congruential sequence is cheap, and equal on every machine.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len + COMPARED * 7).map(|_| next()).collect()
}

/// Takes the steps that are compared, calls `seen` with the parameters after each, and returns the last ones.
fn compared(subject: &mut Subject, data: &[f32], len: usize, mut seen: impl FnMut(&[f32])) -> Result<Vec<f32>, Error> {
    for k in 1..=COMPARED {
        subject.set_gradients(&data[7 * k..7 * k + len])?;
        subject.step()?;
        seen(&subject.read()?);
    }
    subject.read()
}

/// Measures one rule on the CPU and on every adapter.
fn measure(
    gpus: &[Gpu],
    (name, rule): (&str, &AnyRule),
    shape: &Shape,
    memory: Memory,
    data: &[f32],
    bar: Option<&ProgressBar>,
    rows: &mut Vec<Row>,
) -> Result<(), Error> {
    let states = rule.storage().iter().filter(|state| state.extent == Extent::Element).count();
    let len = shape.elements();
    let show = |device: &str| bar.iter().for_each(|bar| bar.set_message(format!("{name} {} on {device}", shape.name)));
    let row = |adapter, clock, pair, on_gpu, of_one| Row {
        rule: rule.name(),
        variant: name.to_owned(),
        adapter,
        clock,
        memory,
        shape: shape.clone(),
        bytes: rule.bytes_per_parameter(),
        copy_bytes: 4 * (3 + 2 * states),
        pair,
        on_gpu,
        state_bytes: 4 * states,
        of_one,
    };
    let beside_one = |device: &Device, many: &mut Subject| -> Result<Option<Pair>, Error> {
        if shape.lens.len() == 1 {
            return Ok(None);
        }
        let mut one = Subject::new(device, rule, &[len], Memory::Arena, &data[..len])?;
        one.set_gradients(&data[7..7 + len])?;
        interleave(|| wall(|| one.step()), || wall(|| many.step())).map(Some)
    };
    show("CPU");
    let mut subject = Subject::new(&Device::Cpu, rule, &shape.lens, memory, &data[..len])?;
    let mut scale: Vec<_> = data[..len].iter().map(|x| x.abs()).collect();
    let expected = compared(&mut subject, data, len, |now| {
        scale.iter_mut().zip(now).for_each(|(scale, x)| *scale = scale.max(x.abs()));
    })?;
    let mut copy = CpuCopy::new(len, states)?;
    let pair = interleave(|| wall(|| subject.step()), || wall(|| copy.run()))?;
    drop(copy);
    // On the CPU pool and buffers are both slices: one row.
    let again = |row: &Row| row.adapter.is_none() && row.variant == name && row.shape.name == shape.name;
    if memory != Memory::Buffers || !rows.iter().any(|row| row.memory == Memory::Pool && again(row)) {
        rows.push(row(None, "wall", pair, None, beside_one(&Device::Cpu, &mut subject)?));
    }
    drop(subject);
    bar.iter().for_each(|bar| bar.inc(1));
    for gpu in gpus {
        show(&gpu.name());
        let clock = Clock::new(gpu);
        let before = scale::device_bytes(gpu)?;
        let mut subject = Subject::new(&gpu.into(), rule, &shape.lens, memory, &data[..len])?;
        let error = worst(&compared(&mut subject, data, len, |_| ())?, &expected, &scale);
        let bytes = scale::device_bytes(gpu)?.zip(before).map(|(now, before)| now.saturating_sub(before));
        let copy = GpuCopy::new(gpu, len, states)?;
        let step = || clock.time(|encoder| subject.optimizer.encode(encoder));
        let pair = interleave(step, || clock.time(|encoder| copy.record(encoder)))?;
        drop(copy);
        let on_gpu = Some((subject.optimizer.dispatches(), bytes, error));
        let of_one = beside_one(&gpu.into(), &mut subject)?;
        rows.push(row(Some(gpu.name()), clock.name(), pair, on_gpu, of_one));
        bar.iter().for_each(|bar| bar.inc(1));
    }
    Ok(())
}

/// Adam of this shape, in the arena.
fn adam(device: &Device, shape: &Shape, data: &[f32]) -> Result<(Subject, usize), Error> {
    let (adam, values) = (rules::by_name("adam")?, &data[..shape.elements()]);
    let mut subject = Subject::new(device, &adam, &shape.lens, Memory::Arena, values)?;
    subject.set_gradients(values)?;
    Ok((subject, adam.bytes_per_parameter()))
}

/// Our Adam beside the kernel that people write by hand.
fn measure_by_hand(gpus: &[Gpu], shape: &Shape, data: &[f32], rows: &mut Vec<Baseline>) -> Result<(), Error> {
    for gpu in gpus {
        let (mut ours, bytes) = adam(&gpu.into(), shape, data)?;
        let mut by_hand = ByHand::new(gpu, &shape.lens)?;
        let theirs = || wall(|| by_hand.step().and_then(|()| clock::wait(gpu)));
        let pair = interleave(|| wall(|| ours.step()), theirs)?;
        rows.push(Baseline { name: "by hand", adapter: Some(gpu.name()), shape: shape.clone(), bytes, pair });
    }
    Ok(())
}

/// Our Adam beside one kernel for each operation, and beside itself on one CPU thread.
fn measure_baselines(gpus: &[Gpu], shape: &Shape, data: &[f32], rows: &mut Vec<Baseline>) -> Result<(), Error> {
    for gpu in gpus {
        let (mut ours, _) = adam(&gpu.into(), shape, data)?;
        let (unfused, clock) = (Unfused::new(gpu, &shape.lens)?, Clock::wall(gpu));
        let theirs = || clock.time(|encoder| unfused.record(encoder));
        let (pair, adapter) = (interleave(|| wall(|| ours.step()), theirs)?, Some(gpu.name()));
        rows.push(Baseline { name: "unfused", adapter, shape: shape.clone(), bytes: Unfused::bytes(), pair });
    }
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let one = one.map_err(|e| Error::Rejected { operation: "a thread", reason: e.to_string() })?;
    let ((mut ours, bytes), (mut alone, _)) = (adam(&Device::Cpu, shape, data)?, adam(&Device::Cpu, shape, data)?);
    let pair = interleave(|| wall(|| ours.step()), || one.install(|| wall(|| alone.step())))?;
    rows.push(Baseline { name: "one thread", adapter: None, shape: shape.clone(), bytes, pair });
    Ok(())
}

/// The worst error, each scaled by its parameter's largest magnitude. NaN is the worst of all.
fn worst(x: &[f32], expected: &[f32], scale: &[f32]) -> f64 {
    let error = |((&x, &b), &scale): ((&f32, &f32), &f32)| {
        if x == b { 0.0 } else { (f64::from(x) - f64::from(b)).abs() / f64::from(scale) }
    };
    let errors = x.iter().zip(expected).zip(scale).map(error);
    errors.fold(0.0, |worst, e| if e.is_nan() { f64::INFINITY } else { e.max(worst) })
}
