//! That a step waits for nothing and leaves nothing behind, counted: submissions, waits, objects, allocations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Lamb};
use wgpu_optim::{AnyRule, Averaging, ClipNorm, Gpu, LossScaler, Noise, Optimizer, Schedule, Settings, WeightDecay};

use crate::compare::ensure;
use crate::fixture::{FOREIGN, buffer, device_like, gradients, objects, parameters, pipeline};
use crate::tests;

tests!(
    a_step_is_one_submission,
    a_step_waits_for_no_outcome,
    a_step_returns_before_the_gpu_has_done_it,
    a_step_makes_no_objects,
    a_step_allocates_as_a_hand_recorded_one
);

/// Everything at once: clipping, scaling, averaging, a schedule; or noise and trust ratios.
fn guarded(gpu: &Gpu, rule: impl Into<AnyRule>, settings: Settings) -> Result<Optimizer, Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), rule, settings)?;
    optimizer.set_averaging(0, Averaging::Ema(0.99))?;
    optimizer.set_schedule(0, Schedule::cosine(1000).warmup(10))?;
    optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
    optimizer.set_loss_scaler(LossScaler::default())?;
    let values = [1003, 70, 4096].map(|len| parameters(len, len as u64));
    let named = ["p0", "p1", "p2"].into_iter().zip(values.iter().map(Vec::as_slice));
    for id in optimizer.add_all(0, &named.collect::<Vec<_>>())? {
        let len = optimizer.gradient(id)?.len;
        optimizer.write_gradient(id, &gradients(len, len as u64))?;
    }
    Ok(optimizer)
}

fn noisy() -> Settings {
    Settings { noise: Some(Noise { eta: 0.1, gamma: 0.5, seed: 1 }), ..Settings::lr(0.01) }
}

fn a_step_is_one_submission(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    // wgpu numbers submissions.
    let number = || -> Result<u64, Failed> {
        let said = format!("{:?}", gpu.queue().submit([]));
        Ok(said.chars().filter(char::is_ascii_digit).collect::<String>().parse()?)
    };
    // A mapping takes a number, too.
    let one = {
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let descriptor = wgpu::BufferDescriptor { label: None, size: 32, usage, mapped_at_creation: false };
        let staging = gpu.device().create_buffer(&descriptor);
        let before = number()?;
        let encoder = gpu.device().create_command_encoder(&Default::default());
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., |_| {});
        gpu.queue().submit([encoder.finish()]);
        number()? - before
    };
    for mut optimizer in [guarded(gpu, Adam::default(), 0.01.into())?, guarded(gpu, Lamb::default(), noisy())?] {
        for _ in 0..3 {
            let before = number()?;
            optimizer.step()?;
            let made = number()? - before;
            ensure(made == one, format!("counted {made}, {one} for a submission and a mapping"))?;
        }
    }
    Ok(())
}

/// An encoder that is never submitted holds a step whose outcome never comes: who waited for it would wait for ever.
fn a_step_waits_for_no_outcome(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = guarded(gpu, Adam::default(), 0.01.into())?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    optimizer.encode(&mut encoder)?;
    for _ in 0..100 {
        optimizer.step()?;
    }
    drop(encoder);
    optimizer.settle_blocking()?;
    ensure(optimizer.steps("p0")? == 100, format!("{} steps", optimizer.steps("p0")?))
}

/// Behind a dispatch that takes long. A submission polls: had it finished by then, its callback would have come.
fn a_step_returns_before_the_gpu_has_done_it(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    let mut optimizer = guarded(gpu, Adam::default(), 0.01.into())?;
    optimizer.step()?;
    optimizer.settle_blocking()?;
    let wgsl = "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
                @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) {
                    var x = id.x;
                    for (var k = 0u; k < a[0]; k++) { x = x * 1664525u + 1013904223u; }
                    a[1 + id.x] = x;
                }";
    let pipeline = pipeline(gpu, wgsl);
    // Half a second at most: beyond two, a desktop takes its GPU back. A loop of Mesa's llvmpipe ends after 65,535
    // turns, without a word: there, many short ones.
    let software = gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
    let (turns, workgroups) = if software { (1 << 15, 1 << 12) } else { (1 << 21, 1) };
    let mut rounds = vec![f32::from_bits(turns)];
    rounds.resize(1 + workgroups, 0.0);
    let rounds = buffer(gpu, &rounds, FOREIGN);
    let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: rounds.as_entire_binding() }],
    });
    // A step that waits does so each time; one that does not may lose its core for as long as the dispatch takes, but
    // not each time.
    for _ in 0..3 {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(workgroups as u32, 1, 1);
        drop(pass);
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        encoder.on_submitted_work_done(move || flag.store(true, Ordering::Relaxed));
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.queue().submit([commands]);
        let submission = start.elapsed();
        gpu.queue().submit([]);
        // Mesa's llvmpipe executes within a submission, and may tell a little later. There nobody can see whether the
        // step waits. SwiftShader, in CI, executes beside it.
        let mut within = done.load(Ordering::Relaxed);
        if !within {
            optimizer.step()?;
            let waited = done.load(Ordering::Relaxed);
            optimizer.settle_blocking()?;
            ensure(done.load(Ordering::Relaxed), "the dispatch never finished")?;
            if !waited {
                return Ok(());
            }
            within = 2 * submission > start.elapsed();
        }
        if within {
            println!("this adapter executes within the submission, in {submission:?}");
            return Ok(());
        }
    }
    Err("step waited for the dispatch before it".into())
}

fn a_step_makes_no_objects(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    for mut optimizer in [guarded(gpu, Adam::default(), 0.01.into())?, guarded(gpu, Lamb::default(), noisy())?] {
        let mut settled = |t: u32| -> Result<_, Failed> {
            // Rate, decay, limit and β change without anything new.
            let weight_decay = WeightDecay::Decoupled(f64::from(t) / 1000.0);
            let settings = Settings { lr: 0.01 / f64::from(t + 1), weight_decay, ..*optimizer.settings(0)? };
            optimizer.set_settings(0, settings)?;
            optimizer.set_clip_norm(ClipNorm::torch(f64::from(t + 1)))?;
            if optimizer.rule(0)?.name() == "adam" {
                optimizer.set_rule(0, Adam { beta1: 0.9 - f64::from(t) / 100.0, ..Adam::default() })?;
            }
            optimizer.step()?;
            gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
            Ok(objects(gpu))
        };
        settled(0)?;
        let before = settled(1)?;
        ensure(before[0] > 0 && before[1] > 0 && before[4] > 0, format!("nothing is counted: {before:?}"))?;
        for t in 0..20 {
            let after = settled(t)?;
            ensure(
                after == before,
                format!("buffers, bind groups, layouts, pipelines, shaders: {before:?} → {after:?}"),
            )?;
        }
    }
    Ok(())
}

/// Beside a pass of the same shape by hand: as many dispatches, one write, one copy, one mapping, one submission, and
/// error scopes around the write and around it all.
fn a_step_allocates_as_a_hand_recorded_one(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    let mut optimizer = guarded(gpu, Adam::default(), 0.01.into())?;
    optimizer.step()?;
    let dispatches = optimizer.dispatches() + optimizer.preparing_dispatches();
    ensure(dispatches == 4, format!("{dispatches} dispatches: norm, decision, rows, update"))?;
    let wgsl = "@group(0) @binding(0) var<storage, read> a: array<f32>;
                @group(1) @binding(0) var<storage, read_write> b: array<f32>;
                @group(1) @binding(1) var<storage, read_write> c: array<f32>;
                @group(1) @binding(2) var<storage, read_write> d: array<f32>;
                @compute @workgroup_size(1) fn main() { b[0] = a[0]; c[0] = d[0]; }";
    let pipeline = pipeline(gpu, wgsl);
    use wgpu::BufferUsages as Usage;
    let create = |usage| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 1024,
            usage,
            mapped_at_creation: false,
        })
    };
    let bind = |group: u32, count: u32| {
        let buffers: Vec<_> = (0..count).map(|_| create(Usage::STORAGE)).collect();
        let mut entries = Vec::new();
        for (binding, buffer) in (0..).zip(&buffers) {
            entries.push(wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
        }
        let layout = &pipeline.get_bind_group_layout(group);
        gpu.device().create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    };
    let groups: Vec<_> = (0..dispatches).map(|_| [bind(0, 1), bind(1, 3)]).collect();
    let (data, staging) = (create(Usage::COPY_SRC | Usage::COPY_DST), create(Usage::COPY_DST | Usage::MAP_READ));
    let scoped = |f: &dyn Fn()| {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let scopes = [Internal, OutOfMemory, Validation].map(|filter| gpu.device().push_error_scope(filter));
        f();
        let [a, b, c] = scopes;
        [c, b, a].map(|scope| pollster::block_on(scope.pop()).is_none())
    };
    let record = || {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        scoped(&|| gpu.queue().write_buffer(&data, 0, &[1; 1024]));
        let mut pass = encoder.begin_compute_pass(&Default::default());
        // With the two groups that a capture shows, as ours.
        for (k, [a, b]) in groups.iter().enumerate() {
            if k < 2 {
                pass.push_debug_group("a part of the step");
            }
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, a, &[]);
            pass.set_bind_group(1, b, &[]);
            pass.dispatch_workgroups(1, 1, 1);
            if k < 2 {
                pass.pop_debug_group();
            }
        }
        drop(pass);
        encoder.copy_buffer_to_buffer(&data, 0, &staging, 0, 32);
        let mapped = staging.clone();
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., move |_| mapped.unmap());
        gpu.queue().submit([encoder.finish()]);
    };
    // Medians of 21, after three to warm up.
    let median = |step: &mut dyn FnMut() -> Result<(), Failed>| -> Result<u64, Failed> {
        let mut counts = Vec::with_capacity(24);
        for _ in 0..24 {
            let mut result = Ok(());
            let allocations = allocation_counter::measure(|| result = step());
            result?;
            counts.push(allocations.count_total);
            gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        }
        counts.drain(..3);
        counts.sort_unstable();
        Ok(counts[10])
    };
    let hand = median(&mut || {
        scoped(&record);
        Ok(())
    })?;
    let ours = median(&mut || Ok(optimizer.step()?))?;
    println!("{ours} allocations a step, {hand} by hand");
    ensure(hand > 10, format!("{hand} by hand: nothing is counted"))?;
    // Most of ours are wgpu's, which tracks each buffer that a pass binds; a few are short lists.
    ensure(ours <= hand + 24, format!("{ours} allocations a step, {hand} by hand"))
}
