//! `wgpu-optim bench`: every rule on the CPU and on every adapter, first compared, then timed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;
use serde_json::json;
use wgpu_optim::{AnyRule, Device, Error, Gpu, Optimizer, rules};

use super::{Outcome, devices, features, progress, say};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rules to run, separated by commas; default: all. A wrong name lists them.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    rules: Vec<String>,
    /// Numbers of parameters, as 1000000 or 2^20.
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = size, default_value = "2^20")]
    sizes: Vec<usize>,
    /// Only adapters whose name contains this (`none` for the CPU alone).
    #[arg(long, value_name = "TEXT")]
    adapter: Option<String>,
    /// One JSON object a row instead of tables.
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<usize, String> {
    let parsed = match text.split_once('^') {
        Some((base, power)) => base.parse().ok().zip(power.parse().ok()).and_then(|(b, p)| usize::checked_pow(b, p)),
        None => text.parse().ok(),
    };
    parsed.filter(|n| (1..=1 << 30).contains(n)).ok_or_else(|| "a number from 1 to 2^30, as 1000000 or 2^20".into())
}

/// Scaled error that CPU and GPU may be apart after the compared steps: see the golden README.
const TOLERANCE: f64 = 5e-6;
/// Steps that are compared.
const COMPARED: usize = 3;
/// Time for one rule on one device.
const BUDGET: Duration = Duration::from_millis(150);

/// One rule at one size on one device.
struct Measured {
    ms: f64,
    /// Parameters after the compared steps.
    result: Vec<f32>,
    /// The largest magnitude that each parameter has had meanwhile (CPU only).
    scale: Vec<f32>,
}

struct Row {
    name: String,
    len: usize,
    state_bytes: usize,
    bytes: usize,
    cpu_ms: f64,
    gpu: Option<(f64, f64)>,
}

impl Row {
    fn gbps(&self, ms: f64) -> f64 {
        self.bytes as f64 * self.len as f64 / ms / 1e6
    }
}

pub(crate) fn run(args: &Args) -> Outcome {
    let mut chosen = Vec::new();
    for name in &args.rules {
        chosen.push((name.clone(), rules::by_name(name)?));
    }
    if chosen.is_empty() {
        chosen = rules::all().into_iter().map(|(name, rule)| (name.to_owned(), rule)).collect();
    }
    let gpus = devices(args.adapter.as_deref())?;
    let bar = (!args.json).then(|| progress(chosen.len() * args.sizes.len() * (1 + gpus.len())));
    let mut tables: Vec<Vec<Row>> = (0..gpus.len().max(1)).map(|_| Vec::new()).collect();
    for &len in &args.sizes {
        let data = data(len);
        for (name, rule) in &chosen {
            let cpu = measure(&Device::Cpu, rule, &data, bar.as_ref(), name)?;
            let row = |gpu| Row {
                name: name.clone(),
                len,
                state_bytes: 4 * rule.slots().len(),
                bytes: rule.bytes_per_parameter(),
                cpu_ms: cpu.ms,
                gpu,
            };
            if gpus.is_empty() {
                tables[0].push(row(None));
            }
            for (gpu, table) in gpus.iter().zip(&mut tables) {
                let on_gpu = measure(&gpu.into(), rule, &data, bar.as_ref(), name)?;
                table.push(row(Some((on_gpu.ms, worst(&on_gpu.result, &cpu)))));
            }
        }
    }
    bar.iter().for_each(ProgressBar::finish_and_clear);
    let mut failed = false;
    for (k, rows) in tables.iter().enumerate() {
        let adapter = gpus.get(k).map(Gpu::name);
        failed |= rows.iter().any(|row| row.gpu.is_some_and(|(_, error)| error > TOLERANCE));
        match args.json {
            true => rows.iter().for_each(|row| say(None, &json_row(row, adapter.as_deref()))),
            false => print(rows, adapter.as_deref()),
        }
    }
    if chosen.iter().any(|(name, _)| name == "adam") {
        let mut rows = Vec::new();
        for &len in &args.sizes {
            for device in gpus.iter().map(Device::from).chain([Device::Cpu]) {
                rows.extend(features::measure(&device, len)?);
            }
        }
        match args.json {
            true => rows.iter().for_each(|row| say(None, &features::json(row))),
            false => features::print(&rows),
        }
    }
    if failed {
        return Err(format!("CPU and GPU differ by more than {TOLERANCE:.0e}: see the last column").into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Parameters of ordinary size, and a gradient a compared step.
fn data(len: usize) -> Vec<Vec<f32>> {
    // A multiplicative sequence: cheap, and the same on every machine.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..=COMPARED).map(|_| (0..len).map(|_| next()).collect()).collect()
}

fn measure(
    device: &Device,
    rule: &AnyRule,
    data: &[Vec<f32>],
    bar: Option<&ProgressBar>,
    name: &str,
) -> Result<Measured, Error> {
    bar.iter().for_each(|bar| bar.set_message(format!("{name} on {}", device.name())));
    let mut optimizer = Optimizer::new(device, rule.clone(), rule.default_lr())?;
    let w = optimizer.add_all(0, &[("w", data[0].as_slice())])?[0];
    let mut scale: Vec<_> = data[0].iter().map(|x| x.abs()).collect();
    for gradient in &data[1..] {
        optimizer.write_gradient(w, gradient)?;
        optimizer.step()?;
        if matches!(device, Device::Cpu) {
            let now = optimizer.read_blocking::<f32>(w)?;
            scale.iter_mut().zip(now).for_each(|(scale, x)| *scale = scale.max(x.abs()));
        }
    }
    let result = optimizer.read_blocking(w)?;
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < 5 || (start.elapsed() < BUDGET && times.len() < 1000) {
        let step = Instant::now();
        optimizer.step()?;
        if let Device::Gpu(gpu) = device {
            let waited = gpu.device().poll(wgpu::PollType::wait_indefinitely());
            waited.map_err(|e| Error::ReadBack { name: "the step".into(), reason: e.to_string() })?;
        }
        times.push(step.elapsed());
    }
    times.sort();
    bar.iter().for_each(|bar| bar.inc(1));
    Ok(Measured { ms: times[times.len() / 2].as_secs_f64() * 1e3, result, scale })
}

fn worst(x: &[f32], cpu: &Measured) -> f64 {
    let error = |((&x, &b), &scale): ((&f32, &f32), &f32)| {
        if x == b { 0.0 } else { (f64::from(x) - f64::from(b)).abs() / f64::from(scale) }
    };
    let errors = x.iter().zip(&cpu.result).zip(&cpu.scale).map(error);
    errors.fold(0.0, |worst, e| {
        if e <= worst {
            worst
        } else if e.is_nan() {
            f64::INFINITY
        } else {
            e
        }
    })
}

fn json_row(row: &Row, adapter: Option<&str>) -> String {
    let gpu = |f: &dyn Fn(f64, f64) -> f64| row.gpu.map(|(ms, error)| f(ms, error));
    json!({
        "rule": row.name,
        "elements": row.len,
        "adapter": adapter,
        "state_bytes_per_param": row.state_bytes,
        "bytes_per_param": row.bytes,
        "cpu_ms": row.cpu_ms,
        "cpu_gbps": row.gbps(row.cpu_ms),
        "gpu_ms": gpu(&|ms, _| ms),
        "gpu_gbps": gpu(&|ms, _| row.gbps(ms)),
        "worst_scaled_error": gpu(&|_, error| error),
    })
    .to_string()
}

fn print(rows: &[Row], adapter: Option<&str>) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let threads = rayon::current_num_threads();
    let title = adapter.map_or_else(|| "no GPU".to_owned(), |adapter| format!("GPU: {adapter}"));
    say(None, &format!("{title}; CPU: {threads} threads; a step with its submission, median, wall time"));
    let header =
        ["rule", "parameters", "state B", "traffic B", "CPU ms", "CPU GB/s", "GPU ms", "GPU GB/s", "worst error"];
    table.set_header(header);
    for row in rows {
        let gpu = match row.gpu {
            Some((ms, error)) => [format!("{ms:.3}"), format!("{:.2}", row.gbps(ms)), format!("{error:.1e}")],
            None => ["–".into(), "–".into(), "–".into()],
        };
        let mut cells = vec![
            row.name.clone(),
            row.len.to_string(),
            row.state_bytes.to_string(),
            row.bytes.to_string(),
            format!("{:.3}", row.cpu_ms),
            format!("{:.2}", row.gbps(row.cpu_ms)),
        ];
        cells.extend(gpu);
        table.add_row(cells);
    }
    for column in 1..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    say(None, &table.to_string());
}
