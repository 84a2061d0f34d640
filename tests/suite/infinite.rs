//! Passes beside the step move and add infinite numbers as they are.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Momentum, Sgd};
use wgpu_optim::{Averaging, BufferRange, Device, Gpu, Optimizer};

use crate::compare::{ensure, same};
use crate::fixture::{FOREIGN, buffer};
use crate::tests;

tests!(swapped_and_back, micro_batches, at_a_look_ahead);

const INFINITE: [f32; 5] = [f32::INFINITY, f32::NEG_INFINITY, 1.0, 2.0, f32::INFINITY];

fn swapped_and_back(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Sgd, 0.1)?;
        optimizer.set_averaging(0, Averaging::Ema(0.5))?;
        optimizer.add(0, "w", &[1.0f32; 5])?;
        optimizer.write_gradient("w", &[0.0f32; 5])?;
        optimizer.step()?;
        optimizer.write("w", &INFINITE)?;
        optimizer.swap_averages(0)?;
        same(device.name().as_str(), &optimizer.read_state_blocking("w", "average")?, &INFINITE)?;
        optimizer.swap_averages(0)?;
        same(device.name().as_str(), &optimizer.read_blocking("w")?, &INFINITE)?;
    }
    Ok(())
}

fn micro_batches(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Sgd, 0.1)?;
    let w = optimizer.add(0, "w", &[1.0f32; 5])?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for batch in [INFINITE, [1.0; 5]] {
        let range = BufferRange::whole(&buffer(gpu, &batch, FOREIGN));
        optimizer.encode_accumulate(&mut encoder, &[(w, range)])?;
    }
    gpu.queue().submit([encoder.finish()]);
    same("sum", &optimizer.read_gradient_blocking(w)?, &INFINITE.map(|g| g + 1.0))
}

fn at_a_look_ahead(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::default(), 0.1)?;
        optimizer.add(0, "w", &INFINITE)?;
        optimizer.look_ahead()?;
        let w = optimizer.read_blocking::<f32>("w")?;
        ensure(w == INFINITE, format!("{w:?} on {}", device.name()))?;
    }
    Ok(())
}
