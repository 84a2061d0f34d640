//! What a precision costs and saves: a step in turn with the step in f32, and with a copy of the traffic.

use serde_json::json;
use wgpu_optim::{AnyRule, Device, Error, Extent, Format, Optimizer, Precision, Rounding, States};

use super::clock::{Clock, Pair, interleave, wall};
use super::copy::{CpuCopy, GpuCopy};
use super::report::{table, time};
use super::scale::device_bytes;
use crate::cli::say;

/// A precision by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// Everything in f32.
    F32,
    /// Gradients in f16.
    F16Gradients,
    /// Gradients in bf16.
    Bf16Gradients,
    /// A mirror of the parameter in f16.
    F16Mirror,
    /// A mirror of the parameter in bf16.
    Bf16Mirror,
    /// States in 8 bits, second moments rounded stochastically.
    Block8,
    /// States in 8 bits, rounded to the nearest.
    Block8Nearest,
    /// States in 8 bits, second moments as logarithms.
    Relative8,
    /// Parameters in bf16 with their remainders, gradients in bf16.
    ExactMaster,
    /// As exact-master, states in 8 bits.
    ExactMasterBlock8,
    /// Parameters, gradients and states in bf16.
    Bf16,
    /// Parameters and gradients in bf16, states in 8 bits.
    Bf16Block8,
}

impl Name {
    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::f32(),
            Self::F16Gradients => Precision { gradients: Format::F16, ..Precision::f32() },
            Self::Bf16Gradients => Precision { gradients: Format::Bf16, ..Precision::f32() },
            Self::F16Mirror => Precision { mirror: Some(Format::F16), ..Precision::f32() },
            Self::Bf16Mirror => Precision { mirror: Some(Format::Bf16), ..Precision::f32() },
            Self::Block8 => Precision::block8(),
            Self::Block8Nearest => Precision { rounding: Rounding::Nearest, ..Precision::block8() },
            Self::Relative8 => Precision { states: States::Relative8, ..Precision::f32() },
            Self::ExactMaster => Precision::bf16_exact_master(),
            Self::ExactMasterBlock8 => Precision { states: States::Block8, ..Precision::bf16_exact_master() },
            Self::Bf16 => Precision::bf16(),
            Self::Bf16Block8 => Precision { states: States::Block8, ..Precision::bf16() },
        }
    }

    fn text(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// One rule in one precision on one device.
pub(crate) struct Row {
    adapter: Option<String>,
    rule: String,
    precision: String,
    len: usize,
    /// Of a parameter and its states, and what a step moves of a parameter.
    memory: f64,
    traffic: f64,
    /// Of all buffers of the optimizer, where wgpu counts them.
    device_bytes: Option<u64>,
    /// Itself and f32, itself and the copy.
    of_f32: Pair,
    of_copy: Pair,
    copy_bytes: f64,
}

/// Bytes of a state's number.
fn bytes_of_state(precision: Precision, len: usize) -> f64 {
    match precision.states {
        States::Bf16 => 2.0,
        States::F32 => 4.0,
        _ if len < precision.min_8bit_size => 4.0,
        _ => 1.0 + 4.0 / 256.0,
    }
}

/// Measures a rule in this precision on a device.
pub(crate) fn measure(device: &Device, (name, rule): (&str, &AnyRule), of: Name, len: usize) -> Result<Row, Error> {
    let precision = of.precision();
    let gpu = if let Device::Gpu(gpu) = device { Some(gpu) } else { None };
    let values: Vec<f32> = (0..len).map(|i| (i % 1000) as f32 / 1000.0 - 0.5).collect();
    let make = |precision: Precision| -> Result<Optimizer, Error> {
        let mut optimizer = Optimizer::new(device, rule.clone(), rule.default_lr())?;
        optimizer.set_precision(0, precision)?;
        optimizer.add_all(0, &[("w", values.as_slice())])?;
        optimizer.write_gradient("w", &values)?;
        Ok(optimizer)
    };
    let before = gpu.map_or(Ok(None), device_bytes)?;
    let mut ours = make(precision)?;
    ours.step()?;
    let now = gpu.map_or(Ok(None), device_bytes)?;
    let mut f32 = make(Precision::f32())?;
    let states = rule.storage().iter().filter(|state| state.extent == Extent::Element).count();
    // On the CPU a mirror is not kept, and an exact master is f32.
    let mirror = precision.mirror.filter(|_| gpu.is_some()).map_or(0.0, |format| format.size() as f64);
    let parameter = if precision.exact_master { 4.0 } else { precision.parameters.size() as f64 };
    let moved = 2.0 * (parameter - 4.0 + states as f64 * bytes_of_state(precision, len)) + mirror;
    // The copy is of f32: with as many states as are nearest to the bytes.
    let copied = (moved.max(0.0) / 8.0).round() as usize;
    let (of_f32, of_copy) = match gpu {
        None => {
            let mut copy = CpuCopy::new(len, copied)?;
            let of_f32 = interleave(|| wall(|| ours.step()), || wall(|| f32.step()))?;
            (of_f32, interleave(|| wall(|| ours.step()), || wall(|| copy.run()))?)
        }
        Some(gpu) => {
            let (clock, copy) = (Clock::new(gpu), GpuCopy::new(gpu, len, copied)?);
            let step = |optimizer: &mut Optimizer| clock.time(|encoder| optimizer.encode(encoder));
            let of_f32 = interleave(|| step(&mut ours), || clock.time(|encoder| f32.encode(encoder)))?;
            (of_f32, interleave(|| step(&mut ours), || clock.time(|encoder| copy.record(encoder)))?)
        }
    };
    Ok(Row {
        adapter: gpu.map(wgpu_optim::Gpu::name),
        rule: name.to_owned(),
        precision: of.text(),
        len,
        memory: parameter + mirror + states as f64 * bytes_of_state(precision, len),
        traffic: 8.0 + precision.gradients.size() as f64 + moved,
        device_bytes: now.zip(before).map(|(now, before)| now.saturating_sub(before)),
        of_f32,
        of_copy,
        copy_bytes: 12.0 + 8.0 * copied as f64,
    })
}

impl Row {
    /// The time of a step, as a multiple of that in f32.
    fn time_of_f32(&self) -> f64 {
        1.0 / self.of_f32.ratio
    }

    /// The step's speed as a part of the copy's.
    fn fraction_of_copy(&self) -> f64 {
        self.of_copy.ratio * self.traffic / self.copy_bytes
    }
}

pub(crate) fn json(row: &Row) -> String {
    json!({
        "rule": row.rule,
        "precision": row.precision,
        "device": if row.adapter.is_some() { "gpu" } else { "cpu" },
        "adapter": row.adapter,
        "elements": row.len,
        "memory_bytes_per_param": row.memory,
        "bytes_per_param": row.traffic,
        "device_bytes": row.device_bytes,
        "ms": row.of_f32.ms[0],
        "f32_ms": row.of_f32.ms[1],
        "time_of_f32": row.time_of_f32(),
        "noise": row.of_f32.noise,
        "fraction_of_copy": row.fraction_of_copy(),
        "rounds": row.of_f32.rounds,
    })
    .to_string()
}

pub(crate) fn print(rows: &[Row]) {
    say(
        None,
        "Precisions beside f32: bytes of a parameter and its states in memory, and of what a step moves; medians of \
         rounds in turn",
    );
    let cells = |row: &Row| {
        vec![
            row.adapter.clone().unwrap_or_else(|| "CPU".into()),
            row.rule.clone(),
            row.precision.clone(),
            row.len.to_string(),
            format!("{:.2}", row.memory),
            format!("{:.1}", row.traffic),
            time(row.of_f32.ms[0]),
            format!("{:.2}", row.time_of_f32()),
            format!("{:.3}", row.of_f32.noise),
            format!("{:.2}", row.fraction_of_copy()),
        ]
    };
    let header = ["device", "rule", "precision", "parameters", "memory", "moved", "time", "of f32", "noise", "of copy"];
    table(&header, 3, rows.iter().map(cells).collect());
}
