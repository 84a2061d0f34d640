//! 20 steps of every rule with what the driver around it can do, on every adapter and the CPU: one line a case with a
//! hash of all bits that it ends with. `tests/bits/compare` builds this against two commits and compares the lines.
//!
//! It calls nothing but the public API that users have, so that it builds against both.
//!
//! ```text
//! wgpu-optim-bits [--device TEXT] [--rule NAME] [--features NAME] [--full] [--dump DIR]
//! wgpu-optim-bits --compare DIR DIR [--tolerance X]
//! ```
//! `--device` is part of the device's name (`CPU`, `llvmpipe`, `gl`), the others are whole names. A line has the
//! device, the rule's variant, the features (`/f64` for f64 on the CPU) and the hash, or the error that the case ends
//! with. On a GPU most sets of features are run with two rules; `--full` runs them with ten, as on the CPU. `--dump`
//! writes the numbers themselves, for changes that may change the last bits.
//!
//! The hash is over f32 and f64 numbers as f64. All NaN are one: neither WGSL nor Rust says which bits one has.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use wgpu_optim::{AnyRule, Device, Gpu, Result};

mod dump;
mod features;
mod world;

use features::Features;
use world::{Section, run};

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Arguments {
    device: String,
    rule: Option<String>,
    features: Option<String>,
    full: bool,
    dump: Option<PathBuf>,
    compare: Vec<PathBuf>,
    tolerance: f64,
}

fn start() -> std::result::Result<bool, Box<dyn std::error::Error>> {
    let (mut arguments, mut words) = (Arguments::default(), std::env::args().skip(1));
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match &*word {
            "--device" => arguments.device = value()?.to_lowercase(),
            "--rule" => arguments.rule = Some(value()?),
            "--features" => arguments.features = Some(value()?),
            "--full" => arguments.full = true,
            "--dump" => arguments.dump = Some(value()?.into()),
            "--compare" => arguments.compare = vec![value()?.into(), value()?.into()],
            "--tolerance" => arguments.tolerance = value()?.parse()?,
            _ => return Err(format!("what is {word}?").into()),
        }
    }
    if let [before, after] = &*arguments.compare {
        return Ok(dump::compare(before, after, arguments.tolerance)?);
    }
    if let Some(folder) = &arguments.dump {
        std::fs::create_dir_all(folder)?;
    }
    let rules = wgpu_optim::rules::all();
    for name in features::HANDFUL.iter().chain(&features::LOOK_AHEAD) {
        if !rules.iter().any(|(known, _)| known == name) {
            return Err(format!("there is no rule {name} any more").into());
        }
    }
    for device in devices(&arguments.device) {
        run_on(&device, &rules, &arguments)?;
    }
    Ok(true)
}

fn devices(wanted: &str) -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    for adapter in pollster::block_on(Gpu::adapters()).unwrap_or_default() {
        match pollster::block_on(Gpu::from_adapter(&adapter)) {
            Ok(gpu) => devices.push(gpu.into()),
            Err(e) => eprintln!("{e}"),
        }
    }
    devices.retain(|device| device.name().to_lowercase().contains(wanted));
    devices
}

fn run_on(device: &Device, rules: &[(&'static str, AnyRule)], arguments: &Arguments) -> std::io::Result<()> {
    let (start, mut lines, mut refused) = (Instant::now(), 0, 0);
    let on_cpu = matches!(device, Device::Cpu);
    for features in features::all() {
        if arguments.features.as_ref().is_some_and(|name| name != features.name) {
            continue;
        }
        for (rule, of) in rules {
            if !features.has(rule, on_cpu || arguments.full) || arguments.rule.as_ref().is_some_and(|name| name != rule)
            {
                continue;
            }
            let wide = [false, true].into_iter().filter(|wide| on_cpu || !wide);
            for wide in wide {
                let case = |features: &Features| match wide {
                    true => run::<f64>(device, of, features),
                    false => run::<f32>(device, of, features),
                };
                let Some((hash, sections)) = caught(|| case(&features)) else { continue };
                let name = format!("{}{}", features.name, if wide { "/f64" } else { "" });
                println!("{}\t{rule}\t{name}\t{hash}", device.name());
                lines += 1;
                refused += u32::from(sections.is_empty());
                if let Some(folder) = &arguments.dump {
                    let file = format!("{} {rule} {name}", device.name()).replace(['/', '\\'], "-");
                    dump::write(&folder.join(file), &sections)?;
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{}: {lines} lines, {refused} of them errors, {seconds:.1} s", device.name());
    Ok(())
}

/// A hash, or what went wrong, and what was hashed.
fn caught(case: impl FnOnce() -> Result<Option<Vec<Section>>>) -> Option<(String, Vec<Section>)> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)) {
        Ok(Ok(sections)) => sections.map(|sections| (format!("{:016x}", hash(&sections)), sections)),
        // The variant of `Error`: its text may say the same in better words.
        Ok(Err(e)) => {
            let text = format!("{e:?}");
            eprintln!("{text}");
            Some((text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("").into(), Vec::new()))
        }
        Err(_) => Some(("panic".into(), Vec::new())),
    }
}

/// FNV-1a. Names are a part of it, so that numbers that change places are seen.
fn hash(sections: &[Section]) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let bits = |x: &f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    sections.iter().fold(0xcbf2_9ce4_8422_2325, |hash, (name, numbers)| {
        let hash = name.bytes().chain([0]).fold(hash, fold);
        numbers.iter().flat_map(|x| bits(x).to_le_bytes()).fold(hash, fold)
    })
}
