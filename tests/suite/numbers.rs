//! Factors at the ends of f32: products that overflow, that are subnormal, and loops that a driver may end early.

use libtest_mimic::Failed;
use rand::RngExt;
use wgpu_optim::rules::{Adam, Momentum, Sgd};
use wgpu_optim::{
    AdaptiveClip, BufferRange, ClipNorm, Device, Error, Extent, Gpu, LossScaler, NonFinite, Norm, Optimizer, Options,
    Settings, WeightDecay,
};

use crate::compare::{TOLERANCE, close, ensure};
use crate::fixture::{FOREIGN, ONE_ELEMENT, buffer, content, pipeline, random};
use crate::tests;

tests!(
    our_own_factors_overflow,
    only_what_overflows_is_found,
    an_unscaled_gradient_overflows,
    micro_batches_overflow,
    a_scale_grows_to_its_limit,
    large_scales_and_clipping,
    factors_whose_product_is_subnormal,
    a_subnormal_gradient_is_normalized,
    coefficients_that_f32_lacks_are_refused,
    long_units_are_whole,
    normals_of_the_worst_device,
    scales_as_torch_rounds_them,
    a_scale_has_a_minimum,
    a_norm_is_logged,
);

const POLICIES: [NonFinite; 3] = [NonFinite::Skip, NonFinite::Zero, NonFinite::Propagate];

fn devices(gpu: &Gpu) -> [Device; 2] {
    [gpu.into(), Device::Cpu]
}

/// SGD of rate 1 from w = 0, so that −w is what the rule got.
fn sgd(device: &Device, settings: Settings, gradient: &[f32]) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(device, Sgd, settings)?;
    optimizer.add(0, "w", &vec![0.0f32; gradient.len()])?;
    optimizer.write_gradient("w", gradient)?;
    Ok(optimizer)
}

fn got(optimizer: &Optimizer) -> Result<Vec<f32>, Failed> {
    Ok(optimizer.read_blocking::<f32>("w")?.iter().map(|w| 0.0 - w).collect())
}

/// A micro-batch's gradient.
fn accumulate(optimizer: &mut Optimizer, batch: &[f32]) -> Result<(), Failed> {
    let id = optimizer.id("w")?;
    let Device::Gpu(gpu) = optimizer.device().clone() else { return Ok(optimizer.accumulate(id, batch)?) };
    let range = BufferRange::whole(&buffer(&gpu, batch, FOREIGN));
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    optimizer.encode_accumulate(&mut encoder, &[(id, range)])?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

/// Finite gradients, which a factor of ours makes infinite: judged as those that came so, whatever is measured.
fn our_own_factors_overflow(gpu: &Gpu) -> Result<(), Failed> {
    let settings = Settings { grad_scale: 1e20, ..Settings::lr(1.0) };
    let logged = |norm| Some(ClipNorm { norm, ..ClipNorm::optax(f64::INFINITY) });
    for device in devices(gpu) {
        for policy in POLICIES {
            for clip in [None, logged(Norm::L1), logged(Norm::L2), logged(Norm::Max), logged(Norm::Rms)] {
                for own in [false, true] {
                    let settings = Settings { clip_norm: clip.filter(|_| own), ..settings };
                    let mut optimizer = sgd(&device, settings, &[1e20, 1.0, -2.0, 1e20])?;
                    optimizer.set_non_finite(policy);
                    optimizer.set_clip_norm(clip.filter(|_| !own))?;
                    optimizer.step()?;
                    let report = optimizer.read_report_blocking()?;
                    let what = format!("{policy:?} {clip:?} {own} on {}: {report:?}", device.name());
                    let inf = f32::INFINITY;
                    let expected = match policy {
                        NonFinite::Skip => [0.0; 4],
                        NonFinite::Zero => [0.0, 1e20, -2e20, 0.0],
                        NonFinite::Propagate => [inf, 1e20, -2e20, inf],
                    };
                    close(&what, &got(&optimizer)?, &expected, &[1.0; 4], TOLERANCE)?;
                    let measured = policy != NonFinite::Propagate || clip.is_some();
                    let skipped = u64::from(policy == NonFinite::Skip);
                    ensure(report.found_inf == measured && report.skipped_steps == skipped, what.clone())?;
                    let norm = match clip.map(|clip| clip.norm) {
                        _ if !measured => 0.0,
                        Some(Norm::L1) => 2e40,
                        Some(Norm::Max) => 1e40,
                        Some(Norm::Rms) if own => 2f64.sqrt() * 1e40,
                        Some(Norm::Rms) => 0.5f64.sqrt() * 1e40,
                        _ => 2f64.sqrt() * 1e40,
                    };
                    ensure((report.grad_norm - norm).abs() <= TOLERANCE * norm, what)?;
                }
            }
        }
    }
    Ok(())
}

/// The largest f32 is no overflow, a limit keeps gradients finite, and what is not stepped does not count.
fn only_what_overflows_is_found(gpu: &Gpu) -> Result<(), Failed> {
    let above = f64::from(1.0f32 + f32::EPSILON);
    for device in devices(gpu) {
        for (grad_scale, gradient, found) in
            [(1.0, f32::MAX, false), (above, f32::MAX, true), (0.5, f32::MAX, false), (above, 3e38, false)]
        {
            let mut optimizer = sgd(&device, Settings { grad_scale, ..Settings::lr(1.0) }, &[1.0, -gradient])?;
            optimizer.set_non_finite(NonFinite::Skip);
            optimizer.step()?;
            let report = optimizer.read_report_blocking()?;
            let what = format!("{gradient:e} times {grad_scale} on {}: {report:?}", device.name());
            ensure(report.found_inf == found && (got(&optimizer)?[1] == 0.0) == found, what)?;
        }
        // Clipped to 2, of all together or of each: nothing overflows.
        for own in [false, true] {
            let clip = Some(ClipNorm::torch(2.0));
            let settings = Settings { grad_scale: -1e20, clip_norm: clip.filter(|_| own), ..Settings::lr(1.0) };
            let mut optimizer = sgd(&device, settings, &[3e20, 4e20])?;
            optimizer.set_clip_norm(clip.filter(|_| !own))?;
            optimizer.step()?;
            let report = optimizer.read_report_blocking()?;
            let what = format!("clipped on {}: {report:?}", device.name());
            close(&what, &got(&optimizer)?, &[-1.2, -1.6], &[1.0; 2], TOLERANCE)?;
            ensure(!report.found_inf && report.skipped_steps == 0, what)?;
        }
        // A parameter that is left out overflows alone.
        let mut optimizer = sgd(&device, Settings { grad_scale: 1e20, ..Settings::lr(1.0) }, &[1.0])?;
        optimizer.add(0, "frozen", &[1.0f32])?;
        optimizer.write_gradient("frozen", &[1e20f32])?;
        optimizer.set_options("frozen", Options { frozen: true, ..Options::default() })?;
        optimizer.set_non_finite(NonFinite::Skip);
        optimizer.step()?;
        ensure(!optimizer.read_report_blocking()?.found_inf, "a frozen parameter counts")?;
    }
    Ok(())
}

/// pytorch#96755: overflows have taken the scale to its least; a finite gradient is infinite once it is divided by
/// that.
fn an_unscaled_gradient_overflows(gpu: &Gpu) -> Result<(), Failed> {
    for device in devices(gpu) {
        let mut optimizer = Optimizer::new(&device, Adam::default(), 0.1)?;
        optimizer.add(0, "w", &[1.0f32])?;
        optimizer.set_loss_scaler(LossScaler { init_scale: 2f64.powi(-124), ..LossScaler::default() })?;
        for g in [f32::INFINITY, f32::INFINITY, f32::INFINITY, 8.0] {
            optimizer.write_gradient("w", &[g])?;
            optimizer.step()?;
        }
        let report = optimizer.read_report_blocking()?;
        let w = optimizer.read_blocking::<f32>("w")?;
        let what = format!("{w:?} on {}: {report:?}", device.name());
        ensure(report.found_inf && report.skipped_steps == 4 && w == [1.0], what.clone())?;
        ensure(report.loss_scale == 2f64.powi(-126) && report.grad_norm == 2f64.powi(129), what)?;
        optimizer.write_gradient("w", &[f32::MIN_POSITIVE])?;
        optimizer.step()?;
        ensure(optimizer.read_blocking::<f32>("w")? == [0.9], "it goes on")?;
    }
    Ok(())
}

/// The factor of the mean is one of those that are judged.
fn micro_batches_overflow(gpu: &Gpu) -> Result<(), Failed> {
    for (grad_scale, found) in [(3.0, false), (4.0, true)] {
        let settings = Settings { grad_scale, ..Settings::lr(1.0) };
        for device in devices(gpu) {
            let mut optimizer = sgd(&device, settings, &[0.0, 0.0])?;
            optimizer.set_non_finite(NonFinite::Skip);
            for _ in 0..2 {
                accumulate(&mut optimizer, &[1e38, 1.0])?;
            }
            optimizer.step()?;
            let report = optimizer.read_report_blocking()?;
            let g = got(&optimizer)?;
            let what = format!("{grad_scale} on {}: {g:?} {report:?}", device.name());
            ensure(report.found_inf == found && (g[0] == 0.0) == found, what)?;
        }
    }
    Ok(())
}

/// 2¹²⁶, whose inverse is a normal number; a gradient of 1e-3 stays one all the way.
fn a_scale_grows_to_its_limit(gpu: &Gpu) -> Result<(), Failed> {
    for device in devices(gpu) {
        let mut optimizer = Optimizer::new(&device, Sgd, 1.0)?;
        let init_scale = 2f64.powi(121);
        optimizer.set_loss_scaler(LossScaler { init_scale, growth_interval: 1, ..LossScaler::default() })?;
        optimizer.add(0, "w", &[0.0f32; 4])?;
        for step in 0..8 {
            let scale = 2f32.powi((121 + step).min(126));
            let report = optimizer.read_report_blocking()?;
            ensure(report.loss_scale == f64::from(scale), format!("{report:?} before step {step}"))?;
            optimizer.write("w", &[0.0f32; 4])?;
            optimizer.write_gradient("w", &[1e-3 * scale; 4])?;
            optimizer.step()?;
            close("moved by", &got(&optimizer)?, &[1e-3; 4], &[0.0; 4], TOLERANCE)?;
        }
    }
    Ok(())
}

/// 1/scale times the clipping coefficient would be subnormal; also a scale that was set above what growth reaches.
fn large_scales_and_clipping(gpu: &Gpu) -> Result<(), Failed> {
    for device in devices(gpu) {
        for exponent in [100, 118, 120, 122, 124, 126, 127] {
            for own in [false, true] {
                let scale = 2f64.powi(exponent);
                let clip = Some(ClipNorm::torch(0.01));
                let settings = Settings { clip_norm: clip.filter(|_| own), ..Settings::lr(1.0) };
                // The true gradient is 1, its norm 2.
                let mut optimizer = sgd(&device, settings, &[scale as f32; 4])?;
                optimizer.set_loss_scaler(LossScaler { init_scale: scale, ..LossScaler::default() })?;
                optimizer.set_clip_norm(clip.filter(|_| !own))?;
                optimizer.step()?;
                let what = format!("scale 2^{exponent} on {}", device.name());
                close(&what, &got(&optimizer)?, &[0.005; 4], &[0.0; 4], TOLERANCE)?;
                let norm = optimizer.read_report_blocking()?.grad_norm;
                ensure((norm - 2.0).abs() < 1e-5, format!("{what}: {norm}"))?;
            }
        }
        // Adaptive clipping divides by the scale, too.
        let settings = Settings { adaptive_clip: Some(AdaptiveClip::torch(0.01)), ..Settings::lr(1.0) };
        let scale = 2f64.powi(127);
        let mut optimizer = Optimizer::new(&device, Momentum::default(), settings)?;
        optimizer.set_loss_scaler(LossScaler { init_scale: scale, ..LossScaler::default() })?;
        optimizer.add(0, "w", &[1.0f32; 4])?;
        optimizer.write_gradient("w", &[scale as f32; 4])?;
        optimizer.step()?;
        let v = optimizer.read_state_blocking::<f32>("w", "momentum_buffer")?;
        close("adaptive", &v, &[0.01; 4], &[0.0; 4], TOLERANCE)?;
    }
    Ok(())
}

/// Of the settings, with and without anything that measures.
fn factors_whose_product_is_subnormal(gpu: &Gpu) -> Result<(), Failed> {
    for device in devices(gpu) {
        for (grad_scale, scale, g, right) in [
            (2e-38, None, 1e38, 2.0),
            (2e-38, Some(1024.0), 1e38, 2.0 / 1024.0),
            (1e-30, Some(2f64.powi(100)), 1e38, 1e8 / 2f64.powi(100)),
            (1e30, Some(2f64.powi(-120)), 2e-38, 2e-8 * 2f64.powi(120)),
        ] {
            let mut optimizer = sgd(&device, Settings { grad_scale, ..Settings::lr(1.0) }, &[g, -g])?;
            if let Some(init_scale) = scale {
                optimizer.set_loss_scaler(LossScaler { init_scale, ..LossScaler::default() })?;
            }
            optimizer.step()?;
            let what = format!("{grad_scale:e} {scale:?} on {}", device.name());
            close(&what, &got(&optimizer)?, &[right as f32, -right as f32], &[0.0; 2], TOLERANCE)?;
        }
        // A mean of three, of a factor just above the least normal number.
        let mut optimizer = sgd(&device, Settings { grad_scale: 1.2e-38, ..Settings::lr(1.0) }, &[0.0])?;
        for _ in 0..3 {
            accumulate(&mut optimizer, &[1e38])?;
        }
        optimizer.step()?;
        close("a mean", &got(&optimizer)?, &[1.2], &[0.0], TOLERANCE)?;
    }
    Ok(())
}

/// To this norm from below, without an ε: right, or 0 where the device flushes it.
fn a_subnormal_gradient_is_normalized(gpu: &Gpu) -> Result<(), Failed> {
    for device in devices(gpu) {
        for g in [1e-36f32, 1e-40, 1e-44] {
            for max_norm in [1.0, 1e30] {
                let mut optimizer = sgd(&device, Settings::lr(1.0), &[g; 64])?;
                optimizer.set_clip_norm(ClipNorm { eps: 0.0, ..ClipNorm::normalize(max_norm) })?;
                optimizer.step()?;
                let found = got(&optimizer)?[0];
                let right = max_norm as f32 / 8.0;
                let flushed = g < f32::MIN_POSITIVE && found == 0.0;
                let what = format!("{g:e} to {max_norm:e} on {}: {found:e}", device.name());
                ensure(flushed || (found / right - 1.0).abs() < 1e-5, what)?;
            }
        }
    }
    Ok(())
}

/// Numbers that f32 has as subnormal ones alone, which devices may take for 0: an error that names them.
fn coefficients_that_f32_lacks_are_refused(gpu: &Gpu) -> Result<(), Failed> {
    let tiny = 1e-40;
    for device in devices(gpu) {
        let mut optimizer = sgd(&device, Settings::lr(1.0), &[1.0])?;
        let plain = Settings::lr(0.1);
        for (name, settings) in [
            ("lr", Settings::lr(tiny)),
            ("grad_scale", Settings { grad_scale: -tiny, ..plain }),
            ("clip_value", Settings { clip_value: Some(tiny), ..plain }),
            ("weight_decay", Settings { weight_decay: WeightDecay::L2(tiny), ..plain }),
            ("max_norm", Settings { clip_norm: Some(ClipNorm::optax(tiny)), ..plain }),
            ("eps", Settings { clip_norm: Some(ClipNorm { eps: tiny, ..ClipNorm::optax(1.0) }), ..plain }),
            ("clipping", Settings { adaptive_clip: Some(AdaptiveClip::torch(tiny)), ..plain }),
        ] {
            let refused = optimizer.set_settings(0, settings);
            let named = match &refused {
                Err(Error::Hyperparameter { name: found, value, .. }) => *found == name && value.abs() == tiny,
                _ => false,
            };
            ensure(named, format!("{name}: {refused:?}"))?;
        }
        for init_scale in [tiny, 0.0] {
            let refused = optimizer.set_loss_scaler(LossScaler { init_scale, ..LossScaler::default() });
            ensure(matches!(refused, Err(Error::Hyperparameter { .. })), format!("{refused:?}"))?;
        }
        let refused = optimizer.add_group(Adam { eps: tiny, ..Adam::default() }, 0.1);
        ensure(matches!(refused, Err(Error::Hyperparameter { name: "eps", .. })), format!("{refused:?}"))?;
        // A schedule's product may be as small as it likes: it is 0.
        optimizer.set_settings(0, Settings { lr_factor: tiny, ..Settings::lr(1.0) })?;
        optimizer.write_gradient("w", &[1e30f32])?;
        optimizer.step()?;
        ensure(optimizer.read_blocking::<f32>("w")? == [0.0], format!("{}: a subnormal rate", device.name()))?;
    }
    Ok(())
}

/// llvmpipe ends a loop after some 32,768 turns: 2²³ elements by 256 threads. In parts the result is right, and equal
/// to the CPU's.
fn long_units_are_whole(gpu: &Gpu) -> Result<(), Failed> {
    let mut cases = vec![([1, 300_001], Extent::Row), ([5000, 70], Extent::Column), ([2, 262_145], Extent::Row)];
    if gpu.device().limits().max_storage_buffer_binding_size >= 1 << 26 {
        cases.push(([1, (1 << 23) + 999], Extent::Row));
    }
    for ([rows, columns], over) in cases {
        let len = rows * columns;
        let values = |seed| -> Vec<f32> {
            let mut rng = random(seed);
            (0..len).map(|_| rng.random_range(0.5..1.5)).collect()
        };
        let gradient = values(2);
        let clip = Some(AdaptiveClip { over, ..AdaptiveClip::torch(0.01) });
        for (centralize, adaptive_clip) in [(true, None), (false, clip)] {
            let mut results = Vec::new();
            for device in devices(gpu) {
                let settings = Settings { centralize, adaptive_clip, ..Settings::lr(1.0) };
                let mut optimizer = Optimizer::new(&device, Sgd, settings)?;
                optimizer.add(0, "w", &values(1))?;
                optimizer.set_options("w", Options { shape: Some([rows, columns]), ..Options::default() })?;
                optimizer.write_gradient("w", &gradient)?;
                optimizer.step()?;
                results.push(optimizer.read_blocking::<f32>("w")?);
            }
            let what = format!("{rows}×{columns} {over:?} {centralize}");
            close(&what, &results[0], &results[1], &vec![1.5; len], TOLERANCE)?;
        }
    }
    Ok(())
}

/// Noise where log, cos and sin are as bad as WGSL allows: nothing but their error, and no NaN.
fn normals_of_the_worst_device(gpu: &Gpu) -> Result<(), Failed> {
    let head = "// Above by 2⁻²¹ from 0.5 on; outside of ±π anything, here 9.
        fn worst_log(u: vec2<f32>) -> vec2<f32> { return log(u) + select(vec2(0.0), vec2(4.7e-7), u >= vec2(0.5)); }
        fn inside(x: vec2<f32>) -> vec2<bool> { return abs(x) <= vec2(3.1415927); }
        fn worst_cos(x: vec2<f32>) -> vec2<f32> { return select(vec2(9.0), cos(x) + 4.8e-4, inside(x)); }
        fn worst_sin(x: vec2<f32>) -> vec2<f32> { return select(vec2(9.0), sin(x) - 4.8e-4, inside(x)); }";
    let lane = concat!(include_str!("../../shaders/block.wgsl"), include_str!("../../shaders/lane.wgsl"));
    let mut noise = include_str!("../../shaders/noise.wgsl").to_owned();
    for function in ["log(", "cos(", "sin("] {
        ensure(noise.contains(function), format!("no {function} in noise.wgsl"))?;
        noise = noise.replace(function, &format!("worst_{function}"));
    }
    let main = "@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
        @compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            // u from 1 downwards, and all angles.
            out[id.x] = normals(vec4(0xffffffffu - (id.x << 9u), id.x << 23u, id.x << 20u, id.x << 21u));
        }";
    let pipeline = pipeline(gpu, &[ONE_ELEMENT, head, lane, &noise, main].join("\n"));
    let len = 1u32 << 12;
    let out = buffer(gpu, &vec![0.0; 4 * len as usize], FOREIGN);
    let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: out.as_entire_binding() }],
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(len / 256, 1, 1);
    drop(pass);
    gpu.queue().submit([encoder.finish()]);
    for (i, four) in content(gpu, &out)?.chunks(4).enumerate() {
        let i = i as u32;
        let u =
            [u32::MAX - (i << 9), i << 23, i << 20, i << 21].map(|x| (f64::from(x >> 9) + 0.5) / f64::from(1 << 23));
        let (r, a) = (|u: f64| (-2.0 * u.ln()).sqrt(), |u: f64| std::f64::consts::TAU * u);
        let expected =
            [r(u[0]) * a(u[2]).cos(), r(u[1]) * a(u[3]).cos(), r(u[0]) * a(u[2]).sin(), r(u[1]) * a(u[3]).sin()];
        for (x, b) in four.iter().zip(expected) {
            ensure((f64::from(*x) - b).abs() <= 0.003, format!("at {i}: {four:?}, not {expected:?}"))?;
        }
    }
    Ok(())
}

/// Factors that are no powers of two: the product in f64, then rounded to f32.
fn scales_as_torch_rounds_them(gpu: &Gpu) -> Result<(), Failed> {
    let mut rng = random(7);
    for case in 0..30 {
        let growth_factor = if case == 0 { 1.7 } else { rng.random_range(1.0001..2.5) };
        let backoff_factor = if case == 0 { 0.3 } else { rng.random_range(0.1..0.9999) };
        let init_scale = f64::from(rng.random_range(1.0f32..65536.0));
        let scaler =
            LossScaler { init_scale, growth_factor, backoff_factor, growth_interval: 1, ..LossScaler::default() };
        let mut ours = Vec::new();
        for device in devices(gpu) {
            let mut optimizer = sgd(&device, Settings::lr(1.0), &[1.0])?;
            optimizer.set_loss_scaler(scaler)?;
            ours.push(optimizer);
        }
        let mut scale = init_scale as f32;
        for step in 0..12 {
            let bad = rng.random::<bool>();
            scale = (f64::from(scale) * if bad { backoff_factor } else { growth_factor }) as f32;
            for optimizer in &mut ours {
                optimizer.write_gradient("w", &[if bad { f32::NAN } else { 1.0 }])?;
                optimizer.step()?;
                let found = optimizer.read_report_blocking()?.loss_scale;
                let what = format!("{scaler:?} step {step} on {}", optimizer.device().name());
                ensure(found == f64::from(scale), format!("{what}: {found}, not {scale}"))?;
            }
        }
    }
    Ok(())
}

/// It does not fall below, and goes on to skip there; a scale set below it stays.
fn a_scale_has_a_minimum(gpu: &Gpu) -> Result<(), Failed> {
    let scaler = LossScaler { init_scale: 8.0, min_scale: 1.5, ..LossScaler::default() };
    for device in devices(gpu) {
        let mut optimizer = sgd(&device, Settings::lr(1.0), &[f32::INFINITY])?;
        optimizer.set_loss_scaler(scaler)?;
        for (step, expected) in (1..).zip([4.0, 2.0, 1.5, 1.5]) {
            optimizer.step()?;
            let report = optimizer.read_report_blocking()?;
            let right = report.loss_scale == expected && report.skipped_steps == step && report.found_inf;
            ensure(right, format!("{report:?} after step {step} on {}", device.name()))?;
        }
        optimizer.set_loss_scale(0.25, 0, 0)?;
        optimizer.step()?;
        ensure(optimizer.read_report_blocking()?.loss_scale == 0.25, "a scale below the least one rises")?;
        for min_scale in [0.0, 1e-40, 9.0, f64::NAN] {
            let refused = optimizer.set_loss_scaler(LossScaler { min_scale, ..scaler });
            let named = matches!(refused, Err(Error::Hyperparameter { name: "min_scale", .. }));
            ensure(named, format!("{min_scale}: {refused:?}"))?;
        }
    }
    // As checkpoints had it before there was a minimum.
    let old = r#"{"init_scale":8.0,"growth_factor":2.0,"backoff_factor":0.5,"growth_interval":2000}"#;
    let read: LossScaler = serde_json::from_str(old)?;
    ensure(read == LossScaler { init_scale: 8.0, ..LossScaler::default() }, format!("{read:?}"))
}

/// A limit of ∞ measures and clips nothing; a checkpoint takes it along.
fn a_norm_is_logged(gpu: &Gpu) -> Result<(), Failed> {
    let logged = ClipNorm::torch(f64::INFINITY);
    for device in devices(gpu) {
        for own in [false, true] {
            let settings = Settings { clip_norm: Some(logged).filter(|_| own), ..Settings::lr(1.0) };
            let mut optimizer = sgd(&device, settings, &[3e30, -4e30])?;
            optimizer.set_clip_norm(Some(logged).filter(|_| !own))?;
            optimizer.step()?;
            ensure(got(&optimizer)? == [3e30, -4e30], format!("clipped on {}", device.name()))?;
            let norm = optimizer.read_report_blocking()?.grad_norm;
            ensure((norm / 5e30 - 1.0).abs() < TOLERANCE, format!("{norm:e}"))?;
            // Others than PyTorch's ∞/∞: what is finite goes on.
            optimizer.set_non_finite(NonFinite::Propagate);
            optimizer.write("w", &[0.0f32; 2])?;
            optimizer.write_gradient("w", &[f32::INFINITY, 1.0])?;
            optimizer.step()?;
            ensure(got(&optimizer)? == [f32::INFINITY, 1.0], format!("∞ on {}", device.name()))?;
            optimizer.write("w", &[0.0f32; 2])?;
            let mut file = Vec::new();
            pollster::block_on(optimizer.save_to(&mut file, Default::default()))?;
            let mut other = sgd(&device, Settings::lr(1.0), &[3.0, 4.0])?;
            other.load_from(&mut std::io::Cursor::new(&file), Default::default())?;
            other.step()?;
            ensure(got(&other)? == [3.0, 4.0], "clipped after a load")?;
            ensure(other.read_report_blocking()?.grad_norm == 5.0, "not measured after a load")?;
            ensure(other.settings(0)?.clip_norm == settings.clip_norm, "the settings")?;
        }
        let mut optimizer = sgd(&device, Settings::lr(1.0), &[1.0])?;
        let up = ClipNorm { only_down: false, ..logged };
        ensure(optimizer.set_clip_norm(up).is_err(), "a gradient of norm ∞")?;
    }
    let text = serde_json::to_string(&logged)?;
    ensure(text.contains(r#""max_norm":null"#) && serde_json::from_str::<ClipNorm>(&text)? == logged, text)
}
