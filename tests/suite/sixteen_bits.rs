//! Gradients in 16 bits: read where they are, packed two in a word, and cleared. The step is that of the same numbers
//! in f32.

use std::io::Cursor;

use half::{bf16, f16};
use libtest_mimic::Failed;
use wgpu_optim::{
    AdaptiveClip, AnyRule, BufferRange, ClipNorm, Device, Error, Format, Gpu, Gradient, LoadOptions, LossScaler, Noise,
    Optimizer, ParameterId, Precision, Result, SaveOptions, Settings, WeightDecay, rules, rules::Sgd,
};

use crate::compare::{TOLERANCE, close, ensure};

crate::tests!(
    every_rule_in_the_optimizers_memory,
    ranges_of_the_callers_buffers,
    gradients_in_pools_are_zeroed,
    a_buffer_of_half_a_word,
    one_buffer_of_both_formats,
    micro_batches_are_added_from_16_bits,
    nothing_rewrites_16_bits,
    a_format_stays_with_its_memory,
    gradients_are_rounded_to_the_nearest
);

const LENS: [usize; 6] = [1, 3, 4, 63, 130, 4097];

fn of(gradients: Format) -> Precision {
    Precision { gradients, ..Precision::f32() }
}

/// Numbers that both formats of 16 bits have, of f16 some subnormal.
fn gradient(len: usize, t: usize) -> Vec<f32> {
    let of = |k: usize| ((k * 7919 + t * 104_729) % 2003) as f32 / 1000.0 - 1.0;
    let small = |k: usize| if k % 11 == 3 { 3.0 * 2f32.powi(-22) } else { of(k) };
    (0..len).map(|k| f16::from_f32(bf16::from_f32(small(k)).to_f32()).to_f32()).collect()
}

const NARROW: [Format; 2] = [Format::F16, Format::Bf16];

fn settings(rich: bool) -> Settings {
    let plain = Settings::lr(0.01);
    match rich {
        false => plain,
        true => Settings {
            weight_decay: WeightDecay::L2(0.01),
            clip_value: Some(0.9),
            clip_norm: Some(ClipNorm::torch(3.0)),
            noise: Some(Noise { eta: 1e-6, gamma: 0.55, seed: 7 }),
            ..plain
        },
    }
}

fn optimizer(device: &Device, rule: &AnyRule, rich: bool) -> Result<Optimizer> {
    let mut optimizer = Optimizer::new(device, rule.clone(), settings(rich))?;
    if rich {
        optimizer.set_clip_norm(ClipNorm::torch(10.0))?;
        optimizer.set_loss_scaler(LossScaler { init_scale: 2.0, ..LossScaler::default() })?;
    }
    Ok(optimizer)
}

/// All bits of parameters and states.
fn bits(optimizer: &Optimizer, rule: &AnyRule, ids: &[ParameterId]) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for &id in ids {
        all.extend(optimizer.read_blocking::<f32>(id)?);
        for state in rule.states() {
            all.extend(optimizer.read_state_blocking::<f32>(id, state)?);
        }
    }
    Ok(all.into_iter().map(f32::to_bits).collect())
}

fn start(len: usize) -> Vec<f32> {
    (0..len).map(|k| (k % 97) as f32 / 50.0 - 1.0).collect()
}

fn in_memory(device: &Device, rule: &AnyRule, rich: bool, format: Format) -> Result<Vec<u32>> {
    let mut optimizer = optimizer(device, rule, rich)?;
    optimizer.set_precision(0, of(format))?;
    let values = LENS.map(start);
    let names = LENS.map(|len| format!("w{len}"));
    let tensors: Vec<_> = names.iter().zip(&values).map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    let ids = optimizer.add_all(0, &tensors)?;
    for t in 0..3 {
        for (id, len) in ids.iter().zip(LENS) {
            optimizer.write_gradient(*id, &gradient(len, t))?;
        }
        optimizer.step()?;
    }
    bits(&optimizer, rule, &ids)
}

fn every_rule_in_the_optimizers_memory(gpu: &Gpu) -> Result<(), Failed> {
    for device in [Device::Cpu, gpu.into()] {
        for (name, rule) in rules::all() {
            for rich in [false, true] {
                let full = in_memory(&device, &rule, rich, Format::F32)?;
                // A format does not depend on the rule: f16 with three of them.
                let formats = if ["adam", "lamb", "sgd"].contains(&name) { &NARROW[..] } else { &NARROW[1..] };
                for &format in formats {
                    let narrow = in_memory(&device, &rule, rich, format)?;
                    let differ = full.iter().zip(&narrow).filter(|(a, b)| a != b).count();
                    let name = format!("{name} of {} on {}, rich {rich}", format.name(), device.name());
                    ensure(differ == 0, format!("{name}: {differ} differ"))?;
                }
            }
        }
    }
    Ok(())
}

fn buffer(gpu: &Gpu, bytes: &[u8]) -> wgpu::Buffer {
    use wgpu::BufferUsages as Usage;
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes.len().next_multiple_of(4) as u64,
        usage: Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
        mapped_at_creation: false,
    });
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    gpu.queue().write_buffer(&buffer, 0, &padded);
    buffer
}

fn encoded(values: &[f32], format: Format) -> Vec<u8> {
    match format {
        Format::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_ne_bytes()).collect(),
        Format::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_ne_bytes()).collect(),
        _ => bytemuck::cast_slice(values).to_vec(),
    }
}

/// Just above, at and below the middle between 1 and 1.0078125, from the host on both devices.
fn gradients_are_rounded_to_the_nearest(gpu: &Gpu) -> Result<(), Failed> {
    let values = [0x3f80_8001, 0x3f80_8000, 0x3f80_7fff, 0x3f81_8000].map(f32::from_bits);
    for device in [Device::Cpu, gpu.into()] {
        let mut sgd = Optimizer::new(&device, rules::Sgd, 0.1)?;
        sgd.set_precision(0, of(Format::Bf16))?;
        let id = sgd.add(0, "w", &[0.0f32; 4])?;
        sgd.write_gradient(id, &values)?;
        let found = sgd.read_gradient_blocking::<f32>(id)?;
        ensure(found == [1.0078125, 1.0, 1.0, 1.015625], format!("{found:?} on {}", device.name()))?;
    }
    for format in NARROW {
        let mut sgd = Optimizer::new(&Device::Cpu, rules::Sgd, 0.5)?;
        sgd.set_precision(0, of(format))?;
        let id = sgd.add(0, "w", &[1.0f64; 5])?;
        let gradient = [1.0, -0.5, 0.25, 2.0, 1.0 + 1e-9];
        sgd.write_gradient(id, &gradient)?;
        sgd.step()?;
        let found: Vec<f64> = sgd.read_blocking(id)?;
        ensure(found == [0.5, 1.25, 0.875, 0.0, 0.5], format!("{found:?} of {} in f64", format.name()))?;
    }
    Ok(())
}

/// Neither memory that was moved elsewhere, nor a file, nor a caller's buffer gets around the format.
fn a_format_stays_with_its_memory(gpu: &Gpu) -> Result<(), Failed> {
    let refused = |result: Result<()>| matches!(result, Err(Error::Unsupported { .. }));
    for device in [Device::Cpu, gpu.into()] {
        let mut writing = Optimizer::new(&device, rules::Sgd, Settings { centralize: true, ..Settings::lr(0.5) })?;
        writing.add(0, "w", &[1.0f32, 2.0, 3.0])?;
        let mut file = Vec::new();
        pollster::block_on(writing.save_to(&mut file, SaveOptions::default()))?;
        let mut narrow = Optimizer::new(&device, rules::Sgd, 0.1)?;
        narrow.set_precision(0, of(Format::Bf16))?;
        narrow.add(0, "w", &[0.0f32; 3])?;
        let loaded = narrow.load_from(&mut Cursor::new(file), LoadOptions::default()).map(drop);
        ensure(refused(loaded), "a file whose settings write gradients")?;
        ensure(
            narrow.lr(0)? == 0.1 && narrow.read_blocking::<f32>("w")? == [0.0; 3],
            "a refused file changes nothing",
        )?;
    }
    let mut sgd = Optimizer::new(&gpu.into(), rules::Sgd, 0.1)?;
    let other = sgd.add_group(rules::Sgd, 0.1)?;
    let id = sgd.add(0, "w", &[1.0f32; 3])?;
    sgd.move_to_group(id, other)?;
    ensure(refused(sgd.set_precision(0, of(Format::Bf16))), "an arena in which a moved parameter lies")?;
    let words = buffer(gpu, &[0; 8]);
    sgd.set_gradient(id, Gradient::Buffer(BufferRange::of(&words, 0, 3, Format::Bf16)))?;
    ensure(refused(sgd.accumulate(id, &[1.0f32; 3])), "micro-batches into a caller's 16 bits")?;
    ensure(sgd.read_gradient_blocking::<f32>(id)? == [0.0; 3], "a refused micro-batch writes nothing")
}

/// Tensors behind each other in one buffer, each at a word, and their offsets.
fn pool(tensors: &[Vec<f32>], format: Format) -> (Vec<u8>, Vec<u64>) {
    let (mut bytes, mut offsets) = (vec![0xff; 4], Vec::new());
    for tensor in tensors {
        offsets.push(bytes.len() as u64);
        bytes.extend(encoded(tensor, format));
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
    }
    (bytes, offsets)
}

/// Parameters in one pool, gradients in another: odd lengths, so that a word holds the end of one tensor and a NaN.
fn ranges_of_the_callers_buffers(gpu: &Gpu) -> Result<(), Failed> {
    for (name, rule) in ["sgd", "adam", "lamb", "adagrad-norm"].map(|name| (name, rules::by_name(name))) {
        let rule = rule?;
        for rich in [false, true] {
            let mut found = Vec::new();
            for format in [Format::F32, Format::F16, Format::Bf16] {
                let mut optimizer = optimizer(&gpu.into(), &rule, rich)?;
                let (bytes, offsets) = pool(&LENS.map(start), Format::F32);
                let parameters = buffer(gpu, &bytes);
                let names = LENS.map(|len| format!("w{len}"));
                let at = |k: usize| BufferRange::new(&parameters, offsets[k], LENS[k]);
                let tensors: Vec<_> = names.iter().enumerate().map(|(k, name)| (name.as_str(), at(k))).collect();
                let ids = optimizer.add_buffers(0, &tensors)?;
                for t in 0..3 {
                    let (bytes, offsets) = pool(&LENS.map(|len| gradient(len, t)), format);
                    let gradients = buffer(gpu, &bytes);
                    for (k, &id) in ids.iter().enumerate() {
                        let range = BufferRange::of(&gradients, offsets[k], LENS[k], format);
                        optimizer.set_gradient(id, Gradient::Buffer(range))?;
                        let back = optimizer.read_gradient_blocking::<f32>(id)?;
                        ensure(back == gradient(LENS[k], t), format!("{name}: gradient {k} read back"))?;
                    }
                    optimizer.step()?;
                }
                found.push(bits(&optimizer, &rule, &ids)?);
            }
            ensure(found[0] == found[1] && found[0] == found[2], format!("{name}, rich {rich}"))?;
        }
    }
    Ok(())
}

/// Beside parameters in f32: what a step zeroes are the gradients, and not the NaN behind an odd one in its word.
fn gradients_in_pools_are_zeroed(gpu: &Gpu) -> Result<(), Failed> {
    for format in NARROW {
        let settings = Settings { zero_grad: true, ..Settings::lr(0.01) };
        let mut adam = Optimizer::new(&gpu.into(), rules::Adam::default(), settings)?;
        let (bytes, places) = pool(&LENS.map(start), Format::F32);
        let (gradients, at) = pool(&LENS.map(|len| gradient(len, 1)), format);
        let before: &[u16] = bytemuck::cast_slice(&gradients);
        let both = [buffer(gpu, &bytes), buffer(gpu, &gradients)];
        for (k, len) in LENS.into_iter().enumerate() {
            let id = adam.add_buffer(0, &format!("w{len}"), BufferRange::new(&both[0], places[k], len))?;
            adam.set_gradient(id, Gradient::Buffer(BufferRange::of(&both[1], at[k], len, format)))?;
        }
        adam.step()?;
        let words = crate::fixture::content(gpu, &both[1])?;
        let after: &[u16] = bytemuck::cast_slice(&words);
        let of_others = |half: &u16| *half == 0xffff;
        let kept = before.iter().zip(after).filter(|(before, _)| of_others(before)).all(|(_, after)| of_others(after));
        let zeros = after.iter().filter(|half| **half == 0).count();
        ensure(kept && zeros == LENS.iter().sum::<usize>(), format!("{zeros} gradients of {} are 0", format.name()))?;
    }
    Ok(())
}

/// A buffer need not end with a whole word. What is behind it, no range can have.
fn a_buffer_of_half_a_word(gpu: &Gpu) -> Result<(), Failed> {
    let gradients = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 14,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&gradients, 0, &encoded(&[2.0; 4], Format::Bf16));
    let mut optimizer = Optimizer::new(&gpu.into(), Sgd, 1.0)?;
    optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
    let w = optimizer.add(0, "w", &[1.0f32; 4])?;
    optimizer.set_gradient(w, Gradient::Buffer(BufferRange::of(&gradients, 0, 4, Format::Bf16)))?;
    optimizer.step()?;
    close("w", &optimizer.read_blocking::<f32>(w)?, &[0.5; 4], &[1.0; 4], TOLERANCE)
}

/// A parameter in f32 and its gradient in bf16 behind it, in one buffer.
fn one_buffer_of_both_formats(gpu: &Gpu) -> Result<(), Failed> {
    for len in [5, 64, 1001] {
        let mut found = Vec::new();
        for format in [Format::F32, Format::Bf16] {
            let mut bytes = encoded(&start(len), Format::F32);
            bytes.resize(bytes.len().next_multiple_of(256), 0);
            let offset = bytes.len() as u64;
            bytes.extend(encoded(&gradient(len, 1), format));
            let both = buffer(gpu, &bytes);
            let mut adam = Optimizer::new(&gpu.into(), rules::Adam::default(), 0.01)?;
            let id = adam.add_buffer(0, "w", BufferRange::new(&both, 0, len))?;
            adam.set_gradient(id, Gradient::Buffer(BufferRange::of(&both, offset, len, format)))?;
            adam.step()?;
            adam.step()?;
            found.push(bits(&adam, &rules::Adam::default().into(), &[id])?);
        }
        ensure(found[0] == found[1], format!("{len} elements differ"))?;
    }
    Ok(())
}

fn micro_batches_are_added_from_16_bits(gpu: &Gpu) -> Result<(), Failed> {
    for len in [3, 4097] {
        let mut found = Vec::new();
        for format in [Format::F32, Format::Bf16] {
            let mut sgd = Optimizer::new(&gpu.into(), rules::Sgd, 0.5)?;
            let id = sgd.add(0, "w", &start(len))?;
            let batches = [0, 1].map(|t| buffer(gpu, &encoded(&gradient(len, t), format)));
            for batch in &batches {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                sgd.encode_accumulate(&mut encoder, &[(id, BufferRange::of(batch, 0, len, format))])?;
                gpu.queue().submit([encoder.finish()]);
            }
            sgd.step()?;
            found.push(bits(&sgd, &rules::Sgd.into(), &[id])?);
        }
        ensure(found[0] == found[1], format!("{len} elements differ"))?;
    }
    Ok(())
}

fn nothing_rewrites_16_bits(gpu: &Gpu) -> Result<(), Failed> {
    let refused = |result: Result<()>| matches!(result, Err(Error::Unsupported { .. }));
    let writing = [
        Settings { centralize: true, ..Settings::lr(0.1) },
        Settings { adaptive_clip: Some(AdaptiveClip::torch(0.1)), ..Settings::lr(0.1) },
    ];
    for device in [Device::Cpu, gpu.into()] {
        let mut sgd = Optimizer::new(&device, rules::Sgd, 0.1)?;
        sgd.set_precision(0, of(Format::Bf16))?;
        let id = sgd.add(0, "w", &[1.0f32, 2.0, 3.0])?;
        for settings in writing {
            ensure(refused(sgd.set_settings(0, settings)), "settings that rewrite gradients")?;
            let mut other = Optimizer::new(&device, rules::Sgd, settings)?;
            ensure(refused(other.set_precision(0, of(Format::Bf16))), "16 bits under such settings")?;
        }
        ensure(refused(sgd.accumulate(id, &[1.0f32; 3])), "micro-batches in 16 bits")?;
        ensure(refused(sgd.set_precision(0, of(Format::F32))), "a format while there are parameters")?;
        ensure(refused(sgd.set_precision(0, of(Format::F64))), "gradients in f64")?;
        sgd.write_gradient(id, &[1.0f32, -2.0, 1e-3])?;
        sgd.zero_grad()?;
        ensure(sgd.read_gradient_blocking::<f32>(id)? == [0.0; 3], "zero_grad")?;
        sgd.set_settings(0, Settings { zero_grad: true, ..Settings::lr(0.1) })?;
        sgd.write_gradient(id, &[1.0f32, -2.0, 1e-3])?;
        sgd.step()?;
        ensure(sgd.read_gradient_blocking::<f32>(id)? == [0.0; 3], "zero_grad of a step")?;
    }
    let words = buffer(gpu, &[0; 16]);
    let mut sgd = Optimizer::new(&gpu.into(), rules::Sgd, writing[0])?;
    let range = BufferRange::of(&words, 0, 3, Format::Bf16);
    ensure(matches!(sgd.add_buffer(0, "w", range.clone()), Err(Error::ElementType { .. })), "a parameter in 16 bits")?;
    let id = sgd.add(0, "v", &[0.0f32; 3])?;
    ensure(refused(sgd.set_gradient(id, Gradient::Buffer(range))), "a gradient that is rewritten, in 16 bits")?;
    sgd.set_settings(0, 0.1)?;
    let odd = BufferRange::of(&words, 2, 3, Format::Bf16);
    ensure(matches!(sgd.set_gradient(id, Gradient::Buffer(odd)), Err(Error::Misaligned { .. })), "half a word")?;
    let long = BufferRange::of(&words, 12, 3, Format::Bf16);
    ensure(matches!(sgd.set_gradient(id, Gradient::Buffer(long)), Err(Error::OutOfBounds { .. })), "half outside")
}
