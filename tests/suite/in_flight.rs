//! What is set or refused while the outcomes of steps are not known.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum, NAdam, Sgd};
use wgpu_optim::{
    Averaging, BufferRange, ClipNorm, Device, Error, Gpu, Gradient, LossScaler, Optimizer, ParameterId, Schedule,
};

use crate::checkpoint::{load, saved};
use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{FOREIGN, buffer, device_like, parameters};
use crate::guard::ordinary;
use crate::tests;

tests!(
    an_average_follows_the_steps_that_were_taken,
    set_steps_forgets_steps_in_flight,
    set_schedule_step_forgets_steps_in_flight,
    a_look_ahead_survives_a_refusal,
    micro_batches_survive_a_refusal,
    a_gradient_that_moves_leaves_its_micro_batches,
    nested_ranges_overlap,
    an_average_begins_behind_steps_that_were_taken,
    a_file_says_when_an_average_begins,
);

const LEN: usize = 67;

/// A call that sets something.
type Set<'a> = &'a dyn Fn(&mut Optimizer) -> Result<(), Error>;

/// Of step t; NaN in these.
fn gradient(t: u64, bad: &[u64]) -> Vec<f32> {
    let mut g = ordinary(LEN, t);
    g[LEN - 1] = if bad.contains(&t) { f32::NAN } else { 1.0 };
    g
}

/// Records steps with these gradients: nothing is known of them before the submission.
fn record(
    gpu: &Gpu,
    optimizer: &mut Optimizer,
    encoder: &mut wgpu::CommandEncoder,
    gradients: &[Vec<f32>],
) -> Result<(), Failed> {
    for g in gradients {
        let (source, own) = (buffer(gpu, g, FOREIGN), optimizer.gradient("w")?.clone());
        encoder.copy_buffer_to_buffer(&source, 0, &own.buffer, own.offset, source.size());
        optimizer.encode(encoder)?;
    }
    Ok(())
}

fn on_cpu(optimizer: &mut Optimizer, gradients: &[Vec<f32>]) -> Result<(), Failed> {
    for g in gradients {
        optimizer.write_gradient("w", g)?;
        optimizer.step()?;
    }
    Ok(())
}

/// The rate of an average is that of the step count which the device has reached.
fn an_average_follows_the_steps_that_were_taken(gpu: &Gpu) -> Result<(), Failed> {
    let gradients: Vec<_> = (0..6).map(|t| gradient(t, &[0, 3])).collect();
    let kinds = [
        Averaging::Ema(0.9),
        Averaging::EmaDebiased(0.9),
        Averaging::EmaFromZero(0.9),
        Averaging::Swa { from: 2, every: 2 },
    ];
    for kind in kinds {
        let make = |device: &Device| -> Result<Optimizer, Failed> {
            let mut optimizer = Optimizer::new(device, Adam::default(), 0.1)?;
            optimizer.set_averaging(0, kind)?;
            optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
            optimizer.add(0, "w", &parameters(LEN, 1))?;
            Ok(optimizer)
        };
        let (mut on_gpu, mut cpu) = (make(&gpu.into())?, make(&Device::Cpu)?);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        record(gpu, &mut on_gpu, &mut encoder, &gradients)?;
        gpu.queue().submit([encoder.finish()]);
        on_cpu(&mut cpu, &gradients)?;
        let average = |optimizer: &Optimizer| optimizer.read_state_blocking::<f32>("w", "average");
        close(&format!("{kind:?}"), &average(&on_gpu)?, &average(&cpu)?, &[3.0; LEN], TOLERANCE)?;
    }
    Ok(())
}

/// Two steps are recorded, one of them skipped; then the count is set, and two more follow.
fn set_steps_forgets_steps_in_flight(gpu: &Gpu) -> Result<(), Failed> {
    set_in_flight(gpu, |optimizer| optimizer.set_steps("w", 7), [9, 3])
}

fn set_schedule_step_forgets_steps_in_flight(gpu: &Gpu) -> Result<(), Failed> {
    set_in_flight(gpu, |optimizer| optimizer.set_schedule_step(0, 7), [3, 9])
}

/// With counts of parameter and schedule in the end.
fn set_in_flight(gpu: &Gpu, set: impl Fn(&mut Optimizer) -> Result<(), Error>, counts: [u64; 2]) -> Result<(), Failed> {
    let gradients: Vec<_> = (0..4).map(|t| gradient(t, &[1])).collect();
    let make = |device: &Device| -> Result<Optimizer, Failed> {
        let mut optimizer = Optimizer::new(device, NAdam::default(), 0.1)?;
        optimizer.set_loss_scaler(LossScaler::default())?;
        optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 20))?;
        optimizer.add(0, "w", &parameters(LEN, 1))?;
        Ok(optimizer)
    };
    let (mut on_gpu, mut cpu) = (make(&gpu.into())?, make(&Device::Cpu)?);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    record(gpu, &mut on_gpu, &mut encoder, &gradients[..2])?;
    set(&mut on_gpu)?;
    record(gpu, &mut on_gpu, &mut encoder, &gradients[2..])?;
    gpu.queue().submit([encoder.finish()]);
    on_gpu.settle_blocking()?;
    on_cpu(&mut cpu, &gradients[..2])?;
    set(&mut cpu)?;
    on_cpu(&mut cpu, &gradients[2..])?;
    for optimizer in [&on_gpu, &cpu] {
        let found = [optimizer.steps("w")?, optimizer.schedule_step(0)?];
        ensure(found == counts, format!("{found:?}, not {counts:?}, on {}", optimizer.device().name()))?;
    }
    close("w", &on_gpu.read_blocking("w")?, &cpu.read_blocking("w")?, &[3.0; LEN], TOLERANCE)
}

/// A step of an optimizer whose parameter `callers` has its gradient in a destroyed buffer, and the gradient taken from
/// it again.
fn refused(gpu: &Gpu, optimizer: &mut Optimizer) -> Result<(), Failed> {
    let dead = buffer(gpu, &[1.0; 8], FOREIGN);
    optimizer.set_gradient("callers", Gradient::Buffer(BufferRange::whole(&dead)))?;
    dead.destroy();
    let refused = optimizer.step();
    ensure(matches!(refused, Err(Error::Rejected { .. })), format!("{refused:?}"))?;
    optimizer.set_gradient("callers", Gradient::Missing)?;
    Ok(())
}

/// The next step takes the look-ahead back, which the refused one did not.
fn a_look_ahead_survives_a_refusal(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    let run = |refuse: bool| -> Result<Vec<f32>, Failed> {
        let mut optimizer = Optimizer::new(&gpu.into(), Momentum::default(), 0.1)?;
        optimizer.add(0, "w", &parameters(LEN, 1))?;
        optimizer.add_buffer(0, "callers", BufferRange::whole(&buffer(gpu, &[1.0; 8], FOREIGN)))?;
        on_cpu(&mut optimizer, &[gradient(0, &[])])?;
        optimizer.look_ahead()?;
        let ahead = optimizer.read_blocking::<f32>("w")?;
        if refuse {
            refused(gpu, &mut optimizer)?;
            same("the look-ahead point", &optimizer.read_blocking("w")?, &ahead)?;
        }
        on_cpu(&mut optimizer, &[gradient(1, &[])])?;
        Ok(optimizer.read_blocking("w")?)
    };
    same("w", &run(true)?, &run(false)?)
}

fn micro_batch(gpu: &Gpu, optimizer: &mut Optimizer, id: ParameterId, g: &[f32]) -> Result<(), Failed> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    optimizer.encode_accumulate(&mut encoder, &[(id, BufferRange::whole(&buffer(gpu, g, FOREIGN)))])?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

/// A second micro-batch is added to the first, and the step takes the mean of both.
fn micro_batches_survive_a_refusal(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    let mut optimizer = Optimizer::new(&gpu.into(), Sgd, 1.0)?;
    let w = optimizer.add(0, "w", &[0.0f32; LEN])?;
    optimizer.add_buffer(0, "callers", BufferRange::whole(&buffer(gpu, &[1.0; 8], FOREIGN)))?;
    micro_batch(gpu, &mut optimizer, w, &[1.0; LEN])?;
    refused(gpu, &mut optimizer)?;
    micro_batch(gpu, &mut optimizer, w, &[3.0; LEN])?;
    optimizer.step()?;
    same("w", &optimizer.read_blocking(w)?, &[-2.0; LEN])
}

/// What a buffer holds counts whole, however many micro-batches are left behind; the first one into it takes its place.
fn a_gradient_that_moves_leaves_its_micro_batches(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Sgd, 1.0)?;
    let w = optimizer.add(0, "w", &[0.0f32; LEN])?;
    for _ in 0..2 {
        micro_batch(gpu, &mut optimizer, w, &[5.0; LEN])?;
    }
    let elsewhere = buffer(gpu, &[1.0; LEN], FOREIGN);
    optimizer.set_gradient(w, Gradient::Buffer(BufferRange::whole(&elsewhere)))?;
    optimizer.step()?;
    same("moved", &optimizer.read_blocking(w)?, &[-1.0; LEN])?;
    for _ in 0..2 {
        micro_batch(gpu, &mut optimizer, w, &[2.0; LEN])?;
    }
    optimizer.step()?;
    same("and on", &optimizer.read_blocking(w)?, &[-3.0; LEN])
}

/// Two skips are in flight when an average is asked for, or the count is set: it begins with the first step that is
/// taken.
fn an_average_begins_behind_steps_that_were_taken(gpu: &Gpu) -> Result<(), Failed> {
    let set_averaging = |optimizer: &mut Optimizer| optimizer.set_averaging(0, Averaging::Ema(0.5));
    let set_steps = |optimizer: &mut Optimizer| optimizer.set_steps("w", 5);
    let sets: [(bool, Set<'_>); 2] = [(false, &set_averaging), (true, &set_steps)];
    for (early, set) in sets {
        for device in [gpu.into(), Device::Cpu] {
            let mut optimizer = Optimizer::new(&device, Sgd, 0.1)?;
            if early {
                set_averaging(&mut optimizer)?;
            }
            optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
            optimizer.add(0, "w", &[1.0f32; LEN])?;
            optimizer.write_gradient("w", &[f32::NAN; LEN])?;
            optimizer.step()?;
            optimizer.step()?;
            set(&mut optimizer)?;
            optimizer.write_gradient("w", &[1.0f32; LEN])?;
            optimizer.step()?;
            let what = format!("average on {}", device.name());
            same(&what, &optimizer.read_state_blocking("w", "average")?, &optimizer.read_blocking("w")?)?;
        }
    }
    Ok(())
}

/// An average that has not begun begins with the parameter, in the optimizer that loads it, too.
fn a_file_says_when_an_average_begins(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let make = |averaging| -> Result<Optimizer, Failed> {
            let mut optimizer = Optimizer::new(&device, Sgd, 0.1)?;
            optimizer.add(0, "w", &[1.0f32; LEN])?;
            optimizer.set_steps("w", 5)?;
            optimizer.set_averaging(0, averaging)?;
            Ok(optimizer)
        };
        let bytes = saved(&mut make(Averaging::Ema(0.5))?)?;
        let mut loaded = Optimizer::new(&device, Sgd, 0.1)?;
        loaded.set_averaging(0, Averaging::Ema(0.9))?;
        loaded.add(0, "w", &[0.0f32; LEN])?;
        load(&mut loaded, &bytes)?;
        loaded.write_gradient("w", &[1.0f32; LEN])?;
        loaded.step()?;
        let what = format!("average on {}", device.name());
        same(&what, &loaded.read_state_blocking("w", "average")?, &loaded.read_blocking("w")?)?;
    }
    Ok(())
}

/// A range that is written lies in one that is read and in none of those that begin between them.
fn nested_ranges_overlap(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Sgd, 1.0)?;
    let all = buffer(gpu, &[1.0; 1024], FOREIGN);
    let at = |first: u64, len| BufferRange::new(&all, 4 * first, len);
    let [large, small, other] =
        [("large", 200), ("small", 5), ("other", 5)].map(|(name, len)| optimizer.add(0, name, &vec![0.0f32; len]));
    let [large, small, other] = [large?, small?, other?];
    let elsewhere = BufferRange::whole(&buffer(gpu, &[1.0; 5], FOREIGN));
    for (gradient, overlaps) in [(150, true), (199, true), (200, false), (300, false)] {
        optimizer.set_gradient(other, Gradient::Buffer(at(gradient, 5)))?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let batches = [(large, at(0, 200)), (small, at(10, 5)), (other, elsewhere.clone())];
        let result = optimizer.encode_accumulate(&mut encoder, &batches);
        let refused = matches!(&result, Err(Error::Overlap { .. }));
        ensure(refused == overlaps && (refused || result.is_ok()), format!("a gradient at {gradient}: {result:?}"))?;
    }
    Ok(())
}
