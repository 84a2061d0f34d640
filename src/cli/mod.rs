//! The subcommands of `wgpu-optim`.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use wgpu_optim::Gpu;

pub(crate) mod bench;
mod certified;
pub(crate) mod check;
mod golden;
pub(crate) mod info;
mod problems;
pub(crate) mod rules;
pub(crate) mod schedules;
pub(crate) mod solve;

/// An exit code, or an error as the user reads it.
pub(crate) type Outcome = Result<std::process::ExitCode, Box<dyn std::error::Error>>;

/// Which adapters to use.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Adapters {
    /// Only adapters whose name or backend contains this: `llvmpipe`, `vulkan`. `none` is the CPU alone.
    #[arg(long, value_name = "TEXT")]
    adapter: Option<String>,
    /// A device that several backends show, as Vulkan and GL, through each of them; default: through the first.
    #[arg(long, conflicts_with = "adapter")]
    all_adapters: bool,
}

/// The devices to use, and lines about those that are left out.
struct Devices {
    gpus: Vec<Gpu>,
    left_out: Vec<String>,
}

impl Devices {
    /// Says what is left out.
    fn said(self) -> Vec<Gpu> {
        self.left_out.iter().for_each(|line| eprintln!("{line}"));
        self.gpus
    }
}

/// The adapters that were asked for, each with a device.
///
/// No adapter on the machine is no error: a line says how to get one. An adapter that refuses its device is left out
/// with a line that says so, as NVIDIA's GL without a display does. It is an error if all refuse, or if no adapter has
/// the name that was asked for.
fn devices(Adapters { adapter: name, all_adapters }: &Adapters) -> Result<Devices, Box<dyn std::error::Error>> {
    let none = |left_out| Ok(Devices { gpus: Vec::new(), left_out });
    if name.as_deref() == Some("none") {
        return none(Vec::new());
    }
    let mut adapters = match pollster::block_on(Gpu::adapters()) {
        Ok(adapters) => adapters,
        Err(e) if name.is_none() => {
            return none(vec![format!("On the CPU alone: {e}. {GET_ADAPTER}")]);
        }
        Err(e) => return Err(e.into()),
    };
    // GL names a device least well, and does least with it.
    adapters.sort_by_key(|adapter| adapter.get_info().backend == wgpu::Backend::Gl);
    let wanted = name.as_deref().unwrap_or_default().to_lowercase();
    let chosen: Vec<_> = adapters.iter().filter(|a| full_name(a).to_lowercase().contains(&wanted)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = adapters.iter().map(full_name).collect();
        return Err(format!("no adapter's name contains {wanted:?}; there are {}", names.join(", ")).into());
    }
    let (mut gpus, mut left_out, mut refused) = (Vec::new(), Vec::new(), None);
    let mut shown: Vec<&wgpu::Adapter> = Vec::new();
    for adapter in chosen {
        let twin = shown.iter().find(|first| same_device(&first.get_info(), &adapter.get_info()));
        if let Some(first) = twin.filter(|_| name.is_none() && !all_adapters) {
            let (name, backend) = (full_name(first), adapter.get_info().backend);
            left_out.push(format!("{name} is there through {backend} too; --all-adapters runs both."));
            continue;
        }
        match pollster::block_on(Gpu::from_adapter(adapter)) {
            Ok(gpu) => {
                gpus.push(gpu);
                shown.push(adapter);
            }
            Err(e) => {
                left_out.push(format!("Without {}: {e}", full_name(adapter)));
                refused = Some(e);
            }
        }
    }
    match refused {
        Some(e) if gpus.is_empty() => Err(e.into()),
        _ => Ok(Devices { gpus, left_out }),
    }
}

/// Whether two adapters are one device, seen through two backends. Two devices of one kind differ by nothing but their
/// backend's list.
fn same_device(a: &wgpu::AdapterInfo, b: &wgpu::AdapterInfo) -> bool {
    if a.backend == b.backend {
        return false;
    }
    if !a.device_pci_bus_id.is_empty() && !b.device_pci_bus_id.is_empty() {
        return a.device_pci_bus_id == b.device_pci_bus_id;
    }
    // GL knows the vendor alone, and ids above 16 bits are of software and of virtual devices.
    let pci = a.vendor == b.vendor && (1..1 << 16).contains(&a.vendor);
    a.name == b.name || (pci && (a.device == b.device || a.device == 0 || b.device == 0))
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

/// A table in Markdown.
fn table<H: ToString>(header: &[H], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.iter().map(H::to_string));
    table.add_rows(rows);
    table
}

/// The font for pictures: a bare machine has none.
pub(crate) fn font() -> Result<(), String> {
    use plotters::style::{FontStyle, register_font};
    let registered = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    registered.map_err(|_| "the font cannot be read".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_behind_two_backends_is_known() {
        let info = |backend, name: &str, vendor, device, bus: &str| {
            let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Other, backend);
            (info.name, info.vendor, info.device, info.device_pci_bus_id) = (name.into(), vendor, device, bus.into());
            info
        };
        use wgpu::Backend::{Dx12, Gl, Vulkan};
        let h100 = info(Vulkan, "NVIDIA H100 80GB HBM3", 0x10de, 0x2330, "0000:01:00.0");
        let second = info(Vulkan, "NVIDIA H100 80GB HBM3", 0x10de, 0x2330, "0000:02:00.0");
        let through_gl = info(Gl, "NVIDIA H100 80GB HBM3/PCIe/SSE2", 0x10de, 0, "");
        let lavapipe = info(Vulkan, "llvmpipe (LLVM 15.0.6, 256 bits)", 0x10005, 0, "");
        let llvmpipe = info(Gl, "llvmpipe (LLVM 15.0.6, 256 bits)", 0x10005, 0, "");
        let virgl = info(Gl, "virgl (AMD Radeon)", 0x10005, 0, "");
        let (iris, arc) = (info(Vulkan, "Intel Iris", 0x8086, 0x9a49, ""), info(Dx12, "Intel Arc", 0x8086, 0x56a0, ""));
        for (a, b, same) in [
            (&h100, &second, false),
            (&h100, &through_gl, true),
            (&lavapipe, &llvmpipe, true),
            (&lavapipe, &virgl, false),
            (&h100, &llvmpipe, false),
            (&iris, &arc, false),
            (&iris, &iris, false),
        ] {
            assert_eq!(same_device(a, b), same, "{a:?} {b:?}");
            assert_eq!(same_device(b, a), same, "{b:?} {a:?}");
        }
    }
}
