//! `wgpu-optim info` and `wgpu-optim shader`.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use wgpu_optim::internals::{self, Driver, Extras, GradientAccess, Lane};
use wgpu_optim::{Gpu, Precision, rules};

use super::{GET_ADAPTER, Outcome, same_device, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object for each adapter instead of tables.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let adapters = match pollster::block_on(Gpu::adapters()) {
        Ok(adapters) => adapters,
        Err(e) => {
            let said =
                format!("{e}. Steps run on the CPU with {} threads. {GET_ADAPTER}", rayon::current_num_threads());
            if args.json {
                eprintln!("{said}")
            } else {
                say(None, &said)
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    for adapter in &adapters {
        let rows = rows(adapter, &adapters);
        if args.json {
            let object: serde_json::Map<_, _> =
                rows.into_iter().map(|(key, value, _)| (key.to_owned(), value)).collect();
            say(None, &serde_json::Value::from(object).to_string());
            continue;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (key, value, meaning) in rows {
            let text = match &value {
                Value::String(text) => text.clone(),
                Value::Bool(has) => if *has { "yes" } else { "no" }.to_owned(),
                other => other.to_string(),
            };
            table.add_row([key.to_owned(), text, meaning]);
        }
        say(None, &(table.trim_fmt() + "\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What an adapter has: a name, its value, and what it means for a user.
fn rows(adapter: &wgpu::Adapter, all: &[wgpu::Adapter]) -> [(&'static str, Value, String); 13] {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let has = |feature| features.contains(feature);
    let twin = all.iter().map(wgpu::Adapter::get_info).find(|other| same_device(other, &info));
    let twin = twin.map_or(String::new(), |other| format!("the same device is there as {} too", other.backend));
    let kind = match info.device_type {
        wgpu::DeviceType::Cpu => "software: computes on the CPU, and `Device::auto` does not choose it",
        _ => "hardware: `Device::auto` may choose it",
    };
    // Parameter and gradient, and a buffer for each state.
    let states = limits.max_storage_buffers_per_shader_stage.saturating_sub(2);
    let buffers = match states {
        6.. => "enough for every rule with every feature".to_owned(),
        _ => format!("enough for rules with {states} states; averages and noise take one or two of them"),
    };
    let window = limits.max_storage_buffer_binding_size;
    // 256 threads of four elements.
    let elements = u64::from(limits.max_compute_workgroups_per_dimension) * 1024;
    let clock = match has(wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS) {
        true => "`bench` takes the device's own times",
        false => "`bench` takes times by the host's clock",
    };
    [
        ("adapter", json!(info.name), String::new()),
        ("backend", json!(info.backend.to_string()), twin),
        ("type", json!(format!("{:?}", info.device_type)), kind.into()),
        ("driver", json!(format!("{} {}", info.driver, info.driver_info).trim()), String::new()),
        (
            "max_storage_buffer_binding_size",
            json!(window),
            format!("a tensor of more than {} parameters takes several dispatches", count(window / 4)),
        ),
        (
            "max_buffer_size",
            json!(limits.max_buffer_size),
            format!("the largest tensor has {} parameters", count(limits.max_buffer_size / 4)),
        ),
        ("max_storage_buffers_per_shader_stage", json!(limits.max_storage_buffers_per_shader_stage), buffers),
        (
            "max_compute_workgroups_per_dimension",
            json!(limits.max_compute_workgroups_per_dimension),
            format!("a dispatch steps up to {} parameters; more take several", count(elements)),
        ),
        (
            "min_storage_buffer_offset_alignment",
            json!(limits.min_storage_buffer_offset_alignment),
            "of no concern: ranges of your buffers may start at any multiple of 4 bytes".into(),
        ),
        (
            "min_uniform_buffer_offset_alignment",
            json!(limits.min_uniform_buffer_offset_alignment),
            "of no concern: coefficients are laid out for it".into(),
        ),
        ("timestamps", json!(has(wgpu::Features::TIMESTAMP_QUERY)), clock.into()),
        ("f16", json!(has(wgpu::Features::SHADER_F16)), "of no concern: steps compute in f32".into()),
        ("subgroups", json!(has(wgpu::Features::SUBGROUP)), "of no concern: steps use none".into()),
    ]
}

/// A number with commas between thousands.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (k, digit) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShaderArgs {
    /// A rule's name; a wrong one lists them all.
    rule: String,
    /// The kernel for the last up to three elements, which are no whole vec4.
    #[arg(long)]
    tail: bool,
    /// The kernel that sets the gradient to 0 after it has read it.
    #[arg(long)]
    zero_grad: bool,
    /// The kernel that keeps an average of the parameters.
    #[arg(long)]
    average: bool,
    /// The kernel that clips gradients by value.
    #[arg(long)]
    clip: bool,
    /// The kernel that adds noise to gradients, with coefficients for each parameter.
    #[arg(long)]
    noise: bool,
    /// The kernels of a norm-based rule that measure norms and compute the ratio.
    #[arg(long)]
    norms: bool,
}

pub(crate) fn shader(args: &ShaderArgs) -> Outcome {
    let rule = rules::by_name(&args.rule)?;
    let lane = if args.tail { Lane::Tail } else { Lane::Four };
    let access = if args.zero_grad { GradientAccess::Zero } else { GradientAccess::Read };
    let extras = Extras {
        average: args.average,
        clip: args.clip,
        noise: args.noise,
        per_tensor: args.noise,
        ..Extras::default()
    };
    match args.norms {
        true if rule.reduce().is_none() => return Err(format!("`{}` needs no norms", args.rule).into()),
        true => {
            for stage in [Driver::Measure, Driver::Trust] {
                say(None, &format!("// {stage:?}"));
                say(None, internals::norm_shader(&rule, stage, Lane::Four, Precision::f32(), extras).trim_end());
            }
        }
        false => say(None, internals::shader(&rule, lane, access, extras).trim_end()),
    }
    for (name, value) in rule.overrides() {
        say(None, &format!("// pipeline constant: {name} = {value}"));
    }
    Ok(ExitCode::SUCCESS)
}
