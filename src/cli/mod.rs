//! The subcommands of `wgpu-optim`.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use wgpu_optim::Gpu;

mod averages;
pub(crate) mod bench;
mod cases;
pub(crate) mod check;
mod clipping;
mod golden;
mod hyper;
pub(crate) mod info;
mod nist;
mod problems;
mod scaler;
pub(crate) mod schedules;
pub(crate) mod solve;
mod solvers;

/// Whatever went wrong, as the user will read it.
pub(crate) type Outcome = Result<std::process::ExitCode, Box<dyn std::error::Error>>;

/// Every adapter with a device; `none` for no adapter, any other text for those whose names contain it. Where there is no adapter at
/// all, says so and how to get one. One that refuses its device is left out, with a line that says so (NVIDIA's GL without a display is
/// such a one); an adapter that was asked for and is not there is an error, and so are refusals alone.
fn devices(name: Option<&str>) -> Result<Vec<Gpu>, Box<dyn std::error::Error>> {
    if name == Some("none") {
        return Ok(Vec::new());
    }
    let adapters = match pollster::block_on(Gpu::adapters()) {
        Ok(adapters) => adapters,
        Err(e) if name.is_none() => {
            eprintln!("On the CPU alone: {e}. {GET_ADAPTER}");
            return Ok(Vec::new());
        }
        Err(e) => return Err(e.into()),
    };
    let wanted = name.unwrap_or_default().to_lowercase();
    let chosen: Vec<_> = adapters.iter().filter(|a| full_name(a).to_lowercase().contains(&wanted)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = adapters.iter().map(full_name).collect();
        return Err(format!("no adapter's name contains {wanted:?}; there are {}", names.join(", ")).into());
    }
    let (mut gpus, mut refused) = (Vec::new(), None);
    for adapter in chosen {
        match pollster::block_on(Gpu::from_adapter(adapter)) {
            Ok(gpu) => gpus.push(gpu),
            Err(e) => {
                eprintln!("Without {}: {e}", full_name(adapter));
                refused = Some(e);
            }
        }
    }
    match refused {
        Some(e) if gpus.is_empty() => Err(e.into()),
        _ => Ok(gpus),
    }
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

/// The font that pictures are laid out with: a bare machine has none.
pub(crate) fn font() -> Result<(), String> {
    use plotters::style::{FontStyle, register_font};
    let registered = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    registered.map_err(|_| "the font cannot be read".into())
}
