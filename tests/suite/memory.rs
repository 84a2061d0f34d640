//! Buffers, ranges and limits: nothing beside a tensor changes, nothing above a limit is tried.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum, Sgd};
use wgpu_optim::{BufferRange, Device, Error, Extent, Gpu, Gradient, Optimizer, Settings, rules};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{
    ADAPTERS, FOREIGN, as_callers, buffer, content, device_like, gradients, gradients_for, intact, parameters,
    surrounded,
};
use crate::tests;

tests!(
    parameter_and_gradient_in_one_buffer,
    pooled_tensors_keep_their_neighbours,
    padding_of_nan_stays_out_of_it,
    arena_ranges_are_what_the_caller_binds,
    foreign_look_ahead_and_zero_grad,
    low_binding_limit_cuts_a_tensor,
    few_workgroups_cut_a_tensor,
    default_limits_and_a_tensor_above_128_mib,
    small_buffers_hold_many_tensors,
    four_storage_buffers_run_adam,
    the_least_device_runs_what_fits,
    gradients_in_fresh_buffers_are_let_go,
    a_callers_device_keeps_its_callbacks,
    pipelines_go_into_a_cache,
);

/// The CPU's result of two steps.
fn on_cpu(rule: &wgpu_optim::AnyRule, start: &[f32], g: &[f32]) -> Result<Vec<f32>, Failed> {
    let mut cpu = Optimizer::new(&Device::Cpu, rule.clone(), 0.01)?;
    cpu.add(0, "w", start)?;
    for _ in 0..2 {
        cpu.write_gradient("w", g)?;
        cpu.step()?;
    }
    Ok(cpu.read_blocking("w")?)
}

/// Two steps on a GPU, in the arena.
fn in_arena(gpu: &Gpu, rule: &wgpu_optim::AnyRule, start: &[f32], g: &[f32]) -> Result<(Vec<f32>, usize), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), rule.clone(), 0.01)?;
    optimizer.add(0, "w", start)?;
    for _ in 0..2 {
        optimizer.write_gradient("w", g)?;
        optimizer.step()?;
    }
    Ok((optimizer.read_blocking("w")?, optimizer.dispatches()))
}

fn parameter_and_gradient_in_one_buffer(gpu: &Gpu) -> Result<(), Failed> {
    let (start, g) = (parameters(131, 1), gradients(131, 2));
    for settings in [Settings::lr(0.01), Settings { zero_grad: true, ..Settings::lr(0.01) }] {
        let mut all = start.clone();
        all.resize(192, 7.0);
        all.extend(&g);
        all.push(7.0);
        let pool = buffer(gpu, &all, FOREIGN);
        let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), settings)?;
        optimizer.add_buffer(0, "w", BufferRange::new(&pool, 0, 131))?;
        optimizer.set_gradient("w", Gradient::Buffer(BufferRange::new(&pool, 768, 131)))?;
        optimizer.step()?;
        let mut cpu = Optimizer::new(&Device::Cpu, Adam::default(), settings)?;
        cpu.add(0, "w", &start)?;
        cpu.write_gradient("w", &g)?;
        cpu.step()?;
        let after = content(gpu, &pool)?;
        close("w", &after[..131], &cpu.read_blocking("w")?, &start, TOLERANCE)?;
        same("between", &after[131..192], &[7.0; 61])?;
        same("gradient", &after[192..323], &cpu.read_gradient_blocking("w")?)?;
        same("behind", &after[323..], &[7.0])?;
    }
    Ok(())
}

/// 40 tensors of odd lengths in one buffer, each second one ours: the others stay.
fn pooled_tensors_keep_their_neighbours(gpu: &Gpu) -> Result<(), Failed> {
    let pool_len = 40 * 64;
    let (all, g) = (parameters(pool_len, 1), gradients(pool_len, 2));
    let (pool, pool_g) = (buffer(gpu, &all, FOREIGN), buffer(gpu, &g, FOREIGN));
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::amsgrad(), 0.01)?;
    let mut expected = all.clone();
    for k in (0..40).step_by(2) {
        let len = 1 + (k * 7) % 64;
        let (name, offset) = (format!("t{k}"), 256 * k as u64);
        optimizer.add_buffer(0, &name, BufferRange::new(&pool, offset, len))?;
        optimizer.set_gradient(name.as_str(), Gradient::Buffer(BufferRange::new(&pool_g, offset, len)))?;
        let at = 64 * k..64 * k + len;
        let cpu = on_cpu(&Adam::amsgrad().into(), &all[at.clone()], &g[at.clone()])?;
        expected[at].copy_from_slice(&cpu);
    }
    optimizer.step()?;
    optimizer.step()?;
    close("pool", &content(gpu, &pool)?, &expected, &all, TOLERANCE)?;
    same("gradients", &content(gpu, &pool_g)?, &g)
}

/// The padding between tensors of an arena is the caller's to spoil through the buffers: no tensor reads it.
fn padding_of_nan_stays_out_of_it(gpu: &Gpu) -> Result<(), Failed> {
    for (name, rule) in rules::all() {
        let (a, b) = (parameters(67, 1), parameters(3, 2));
        let mut optimizer = Optimizer::new(&gpu.into(), rule.clone(), 0.01)?;
        optimizer.add_all(0, &[("a", a.as_slice()), ("b", &b)])?;
        let mut ranges = vec![optimizer.parameter("a")?.clone(), optimizer.gradient("a")?.clone()];
        for state in rule.states() {
            ranges.push(optimizer.state_range("a", state)?.clone());
        }
        for range in ranges {
            let nan = [f32::NAN; 128 - 67];
            gpu.queue().write_buffer(&range.buffer, range.end(), bytemuck::cast_slice(&nan));
        }
        if rule.reduce().map(|reduce| reduce.over) == Some(Extent::Group) {
            optimizer.set_gradient("b", Gradient::Missing)?;
        }
        let (ga, gb) = (gradients_for(&rule, 67, 3), gradients_for(&rule, 3, 4));
        for _ in 0..2 {
            optimizer.write_gradient("a", &ga)?;
            optimizer.write_gradient("b", &gb)?;
            optimizer.step()?;
        }
        close(name, &optimizer.read_blocking("a")?, &on_cpu(&rule, &a, &ga)?, &a, TOLERANCE)?;
        if rule.reduce().map(|reduce| reduce.over) != Some(Extent::Group) {
            close(name, &optimizer.read_blocking("b")?, &on_cpu(&rule, &b, &gb)?, &b, TOLERANCE)?;
        }
    }
    Ok(())
}

fn arena_ranges_are_what_the_caller_binds(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Sgd, 1.0)?;
    optimizer.add_all(0, &[("a", &[1.0f32; 5][..]), ("b", &[2.0; 70])])?;
    let gradient = optimizer.gradient("b")?.clone();
    ensure(gradient.len == 70 && gradient.offset % 256 == 0, format!("{gradient:?}"))?;
    gpu.queue().write_buffer(&gradient.buffer, gradient.offset, bytemuck::cast_slice(&[0.5f32; 70]));
    optimizer.step()?;
    let b = optimizer.parameter("b")?;
    let all = content(gpu, &b.buffer)?;
    same("b", &all[b.offset as usize / 4..][..70], &[1.5; 70])?;
    same("a", &optimizer.read_blocking("a")?, &[1.0; 5])
}

fn foreign_look_ahead_and_zero_grad(gpu: &Gpu) -> Result<(), Failed> {
    let (start, g) = (parameters(263, 1), gradients(263, 2));
    let run = |mut optimizer: Optimizer| -> Result<Vec<f32>, Failed> {
        optimizer.step()?;
        optimizer.look_ahead()?;
        optimizer.zero_grad()?;
        optimizer.step()?;
        Ok(optimizer.read_blocking("w")?)
    };
    let mut foreign = Optimizer::new(&gpu.into(), Momentum::default(), 0.01)?;
    let (range, gradient) = (surrounded(gpu, &start, FOREIGN), surrounded(gpu, &g, FOREIGN));
    foreign.add_buffer(0, "w", range.clone())?;
    foreign.set_gradient("w", Gradient::Buffer(gradient.clone()))?;
    let mut cpu = Optimizer::new(&Device::Cpu, Momentum::default(), 0.01)?;
    cpu.add(0, "w", &start)?;
    cpu.write_gradient("w", &g)?;
    let (x, b) = (run(foreign)?, run(cpu)?);
    close("w", &x, &b, &start, TOLERANCE)?;
    same("w", &intact(gpu, &range)?, &x)?;
    same("gradient", &intact(gpu, &gradient)?, &vec![0.0; 263])
}

fn low_binding_limit_cuts_a_tensor(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| limits.max_storage_buffer_binding_size = 4096)?;
    let (start, g) = (parameters(5003, 1), gradients(5003, 2));
    for rule in [Adam::amsgrad().into(), rules::by_name("momentum")?] {
        let (x, dispatches) = in_arena(&low, &rule, &start, &g)?;
        ensure(dispatches == 5, format!("{dispatches} dispatches of 1,024 elements"))?;
        close("w", &x, &on_cpu(&rule, &start, &g)?, &start, TOLERANCE)?;
        let mut optimizer = Optimizer::new(&(&low).into(), rule.clone(), 0.01)?;
        let range = surrounded(&low, &start, FOREIGN);
        optimizer.add_buffer(0, "w", range.clone())?;
        optimizer.set_gradient("w", Gradient::Buffer(surrounded(&low, &g, FOREIGN)))?;
        optimizer.step()?;
        optimizer.step()?;
        ensure(optimizer.dispatches() == 6, format!("{} dispatches with the tail", optimizer.dispatches()))?;
        same("foreign", &intact(&low, &range)?, &x)?;
    }
    Ok(())
}

fn few_workgroups_cut_a_tensor(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| limits.max_compute_workgroups_per_dimension = 2)?;
    let (start, g) = (parameters(5003, 1), gradients(5003, 2));
    let (x, dispatches) = in_arena(&low, &Adam::default().into(), &start, &g)?;
    ensure(dispatches == 3, format!("{dispatches} dispatches of 2,048 elements"))?;
    close("w", &x, &on_cpu(&Adam::default().into(), &start, &g)?, &start, TOLERANCE)
}

/// 33,554,432 elements are 128 MiB: five more, in one binding, are not bindable at the default limits.
fn default_limits_and_a_tensor_above_128_mib(gpu: &Gpu) -> Result<(), Failed> {
    let default = device_like(gpu, |_| {})?;
    ensure(default.device().limits().max_storage_buffer_binding_size == 128 << 20, "the default limit")?;
    let len = (32 << 20) + 5;
    let (start, g) = (parameters(len, 1), parameters(len, 2));
    let mut optimizer = Optimizer::new(&(&default).into(), Momentum::default(), 0.01)?;
    optimizer.add(0, "w", &start)?;
    optimizer.write_gradient("w", &g)?;
    optimizer.step()?;
    ensure(optimizer.dispatches() == 2, format!("{} dispatches", optimizer.dispatches()))?;
    let mut cpu = Optimizer::new(&Device::Cpu, Momentum::default(), 0.01)?;
    cpu.add(0, "w", &start)?;
    cpu.write_gradient("w", &g)?;
    cpu.step()?;
    close("w", &optimizer.read_blocking("w")?, &cpu.read_blocking("w")?, &start, TOLERANCE)
}

fn small_buffers_hold_many_tensors(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| limits.max_buffer_size = 1 << 20)?;
    let start = parameters(100_000, 1);
    let mut optimizer = Optimizer::new(&(&low).into(), Sgd, 0.01)?;
    let names: Vec<_> = (0..10).map(|k| format!("t{k}")).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), start.as_slice())).collect();
    optimizer.add_all(0, &tensors)?;
    for name in &names {
        optimizer.write_gradient(name.as_str(), &start)?;
    }
    optimizer.step()?;
    ensure(optimizer.dispatches() == 5, format!("{} dispatches, two tensors each", optimizer.dispatches()))?;
    for name in &names {
        let expected: Vec<_> = start.iter().map(|x| x - 0.01 * x).collect();
        close(name, &optimizer.read_blocking(name.as_str())?, &expected, &start, TOLERANCE)?;
    }
    let large = vec![0.0f32; (1 << 18) + 1];
    let refused = optimizer.add(0, "large", &large);
    ensure(matches!(refused, Err(Error::OverLimit { limit: "max_buffer_size", .. })), format!("{refused:?}"))
}

fn four_storage_buffers_run_adam(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| limits.max_storage_buffers_per_shader_stage = 4)?;
    let (start, g) = (parameters(257, 1), gradients(257, 2));
    let (x, _) = in_arena(&low, &Adam::default().into(), &start, &g)?;
    close("w", &x, &on_cpu(&Adam::default().into(), &start, &g)?, &start, TOLERANCE)?;
    let refused = Optimizer::new(&(&low).into(), Adam::amsgrad(), 0.01).map(|_| ());
    let limit = "max_storage_buffers_per_shader_stage";
    match refused {
        Err(Error::OverLimit { limit: l, needed: 5, available: 4, .. }) if l == limit => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// A caller that makes a new gradient buffer each step (as Burn does) gets the old ones back.
fn gradients_in_fresh_buffers_are_let_go(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.01)?;
    optimizer.add_buffer(0, "w", BufferRange::whole(&buffer(gpu, &parameters(100, 1), FOREIGN)))?;
    let mut step = || -> Result<isize, Failed> {
        let gradient = BufferRange::whole(&buffer(gpu, &gradients(100, 2), wgpu::BufferUsages::STORAGE));
        optimizer.set_gradient("w", Gradient::Buffer(gradient))?;
        optimizer.step()?;
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        Ok(gpu.device().get_internal_counters().hal.buffers.read())
    };
    let first = (0..5).map(|_| step()).last().ok_or("no step")??;
    let last = (0..50).map(|_| step()).last().ok_or("no step")??;
    ensure(first > 0 && last <= first, format!("{first} buffers, then {last}"))
}

/// A mistake of the caller's on the caller's device reaches the caller's handler, also with an optimizer on it.
fn a_callers_device_keeps_its_callbacks(gpu: &Gpu) -> Result<(), Failed> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let device = device_like(gpu, |_| {})?;
    let (errors, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, gone) = (errors.clone(), lost.clone());
    device.device().on_uncaptured_error(Arc::new(move |_| _ = seen.fetch_add(1, Ordering::Relaxed)));
    device.device().set_device_lost_callback(move |_, _| _ = gone.fetch_add(1, Ordering::Relaxed));
    let callers = as_callers(&device);
    let mut optimizer = Optimizer::new(&(&callers).into(), Adam::default(), 0.1)?;
    optimizer.add(0, "w", &[1.0f32; 10])?;
    optimizer.step()?;
    ensure(errors.load(Ordering::Relaxed) == 0, "our own work raised an error")?;
    let storage = wgpu::BufferUsages::STORAGE;
    let nonsense =
        wgpu::BufferDescriptor { label: None, size: u64::MAX / 2, usage: storage, mapped_at_creation: false };
    drop(callers.device().create_buffer(&nonsense));
    ensure(errors.load(Ordering::Relaxed) == 1, "the caller's error handler is gone")?;
    callers.device().destroy();
    _ = callers.device().poll(wgpu::PollType::wait_indefinitely());
    ensure(lost.load(Ordering::Relaxed) == 1, "the caller's device-lost callback is gone")
}

/// The software drivers here keep nothing in a cache; that it is used shows in another device's being refused.
fn pipelines_go_into_a_cache(gpu: &Gpu) -> Result<(), Failed> {
    if !gpu.device().features().contains(wgpu::Features::PIPELINE_CACHE) {
        return Ok(());
    }
    let cache = |gpu: &Gpu, data: Option<&[u8]>| {
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
        #[allow(unsafe_code, reason = "the data are what `get_data` gave, as wgpu demands")]
        unsafe {
            gpu.device().create_pipeline_cache(&descriptor)
        }
    };
    let (start, g) = (parameters(100, 1), gradients(100, 2));
    let (expected, _) = in_arena(gpu, &Adam::default().into(), &start, &g)?;
    let mut stored: Option<Vec<u8>> = None;
    for _ in 0..2 {
        let fresh = as_callers(gpu);
        let ours = cache(&fresh, stored.as_deref());
        fresh.set_pipeline_cache(ours.clone());
        same("with a cache", &in_arena(&fresh, &Adam::default().into(), &start, &g)?.0, &expected)?;
        stored = ours.get_data();
    }
    let same = |adapter: &&wgpu::Adapter| adapter.get_info().name == gpu.device().adapter_info().name;
    let adapter = ADAPTERS.get().into_iter().flatten().find(same).ok_or("the adapter is gone")?;
    let [a, b] = [(); 2].map(|()| pollster::block_on(Gpu::from_adapter(adapter)));
    let (a, b) = (a?, b?);
    a.set_pipeline_cache(cache(&b, None));
    let refused = Optimizer::new(&a.into(), Adam::default(), 0.01);
    ensure(refused.is_err(), "another device's cache was not looked at")
}

/// [`Gpu::REQUIRED_LIMITS`]: rules that bind four storage buffers run, the others are refused by name before anything
/// else.
fn the_least_device_runs_what_fits(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| {
        let resolution = limits.clone();
        *limits = Gpu::REQUIRED_LIMITS.using_resolution(resolution);
    })?;
    let mut fitting = 0;
    for (name, rule) in rules::all() {
        let (start, g) = (parameters(301, 1), gradients_for(&rule, 301, 2));
        match in_arena(&low, &rule, &start, &g) {
            Ok((x, _)) => {
                close(name, &x, &on_cpu(&rule, &start, &g)?, &start, TOLERANCE)?;
                fitting += 1;
                ensure(rule.states().len() <= 2 && rule.reduce().is_none(), name)?;
            }
            Err(_) => {
                let Err(e) = Optimizer::new(&(&low).into(), rule.clone(), 0.01) else { return Err(name.into()) };
                let limit = "max_storage_buffers_per_shader_stage";
                let said =
                    matches!(&e, Error::OverLimit { name, limit: of, .. } if name == rule.name() && *of == limit);
                ensure(said && (rule.states().len() > 2 || rule.reduce().is_some()), format!("{name}: {e}"))?;
            }
        }
    }
    ensure(fitting > 25, format!("{fitting} rules"))
}
