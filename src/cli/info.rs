//! `wgpu-optim info` and `wgpu-optim shader`.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use serde_json::json;
use wgpu_optim::{Extras, Gpu, GradientAccess, Lane, Stage, rules};

use super::{GET_ADAPTER, Outcome, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object an adapter instead of tables.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let adapters = match pollster::block_on(Gpu::adapters()) {
        Ok(adapters) => adapters,
        Err(e) => {
            let said = format!("{e}. Steps run on the CPU, on {} threads. {GET_ADAPTER}", rayon::current_num_threads());
            if args.json {
                eprintln!("{said}")
            } else {
                say(None, &said)
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    for adapter in adapters {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let has = |feature| features.contains(feature);
        let rows = [
            ("adapter", json!(info.name)),
            ("backend", json!(info.backend.to_string())),
            ("type", json!(format!("{:?}", info.device_type))),
            ("driver", json!(format!("{} {}", info.driver, info.driver_info).trim())),
            ("max_storage_buffer_binding_size", json!(limits.max_storage_buffer_binding_size)),
            ("max_buffer_size", json!(limits.max_buffer_size)),
            ("max_storage_buffers_per_shader_stage", json!(limits.max_storage_buffers_per_shader_stage)),
            ("max_compute_workgroups_per_dimension", json!(limits.max_compute_workgroups_per_dimension)),
            ("min_storage_buffer_offset_alignment", json!(limits.min_storage_buffer_offset_alignment)),
            ("min_uniform_buffer_offset_alignment", json!(limits.min_uniform_buffer_offset_alignment)),
            ("timestamps", json!(has(wgpu::Features::TIMESTAMP_QUERY))),
            ("f16", json!(has(wgpu::Features::SHADER_F16))),
            ("subgroups", json!(has(wgpu::Features::SUBGROUP))),
        ];
        if args.json {
            let object: serde_json::Map<_, _> = rows.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
            say(None, &serde_json::Value::from(object).to_string());
            continue;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (key, value) in rows {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            table.add_row([key.to_owned(), text]);
        }
        say(None, &format!("{table}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShaderArgs {
    /// A rule's name; a wrong one lists them all.
    rule: String,
    /// The kernel of the up to three elements behind the last whole four.
    #[arg(long)]
    tail: bool,
    /// The kernel that clears the gradient once it is read.
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
    /// Of a norm-based rule: the kernels that measure, and that take the ratio.
    #[arg(long)]
    norms: bool,
}

pub(crate) fn shader(args: &ShaderArgs) -> Outcome {
    let rule = rules::by_name(&args.rule)?;
    let lane = if args.tail { Lane::Tail } else { Lane::Four };
    let access = if args.zero_grad { GradientAccess::Zero } else { GradientAccess::Read };
    let extras =
        Extras { average: args.average, clip: args.clip, noise: args.noise, tiled: args.noise, ..Extras::default() };
    match args.norms {
        true if rule.scope().is_none() => return Err(format!("`{}` needs no norms", args.rule).into()),
        true => {
            for stage in [Stage::Measure, Stage::Trust] {
                say(None, &format!("// {stage:?}"));
                say(None, wgpu_optim::norm_shader(&rule, stage, extras).trim_end());
            }
        }
        false => say(None, wgpu_optim::shader(&rule, lane, access, extras).trim_end()),
    }
    for (name, value) in rule.overrides() {
        say(None, &format!("// pipeline constant: {name} = {value}"));
    }
    Ok(ExitCode::SUCCESS)
}
