//! Parameters in bf16: with an exact master, steps are those in f32; without, each is rounded at random at the end of
//! the step. States in bf16.

use std::io::Cursor;

use half::bf16;
use libtest_mimic::Failed;
use wgpu_optim::{
    AdaptiveClip, Averaging, BufferRange, ClipNorm, Device, Error, Format, Gpu, Gradient, LoadOptions, LossScaler,
    NonFinite, Optimizer, Options, ParameterId, Precision, Result, Rounding, SaveOptions, Settings, States,
    WeightDecay, rules,
};

use crate::compare::ensure;
use crate::fixture::FOREIGN;

crate::tests!(
    a_thousand_steps_with_an_exact_master_are_those_in_f32,
    rules_with_an_exact_master_are_as_in_f32,
    every_rule_in_bf16_is_as_on_the_cpu,
    the_mean_of_many_roundings_is_the_parameter,
    states_in_bf16_do_not_stall,
    averages_come_and_go_without_loss,
    pools_of_the_caller_at_every_word,
    runs_go_on_from_a_file,
    a_small_lr_is_reported,
    what_does_not_fit_is_refused
);

const LENS: [usize; 6] = [1, 3, 255, 256, 1001, 4099];

fn start(len: usize) -> Vec<f32> {
    (0..len).map(|k| ((k * 7919) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn gradient(len: usize, t: usize) -> Vec<f32> {
    (0..len).map(|k| ((k * 104_729 + t * 7919) % 1999) as f32 / 1000.0 - 1.0).collect()
}

/// As [`Precision::bf16_exact_master`], and f32 with its gradients.
fn pair(states: States) -> [Precision; 2] {
    let exact = Precision { states, min_8bit_size: 256, ..Precision::bf16_exact_master() };
    [exact, Precision { parameters: Format::F32, exact_master: false, ..exact }]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// What the bits are of all that an optimizer keeps.
fn all_bits(optimizer: &Optimizer, ids: &[ParameterId], states: &[&str]) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for &id in ids {
        all.extend(bits(&optimizer.read_blocking(id)?));
        for state in states {
            all.extend(bits(&optimizer.read_state_blocking(id, state)?));
        }
    }
    Ok(all)
}

/// The nearest bf16, ties away from 0.
fn nearest_away(x: f32) -> f32 {
    let (even, tie) = (bf16::from_f32(x).to_f32(), x.to_bits() & 0xffff == 0x8000);
    if tie { f32::from_bits(x.to_bits() + 0x8000) } else { even }
}

fn check_mirrors(optimizer: &Optimizer, ids: &[ParameterId]) -> Result<(), Failed> {
    for &id in ids {
        let (w, mirror): (Vec<f32>, _) = (optimizer.read_blocking(id)?, optimizer.read_mirror_blocking(id)?);
        let differ = w.iter().zip(&mirror).filter(|(w, m)| nearest_away(**w).to_bits() != m.to_bits()).count();
        ensure(w.len() == mirror.len() && differ == 0, format!("{differ} of {} are not the nearest", w.len()))?;
    }
    Ok(())
}

/// With decay, clipping, a loss scale, skipped steps, and an average.
fn a_thousand_steps_with_an_exact_master_are_those_in_f32(gpu: &Gpu) -> Result<(), Failed> {
    let lens = [1, 6, 259];
    for device in [Device::Cpu, gpu.into()] {
        let make = |precision: Precision| -> Result<(Optimizer, Vec<ParameterId>)> {
            let settings = Settings {
                weight_decay: WeightDecay::Decoupled(0.01),
                clip_norm: Some(ClipNorm::torch(0.5)),
                zero_grad: true,
                ..Settings::lr(1e-3)
            };
            let mut adam = Optimizer::new(&device, rules::Adam::default(), settings)?;
            adam.set_precision(0, precision)?;
            adam.set_averaging(0, Averaging::Ema(0.99))?;
            adam.set_non_finite(NonFinite::Skip);
            adam.set_loss_scaler(LossScaler { init_scale: 4.0, ..LossScaler::default() })?;
            let ids = lens.map(|len| adam.add(0, &format!("w{len}"), &start(len)));
            Ok((adam, ids.into_iter().collect::<Result<_>>()?))
        };
        let ((mut exact, ids), (mut plain, _)) = {
            let [exact, plain] = pair(States::F32);
            (make(exact)?, make(plain)?)
        };
        for t in 0..1000 {
            for adam in [&mut exact, &mut plain] {
                for (&id, len) in ids.iter().zip(lens) {
                    let mut gradient = gradient(len, t);
                    if t % 97 == 13 {
                        gradient[0] = f32::INFINITY;
                    }
                    adam.write_gradient(id, &gradient)?;
                }
                adam.step()?;
            }
            if [0, 1, 13, 14, 500, 999].contains(&t) {
                let [a, b] = [&exact, &plain].map(|adam| all_bits(adam, &ids, &["exp_avg", "exp_avg_sq", "average"]));
                let (a, b) = (a?, b?);
                let differ = a.iter().zip(&b).filter(|(a, b)| a != b).count();
                ensure(a.len() == b.len() && differ == 0, format!("{differ} differ at {t} on {}", device.name()))?;
                check_mirrors(&exact, &ids)?;
                // Some mirrors are rounded up.
                let up = ids.iter().map(|&id| exact.read_blocking::<f32>(id)).collect::<Result<Vec<_>>>()?.concat();
                ensure(t == 0 || up.iter().any(|x| x.to_bits() & 0xffff > 0x8000), "none is rounded up")?;
            }
        }
        exact.settle_blocking()?;
        ensure(exact.steps(ids[2])? == 989, format!("{} steps taken", exact.steps(ids[2])?))?;
    }
    Ok(())
}

/// Also in blocks, at a look-ahead point, with averages swapped in, and as a caller writes them.
fn rules_with_an_exact_master_are_as_in_f32(gpu: &Gpu) -> Result<(), Failed> {
    // A format does not depend on the rule.
    for name in ["adam", "nesterov", "lamb", "adagrad-norm"] {
        let rule = rules::by_name(name)?;
        for states in [States::F32, States::Block8] {
            for device in [Device::Cpu, gpu.into()] {
                let run = |precision: Precision| -> Result<Vec<u32>, Failed> {
                    let mut optimizer = Optimizer::new(&device, rule.clone(), 0.01)?;
                    optimizer.set_precision(0, precision)?;
                    optimizer.set_averaging(0, Averaging::Ema(0.5))?;
                    let ids = LENS.map(|len| optimizer.add(0, &format!("w{len}"), &start(len)));
                    let ids = ids.into_iter().collect::<Result<Vec<_>>>()?;
                    for t in 0..3 {
                        for (&id, len) in ids.iter().zip(LENS) {
                            optimizer.write_gradient(id, &gradient(len, t))?;
                        }
                        optimizer.step()?;
                        if t == 1 {
                            optimizer.look_ahead()?;
                        }
                    }
                    let mut all = all_bits(&optimizer, &ids, &rule.states())?;
                    optimizer.swap_averages(0)?;
                    all.extend(all_bits(&optimizer, &ids, &[])?);
                    optimizer.swap_averages(0)?;
                    optimizer.write(ids[3], &start(LENS[3]).iter().map(|x| x * 1.001).collect::<Vec<_>>())?;
                    all.extend(all_bits(&optimizer, &ids, &["average"])?);
                    if precision.exact_master {
                        check_mirrors(&optimizer, &ids)?;
                    }
                    Ok(all)
                };
                let [exact, plain] = pair(states);
                let (a, b) = (run(exact)?, run(plain)?);
                let differ = a.iter().zip(&b).filter(|(a, b)| a != b).count();
                let what = format!("{name}, {states:?} on {}: {differ} of {} differ", device.name(), b.len());
                ensure(a.len() == b.len() && differ == 0, what)?;
            }
        }
    }
    Ok(())
}

/// Numbers of f32 that differ in their last place may be rounded to neighbours.
fn every_rule_in_bf16_is_as_on_the_cpu(gpu: &Gpu) -> Result<(), Failed> {
    let settings = Settings { weight_decay: WeightDecay::Decoupled(0.1), zero_grad: true, ..Settings::lr(0.01) };
    let plain = Precision { gradients: Format::F16, ..Precision::bf16() };
    let nearest = Precision { rounding: Rounding::Nearest, ..plain };
    let blocks = Precision { states: States::Block8, min_8bit_size: 256, ..plain };
    let rich = Settings { clip_norm: Some(ClipNorm::torch(20.0)), clip_value: Some(0.9), ..settings };
    for (name, rule) in rules::all() {
        let all = if ["adam", "lamb", "sgd"].contains(&name) { &[plain, nearest, blocks][..] } else { &[plain] };
        for &precision in all {
            let run = |device: &Device| -> Result<Vec<f32>> {
                let with_more = name == "adam";
                let mut optimizer = Optimizer::new(device, rule.clone(), if with_more { rich } else { settings })?;
                optimizer.set_precision(0, precision)?;
                let ids = LENS.map(|len| optimizer.add(0, &format!("w{len}"), &start(len)));
                let ids = ids.into_iter().collect::<Result<Vec<_>>>()?;
                let mut found = Vec::new();
                if with_more {
                    optimizer.set_averaging(0, Averaging::Ema(0.5))?;
                    optimizer.set_non_finite(NonFinite::Skip);
                    optimizer.set_loss_scaler(LossScaler { init_scale: 2.0, ..LossScaler::default() })?;
                    optimizer.set_options(ids[1], Options { frozen: true, ..Options::default() })?;
                }
                for t in 0..2 {
                    if with_more {
                        // A step that is skipped; in the next the first parameter has no gradient.
                        let before: Vec<f32> = optimizer.read_blocking(ids[4])?;
                        for (&id, len) in ids.iter().zip(LENS) {
                            optimizer.write_gradient(id, &vec![f32::INFINITY; len])?;
                        }
                        optimizer.step()?;
                        assert!(optimizer.read_blocking::<f32>(ids[4])? == before, "a skipped step");
                        optimizer.set_gradient(ids[0], Gradient::Missing)?;
                    }
                    for (&id, len) in ids.iter().zip(LENS).skip(usize::from(with_more)) {
                        optimizer.write_gradient(id, &gradient(len, t))?;
                    }
                    optimizer.step()?;
                    assert!(optimizer.read_gradient_blocking::<f32>(ids[4])?.iter().all(|g| *g == 0.0), "zero_grad");
                }
                if with_more {
                    for (id, len) in [(ids[0], LENS[0]), (ids[1], LENS[1])] {
                        let start: Vec<_> = start(len).iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
                        assert!(optimizer.read_blocking::<f32>(id)? == start, "missing or frozen");
                    }
                }
                for id in ids {
                    found.extend(optimizer.read_blocking::<f32>(id)?);
                }
                Ok(found)
            };
            let (cpu, on_gpu) = (run(&Device::Cpu)?, run(&gpu.into())?);
            let halves = cpu.iter().all(|x| bf16::from_f32(*x).to_f32() == *x);
            let differ = cpu.iter().zip(&on_gpu).filter(|(a, b)| a != b).count();
            // A neighbour is at most 2⁻⁷ away, and a step of 0.01 may be of the other sign where a state is near 0.
            let off = cpu.iter().zip(&on_gpu).map(|(a, b)| (a - b).abs() - a.abs() / 128.0).fold(0.0, f32::max);
            let what = format!("{name}: {differ} of {} differ, off by {off}, {precision:?}", cpu.len());
            ensure(halves && differ * 500 <= cpu.len() && off <= 1e-3, what)?;
        }
    }
    Ok(())
}

/// As torchao's test: the mean of 100,000 copies of 32 numbers of 0 … 100, here written by a step from 0. The mean of n
/// roundings between two numbers a gap apart is off by gap/(2√n) at most in the mean square. A gap is at most 2⁻⁷ of
/// the number, so torchao's 3e-5 are 2.4 of these deviations or more, and the seed is fixed.
fn the_mean_of_many_roundings_is_the_parameter(gpu: &Gpu) -> Result<(), Failed> {
    let copies = 100_000;
    let values: Vec<f32> = (0..32).map(|k| 100.0 * ((k * 37 % 101) as f32 + 0.513) / 101.7).collect();
    let gradient: Vec<f32> = (0..32 * copies).map(|k| -values[k % 32]).collect();
    let mut found = Vec::new();
    for device in [Device::Cpu, gpu.into()] {
        let mut sgd = Optimizer::new(&device, rules::Sgd, 1.0)?;
        sgd.set_precision(0, Precision { parameters: Format::Bf16, seed: 5, ..Precision::f32() })?;
        let id = sgd.add(0, "w", &vec![0f32; 32 * copies])?;
        sgd.write_gradient(id, &gradient)?;
        sgd.step()?;
        found.push(sgd.read_blocking::<f32>(id)?);
    }
    ensure(found[0] == found[1], "1 · x is exact, so both devices round the same numbers by the same bits")?;
    for (k, &value) in values.iter().enumerate() {
        let mean = found[0].iter().skip(k).step_by(32).map(|&x| f64::from(x)).sum::<f64>() / copies as f64;
        let off = (mean - f64::from(value)).abs();
        ensure(off <= 3e-5 + 3e-5 * f64::from(value), format!("{value} has the mean {mean}"))?;
    }
    Ok(())
}

/// A second moment without gradients: of 3,000 steps at β₂ = 0.999 0.0497 is left, to the nearest all of it.
fn states_in_bf16_do_not_stall(gpu: &Gpu) -> Result<(), Failed> {
    let left = |device: &Device, rounding: Rounding, steps: usize| -> Result<f64> {
        let mut adam = Optimizer::new(device, rules::Adam::default(), 1e-3)?;
        adam.set_precision(0, Precision { states: States::Bf16, rounding, ..Precision::f32() })?;
        let id = adam.add(0, "w", &[0f32; 1024])?;
        let before: Vec<f32> = (0..1024).map(|k| 1e-4 * (1.0 + k as f32 / 1024.0)).collect();
        adam.write_state(id, "exp_avg_sq", &before)?;
        adam.write_gradient(id, &[0f32; 1024])?;
        (0..steps).try_for_each(|_| adam.step())?;
        let now: Vec<f32> = adam.read_state_blocking(id, "exp_avg_sq")?;
        Ok(now.iter().zip(&before).map(|(a, b)| f64::from(a / b)).sum::<f64>() / 1024.0)
    };
    for (device, steps) in [(Device::Cpu, 3000), (gpu.into(), 300)] {
        let (ours, exact) = (left(&device, Rounding::Stochastic, steps)?, 0.999f64.powi(steps as i32));
        ensure((ours / exact - 1.0).abs() < 0.01, format!("{ours} is left on {}, not {exact}", device.name()))?;
        let nearest = left(&device, Rounding::Nearest, steps)?;
        ensure((nearest - 1.0).abs() < 0.004, format!("to the nearest {nearest} is left: this test could not fail"))?;
    }
    Ok(())
}

fn averages_come_and_go_without_loss(gpu: &Gpu) -> Result<(), Failed> {
    for device in [Device::Cpu, gpu.into()] {
        let mut adam = Optimizer::new(&device, rules::Adam::default(), 0.01)?;
        adam.set_precision(0, Precision::bf16())?;
        adam.set_averaging(0, Averaging::Ema(0.9))?;
        let ids = LENS.map(|len| adam.add(0, &format!("w{len}"), &start(len)));
        let ids = ids.into_iter().collect::<Result<Vec<_>>>()?;
        for t in 0..5 {
            for (&id, len) in ids.iter().zip(LENS) {
                adam.write_gradient(id, &gradient(len, t))?;
            }
            adam.step()?;
        }
        let (before, mut averages) = (all_bits(&adam, &ids, &["average"])?, Vec::new());
        for &id in &ids {
            averages.extend(adam.read_state_blocking::<f32>(id, "average")?);
        }
        adam.swap_averages(0)?;
        let kept = adam.read_state_blocking::<f32>(ids[3], "average");
        ensure(matches!(kept, Err(Error::Unsupported { .. })), "half an average is not read")?;
        let mut swapped = Vec::new();
        for &id in &ids {
            swapped.extend(adam.read_blocking::<f32>(id)?);
        }
        let differ = averages.iter().zip(&swapped).filter(|(a, w)| nearest_away(**a) != **w).count();
        ensure(differ == 0, format!("{differ} are not the nearest to their averages on {}", device.name()))?;
        adam.swap_averages(0)?;
        ensure(all_bits(&adam, &ids, &["average"])? == before, format!("back on {}", device.name()))?;
        // What is infinite, and has a remainder beside it, comes back; all kinds of NaN stay NaN.
        adam.write(ids[3], &[f32::INFINITY; 256])?;
        let infinite = all_bits(&adam, &ids, &["average"])?;
        adam.swap_averages(0)?;
        adam.swap_averages(0)?;
        ensure(all_bits(&adam, &ids, &["average"])? == infinite, format!("∞ back on {}", device.name()))?;
        let nans = [0x7fff_ffff, 0xffff_ffff, 0x7f80_0001, 0x7fc0_8000].map(f32::from_bits);
        adam.write_state(ids[3], "average", &nans.repeat(64))?;
        adam.swap_averages(0)?;
        let found: Vec<f32> = adam.read_blocking(ids[3])?;
        ensure(found.iter().all(|x| x.is_nan()), format!("{:?} on {}", &found[..4], device.name()))?;
    }
    Ok(())
}

/// Tensors of 1 … 1,025 elements behind each other in one buffer, and their gradients in another, each at a word: their
/// neighbours' halves stay, in the step and in the zeroing of gradients.
fn pools_of_the_caller_at_every_word(gpu: &Gpu) -> Result<(), Failed> {
    let lens: Vec<usize> = (1..=24).chain([63, 255, 256, 257, 511, 1023, 1024, 1025]).collect();
    let pool = |of: &dyn Fn(usize) -> Vec<f32>| {
        let (mut halves, mut offsets) = (vec![0x7fc1u16; 2], Vec::new());
        for &len in &lens {
            offsets.push(2 * halves.len() as u64);
            halves.extend(of(len).iter().map(|&x| bf16::from_f32(x).to_bits()));
            halves.resize(halves.len().next_multiple_of(2), 0x7fc1);
        }
        (halves, offsets)
    };
    let buffer = |halves: &[u16]| {
        let contents: &[u8] = bytemuck::cast_slice(halves);
        let size = contents.len() as u64;
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: FOREIGN,
            mapped_at_creation: false,
        });
        gpu.queue().write_buffer(&buffer, 0, contents);
        buffer
    };
    for (name, exact) in [("sgd", false), ("adam", true), ("adam", false), ("lamb", true), ("lamb", false)] {
        let (halves, offsets) = pool(&start);
        let (gradients, _) = pool(&|len| gradient(len, 1));
        let both = [buffer(&halves), buffer(&gradients)];
        let precision = if exact { Precision::bf16_exact_master() } else { Precision::bf16() };
        let run = |foreign: bool| -> Result<Vec<u32>> {
            let settings = Settings { zero_grad: foreign, ..Settings::lr(0.1) };
            let mut optimizer = Optimizer::new(&gpu.into(), rules::by_name(name)?, settings)?;
            optimizer.set_precision(0, precision)?;
            let mut ids = Vec::new();
            for (&offset, &len) in offsets.iter().zip(&lens) {
                let [parameter, of] = [0, 1].map(|k| BufferRange::of(&both[k], offset, len, Format::Bf16));
                let name = format!("w{len}");
                let id = match foreign {
                    true => optimizer.add_buffer(0, &name, parameter)?,
                    false => optimizer.add(
                        0,
                        &name,
                        &start(len).iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<_>>(),
                    )?,
                };
                match foreign {
                    true => optimizer.set_gradient(id, Gradient::Buffer(of))?,
                    false => optimizer.write_gradient(id, &gradient(len, 1))?,
                }
                ids.push(id);
            }
            optimizer.step()?;
            all_bits(&optimizer, &ids, &[])
        };
        let (own, foreign) = (run(false)?, run(true)?);
        ensure(own == foreign, format!("{name}, exact {exact}: a pool differs from the arena"))?;
        for (buffer, what) in both.iter().zip(["parameters", "gradients"]) {
            let words = crate::fixture::content(gpu, buffer)?;
            let halves: &[u16] = bytemuck::cast_slice(&words);
            let kept = halves.iter().filter(|half| **half == 0x7fc1).count();
            let odd = lens.iter().filter(|len| *len % 2 == 1).count();
            ensure(kept == 2 + odd, format!("{name}: {kept} halves between the {what} are left, not {}", 2 + odd))?;
            if what == "gradients" {
                let zero = halves.iter().filter(|half| **half == 0).count();
                ensure(zero == lens.iter().sum::<usize>(), format!("{name}: {zero} gradients are 0"))?;
            }
        }
    }
    Ok(())
}

/// In the middle of a run, on the other device, and into other precisions.
fn runs_go_on_from_a_file(gpu: &Gpu) -> Result<(), Failed> {
    for precision in [Precision::bf16(), Precision::bf16_exact_master()] {
        for device in [Device::Cpu, gpu.into()] {
            let make = |device: &Device, precision: Precision| -> Result<Optimizer> {
                let mut adam = Optimizer::new(device, rules::Adam::default(), 0.01)?;
                adam.set_precision(0, precision)?;
                adam.add(0, "w", &start(4099))?;
                Ok(adam)
            };
            let run = |adam: &mut Optimizer, steps: std::ops::Range<usize>| -> Result<()> {
                for t in steps {
                    adam.write_gradient("w", &gradient(4099, t))?;
                    adam.step()?;
                }
                Ok(())
            };
            let read = |adam: &Optimizer| all_bits(adam, &[adam.id("w")?], &["exp_avg", "exp_avg_sq"]);
            let mut whole = make(&device, precision)?;
            run(&mut whole, 0..2)?;
            let mut file = Vec::new();
            pollster::block_on(whole.save_to(&mut file, SaveOptions::default()))?;
            let halfway = read(&whole)?;
            run(&mut whole, 2..4)?;
            let load = |mut adam: Optimizer| -> Result<Optimizer> {
                adam.load_from(&mut Cursor::new(&file), LoadOptions::default())?;
                Ok(adam)
            };
            let mut again = load(make(&device, precision)?)?;
            run(&mut again, 2..4)?;
            ensure(read(&again)? == read(&whole)?, format!("{precision:?} goes on on {}", device.name()))?;
            for other in [Device::Cpu, gpu.into()] {
                ensure(read(&load(make(&other, precision)?)?)? == halfway, "on another device")?;
            }
            // f32 has all numbers of both.
            ensure(read(&load(make(&device, Precision::f32())?)?)? == halfway, "in f32")?;
            let narrow = load(make(&device, Precision { parameters: Format::Bf16, ..Precision::block8() })?)?;
            let w: Vec<f32> = narrow.read_blocking("w")?;
            let nearest = halfway[..4099].iter().map(|&bits| bf16::from_f32(f32::from_bits(bits)).to_f32());
            ensure(w.into_iter().eq(nearest), "in bf16, each the nearest")?;
        }
    }
    Ok(())
}

/// To the nearest, Adam's steps of 1e-3 leave parameters of 1 where they are; at random they do not.
fn a_small_lr_is_reported(gpu: &Gpu) -> Result<(), Failed> {
    for device in [Device::Cpu, gpu.into()] {
        let make = |precision: Precision, values: &[f32]| -> Result<Optimizer> {
            let mut adam = Optimizer::new(&device, rules::Adam::default(), 1e-3)?;
            adam.add_group(rules::Adam::default(), 1e-3)?;
            adam.set_precision(1, precision)?;
            adam.add(1, "w", values)?;
            Ok(adam)
        };
        let moved = |adam: &mut Optimizer| -> Result<bool> {
            adam.write_gradient("w", &[1.0f32; 64])?;
            (0..4).try_for_each(|_| adam.step())?;
            Ok(adam.read_blocking::<f32>("w")?.iter().any(|x| *x != 1.0))
        };
        let nearest = Precision { rounding: Rounding::Nearest, ..Precision::bf16() };
        let mut lost = make(nearest, &[1.0; 64])?;
        ensure(lost.report().lr_too_small == Some(1) && !moved(&mut lost)?, "to the nearest")?;
        for precision in [Precision::bf16(), Precision::bf16_exact_master(), Precision::f32()] {
            let mut kept = make(precision, &[1.0; 64])?;
            ensure(kept.report().lr_too_small.is_none() && moved(&mut kept)?, format!("{precision:?}"))?;
        }
        ensure(make(nearest, &[1e-3; 64])?.report().lr_too_small.is_none(), "small parameters")?;
        lost.set_lr(1, 1.0)?;
        ensure(lost.report().lr_too_small.is_none() && moved(&mut lost)?, "another rate")?;
        lost.set_lr(1, 1e-3)?;
        lost.write("w", &[1e-3f32; 64])?;
        ensure(lost.report().lr_too_small.is_none(), "other values")?;
        // A file's values count, too.
        let mut file = Vec::new();
        pollster::block_on(make(nearest, &[1.0; 64])?.save_to(&mut file, SaveOptions::default()))?;
        lost.load_from(&mut Cursor::new(file), LoadOptions::default())?;
        ensure(lost.report().lr_too_small == Some(1), "values of a file")?;
    }
    Ok(())
}

fn what_does_not_fit_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    let refused = |result: Result<()>| matches!(result, Err(Error::Unsupported { .. }));
    let no_formats = [
        Precision { parameters: Format::F16, ..Precision::f32() },
        Precision { exact_master: true, ..Precision::f32() },
        Precision { mirror: Some(Format::F16), ..Precision::bf16() },
        Precision { mirror: Some(Format::Remainder), ..Precision::f32() },
        Precision { gradients: Format::Remainder, ..Precision::f32() },
        Precision { states: States::Torchao, ..Precision::bf16() },
        Precision { states: States::BitsandbytesCpu, ..Precision::bf16() },
    ];
    for device in [Device::Cpu, gpu.into()] {
        let mut sgd = Optimizer::new(&device, rules::Momentum::torch(0.9), 0.1)?;
        for precision in no_formats {
            ensure(refused(sgd.set_precision(0, precision)), format!("{precision:?}"))?;
        }
        let adaptive = Settings { adaptive_clip: Some(AdaptiveClip::torch(0.1)), ..Settings::lr(0.1) };
        sgd.set_precision(0, Precision { gradients: Format::F32, ..Precision::bf16() })?;
        ensure(refused(sgd.set_settings(0, adaptive)), "adaptive_clip of a parameter in bf16")?;
        let id = sgd.add(0, "w", &[1.0f32; 5])?;
        sgd.write_gradient(id, &[1.0f32; 5])?;
        sgd.step()?;
        let before: Vec<f32> = sgd.read_blocking(id)?;
        ensure(refused(sgd.look_ahead()), "a look-ahead of a parameter in bf16")?;
        ensure(sgd.read_blocking::<f32>(id)? == before, "a refused look-ahead moves nothing")?;
    }
    let mut adam = Optimizer::new(&Device::Cpu, rules::Adam::default(), 0.1)?;
    adam.set_precision(0, Precision { states: States::Bf16, ..Precision::f32() })?;
    ensure(matches!(adam.add(0, "w", &[1.0f64]), Err(Error::ElementType { .. })), "f64 beside states in bf16")?;
    let mut exact = Optimizer::new(&Device::Cpu, rules::Adam::default(), 0.1)?;
    exact.set_precision(0, Precision::bf16_exact_master())?;
    ensure(matches!(exact.add(0, "w", &[1.0f64]), Err(Error::ElementType { .. })), "f64 with a master in f32")?;
    ensure(refused(exact.add_slice::<f32>(0, "w", 4).map(drop)), "a slice in bf16")?;
    let mut narrow = Optimizer::new(&gpu.into(), rules::Adam::default(), 0.1)?;
    narrow.set_precision(0, Precision::bf16())?;
    let words = crate::fixture::buffer(gpu, &[0.0; 8], FOREIGN);
    for format in [Format::F32, Format::F16] {
        let added = narrow.add_buffer(0, "w", BufferRange::of(&words, 0, 4, format));
        ensure(matches!(added, Err(Error::ElementType { .. })), "a buffer in another format")?;
    }
    let odd = BufferRange::of(&words, 2, 3, Format::Bf16);
    ensure(matches!(narrow.add_buffer(0, "w", odd), Err(Error::Misaligned { .. })), "half a word")
}
