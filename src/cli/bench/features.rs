//! What clipping, loss scaling and averaging cost: a step with them in turn with a step of plain Adam.

use serde_json::json;
use wgpu_optim::{Averaging, ClipNorm, Device, Error, LossScaler, Optimizer, rules::Adam};

use super::clock::{Pair, interleave, wait, wall};
use super::report::{table, time};
use crate::cli::say;

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
    adapter: Option<String>,
    len: usize,
    feature: &'static str,
    bytes: usize,
    pair: Pair,
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
    let step = |optimizer: &mut Optimizer| {
        wall(|| {
            optimizer.step()?;
            if let Device::Gpu(gpu) = device { wait(gpu) } else { Ok(()) }
        })
    };
    let mut rows = Vec::new();
    for (feature, set, extra) in FEATURES {
        let (mut plain, mut with) = (make(|_| Ok(()))?, make(set)?);
        let pair = interleave(|| step(&mut plain), || step(&mut with))?;
        let adapter = if let Device::Gpu(gpu) = device { Some(gpu.name()) } else { None };
        rows.push(Row { adapter, len, feature, bytes: 28 + extra, pair });
    }
    Ok(rows)
}

pub(crate) fn json(row: &Row) -> String {
    let Row { adapter, len, feature, bytes, pair } = row;
    json!({
        "rule": "adam",
        "feature": feature,
        "device": if adapter.is_some() { "gpu" } else { "cpu" },
        "adapter": adapter,
        "elements": len,
        "bytes_per_param": bytes,
        "clock": "wall",
        "rounds": pair.rounds,
        "ms": pair.ms[1],
        "time_of_plain_adam": pair.ratio,
        "noise": pair.noise,
        "bytes_of_plain_adam": *bytes as f64 / 28.0,
    })
    .to_string()
}

pub(crate) fn print(rows: &[Row]) {
    say(
        None,
        "What features cost beside plain Adam (`again` is plain Adam too): host's clock, medians of rounds in turn",
    );
    let cells = |Row { adapter, len, feature, bytes, pair }: &Row| {
        vec![
            adapter.clone().unwrap_or_else(|| "CPU".into()),
            (*feature).to_owned(),
            len.to_string(),
            bytes.to_string(),
            format!("{:.2}", *bytes as f64 / 28.0),
            time(pair.ms[1]),
            format!("{:.2}", pair.ratio),
            format!("{:.3}", pair.noise),
        ]
    };
    let header = ["device", "Adam with", "parameters", "B/param", "of plain", "time", "of plain Adam", "noise"];
    table(&header, 2, rows.iter().map(cells).collect());
}
