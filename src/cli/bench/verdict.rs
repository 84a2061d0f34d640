//! What `bench` says in words: first what it is about to do, last what it found.

use wgpu_optim::Gpu;

use super::row::{Baseline, COMPARED, Row, TOLERANCE};
use super::shapes::Shape;
use crate::cli::say;

/// Says in one line what will run.
pub(super) fn announce(rules: usize, shapes: &[Shape], gpus: &[Gpu]) {
    let shapes: Vec<_> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    let devices: Vec<_> = ["the CPU".to_owned()].into_iter().chain(gpus.iter().map(Gpu::name)).collect();
    let rules = if rules == 1 { "1 rule".into() } else { format!("{rules} rules") };
    let (shapes, devices) = (shapes.join(", "), devices.join(", "));
    let compared = if gpus.is_empty() { "" } else { "compared with the CPU, and " };
    say(None, &format!("{rules}, {shapes} parameters, on {devices}."));
    say(None, &format!("Each is {compared}timed in turn with a plain copy of the memory that it moves.\n"));
}

/// A sentence or more for each device, and what to run next.
pub(super) fn print(rows: &[Row], baselines: &[Baseline], gpus: &[Gpu], overview: bool) {
    let mut lines = Vec::new();
    for adapter in [None].into_iter().chain(gpus.iter().map(|gpu| Some(gpu.name()))) {
        let ours: Vec<_> = rows.iter().filter(|row| row.adapter == adapter).collect();
        let mut found: Vec<_> = adapter.iter().filter_map(|_| agreement(&ours)).collect();
        found.extend(beside_a_copy(&ours));
        let by_hand = baselines.iter().filter(|row| row.name == "by hand" && row.adapter == adapter);
        let times: Vec<_> = by_hand.map(|row| row.pair.ratio).collect();
        found
            .extend(range(&times).map(|times| {
                format!("The Adam kernel that people write by hand takes {times} times as long as ours.")
            }));
        if !found.is_empty() {
            lines.push(format!("{}: {}", adapter.as_deref().unwrap_or("CPU"), found.join(" ")));
        }
    }
    if overview {
        // Cargo sets it for what it runs.
        let program = if std::env::var_os("CARGO").is_some() { "cargo run --release --" } else { "wgpu-optim" };
        lines.push(format!(
            "Next: `{program} check` compares every rule with PyTorch, Keras and optax; `{program} --rules all` runs \
             every variant; `{program} --help` lists the rest."
        ));
    }
    if !lines.is_empty() {
        say(None, "");
    }
    lines.iter().for_each(|line| say(None, line));
}

/// How many rows of one adapter agree with the CPU, and within what.
fn agreement(rows: &[&Row]) -> Option<String> {
    let error = |row: &&Row| row.on_gpu.map_or(0.0, |(.., error)| error);
    let differ: Vec<_> = rows.iter().filter(|row| row.differs()).map(|row| row.variant.as_str()).collect();
    let agree: Vec<_> = rows.iter().filter(|row| !row.differs()).map(error).collect();
    let (exact, worst) =
        (agree.iter().filter(|error| **error == 0.0).count(), agree.iter().copied().fold(0.0, f64::max));
    let within = format!("within {worst:.0e} of a parameter's magnitude ({TOLERANCE:.0e} is allowed)");
    let how = match (agree.len(), exact) {
        (0, _) => String::new(),
        (all, exact) if exact == all => ", to the last bit".into(),
        (_, 0) => format!(", {within}"),
        _ => format!(", {exact} of them to the last bit, all {within}"),
    };
    let but = if differ.is_empty() { String::new() } else { format!(" Others differ: {}.", differ.join(", ")) };
    let (agree, all) = (agree.len(), rows.len());
    (all > 0).then(|| format!("{agree} of {all} agree with the CPU after {COMPARED} steps{how}.{but}"))
}

/// The speed of Adam as a part of a copy's.
fn beside_a_copy(rows: &[&Row]) -> Option<String> {
    let adam: Vec<_> = rows.iter().filter(|row| row.variant == "adam").map(|row| row.of_copy()).collect();
    range(&adam).map(|speed| format!("Adam runs at {speed} of the speed of a plain copy."))
}

/// One number, or the lowest and the highest.
fn range(numbers: &[f64]) -> Option<String> {
    let (low, high) = numbers.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let (low, high) = (format!("{low:.2}"), format!("{high:.2}"));
    let range = if low == high { low } else { format!("{low} to {high}") };
    (!numbers.is_empty()).then_some(range)
}
