//! What `bench` says in words: first what it is about to do, last what it found.

use wgpu_optim::Gpu;

use super::shapes::Shape;
use super::{Baseline, COMPARED, Row, TOLERANCE};
use crate::cli::say;

/// One line before anything runs.
pub(super) fn announce(rules: usize, shapes: &[Shape], gpus: &[Gpu]) {
    let devices: Vec<_> = gpus.iter().map(Gpu::name).collect();
    let shapes: Vec<_> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    let on = match devices.is_empty() {
        true => "on the CPU".into(),
        false => format!("on the CPU and on {}, compared with each other", devices.join(" and ")),
    };
    let rules = if rules == 1 { "One rule".into() } else { format!("{rules} rules") };
    let shapes = shapes.join(", ");
    say(None, &format!("{rules}, {shapes} parameters, {on}; each timed beside a copy of the memory that it moves.\n"));
}

/// The verdict: agreement, Adam beside a copy, Adam beside the kernel by hand, and what to run next.
pub(super) fn print(rows: &[Row], baselines: &[Baseline], gpus: &[Gpu], overview: bool) {
    let mut lines: Vec<_> = gpus.iter().filter_map(|gpu| agreement(rows, &gpu.name())).collect();
    lines.extend(beside_a_copy(rows));
    for Baseline { name, adapter, shape, pair, .. } in baselines {
        if let ("by hand", Some(adapter)) = (*name, adapter) {
            let of = if overview { String::new() } else { format!(", {}", shape.name) };
            let times = pair.ratio;
            lines.push(format!(
                "The Adam kernel that people write by hand takes {times:.2} times as long as ours ({adapter}{of})."
            ));
        }
    }
    if overview {
        // Cargo tells what it runs who runs it.
        let program = if std::env::var_os("CARGO").is_some() { "cargo run --release --" } else { "wgpu-optim" };
        lines.push(format!(
            "Next: `{program} check` compares every rule with PyTorch, Keras and optax; `{program} --rules all` times \
             every variant; `{program} help` lists the rest."
        ));
    }
    if !lines.is_empty() {
        say(None, "");
    }
    lines.iter().for_each(|line| say(None, line));
}

/// How many of the rows on an adapter agree with the CPU, and within what.
fn agreement(rows: &[Row], adapter: &str) -> Option<String> {
    let ours: Vec<_> = rows.iter().filter(|row| row.adapter.as_deref() == Some(adapter)).collect();
    let differ: Vec<_> = ours.iter().filter(|row| row.differs()).map(|row| row.variant.as_str()).collect();
    let (agree, all) = (ours.len() - differ.len(), ours.len());
    let errors = ours.iter().filter(|row| !row.differs()).filter_map(|row| row.on_gpu.map(|(_, _, error)| error));
    let worst = errors.fold(0.0, f64::max);
    let within = match (agree, worst) {
        (0, _) => String::new(),
        (_, 0.0) => ", to the last bit".into(),
        _ => format!(", within {worst:.0e} of each parameter's magnitude ({TOLERANCE:.0e} is allowed)"),
    };
    let but = if differ.is_empty() { String::new() } else { format!(". These differ: {}", differ.join(", ")) };
    let line = format!("{agree} of {all} agree with the CPU on {adapter} after {COMPARED} steps{within}{but}.");
    (all > 0).then_some(line)
}

/// The speed of Adam as a part of a copy, on each device.
fn beside_a_copy(rows: &[Row]) -> Option<String> {
    let adam: Vec<_> = rows.iter().filter(|row| row.variant == "adam").collect();
    let mut devices: Vec<Option<&str>> = Vec::new();
    for row in &adam {
        if !devices.contains(&row.adapter.as_deref()) {
            devices.push(row.adapter.as_deref());
        }
    }
    let of = |device: &Option<&str>| {
        let speeds = adam.iter().filter(|row| row.adapter.as_deref() == *device).map(|row| row.of_copy());
        let (low, high) = speeds.fold((f64::MAX, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        let (low, high) = (format!("{low:.2}"), format!("{high:.2}"));
        let speed = if low == high { low } else { format!("{low} to {high}") };
        format!("{speed} on {}", device.unwrap_or("the CPU"))
    };
    let devices: Vec<_> = devices.iter().map(of).collect();
    let line = format!("Adam runs at this part of the speed of a plain copy of its memory: {}.", devices.join(", "));
    (!devices.is_empty()).then_some(line)
}
