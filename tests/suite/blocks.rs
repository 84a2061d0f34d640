//! States in 8 bits, in blocks of 256: both devices keep the same codes, and nothing else is touched.

use std::io::Cursor;

use libtest_mimic::Failed;
use wgpu_optim::internals::give_a_thread_a_block;
use wgpu_optim::{
    AnyRule, Averaging, BufferRange, ClipNorm, Device, Error, Format, Gpu, Gradient, LoadOptions, LossScaler, Noise,
    Optimizer, Options, ParameterId, Precision, Result, Rounding, Settings, States, WeightDecay, rules,
};

use crate::checkpoint::saved;
use crate::compare::ensure;
use crate::fixture::{FOREIGN, buffer, content, device_like};

crate::tests!(
    every_rule_keeps_the_codes_of_the_cpu,
    both_forms_keep_the_same_codes,
    ranges_of_the_callers_pools,
    a_skipped_step_changes_nothing,
    a_run_goes_on_from_a_file,
    files_of_other_precisions_load,
    states_are_read_and_written,
    a_number_that_is_not_finite_stays_alone,
    everything_else_works_with_them,
    a_moved_parameter_is_saved_as_it_is_stored,
    a_file_with_a_bad_scale_changes_nothing,
    windows_and_limits_of_a_small_device,
    memory_is_six_bytes_a_parameter,
    what_does_not_fit_is_refused
);

const LENS: [usize; 7] = [1, 255, 256, 257, 1000, 4097, 9001];

fn random(len: usize, seed: usize) -> impl Iterator<Item = f32> {
    let mut x = seed as u64 * 7919 + 1;
    let next = move |_| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(next)
}

fn start(len: usize) -> Vec<f32> {
    random(len, len).collect()
}

/// Of heavy tails, with zeros.
fn gradient(len: usize, t: usize) -> Vec<f32> {
    random(len, 1000 * t + len).map(|x| if x.abs() < 0.1 { 0.0 } else { x.powi(7) * 10.0 }).collect()
}

fn precision(states: States) -> Precision {
    Precision { states, min_8bit_size: 256, seed: 3, ..Precision::f32() }
}

const ALL: [(States, Rounding); 5] = [
    (States::Block8, Rounding::Stochastic),
    (States::Block8, Rounding::Nearest),
    (States::Relative8, Rounding::Stochastic),
    (States::BitsandbytesCpu, Rounding::Nearest),
    (States::Torchao, Rounding::Nearest),
];

/// What a step may do besides.
fn rich(optimizer: &mut Optimizer) -> Result<()> {
    let settings = Settings {
        weight_decay: WeightDecay::Decoupled(0.01),
        clip_value: Some(3.0),
        clip_norm: Some(ClipNorm::torch(30.0)),
        noise: Some(Noise { eta: 1e-6, gamma: 0.55, seed: 7 }),
        zero_grad: true,
        ..Settings::lr(0.01)
    };
    optimizer.set_settings(0, settings)?;
    optimizer.set_clip_norm(ClipNorm::torch(100.0))?;
    optimizer.set_loss_scaler(LossScaler { init_scale: 2.0, ..LossScaler::default() })?;
    optimizer.set_averaging(0, Averaging::Ema(0.9))
}

fn optimizer(device: &Device, rule: &AnyRule, precision: Precision) -> Result<(Optimizer, Vec<ParameterId>)> {
    let mut optimizer = Optimizer::new(device, rule.clone(), 0.01)?;
    optimizer.set_precision(0, precision)?;
    let values = LENS.map(start);
    let names = LENS.map(|len| format!("w{len}"));
    let tensors: Vec<_> = names.iter().zip(&values).map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    let ids = optimizer.add_all(0, &tensors)?;
    Ok((optimizer, ids))
}

fn step(optimizer: &mut Optimizer, ids: &[ParameterId], t: usize) -> Result<()> {
    for (id, len) in ids.iter().zip(LENS) {
        optimizer.write_gradient(*id, &gradient(len, t))?;
    }
    optimizer.step()
}

/// Parameters and states.
fn all(optimizer: &Optimizer, rule: &AnyRule, ids: &[ParameterId]) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::new();
    for &id in ids {
        all.push(optimizer.read_blocking(id)?);
        for state in rule.states() {
            all.push(optimizer.read_state_blocking(id, state)?);
        }
    }
    Ok(all)
}

fn averages(optimizer: &mut Optimizer, ids: &[ParameterId]) -> Result<Vec<Vec<f32>>> {
    optimizer.swap_averages(0)?;
    let averages = ids.iter().map(|&id| optimizer.read_blocking(id)).collect();
    optimizer.swap_averages(0)?;
    averages
}

/// Numbers on two devices: equal to 2e-6 of their tensor's largest, but for one in a thousand, which may have the next
/// code. That is where a norm, summed in another order, takes a number over the middle between two.
///
/// The next code is at most 1.4 % of the largest away in the maps, and 2⁻³ of an octave in logarithms.
fn same(name: &str, a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<(), Failed> {
    let next = if name.contains("Relative8") { 0.125 } else { 0.02 };
    let (mut all, mut differ) = (0, 0);
    for (k, (a, b)) in a.iter().zip(b).enumerate() {
        let most = a.iter().fold(0f32, |most, x| most.max(x.abs()));
        differ += a.iter().zip(b).filter(|(a, b)| (*a - *b).abs() > 2e-6 * most).count();
        all += a.len();
        ensure(a.len() == b.len(), format!("{name}: {} and {} in {k}", a.len(), b.len()))?;
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        ensure(off <= next * most, format!("{name}: {off:e} off in {k}, whose largest is {most:e}"))?;
    }
    ensure(differ * 1000 <= all, format!("{name}: {differ} of {all} differ"))
}

fn every_rule_keeps_the_codes_of_the_cpu(gpu: &Gpu) -> Result<(), Failed> {
    let several = ["adam", "amsgrad", "lamb", "rmsprop-centered-momentum", "adagrad", "momentum"];
    for (name, rule) in rules::all() {
        for (states, rounding) in ALL {
            for with in [false, true] {
                if (with || states != States::Block8) && !several.contains(&name) {
                    continue;
                }
                let precision = Precision { rounding, ..precision(states) };
                let mut found = Vec::new();
                for device in [Device::Cpu, gpu.into()] {
                    let (mut optimizer, ids) = optimizer(&device, &rule, precision)?;
                    if with {
                        rich(&mut optimizer)?;
                        // Normals are as exact as the device's logarithm and cosine.
                        let settings = *optimizer.settings(0)?;
                        optimizer.set_settings(0, Settings { noise: None, ..settings })?;
                    }
                    (0..4).try_for_each(|t| step(&mut optimizer, &ids, t))?;
                    let mut numbers = all(&optimizer, &rule, &ids)?;
                    if with {
                        numbers.extend(averages(&mut optimizer, &ids)?);
                    }
                    found.push(numbers);
                }
                same(&format!("{name} {states:?} {rounding:?} {with}"), &found[0], &found[1])?;
            }
        }
    }
    Ok(())
}

fn bits(all: Vec<Vec<f32>>) -> Vec<u32> {
    all.concat().into_iter().map(f32::to_bits).collect()
}

fn both_forms_keep_the_same_codes(gpu: &Gpu) -> Result<(), Failed> {
    let before = gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
    for name in ["adam", "lamb", "rmsprop-centered-momentum"] {
        let rule = rules::by_name(name)?;
        for (states, rounding) in ALL {
            let mut found = Vec::new();
            for block_a_thread in [false, true] {
                give_a_thread_a_block(gpu, block_a_thread);
                let (mut optimizer, ids) = optimizer(&gpu.into(), &rule, Precision { rounding, ..precision(states) })?;
                rich(&mut optimizer)?;
                (0..3).try_for_each(|t| step(&mut optimizer, &ids, t))?;
                let numbers = [all(&optimizer, &rule, &ids)?, averages(&mut optimizer, &ids)?];
                found.push(bits(numbers.concat()));
            }
            give_a_thread_a_block(gpu, before);
            ensure(found[0] == found[1], format!("{name} {states:?} {rounding:?}"))?;
        }
    }
    Ok(())
}

/// Tensors at every offset of a pool, with numbers between them that must stay.
fn ranges_of_the_callers_pools(gpu: &Gpu) -> Result<(), Failed> {
    let lens: Vec<usize> = (1..=40).chain([63, 64, 65, 255, 256, 257, 511, 1023, 1025, 4099]).collect();
    for name in ["adam", "lamb", "lars"] {
        let rule = rules::by_name(name)?;
        let precision = Precision { min_8bit_size: 1, ..precision(States::Block8) };
        let mut found = Vec::new();
        for callers in [false, true] {
            let mut optimizer = Optimizer::new(&gpu.into(), rule.clone(), 0.01)?;
            optimizer.set_precision(0, precision)?;
            let (mut pool, mut gradients, mut offsets) = (vec![f32::NAN; 1], vec![f32::NAN; 3], Vec::new());
            for &len in &lens {
                offsets.push((4 * pool.len() as u64, 4 * gradients.len() as u64));
                pool.extend(start(len));
                pool.extend([f32::NAN; 2]);
                gradients.extend(gradient(len, 1));
                gradients.push(f32::NAN);
            }
            let (pool, gradients) = (buffer(gpu, &pool, FOREIGN), buffer(gpu, &gradients, FOREIGN));
            let mut ids = Vec::new();
            for (k, &len) in lens.iter().enumerate() {
                let name = format!("w{len}");
                if callers {
                    let id = optimizer.add_buffer(0, &name, BufferRange::new(&pool, offsets[k].0, len))?;
                    let range = BufferRange::new(&gradients, offsets[k].1, len);
                    optimizer.set_gradient(id, Gradient::Buffer(range))?;
                    ids.push(id);
                } else {
                    ids.push(optimizer.add(0, &name, &start(len))?);
                    optimizer.write_gradient(ids[k], &gradient(len, 1))?;
                }
            }
            (0..2).try_for_each(|_| optimizer.step())?;
            found.push(bits(all(&optimizer, &rule, &ids)?));
            if callers {
                let nan = content(gpu, &pool)?.iter().filter(|x| x.is_nan()).count();
                ensure(nan == 1 + 2 * lens.len(), format!("{name}: {nan} of what lies between is left"))?;
            }
        }
        ensure(found[0] == found[1], format!("{name} steps differently in a pool"))?;
    }
    Ok(())
}

fn a_skipped_step_changes_nothing(gpu: &Gpu) -> Result<(), Failed> {
    let rule = rules::by_name("adam")?;
    for device in [Device::Cpu, gpu.into()] {
        let (mut optimizer, ids) = optimizer(&device, &rule, precision(States::Block8))?;
        rich(&mut optimizer)?;
        step(&mut optimizer, &ids, 0)?;
        let before = bits(all(&optimizer, &rule, &ids)?);
        for (id, len) in ids.iter().zip(LENS) {
            let mut values = gradient(len, 1);
            values[len / 2] = f32::INFINITY;
            optimizer.write_gradient(*id, &values)?;
        }
        optimizer.step()?;
        ensure(bits(all(&optimizer, &rule, &ids)?) == before, device.name())?;
    }
    Ok(())
}

fn a_run_goes_on_from_a_file(gpu: &Gpu) -> Result<(), Failed> {
    for name in ["adam", "lamb"] {
        let rule = rules::by_name(name)?;
        for (states, rounding) in ALL {
            let precision = Precision { rounding, ..precision(states) };
            for device in [Device::Cpu, gpu.into()] {
                let (mut whole, ids) = optimizer(&device, &rule, precision)?;
                (0..2).try_for_each(|t| step(&mut whole, &ids, t))?;
                let file = saved(&mut whole)?;
                // Another seed: the file's holds.
                let (mut again, others) = optimizer(&device, &rule, Precision { seed: 9, ..precision })?;
                again.load_from(&mut Cursor::new(&file), LoadOptions::default())?;
                ensure(saved(&mut again)? == file, format!("{name} {states:?}: saved again"))?;
                for t in 2..4 {
                    step(&mut whole, &ids, t)?;
                    step(&mut again, &others, t)?;
                }
                let [a, b] = [all(&whole, &rule, &ids)?, all(&again, &rule, &others)?].map(bits);
                ensure(a == b, format!("{name} {states:?} {rounding:?} on {}", device.name()))?;
            }
        }
    }
    Ok(())
}

/// From f32 into blocks, from blocks into f32, and between formats: the nearest numbers, and step counts.
fn files_of_other_precisions_load(gpu: &Gpu) -> Result<(), Failed> {
    let rule = rules::by_name("adam")?;
    let kinds = [States::F32, States::Block8, States::Relative8];
    for device in [Device::Cpu, gpu.into()] {
        for from in kinds {
            let (mut one, ids) = optimizer(&device, &rule, precision(from))?;
            (0..3).try_for_each(|t| step(&mut one, &ids, t))?;
            let file = saved(&mut one)?;
            for to in kinds.into_iter().filter(|to| *to != from) {
                let (mut other, others) = optimizer(&device, &rule, precision(to))?;
                other.load_from(&mut Cursor::new(&file), LoadOptions::default())?;
                ensure(other.steps(others[0])? == 3, "steps")?;
                for (&a, &b) in ids.iter().zip(&others) {
                    let what = format!("{from:?} into {to:?} on {}", device.name());
                    ensure(one.read_blocking::<f32>(a)? == other.read_blocking::<f32>(b)?, what.clone())?;
                    for state in rule.states() {
                        let mut expected: Vec<f32> = one.read_state_blocking(a, state)?;
                        let loaded: Vec<f32> = other.read_state_blocking(b, state)?;
                        // First moments have one format in both; other numbers become the nearest, as written ones do.
                        if state != "exp_avg" || [from, to].contains(&States::F32) {
                            other.write_state(b, state, &expected)?;
                            expected = other.read_state_blocking(b, state)?;
                        }
                        ensure(loaded == expected, format!("{what}: {state}"))?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn states_are_read_and_written(gpu: &Gpu) -> Result<(), Failed> {
    for device in [Device::Cpu, gpu.into()] {
        let mut adam = Optimizer::new(&device, rules::Adam::default(), 0.01)?;
        adam.set_precision(0, precision(States::Block8))?;
        let id = adam.add(0, "w", &[1.0f32; 600])?;
        ensure(adam.read_state_blocking::<f32>(id, "exp_avg")? == [0.0; 600], "states begin with 0")?;
        let values: Vec<f32> = (0..600).map(|k| if k < 256 { 2.0 } else { -0.5 }).collect();
        adam.write_state(id, "exp_avg_sq", &values.iter().map(|x| x.abs()).collect::<Vec<_>>())?;
        let read: Vec<f32> = adam.read_state_blocking(id, "exp_avg_sq")?;
        ensure(read.iter().zip(&values).all(|(a, b)| *a == b.abs()), "a block's largest number is exact")?;
        adam.write_state(id, "exp_avg", &values)?;
        let read: Vec<f32> = adam.read_state_blocking(id, "exp_avg")?;
        // The map has 1, and of what is below 0 no more than 0.993.
        let expected = |x: f32| if x > 0.0 { x } else { 0.99296875 * x };
        let close = read.iter().zip(&values).all(|(a, b)| (a - expected(*b)).abs() <= 1e-6);
        ensure(close, "the nearest numbers")?;
        let short = adam.write_state(id, "exp_avg", &[0.0f32; 599]);
        ensure(matches!(short, Err(Error::Length { expected: 600, found: 599, .. })), "another length")?;
        if let Device::Gpu(_) = device {
            ensure(adam.state_range(id, "exp_avg")?.format == Format::Block8Signed, "the format of a range")?;
        }
    }
    Ok(())
}

/// Without NonFinite::Skip a NaN spoils its own parameter, as in f32, and no other of its block.
fn a_number_that_is_not_finite_stays_alone(gpu: &Gpu) -> Result<(), Failed> {
    for device in [Device::Cpu, gpu.into()] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut adam = Optimizer::new(&device, rules::Adam::default(), 0.01)?;
            adam.set_precision(0, precision(States::Block8))?;
            let id = adam.add(0, "w", &[1.0f32; 512])?;
            let mut gradient = [0.5f32; 512];
            gradient[7] = bad;
            adam.write_gradient(id, &gradient)?;
            adam.step()?;
            let w: Vec<f32> = adam.read_blocking(id)?;
            let m: Vec<f32> = adam.read_state_blocking(id, "exp_avg")?;
            ensure(w[7].is_nan() && m[7] == 0.0, format!("{bad} gives {} and {}", w[7], m[7]))?;
            let others = |k: &usize| *k != 7;
            let fine = (0..512).filter(others).all(|k| (w[k] - 0.99).abs() < 1e-6 && (m[k] - 0.05).abs() < 1e-7);
            ensure(fine, format!("what stands beside {bad} on {}", device.name()))?;
        }
    }
    Ok(())
}

/// What moves parameters, reads their states or adds to them: the same on both devices.
fn everything_else_works_with_them(gpu: &Gpu) -> Result<(), Failed> {
    let rule: AnyRule = rules::Momentum::torch(0.9).into();
    let mut found = Vec::new();
    for device in [Device::Cpu, gpu.into()] {
        let (mut sgd, mut ids) = optimizer(&device, &rule, precision(States::Block8))?;
        let other = sgd.add_group(rule.clone(), 0.02)?;
        sgd.set_precision(other, precision(States::Block8))?;
        step(&mut sgd, &ids, 0)?;
        // An average begins, of short parameters and of long ones.
        sgd.set_averaging(0, Averaging::Ema(0.5))?;
        sgd.set_averaging(other, Averaging::Ema(0.5))?;
        for t in 1..3 {
            for (id, len) in ids.iter().zip(LENS) {
                sgd.accumulate(*id, &gradient(len, t))?;
            }
        }
        sgd.step()?;
        sgd.look_ahead()?;
        step(&mut sgd, &ids, 3)?;
        sgd.swap_averages(0)?;
        let averages: Vec<f32> = sgd.read_blocking(ids[6])?;
        sgd.swap_averages(0)?;
        sgd.move_to_group(ids[5], other)?;
        sgd.move_to_group(ids[0], other)?;
        sgd.rename(ids[6], "another name")?;
        sgd.remove(ids[4])?;
        ids[4] = sgd.add(0, "w1000", &start(1000))?;
        sgd.write_state(ids[6], "momentum_buffer", &gradient(LENS[6], 9))?;
        step(&mut sgd, &ids, 4)?;
        let mut all = all(&sgd, &rule, &ids)?;
        all.extend([averages, sgd.read_state_blocking(ids[6], "average")?]);
        found.push(all);
    }
    same("momentum", &found[0], &found[1])
}

/// A parameter keeps its memory where another group would store it in another way.
fn a_moved_parameter_is_saved_as_it_is_stored(gpu: &Gpu) -> Result<(), Failed> {
    for device in [Device::Cpu, gpu.into()] {
        for (from, to) in [(4096, 1), (1, 4096)] {
            let of = |min_8bit_size| Precision { min_8bit_size, ..Precision::block8() };
            let make = || -> Result<Optimizer> {
                let mut adam = Optimizer::new(&device, rules::Adam::default(), 0.01)?;
                let other = adam.add_group(rules::Adam::default(), 0.01)?;
                adam.set_precision(0, of(from))?;
                adam.set_precision(other, of(to))?;
                adam.add(0, "w", &start(1000))?;
                adam.write_gradient("w", &gradient(1000, 1))?;
                adam.step()?;
                adam.move_to_group("w", other)?;
                Ok(adam)
            };
            let (mut adam, mut again) = (make()?, make()?);
            adam.step()?;
            let file = saved(&mut adam)?;
            again.load_from(&mut Cursor::new(&file), LoadOptions::default())?;
            ensure(saved(&mut again)? == file, format!("{from} to {to} on {}", device.name()))?;
        }
    }
    Ok(())
}

fn a_file_with_a_bad_scale_changes_nothing(gpu: &Gpu) -> Result<(), Failed> {
    let rule = rules::by_name("adam")?;
    for device in [Device::Cpu, gpu.into()] {
        let (mut adam, ids) = optimizer(&device, &rule, precision(States::Block8))?;
        step(&mut adam, &ids, 0)?;
        let file = saved(&mut adam)?;
        let tensors = safetensors::SafeTensors::deserialize(&file).map_err(|e| e.to_string())?;
        let scale = tensors.tensor("w1000.exp_avg_absmax").map_err(|e| e.to_string())?;
        let at = scale.data().as_ptr() as usize - file.as_ptr() as usize;
        for bad in [f32::NAN, f32::INFINITY, -1.0, -0.0] {
            let mut file = file.clone();
            file[at + 8..at + 12].copy_from_slice(&bad.to_le_bytes());
            let (mut other, others) = optimizer(&device, &rule, precision(States::Block8))?;
            let before = bits(all(&other, &rule, &others)?);
            let loaded = other.load_from(&mut Cursor::new(&file), LoadOptions::default());
            ensure(matches!(loaded, Err(Error::Checkpoint { .. })), format!("{bad}: {loaded:?}"))?;
            ensure(bits(all(&other, &rule, &others)?) == before, format!("{bad} changed something"))?;
        }
    }
    Ok(())
}

fn windows_and_limits_of_a_small_device(gpu: &Gpu) -> Result<(), Failed> {
    let rule = rules::by_name("adam")?;
    let values = start(50_000);
    let mut found = Vec::new();
    // Windows of 32,768 elements that overlap by half; the codes are bound whole.
    for limit in [1 << 17, 1 << 27] {
        let low = device_like(gpu, |limits| limits.max_storage_buffer_binding_size = limit)?;
        let mut adam = Optimizer::new(&(&low).into(), rule.clone(), 0.01)?;
        adam.set_precision(0, Precision { mirror: Some(Format::Bf16), ..precision(States::Block8) })?;
        let ids = [adam.add(0, "short", &start(300))?, adam.add(0, "w", &values)?];
        adam.write_gradient(ids[0], &gradient(300, 1))?;
        adam.write_gradient(ids[1], &gradient(50_000, 1))?;
        (0..2).try_for_each(|_| adam.step())?;
        let mut numbers = all(&adam, &rule, &ids)?;
        numbers.push(adam.read_mirror_blocking(ids[1])?);
        found.push(bits(numbers));
        let long = adam.add(0, "long", &vec![0f32; 200_000]);
        let limited = matches!(long, Err(Error::OverLimit { limit: "max_storage_buffer_binding_size", .. }));
        ensure(limited == (limit == 1 << 17), format!("200,000 elements with {limit}: {long:?}"))?;
    }
    ensure(found[0] == found[1], "windows change numbers")?;
    // AMSGrad with a mirror and noise binds eight: parameter, gradient, three states, mirror, coefficients, table.
    let eight = device_like(gpu, |limits| limits.max_storage_buffers_per_shader_stage = 8)?;
    let mut adam = Optimizer::new(&(&eight).into(), rules::by_name("amsgrad")?, 0.01)?;
    adam.set_precision(0, Precision { mirror: Some(Format::F16), ..precision(States::Block8) })?;
    let noise = Some(Noise { eta: 1e-6, gamma: 0.55, seed: 7 });
    adam.set_settings(0, Settings { noise, ..Settings::lr(0.01) })?;
    adam.add(0, "w", &start(300))?;
    adam.write_gradient("w", &gradient(300, 1))?;
    adam.step()?;
    let ninth = adam.set_averaging(0, Averaging::Ema(0.9));
    ensure(matches!(ninth, Err(Error::OverLimit { needed: 9, available: 8, .. })), format!("a ninth: {ninth:?}"))?;
    Ok(adam.step()?)
}

/// 4 of the parameter, 2 of the codes, 1/32 of the largest magnitudes.
fn memory_is_six_bytes_a_parameter(gpu: &Gpu) -> Result<(), Failed> {
    let len = 1 << 20;
    let mut adam = Optimizer::new(&gpu.into(), rules::Adam::default(), 0.01)?;
    adam.set_precision(0, Precision::block8())?;
    let values = vec![0f32; len];
    let parameters = buffer(gpu, &values, FOREIGN);
    adam.add_buffers(0, &[("w", BufferRange::whole(&parameters))])?;
    let sizes: u64 = ["exp_avg", "exp_avg_sq"]
        .map(|state| adam.state_range("w", state).map(|range| range.buffer.size()))
        .into_iter()
        .sum::<Result<u64>>()?;
    let bytes = (parameters.size() + sizes) as f64 / len as f64;
    ensure(bytes == 6.03125, format!("{bytes} bytes a parameter"))
}

fn what_does_not_fit_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    let mut adam = Optimizer::new(&Device::Cpu, rules::Adam::default(), 0.01)?;
    adam.set_precision(0, precision(States::Block8))?;
    let wide = adam.add(0, "w", &[0.0f64; 256]);
    ensure(matches!(wide, Err(Error::ElementType { expected: "f32", found: "f64", .. })), "f64 in 8 bits")?;
    let wide = adam.add_slice::<f64>(0, "w", 256);
    ensure(matches!(wide, Err(Error::ElementType { expected: "f32", found: "f64", .. })), "a slice of f64 in 8 bits")?;
    adam.add(0, "short", &[0.0f64; 255])?;
    let late = adam.set_precision(0, Precision::f32());
    ensure(matches!(late, Err(Error::Unsupported { operation: "set_precision", .. })), "a group that has parameters")?;
    ensure(adam.precision(0)? == precision(States::Block8), "and keeps what it has")?;
    ensure(matches!(adam.set_precision(1, Precision::f32()), Err(Error::UnknownGroup { .. })), "no such group")?;
    // A frozen parameter, and one without a gradient, keep their codes.
    let (mut adam, ids) = optimizer(&gpu.into(), &rules::by_name("adam")?, precision(States::Block8))?;
    step(&mut adam, &ids, 0)?;
    adam.set_options(ids[5], Options { frozen: true, ..Options::default() })?;
    adam.set_gradient(ids[6], Gradient::Missing)?;
    let rule = rules::by_name("adam")?;
    let before = bits(all(&adam, &rule, &ids[5..])?);
    adam.write_gradient(ids[5], &gradient(LENS[5], 1))?;
    adam.step()?;
    ensure(bits(all(&adam, &rule, &ids[5..])?) == before, "a frozen parameter changed")
}
