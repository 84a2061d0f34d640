//! What is done to a gradient before its rule: noise, accumulation, what goes row by row.

use libtest_mimic::Failed;
use wgpu_optim::internals::philox;
use wgpu_optim::rules::{Momentum, Sgd};
use wgpu_optim::{
    Accumulation, AdaptiveClip, BufferRange, ClipNorm, Device, Error, Extent, Gpu, Gradient, LossScaler, Noise,
    NonFinite, Optimizer, Options, ParameterId, Settings, Slices, rules,
};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{
    FOREIGN, ONE_ELEMENT, buffer, content, device_like, intact, objects, parameters, pipeline, surrounded,
};
use crate::guard::ordinary;
use crate::tests;

tests!(
    the_generator_is_the_same_everywhere,
    noise_is_normal,
    noise_is_the_same_on_both_devices_and_in_any_memory,
    noise_falls_with_the_steps,
    padding_gets_no_noise,
    a_skipped_step_draws_again,
    accumulated_gradients_step_as_their_mean,
    micro_batches_may_differ,
    an_overflow_does_not_outlive_its_micro_batch,
    discarded_micro_batches_do_not_count,
    accumulation_lets_go_of_buffers,
    accumulation_refuses,
    every_rule_takes_zeroed_and_noisy_gradients,
    more_rows_than_a_dispatch_is_wide,
    finite_rows_have_finite_means,
    rows_and_columns,
    rows_with_nan_under_each_policy,
    gradient_passes_refuse,
);

const NOISE: Noise = Noise { eta: 1.0, gamma: 0.0, seed: 0x1234_5678_9abc_def0 };
/// A normal from the exact one: WGSL's cos and sin to 2⁻¹¹, of a radius of at most 5.77, and its log. (The CPU's is
/// exact.)
const NORMALS: f64 = 0.003;

fn noisy(device: &Device, noise: Noise, len: usize) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(device, Sgd, Settings { noise: Some(noise), ..Settings::lr(1.0) })?;
    let w = optimizer.add(0, "w", &vec![0.0f32; len])?;
    optimizer.set_gradient(w, Gradient::Own)?;
    Ok(optimizer)
}

/// The shader's generator against ours, on a million counters.
fn the_generator_is_the_same_everywhere(gpu: &Gpu) -> Result<(), Failed> {
    let len = 1 << 18;
    let lane = concat!(include_str!("../../shaders/block.wgsl"), include_str!("../../shaders/lane.wgsl"));
    let noise = include_str!("../../shaders/noise.wgsl");
    let main = "@group(0) @binding(0) var<storage, read_write> out: array<vec4<u32>>;
                @compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                    out[id.x] = philox(vec4(id.x, ~id.x, 77u * id.x, 0u), vec2(0xdeadbeefu, 0xcafef00du));
                }";
    let pipeline = pipeline(gpu, &[ONE_ELEMENT, lane, noise, main].join("\n"));
    let out = buffer(gpu, &vec![0.0; 4 * len], FOREIGN);
    let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: out.as_entire_binding() }],
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(len as u32 / 256, 1, 1);
    drop(pass);
    gpu.queue().submit([encoder.finish()]);
    let found = content(gpu, &out)?;
    for (i, four) in found.chunks(4).enumerate() {
        let i = i as u32;
        let expected = philox([i, !i, i.wrapping_mul(77), 0], [0xdead_beef, 0xcafe_f00d]);
        let four: Vec<_> = four.iter().map(|x| x.to_bits()).collect();
        ensure(four == expected, format!("counter {i}: {four:x?}, not {expected:x?}"))?;
    }
    Ok(())
}

/// A million samples: moments within four standard deviations of their estimates.
fn noise_is_normal(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = noisy(&device, NOISE, 1_000_000)?;
        optimizer.step()?;
        let x: Vec<f64> = optimizer.read_blocking::<f32>("w")?.iter().map(|&x| (-x).into()).collect();
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let moment = |k: i32| x.iter().map(|x| (x - mean).powi(k)).sum::<f64>() / n;
        let (variance, kurtosis) = (moment(2), moment(4) / moment(2).powi(2));
        let lag = x.windows(2).map(|x| (x[0] - mean) * (x[1] - mean)).sum::<f64>() / n / variance;
        let cases = [
            ("mean", mean, 1.0),
            ("variance", variance - 1.0, 2f64.sqrt()),
            ("kurtosis", kurtosis - 3.0, 24f64.sqrt()),
            ("lag-1 correlation", lag, 1.0),
        ];
        for (what, off, deviation) in cases {
            let allowed = 4.0 * deviation / n.sqrt();
            ensure(off.abs() < allowed, format!("{what} on {}: off by {off:.1e} of {allowed:.1e}", device.name()))?;
        }
    }
    Ok(())
}

fn noise_is_the_same_on_both_devices_and_in_any_memory(gpu: &Gpu) -> Result<(), Failed> {
    let len = 9001;
    let device = gpu.into();
    let run = |mut optimizer: Optimizer| -> Result<Vec<f32>, Failed> {
        optimizer.step()?;
        optimizer.step()?;
        Ok(optimizer.read_blocking("w")?)
    };
    let plain = run(noisy(&device, NOISE, len)?)?;
    close("GPU and CPU", &plain, &run(noisy(&Device::Cpu, NOISE, len)?)?, &vec![1.0; len], 2.0 * NORMALS)?;
    // Behind other tensors of the arena, and in the caller's buffer.
    let settings = Settings { noise: Some(NOISE), ..Settings::lr(1.0) };
    let mut behind = Optimizer::new(&device, Sgd, settings)?;
    let ids = behind.add_all(0, &[("a", &[0.0f32; 70][..]), ("w", &vec![0.0; len]), ("b", &[0.0; 3])])?;
    ids.iter().try_for_each(|&id| behind.set_gradient(id, Gradient::Own))?;
    same("behind others", &run(behind)?, &plain)?;
    let mut foreign = Optimizer::new(&device, Sgd, settings)?;
    let range = surrounded(gpu, &vec![0.0; len], FOREIGN);
    foreign.add_buffer(0, "w", range.clone())?;
    foreign.set_gradient("w", Gradient::Buffer(surrounded(gpu, &vec![0.0; len], FOREIGN)))?;
    same("the caller's", &run(foreign)?, &plain)?;
    intact(gpu, &range)?;
    for other in [Noise { seed: 1, ..NOISE }, Noise { seed: NOISE.seed ^ 1 << 40, ..NOISE }] {
        ensure(run(noisy(&device, other, len)?)? != plain, "another seed, the same noise")?;
    }
    Ok(())
}

fn noise_falls_with_the_steps(gpu: &Gpu) -> Result<(), Failed> {
    let noise = Noise { eta: 0.3, gamma: 0.55, seed: 5 };
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = noisy(&device, noise, 1 << 16)?;
        let mut before = vec![0.0f32; 1 << 16];
        for t in 0..5 {
            optimizer.step()?;
            let now = optimizer.read_blocking::<f32>("w")?;
            let drawn =
                now.iter().zip(&before).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / before.len() as f64;
            let expected = 0.3 / (1.0 + f64::from(t)).powf(0.55);
            // Four standard deviations of a variance's estimate.
            let allowed = 4.0 * expected * (2.0 / before.len() as f64).sqrt();
            ensure((drawn - expected).abs() < allowed, format!("step {t}: {drawn}, not {expected}"))?;
            before = now;
        }
    }
    Ok(())
}

fn padding_gets_no_noise(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer =
        Optimizer::new(&gpu.into(), Momentum::default(), Settings { noise: Some(NOISE), ..Settings::lr(1.0) })?;
    let ids = optimizer.add_all(0, &[("a", &[0.0f32; 5][..]), ("b", &[0.0; 67])])?;
    ids.iter().try_for_each(|&id| optimizer.set_gradient(id, Gradient::Own))?;
    optimizer.step()?;
    for range in [optimizer.parameter("b")?, optimizer.state_range("b", "momentum_buffer")?] {
        let all = content(gpu, &range.buffer)?;
        let inside = |i: &usize| *i < 5 || (64..131).contains(i);
        let noisy = |i: &usize| all[*i] != 0.0;
        ensure((0..all.len()).filter(inside).all(|i| noisy(&i)), "some elements have no noise")?;
        ensure(!(0..all.len()).filter(|i| !inside(i)).any(|i| noisy(&i)), "padding has noise")?;
    }
    Ok(())
}

fn a_skipped_step_draws_again(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let run = |skip: bool| -> Result<Vec<f32>, Failed> {
            let mut optimizer = noisy(&device, NOISE, 100)?;
            optimizer.set_non_finite(NonFinite::Skip);
            if skip {
                optimizer.write_gradient("w", &[f32::NAN; 100])?;
                optimizer.step()?;
                optimizer.write_gradient("w", &[0.0f32; 100])?;
            }
            optimizer.step()?;
            Ok(optimizer.read_blocking("w")?)
        };
        same("noise", &run(true)?, &run(false)?)?;
    }
    Ok(())
}

const LENGTHS: [usize; 3] = [1003, 70, 1];

fn three(device: &Device, settings: Settings) -> Result<(Optimizer, Vec<ParameterId>), Failed> {
    let mut optimizer = Optimizer::new(device, Momentum::default(), settings)?;
    let values: Vec<_> = LENGTHS.iter().map(|&len| parameters(len, len as u64)).collect();
    let tensors: Vec<_> = ["a", "b", "c"].into_iter().zip(values.iter().map(Vec::as_slice)).collect();
    let ids = optimizer.add_all(0, &tensors)?;
    Ok((optimizer, ids))
}

/// A micro-batch for these parameters, on either device.
fn accumulate(optimizer: &mut Optimizer, ids: &[ParameterId], seed: u64) -> Result<(), Failed> {
    let Device::Gpu(gpu) = optimizer.device().clone() else {
        for (&id, len) in ids.iter().zip(LENGTHS) {
            optimizer.accumulate(id, &ordinary(len, seed))?;
        }
        return Ok(());
    };
    let of = |(&id, len): (&ParameterId, usize)| {
        (id, BufferRange::whole(&buffer(&gpu, &ordinary(len, seed), wgpu::BufferUsages::STORAGE)))
    };
    let sources: Vec<_> = ids.iter().zip(LENGTHS).map(of).collect();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    optimizer.encode_accumulate(&mut encoder, &sources)?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

fn accumulated_gradients_step_as_their_mean(gpu: &Gpu) -> Result<(), Failed> {
    for (accumulation, divisor) in [(Accumulation::Mean, 3.0), (Accumulation::Sum, 1.0)] {
        for guarded in [false, true] {
            for device in [gpu.into(), Device::Cpu] {
                let (mut optimizer, ids) = three(&device, Settings { accumulation, ..Settings::lr(0.01) })?;
                let (mut reference, others) = three(&device, Settings::lr(0.01))?;
                if guarded {
                    optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
                    reference.set_clip_norm(ClipNorm::torch(1.0))?;
                }
                for t in 0..4 {
                    for k in 0..3 {
                        accumulate(&mut optimizer, &ids, 10 * t + k)?;
                    }
                    for (&id, len) in others.iter().zip(LENGTHS) {
                        let batches: Vec<_> = (0..3).map(|k| ordinary(len, 10 * t + k)).collect();
                        let sum = |i: usize| batches.iter().map(|g| f64::from(g[i])).sum::<f64>() / divisor;
                        reference.write_gradient(id, &(0..len).map(|i| sum(i) as f32).collect::<Vec<_>>())?;
                    }
                    optimizer.step()?;
                    reference.step()?;
                }
                for (&id, &other) in ids.iter().zip(&others) {
                    let (x, b) = (optimizer.read_blocking::<f32>(id)?, reference.read_blocking::<f32>(other)?);
                    let what = format!("{accumulation:?} {guarded} on {}", device.name());
                    close(&what, &x, &b, &vec![2.0; b.len()], TOLERANCE)?;
                }
            }
        }
    }
    Ok(())
}

fn micro_batches_may_differ(gpu: &Gpu) -> Result<(), Failed> {
    let run = |device: &Device| -> Result<Vec<Vec<f32>>, Failed> {
        let (mut optimizer, ids) = three(device, Settings::lr(0.01))?;
        for t in 0..6 {
            // As many micro-batches for the third as for the others, or fewer; each third step written plainly.
            accumulate(&mut optimizer, &ids, t)?;
            if t % 2 == 0 {
                accumulate(&mut optimizer, &ids[..2], t + 100)?;
            }
            if t % 3 == 0 {
                optimizer.write_gradient(ids[1], &ordinary(LENGTHS[1], t + 200))?;
            }
            optimizer.step()?;
        }
        Ok(ids.iter().map(|&id| optimizer.read_blocking(id)).collect::<Result<_, _>>()?)
    };
    for (x, b) in run(&gpu.into())?.iter().zip(&run(&Device::Cpu)?) {
        close("w", x, b, &vec![2.0; b.len()], TOLERANCE)?;
    }
    Ok(())
}

/// What is left of an overflow, or of nothing, in the gradient has no part in the next sum.
fn an_overflow_does_not_outlive_its_micro_batch(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        for bad in [f32::NAN, f32::INFINITY] {
            let (mut optimizer, ids) = three(&device, Settings::lr(0.01))?;
            optimizer.set_loss_scaler(LossScaler { init_scale: 1.0, ..LossScaler::default() })?;
            let (mut reference, others) = three(&device, Settings::lr(0.01))?;
            for (&id, len) in ids.iter().zip(LENGTHS) {
                optimizer.write_gradient(id, &vec![bad; len])?;
            }
            optimizer.step()?;
            optimizer.set_loss_scaler(None)?;
            for (optimizer, ids) in [(&mut optimizer, &ids), (&mut reference, &others)] {
                accumulate(optimizer, ids, 1)?;
                accumulate(optimizer, ids, 2)?;
                optimizer.step()?;
            }
            for (&id, &other) in ids.iter().zip(&others) {
                let what = format!("after {bad} on {}", device.name());
                same(&what, &optimizer.read_blocking(id)?, &reference.read_blocking(other)?)?;
            }
        }
    }
    Ok(())
}

fn discarded_micro_batches_do_not_count(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let run = |discard: bool| -> Result<Vec<f32>, Failed> {
            let (mut optimizer, ids) = three(&device, Settings::lr(0.01))?;
            if discard {
                accumulate(&mut optimizer, &ids, 7)?;
                optimizer.zero_grad()?;
            }
            accumulate(&mut optimizer, &ids, 1)?;
            accumulate(&mut optimizer, &ids, 2)?;
            optimizer.step()?;
            Ok(optimizer.read_blocking(ids[0])?)
        };
        same("a", &run(true)?, &run(false)?)?;
    }
    Ok(())
}

fn accumulation_refuses(gpu: &Gpu) -> Result<(), Failed> {
    let (mut optimizer, ids) = three(&gpu.into(), Settings::lr(0.01))?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let g = BufferRange::whole(&buffer(gpu, &ordinary(1003, 1), FOREIGN));
    let (own, c) = (optimizer.gradient("a")?.clone(), optimizer.gradient(ids[2])?.len);
    optimizer.set_gradient("b", Gradient::Missing)?;
    let b = BufferRange::new(&g.buffer, 0, 70);
    let mut go = |gradients: &[(ParameterId, BufferRange)]| optimizer.encode_accumulate(&mut encoder, gradients);
    let short = go(&[(ids[0], BufferRange::new(&g.buffer, 0, 1002))]);
    ensure(matches!(short, Err(Error::Length { .. })), format!("{short:?}"))?;
    // What one addition writes is another's micro-batch, whichever comes first.
    let inside = BufferRange::new(&own.buffer, own.offset, c);
    for pair in [[(ids[0], g.clone()), (ids[2], inside.clone())], [(ids[2], inside), (ids[0], g.clone())]] {
        let raced = go(&pair);
        ensure(matches!(raced, Err(Error::Overlap { .. })), format!("{raced:?}"))?;
    }
    let itself = go(&[(ids[0], own)]);
    ensure(matches!(itself, Err(Error::Overlap { .. })), format!("{itself:?}"))?;
    let usage = go(&[(ids[0], BufferRange::whole(&buffer(gpu, &ordinary(1003, 1), wgpu::BufferUsages::COPY_SRC)))]);
    ensure(matches!(usage, Err(Error::MissingUsage { .. })), format!("{usage:?}"))?;
    let twice = go(&[(ids[0], g.clone()), (ids[0], g.clone())]);
    ensure(matches!(twice, Err(Error::Overlap { .. })), format!("{twice:?}"))?;
    let nowhere = optimizer.add_buffer(0, "nowhere", b)?;
    let refused = optimizer.accumulate(nowhere, &[1.0f32; 70]);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    let (mut cpu, others) = three(&Device::Cpu, Settings::lr(0.01))?;
    for (optimizer, ids) in [(&mut cpu, others), (&mut optimizer, ids)] {
        let wrong = [optimizer.accumulate(ids[0], &[1.0f64; 1003]), optimizer.accumulate(ids[0], &[1.0f32; 3])];
        ensure(wrong.iter().all(Result::is_err), format!("{wrong:?}"))?;
    }
    Ok(())
}

/// Against formulas in f64, in the optimizer's memory, the caller's buffers and the caller's slices, with a loss scale.
fn rows_and_columns(gpu: &Gpu) -> Result<(), Failed> {
    let adaptive = |over| Some(AdaptiveClip { clipping: 0.1, eps: 1e-3, over });
    for [rows, columns] in [[33, 5], [1, 300], [300, 1], [64, 257], [257, 64], [3, 1000]] {
        let (len, scale) = (rows * columns, 1024.0);
        let (w, g) = (parameters(len, 1), ordinary(len, 2));
        let scaled: Vec<f32> = g.iter().map(|g| g * scale).collect();
        for (centralize, adaptive_clip) in [
            (true, None),
            (false, adaptive(Extent::Row)),
            (false, adaptive(Extent::Column)),
            (true, adaptive(Extent::Column)),
        ] {
            let mut expected: Vec<f64> = g.iter().map(|&g| g.into()).collect();
            if centralize {
                for row in expected.chunks_mut(columns) {
                    let mean = row.iter().sum::<f64>() / columns as f64;
                    row.iter_mut().for_each(|g| *g -= mean);
                }
            }
            if let Some(clip) = adaptive_clip {
                let of_unit = |i: usize| if clip.over == Extent::Row { i / columns } else { i % columns };
                let mut norms = vec![[0.0f64; 2]; rows.max(columns)];
                for i in 0..len {
                    norms[of_unit(i)][0] += f64::from(w[i]).powi(2);
                    norms[of_unit(i)][1] += expected[i].powi(2);
                }
                for (i, g) in expected.iter_mut().enumerate() {
                    let [w, norm] = norms[of_unit(i)].map(f64::sqrt);
                    *g *= (0.1 * w.max(1e-3) / norm.max(1e-6)).min(1.0);
                }
            }
            let b: Vec<f32> = expected.iter().map(|&g| g as f32).collect();
            let largest: Vec<f32> = g.iter().map(|g| g.abs().max(1e3 / columns as f32)).collect();
            let settings = Settings { centralize, adaptive_clip, ..Settings::lr(0.0) };
            for kind in 0..4 {
                let device = if kind < 2 { gpu.into() } else { Device::Cpu };
                let mut optimizer = Optimizer::new(&device, Momentum::default(), settings)?;
                optimizer.set_loss_scaler(LossScaler { init_scale: scale.into(), ..LossScaler::default() })?;
                let shape = Options { shape: Some([rows, columns]), ..Options::default() };
                match kind {
                    0 | 2 => {
                        optimizer.add(0, "w", &w)?;
                        optimizer.write_gradient("w", &scaled)?;
                    }
                    1 => {
                        optimizer.add_buffer(0, "w", surrounded(gpu, &w, FOREIGN))?;
                        let range = surrounded(gpu, &scaled, FOREIGN);
                        optimizer.set_gradient("w", Gradient::Buffer(range))?;
                    }
                    _ => _ = optimizer.add_slice::<f32>(0, "w", len)?,
                }
                optimizer.set_options("w", shape)?;
                if kind == 3 {
                    let id = optimizer.id("w")?;
                    let mut w = w.clone();
                    optimizer.step_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&scaled) }])?;
                } else {
                    optimizer.step()?;
                }
                let found = optimizer.read_state_blocking::<f32>("w", "momentum_buffer")?;
                let what = format!("{rows}×{columns} {centralize} {adaptive_clip:?} {kind}");
                close(&what, &found, &b, &largest, TOLERANCE)?;
            }
        }
    }
    Ok(())
}

fn rows_with_nan_under_each_policy(gpu: &Gpu) -> Result<(), Failed> {
    let adaptive = Some(AdaptiveClip { clipping: 0.1, eps: 1e-3, over: Extent::Row });
    let mut g = ordinary(12, 3);
    (g[1], g[6]) = (f32::NAN, f32::INFINITY);
    for (centralize, adaptive_clip) in [(true, None), (false, adaptive)] {
        for policy in [NonFinite::Zero, NonFinite::Propagate] {
            let run = |device: &Device| -> Result<Vec<f32>, Failed> {
                let settings = Settings { centralize, adaptive_clip, ..Settings::lr(0.0) };
                let mut optimizer = Optimizer::new(device, Momentum::default(), settings)?;
                optimizer.set_non_finite(policy);
                optimizer.add(0, "w", &parameters(12, 1))?;
                optimizer.set_options("w", Options { shape: Some([3, 4]), ..Options::default() })?;
                optimizer.write_gradient("w", &g)?;
                optimizer.step()?;
                Ok(optimizer.read_state_blocking("w", "momentum_buffer")?)
            };
            let (x, b) = (run(&gpu.into())?, run(&Device::Cpu)?);
            let what = format!("{centralize} {policy:?}: {x:?} against {b:?}");
            for (x, b) in x.iter().zip(&b) {
                let both = x == b || (x.is_nan() && b.is_nan());
                ensure(both || (x - b).abs() <= 1e-5 * b.abs().max(1.0), what.clone())?;
            }
            ensure((policy == NonFinite::Zero) == b.iter().all(|b| b.is_finite()), what)?;
        }
    }
    Ok(())
}

fn gradient_passes_refuse(gpu: &Gpu) -> Result<(), Failed> {
    let (mut optimizer, ids) = three(&gpu.into(), Settings::lr(0.01))?;
    let shape = |shape| Options { shape: Some(shape), ..Options::default() };
    for wrong in [[1003, 2], [0, 5], [usize::MAX, 2]] {
        let refused = optimizer.set_options(ids[0], shape(wrong));
        ensure(matches!(refused, Err(Error::Length { .. })), format!("{refused:?}"))?;
    }
    for x in [f64::NAN, -1.0, f64::INFINITY] {
        let noise = Settings { noise: Some(Noise { eta: x, ..NOISE }), ..Settings::lr(0.1) };
        let gamma = Settings { noise: Some(Noise { gamma: x, ..NOISE }), ..Settings::lr(0.1) };
        let clip = Settings { adaptive_clip: Some(AdaptiveClip::torch(x)), ..Settings::lr(0.1) };
        for settings in [noise, gamma, clip] {
            let refused = optimizer.set_settings(0, settings);
            ensure(matches!(refused, Err(Error::Hyperparameter { .. })), format!("{refused:?}"))?;
        }
    }
    // Two parameters read one gradient: it cannot be rewritten for both.
    let mut shared = Optimizer::new(&gpu.into(), Sgd, 0.1)?;
    let g = BufferRange::whole(&buffer(gpu, &[1.0; 8], FOREIGN));
    for name in ["a", "b"] {
        shared.add_buffer(0, name, BufferRange::whole(&buffer(gpu, &[1.0; 8], FOREIGN)))?;
        shared.set_gradient(name, Gradient::Buffer(g.clone()))?;
    }
    let refused = shared.set_settings(0, Settings { centralize: true, ..Settings::lr(0.1) });
    ensure(matches!(refused, Err(Error::Overlap { .. })), format!("{refused:?}"))
}

/// Each micro-batch in a buffer of its own: none of them is kept.
fn accumulation_lets_go_of_buffers(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    let (mut optimizer, ids) = three(&gpu.into(), Settings::lr(0.01))?;
    let mut most = 0;
    for t in 0..400 {
        accumulate(&mut optimizer, &ids, t)?;
        optimizer.step()?;
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        let [buffers, groups, ..] = objects(gpu);
        most = most.max(buffers + groups);
    }
    ensure(most < 100, format!("{most} buffers and bind groups for 1,200 micro-batches"))
}

/// With NaN taken as 0, and with noise, a rule does what it does with such a gradient written; also where it is
/// measured for a norm.
fn every_rule_takes_zeroed_and_noisy_gradients(gpu: &Gpu) -> Result<(), Failed> {
    let len = 5003;
    let (start, good) = (parameters(len, 1), ordinary(len, 2));
    let zeroed: Vec<f32> = good.iter().enumerate().map(|(i, &g)| if i % 100 == 7 { 0.0 } else { g }).collect();
    let mut bad = zeroed.clone();
    bad.iter_mut().skip(7).step_by(100).for_each(|g| *g = f32::NAN);
    bad[7] = f32::NEG_INFINITY;
    for device in [gpu.into(), Device::Cpu] {
        let mut drawing = noisy(&device, NOISE, len)?;
        drawing.step()?;
        let noise = drawing.read_blocking::<f32>("w")?;
        let with_noise: Vec<f32> = good.iter().zip(&noise).map(|(g, n)| g - n).collect();
        for (name, rule) in rules::all() {
            let run = |noise, policy, g: &[f32]| -> Result<Vec<f32>, Failed> {
                let settings = Settings { noise, ..Settings::lr(0.01) };
                let mut optimizer = Optimizer::new(&device, rule.clone(), settings)?;
                Option::into_iter(policy).for_each(|policy| optimizer.set_non_finite(policy));
                optimizer.add(0, "w", &start)?;
                optimizer.write_gradient("w", g)?;
                optimizer.step()?;
                Ok(optimizer.read_blocking("w")?)
            };
            let what = format!("{name} on {}", device.name());
            let x = run(None, Some(NonFinite::Zero), &bad)?;
            close(&format!("zeroed, {what}"), &x, &run(None, None, &zeroed)?, &start, TOLERANCE)?;
            let x = run(Some(NOISE), None, &good)?;
            close(&format!("noisy, {what}"), &x, &run(None, None, &with_noise)?, &start, TOLERANCE)?;
            // Some rules have no first step.
            let plain = run(None, None, &good)?;
            ensure(x != plain || plain == start, format!("{what}: no noise"))?;
        }
    }
    Ok(())
}

fn more_rows_than_a_dispatch_is_wide(gpu: &Gpu) -> Result<(), Failed> {
    let narrow = device_like(gpu, |limits| limits.max_compute_workgroups_per_dimension = 100)?;
    let (rows, columns) = (1234, 3);
    let settings = Settings { centralize: true, ..Settings::lr(1.0) };
    let mut all = Vec::new();
    for device in [(&narrow).into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Sgd, settings)?;
        optimizer.add(0, "w", &vec![0.0f32; rows * columns])?;
        optimizer.set_options("w", Options { shape: Some([rows, columns]), ..Options::default() })?;
        optimizer.write_gradient("w", &ordinary(rows * columns, 1))?;
        optimizer.step()?;
        all.push(optimizer.read_blocking::<f32>("w")?);
    }
    close("w", &all[0], &all[1], &vec![1e3; rows * columns], TOLERANCE)
}

fn finite_rows_have_finite_means(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let settings = Settings { centralize: true, ..Settings::lr(0.0) };
        let mut optimizer = Optimizer::new(&device, Momentum::default(), settings)?;
        optimizer.add(0, "w", &[0.0f32; 4])?;
        optimizer.set_options("w", Options { shape: Some([1, 4]), ..Options::default() })?;
        optimizer.write_gradient("w", &[3e38f32, 3e38, 2e38, 2e38])?;
        optimizer.step()?;
        let v = optimizer.read_state_blocking::<f32>("w", "momentum_buffer")?;
        close("g − mean", &v, &[5e37, 5e37, -5e37, -5e37], &[3e38; 4], TOLERANCE)?;
    }
    Ok(())
}
