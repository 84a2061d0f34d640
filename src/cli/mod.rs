//! The subcommands of `wgpu-optim`.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use wgpu_optim::{Device, Gpu};

pub(crate) mod bench;
mod cases;
pub(crate) mod check;
mod golden;
pub(crate) mod info;

/// Whatever went wrong, as the user will read it.
pub(crate) type Outcome = Result<std::process::ExitCode, Box<dyn std::error::Error>>;

/// Every adapter with a device, narrowed to names that contain `name`; and why there is none, or which refused.
fn devices(name: Option<&str>) -> (Vec<Gpu>, Vec<String>) {
    let adapters = match pollster::block_on(Gpu::adapters()) {
        Ok(adapters) => adapters,
        Err(e) => return (Vec::new(), vec![e.to_string()]),
    };
    let (mut gpus, mut notes) = (Vec::new(), Vec::new());
    let wanted = name.unwrap_or_default().to_lowercase();
    for adapter in adapters.iter().filter(|adapter| full_name(adapter).to_lowercase().contains(&wanted)) {
        match pollster::block_on(Gpu::from_adapter(adapter)) {
            Ok(gpu) => gpus.push(gpu),
            Err(e) => notes.push(e.to_string()),
        }
    }
    if gpus.is_empty() && notes.is_empty() {
        notes.push(format!("no adapter's name contains {wanted:?}"));
    }
    (gpus, notes)
}

fn full_name(adapter: &wgpu::Adapter) -> String {
    let info = adapter.get_info();
    format!("{} ({})", info.name, info.backend)
}

/// What a machine without an adapter can do about it.
const GET_ADAPTER: &str = "To get one: a GPU driver with Vulkan, Metal or DX12; without a GPU, on Debian or Ubuntu, \
                           `apt-get install mesa-vulkan-drivers` (lavapipe, a Vulkan adapter on the CPU).";

fn progress(len: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    let bar = ProgressBar::new(len as u64);
    style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}

/// Prints a line, above the bar if there is one. A closed pipe (`| head`) ends the program quietly.
fn say(bar: Option<&ProgressBar>, line: &str) {
    let write = || writeln!(io::stdout(), "{line}");
    let written = match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    };
    if written.is_err() {
        std::process::exit(0);
    }
}

fn device_list(gpus: &[Gpu]) -> Vec<Device> {
    gpus.iter().map(Device::from).collect()
}
