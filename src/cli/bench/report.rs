//! What `bench` prints: tables, or a JSON object a row.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use wgpu_optim::Gpu;

use super::row::{Baseline, Row};
use super::subject::Memory;
use crate::cli::say;

/// A table: the first `text` columns are text, the others numbers.
pub(super) fn table(header: &[&str], text: usize, rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    table.add_rows(rows);
    for column in text..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    say(None, &table.to_string());
}

pub(super) fn memory(row: &Row) -> &'static str {
    match (row.memory, row.adapter.is_some()) {
        (Memory::Arena, _) => "arena",
        (_, false) => "slices",
        (Memory::Pool, true) => "pool",
        (Memory::Buffers, true) => "buffers",
    }
}

/// A time in a readable unit.
pub(super) fn time(ms: f64) -> String {
    if ms < 0.1 { format!("{:.1} µs", ms * 1e3) } else { format!("{ms:.3} ms") }
}

/// A table for each device. An overview has one shape in one memory, and shows what differs from rule to rule.
pub(super) fn rows(rows: &[Row], gpus: &[Gpu], overview: bool) {
    for adapter in [None].into_iter().chain(gpus.iter().map(|gpu| Some(gpu.name()))) {
        let ours: Vec<_> = rows.iter().filter(|row| row.adapter == adapter).collect();
        let Some(first) = ours.first() else { continue };
        let threads = rayon::current_num_threads();
        let device = adapter.map_or_else(|| format!("CPU, {threads} threads"), |adapter| format!("GPU: {adapter}"));
        say(None, &format!("{device}. Medians of rounds in turn with the copy, by {}.", clock(first.clock)));
        let cells = |row: &&Row| {
            // The copy reads nothing twice.
            let mark = if row.copy_bytes == row.bytes { "" } else { "*" };
            let of_copy = format!("{:.2}{mark}", row.of_copy());
            let error = row.on_gpu.map(|(.., error)| if error == 0.0 { "0".into() } else { format!("{error:.1e}") });
            if overview {
                let gbps = format!("{:.1}", row.gbps());
                let cells = [row.variant.clone(), row.bytes.to_string(), time(row.pair.ms[0]), gbps, of_copy];
                return cells.into_iter().chain(error).collect();
            }
            let mut cells = vec![row.variant.clone(), row.shape.name.clone(), memory(row).into()];
            cells.push(row.bytes.to_string());
            cells.push(time(row.pair.ms[0]));
            cells.extend([row.gbps(), row.copy_gbps()].map(|x| format!("{x:.2}")));
            cells.push(of_copy);
            cells.push(format!("{:.3}", row.pair.noise));
            cells.push(row.of_one.as_ref().map_or("–".into(), |pair| format!("{:.2}", pair.ratio)));
            if let Some((dispatches, bytes, _)) = row.on_gpu {
                let extra = bytes.map(|bytes| (bytes as f64 - row.needed() as f64) / 1024.0);
                cells.push(dispatches.to_string());
                cells.push(extra.map_or("–".into(), |extra| format!("{extra:.0}")));
            }
            cells.extend(error);
            cells
        };
        let mut header = match overview {
            true => vec!["rule", "B/param", "time", "GB/s", "of copy"],
            false => {
                vec!["rule", "tensors", "memory", "B/param", "time", "GB/s", "copy GB/s", "of copy", "noise", "of one"]
            }
        };
        if first.on_gpu.is_some() {
            header.extend(if overview { &["error"][..] } else { &["dispatches", "extra KiB", "worst error"] });
        }
        table(&header, if overview { 1 } else { 3 }, ours.iter().map(cells).collect());
        if ours.iter().any(|row| row.copy_bytes != row.bytes) {
            say(None, "* for each byte: the rule measures norms first, and reads twice what the copy reads once");
        }
    }
}

/// What the times were taken with.
fn clock(name: &str) -> &'static str {
    if name == "wall" { "the host's clock" } else { "the device's timestamps" }
}

pub(super) fn json_row(row: &Row) -> String {
    let Row { rule, variant, adapter, clock, shape, bytes, pair, on_gpu, state_bytes, of_one, .. } = row;
    json!({
        "rule": rule,
        "variant": variant,
        "device": if adapter.is_some() { "gpu" } else { "cpu" },
        "adapter": adapter,
        "clock": clock,
        "memory": if row.memory == Memory::Arena { "arena" } else { "foreign" },
        "place": memory(row),
        "shape": shape.name,
        "tensors": shape.lens.len(),
        "elements": shape.elements(),
        "state_bytes_per_param": state_bytes,
        "bytes_per_param": bytes,
        "ms": pair.ms[0],
        "gbps": row.gbps(),
        "copy_ms": pair.ms[1],
        "copy_bytes_per_param": row.copy_bytes,
        "threads": if adapter.is_some() { None } else { Some(rayon::current_num_threads()) },
        "copy_gbps": row.copy_gbps(),
        "fraction_of_copy": row.of_copy(),
        "noise": pair.noise,
        "rounds": pair.rounds,
        "time_of_one_tensor": of_one.as_ref().map(|pair| pair.ratio),
        "noise_of_one_tensor": of_one.as_ref().map(|pair| pair.noise),
        "dispatches": on_gpu.map(|(dispatches, _, _)| dispatches),
        "device_bytes": on_gpu.and_then(|(_, bytes, _)| bytes),
        "needed_bytes": row.needed(),
        "worst_scaled_error": on_gpu.map(|(_, _, error)| error),
    })
    .to_string()
}

pub(super) fn baselines(rows: &[Baseline], as_json: bool) {
    if as_json {
        for Baseline { name, adapter, shape, bytes, pair } in rows {
            let row = json!({
                "baseline": name,
                "device": if adapter.is_some() { "gpu" } else { "cpu" },
                "adapter": adapter,
                "shape": shape.name,
                "tensors": shape.lens.len(),
                "elements": shape.elements(),
                "bytes_per_param": bytes,
                "clock": "wall",
                "ms": pair.ms[1],
                "our_ms": pair.ms[0],
                "time_of_ours": pair.ratio,
                "noise": pair.noise,
                "rounds": pair.rounds,
            });
            say(None, &row.to_string());
        }
        return;
    }
    if rows.is_empty() {
        return;
    }
    say(
        None,
        "What people use instead of our Adam: time by the host's clock with all submissions, medians of rounds in turn",
    );
    let cells = |Baseline { name, adapter, shape, bytes, pair }: &Baseline| {
        vec![
            adapter.clone().unwrap_or_else(|| "CPU".into()),
            shape.name.clone(),
            (*name).to_owned(),
            bytes.to_string(),
            time(pair.ms[1]),
            time(pair.ms[0]),
            format!("{:.2}", pair.ratio),
            format!("{:.3}", pair.noise),
        ]
    };
    let header = ["device", "tensors", "instead", "B/param", "time", "ours", "of ours", "noise"];
    table(&header, 3, rows.iter().map(cells).collect());
}
