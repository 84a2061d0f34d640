//! The time before an optimizer's first step, and the memory that it takes beside its tensors.

use std::time::Instant;

use serde_json::json;
use wgpu_optim::{Device, Error, Gpu, Optimizer, rules::Adam};

use super::clock::{median, wait};
use super::report::{table, time};
use crate::cli::say;

/// Bytes of all buffers on the device, where the backend counts them.
pub(super) fn device_bytes(gpu: &Gpu) -> Result<Option<u64>, Error> {
    wait(gpu)?;
    let bytes = gpu.device().get_internal_counters().hal.buffer_memory.read();
    Ok(u64::try_from(bytes).ok().filter(|&bytes| bytes > 0))
}

/// Milliseconds from no device to the end of Adam's first step, the part of the device in it, and those of a second
/// optimizer.
fn start(like: &Gpu) -> Result<[f64; 3], Error> {
    let begin = Instant::now();
    let since = |begin: Instant| begin.elapsed().as_secs_f64() * 1e3;
    let info = like.device().adapter_info();
    let adapters = pollster::block_on(Gpu::adapters())?;
    let same = |adapter: &&wgpu::Adapter| {
        let found = adapter.get_info();
        (found.name, found.backend) == (info.name.clone(), info.backend)
    };
    let adapter = adapters.iter().find(same).ok_or(Error::NoAdapter { reason: format!("{} is gone", info.name) })?;
    let gpu = pollster::block_on(Gpu::from_adapter(adapter))?;
    let device = since(begin);
    let first = |gpu: &Gpu| -> Result<(), Error> {
        let mut optimizer = Optimizer::new(&Device::from(gpu), Adam::default(), 1e-3)?;
        optimizer.add(0, "w", &[0.5f32; 1000])?;
        optimizer.write_gradient("w", &[0.5f32; 1000])?;
        optimizer.step()?;
        wait(gpu)
    };
    first(&gpu)?;
    let whole = since(begin);
    let again = Instant::now();
    first(&gpu)?;
    Ok([whole, device, since(again)])
}

pub(super) fn startup(gpus: &[Gpu], as_json: bool) -> Result<(), Error> {
    let mut rows = Vec::new();
    for gpu in gpus {
        let starts: Vec<_> = (0..5).map(|_| start(gpu)).collect::<Result<_, _>>()?;
        let [whole, device, second] = [0, 1, 2].map(|k| median(starts.iter().map(|start| start[k]).collect()));
        let kernels = whole - device;
        match as_json {
            true => {
                let row = json!({
                    "startup": gpu.name(),
                    "ms": whole,
                    "device_ms": device,
                    "first_step_ms": kernels,
                    "second_optimizer_ms": second,
                });
                say(None, &row.to_string());
            }
            false => rows.push(vec![gpu.name(), time(whole), time(device), time(kernels), time(second)]),
        }
    }
    if !rows.is_empty() {
        say(
            None,
            "From no device to the end of Adam's first step; then a second optimizer to its first step (medians of 5)",
        );
        table(&["device", "all", "adapter and device", "optimizer and step", "second optimizer"], 1, rows);
    }
    Ok(())
}
