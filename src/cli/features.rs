//! What clipping, loss scaling and averaging cost beside plain Adam: pairs of steps, one after the other.

use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use wgpu_optim::{Averaging, ClipNorm, Device, Error, LossScaler, Optimizer, rules::Adam};

use super::say;

/// Pairs of steps that a ratio is the median of.
const PAIRS: usize = 41;

/// One feature: its name, what sets it up, bytes that it adds to Adam's 28.
type Feature = (&'static str, fn(&mut Optimizer) -> Result<(), Error>, usize);

const FEATURES: [Feature; 5] = [
    ("again", |_| Ok(()), 0),
    ("clip", clip, 4),
    ("clip, scale", |optimizer| clip(optimizer).and_then(|()| scale(optimizer)), 4),
    ("ema", ema, 8),
    ("clip, scale, ema", |optimizer| clip(optimizer).and_then(|()| scale(optimizer)).and_then(|()| ema(optimizer)), 12),
];

fn clip(optimizer: &mut Optimizer) -> Result<(), Error> {
    optimizer.set_clip_norm(ClipNorm::torch(1.0))
}

fn scale(optimizer: &mut Optimizer) -> Result<(), Error> {
    optimizer.set_loss_scaler(LossScaler::default())
}

fn ema(optimizer: &mut Optimizer) -> Result<(), Error> {
    optimizer.set_averaging(0, Averaging::Ema(0.999))
}

/// One feature at one size on one device.
pub(crate) struct Row {
    device: String,
    len: usize,
    feature: &'static str,
    bytes: usize,
    ms: f64,
    ratio: f64,
}

/// Measures all features on a device.
pub(crate) fn measure(device: &Device, len: usize) -> Result<Vec<Row>, Error> {
    let make = |set: fn(&mut Optimizer) -> Result<(), Error>| -> Result<Optimizer, Error> {
        let mut optimizer = Optimizer::new(device, Adam::default(), 1e-3)?;
        set(&mut optimizer)?;
        let values: Vec<f32> = (0..len).map(|i| (i % 1000) as f32 / 1000.0 - 0.5).collect();
        optimizer.add_all(0, &[("w", values.as_slice())])?;
        optimizer.write_gradient("w", &values)?;
        Ok(optimizer)
    };
    let step = |optimizer: &mut Optimizer| -> Result<f64, Error> {
        let start = Instant::now();
        optimizer.step()?;
        if let Device::Gpu(gpu) = device {
            let waited = gpu.device().poll(wgpu::PollType::wait_indefinitely());
            waited.map_err(|e| Error::ReadBack { name: "the step".into(), reason: e.to_string() })?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut rows = Vec::new();
    for (feature, set, extra) in FEATURES {
        let (mut plain, mut with) = (make(|_| Ok(()))?, make(set)?);
        let (mut times, mut ratios) = (Vec::new(), Vec::new());
        for k in 0..PAIRS + 3 {
            let (a, b) = (step(&mut plain)?, step(&mut with)?);
            if k >= 3 {
                times.push(b);
                ratios.push(b / a);
            }
        }
        let bytes = 28 + extra;
        rows.push(Row { device: device.name(), len, feature, bytes, ms: median(times), ratio: median(ratios) });
    }
    Ok(rows)
}

pub(crate) fn json(row: &Row) -> String {
    let Row { device, len, feature, bytes, ms, ratio } = row;
    json!({
        "rule": "adam",
        "feature": feature,
        "device": device,
        "elements": len,
        "bytes_per_param": bytes,
        "ms": ms,
        "time_of_plain_adam": ratio,
        "bytes_of_plain_adam": *bytes as f64 / 28.0,
    })
    .to_string()
}

pub(crate) fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    say(
        None,
        &format!(
            "What features cost beside plain Adam: medians of {PAIRS} interleaved pairs (`again` is plain Adam, too)"
        ),
    );
    table.set_header(["device", "parameters", "Adam with", "traffic B", "of plain", "ms", "time of plain"]);
    for Row { device, len, feature, bytes, ms, ratio } in rows {
        table.add_row([
            device.clone(),
            len.to_string(),
            (*feature).to_owned(),
            bytes.to_string(),
            format!("{:.2}", *bytes as f64 / 28.0),
            format!("{ms:.3}"),
            format!("{ratio:.2}"),
        ]);
    }
    for column in [1, 3, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    say(None, &table.to_string());
}
