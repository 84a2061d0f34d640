//! Mirrors of parameters in 16 bits: whatever writes a parameter writes its mirror, and nothing else changes.

use std::io::Cursor;

use half::{bf16, f16};
use libtest_mimic::Failed;
use wgpu_optim::{
    AnyRule, Averaging, BufferRange, Device, Error, Format, Gpu, Gradient, LoadOptions, Optimizer, ParameterId,
    Precision, Result, SaveOptions, States, rules,
};

use crate::compare::ensure;
use crate::fixture::{FOREIGN, buffer, content};

crate::tests!(
    whatever_writes_a_parameter_writes_its_mirror,
    every_number_is_rounded_to_the_nearest,
    mirrors_of_the_callers_pools,
    what_has_no_mirror_is_refused
);

const LENS: [usize; 6] = [1, 3, 255, 256, 1001, 4099];

fn precision(format: Format, states: States) -> Precision {
    Precision { mirror: Some(format), states, min_8bit_size: 256, ..Precision::f32() }
}

fn narrow(format: Format, x: f32) -> f32 {
    if format == Format::F16 { f16::from_f32(x).to_f32() } else { bf16::from_f32(x).to_f32() }
}

fn start(len: usize) -> Vec<f32> {
    (0..len).map(|k| ((k * 7919) % 2003) as f32 / 1000.0 - 1.0).collect()
}

/// All mirrors are their parameters, rounded.
fn check(optimizer: &Optimizer, ids: &[ParameterId], format: Format, when: &str) -> Result<(), Failed> {
    for &id in ids {
        let (w, mirror): (Vec<f32>, _) = (optimizer.read_blocking(id)?, optimizer.read_mirror_blocking(id)?);
        let differ = w.iter().zip(&mirror).filter(|(w, m)| narrow(format, **w).to_bits() != m.to_bits()).count();
        let what = format!("{when}: {differ} of {} in {} on {}", w.len(), format.name(), optimizer.device().name());
        ensure(w.len() == mirror.len() && differ == 0, what)?;
    }
    Ok(())
}

fn whatever_writes_a_parameter_writes_its_mirror(gpu: &Gpu) -> Result<(), Failed> {
    for format in [Format::F16, Format::Bf16] {
        for states in [States::F32, States::Block8] {
            for device in [Device::Cpu, gpu.into()] {
                let rule: AnyRule = rules::Momentum::torch(0.9).into();
                let make = |precision: Precision| -> Result<(Optimizer, Vec<ParameterId>)> {
                    let mut sgd = Optimizer::new(&device, rule.clone(), 0.01)?;
                    sgd.set_precision(0, precision)?;
                    let ids = LENS.map(|len| sgd.add(0, &format!("w{len}"), &start(len)));
                    Ok((sgd, ids.into_iter().collect::<Result<_>>()?))
                };
                let (mut sgd, ids) = make(precision(format, states))?;
                let (mut plain, _) = make(Precision { mirror: None, ..precision(format, states) })?;
                check(&sgd, &ids, format, "added")?;
                for sgd in [&mut sgd, &mut plain] {
                    for (id, len) in ids.iter().zip(LENS) {
                        sgd.write_gradient(*id, &start(len).iter().map(|x| x * 0.37).collect::<Vec<_>>())?;
                    }
                    sgd.step()?;
                    sgd.look_ahead()?;
                    sgd.step()?;
                }
                check(&sgd, &ids, format, "stepped")?;
                for &id in &ids {
                    let [a, b] = [&sgd, &plain].map(|sgd| sgd.read_blocking::<f32>(id));
                    ensure(a? == b?, "a mirror changes nothing")?;
                }
                sgd.look_ahead()?;
                check(&sgd, &ids, format, "at the look-ahead point")?;
                sgd.step()?;
                sgd.set_averaging(0, Averaging::Ema(0.5))?;
                (0..2).try_for_each(|_| sgd.step())?;
                check(&sgd, &ids, format, "averaged")?;
                sgd.swap_averages(0)?;
                check(&sgd, &ids, format, "swapped")?;
                sgd.swap_averages(0)?;
                sgd.write(ids[4], &start(LENS[4]))?;
                check(&sgd, &ids, format, "written")?;
                let mut file = Vec::new();
                pollster::block_on(sgd.save_to(&mut file, SaveOptions::default()))?;
                let (mut again, others) = make(precision(format, states))?;
                again.set_averaging(0, Averaging::Ema(0.5))?;
                again.load_from(&mut Cursor::new(file), LoadOptions::default())?;
                check(&again, &others, format, "loaded")?;
            }
        }
    }
    Ok(())
}

/// From the host and in a step: ties, subnormal numbers, the largest, infinite ones, NaN. A learning rate of 0 keeps
/// them.
fn every_number_is_rounded_to_the_nearest(gpu: &Gpu) -> Result<(), Failed> {
    let mut values: Vec<f32> = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 65504.0, 65519.9, 65520.0];
    let mut x = 1u32;
    for _ in 0..20_000 {
        x = x.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        // Normal f32 alone: a device may take others for 0. Half of them are near ties of either format.
        let bits = [x, x & 0xffff_8000, x & 0xffff_f000, (x & 0xffff_8000) | 1][(x >> 8) as usize % 4];
        let number = f32::from_bits(bits);
        let scaled = number.abs().clamp(1e-9, 1e5).copysign(number);
        values.extend([number, scaled].into_iter().filter(|x| x.is_normal()));
    }
    for format in [Format::F16, Format::Bf16] {
        let mut sgd = Optimizer::new(&gpu.into(), rules::Sgd, 0.0)?;
        sgd.set_precision(0, precision(format, States::F32))?;
        let id = sgd.add(0, "w", &values)?;
        check(&sgd, &[id], format, "from the host")?;
        // A step writes over what the host wrote.
        let mirror = sgd.mirror(id)?.clone();
        gpu.queue().write_buffer(&mirror.buffer, mirror.offset, &vec![0xff; 2 * values.len() / 4 * 4]);
        sgd.write_gradient(id, &vec![0f32; values.len()])?;
        sgd.step()?;
        check(&sgd, &[id], format, "in a step")?;
        let nan = sgd.add(0, "nan", &[f32::NAN; 4])?;
        sgd.write_gradient(nan, &[0f32; 4])?;
        sgd.step()?;
        ensure(sgd.read_mirror_blocking(nan)?.iter().all(|x| x.is_nan()), "NaN stays NaN")?;
    }
    Ok(())
}

fn mirrors_of_the_callers_pools(gpu: &Gpu) -> Result<(), Failed> {
    for states in [States::F32, States::Block8] {
        let (mut pool, mut offsets) = (vec![f32::NAN], Vec::new());
        for len in LENS {
            offsets.push(4 * pool.len() as u64);
            pool.extend(start(len));
            pool.push(f32::NAN);
        }
        let both = [(); 2].map(|()| buffer(gpu, &pool, FOREIGN));
        let mut adam = Optimizer::new(&gpu.into(), rules::Adam::default(), 0.01)?;
        adam.set_precision(0, precision(Format::Bf16, states))?;
        let mut ids = Vec::new();
        for (offset, len) in offsets.into_iter().zip(LENS) {
            let [parameter, gradient] = [0, 1].map(|k| BufferRange::new(&both[k], offset, len));
            ids.push(adam.add_buffer(0, &format!("w{len}"), parameter)?);
            adam.set_gradient(ids[ids.len() - 1], Gradient::Buffer(gradient))?;
        }
        ensure(adam.read_mirror_blocking(ids[2])?.iter().all(|x| *x == 0.0), "nobody has written it")?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        adam.encode_mirrors(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
        check(&adam, &ids, Format::Bf16, "recorded")?;
        (0..2).try_for_each(|_| adam.step())?;
        check(&adam, &ids, Format::Bf16, "stepped")?;
        let nan = content(gpu, &both[0])?.iter().filter(|x| x.is_nan()).count();
        ensure(nan == 1 + LENS.len(), format!("{nan} of what lies between is left"))?;
    }
    Ok(())
}

fn what_has_no_mirror_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    let refused = |e: Option<Error>| matches!(e, Some(Error::Unsupported { .. }));
    for device in [Device::Cpu, gpu.into()] {
        let mut sgd = Optimizer::new(&device, rules::Sgd, 0.01)?;
        ensure(refused(sgd.set_precision(0, precision(Format::F32, States::F32)).err()), "a mirror in f32")?;
        sgd.add(0, "w", &[1.0f32])?;
        ensure(refused(sgd.mirror("w").err()), "no mirror")?;
        ensure(refused(sgd.read_mirror_blocking("w").err()), "no mirror to read")?;
    }
    let mut sgd = Optimizer::new(&Device::Cpu, rules::Sgd, 0.01)?;
    sgd.set_precision(0, precision(Format::F16, States::F32))?;
    sgd.add(0, "w", &[1.0f32])?;
    ensure(refused(sgd.mirror("w").err()), "a range on the CPU")
}
