//! Tensors anywhere in the caller's pools: the same numbers as in the arena, in one dispatch, and nothing beside them
//! is touched.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum};
use wgpu_optim::{
    AdaptiveClip, AnyRule, Averaging, BufferRange, ClipNorm, Gpu, Gradient, Location, LossScaler, Noise, Optimizer,
    Options, ParameterId, Settings, WeightDecay, rules,
};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{FOREIGN, PATTERN, buffer, content, device_like, everything, gradients_for, objects, parameters};
use crate::tests;

tests!(
    every_rule_at_any_offset,
    parameters_and_gradients_in_one_pool,
    everything_at_once_in_a_pool,
    rows_of_a_gradient_just_behind_its_parameter,
    windows_of_a_pool_larger_than_a_binding,
    few_workgroups_cut_a_pool,
    look_ahead_in_a_pool,
    micro_batches_in_a_pool,
    skips_and_zeroed_gradients_in_a_pool,
    one_dispatch_for_each_set_of_buffers,
    no_table_where_there_is_no_room,
    tensors_move_between_steps,
    unbound_states_stay,
    the_second_step_makes_no_objects,
);

/// Below, at and above a lane, a workgroup and a block.
const LENS: [usize; 9] = [1, 3, 4, 5, 64, 1023, 4096, 4099, 6000];

/// Where tensors of these lengths lie in a pool, one behind the other.
struct Layout {
    /// Elements between a tensor and the next multiple of `step` elements.
    gap: usize,
    step: usize,
}

/// 16-byte aligned, as no device demands it, and not aligned at all.
const LAYOUTS: [Layout; 2] = [Layout { gap: 4, step: 4 }, Layout { gap: 3, step: 1 }];

impl Layout {
    /// The pool's content, with a pattern between the tensors, and where each starts.
    fn pool(&self, tensors: &[Vec<f32>]) -> (Vec<f32>, Vec<usize>) {
        let (mut all, mut starts) = (vec![PATTERN; self.gap], Vec::new());
        for tensor in tensors {
            all.resize(all.len().next_multiple_of(self.step), PATTERN);
            starts.push(all.len());
            all.extend(tensor);
            all.resize(all.len() + self.gap, PATTERN);
        }
        (all, starts)
    }
}

struct Pools {
    gpu: Gpu,
    lens: Vec<usize>,
    parameters: wgpu::Buffer,
    gradients: wgpu::Buffer,
    starts: Vec<usize>,
    grad_starts: Vec<usize>,
    optimizer: Optimizer,
    /// The same tensors in an arena.
    arena: Optimizer,
}

impl Pools {
    /// Adds tensors of these lengths to an optimizer in pools, and to one in an arena; both in one pool, or in two.
    fn new(
        gpu: &Gpu,
        make: impl Fn() -> Result<Optimizer, wgpu_optim::Error>,
        lens: &[usize],
        layout: &Layout,
        one_pool: bool,
    ) -> Result<Self, Failed> {
        let (mut optimizer, mut arena) = (make()?, make()?);
        let rule = optimizer.rule(0)?.clone();
        let w: Vec<_> = (0..).zip(lens).map(|(k, &len)| parameters(len, k)).collect();
        let g: Vec<_> = (100..).zip(lens).map(|(k, &len)| gradients_for(&rule, len, k)).collect();
        let (pool, starts, pool_g, grad_starts) = if one_pool {
            let (all, mut starts) = layout.pool(&[w.clone(), g.clone()].concat());
            let grad_starts = starts.split_off(lens.len());
            let pool = buffer(gpu, &all, FOREIGN);
            (pool.clone(), starts, pool, grad_starts)
        } else {
            let ((all, starts), (all_g, grad_starts)) = (layout.pool(&w), layout.pool(&g));
            (buffer(gpu, &all, FOREIGN), starts, buffer(gpu, &all_g, FOREIGN), grad_starts)
        };
        let at = |pool, starts: &[usize], k: usize| BufferRange::new(pool, 4 * starts[k] as u64, lens[k]);
        let names: Vec<_> = (0..lens.len()).map(|k| format!("w{k}")).collect();
        let ranges: Vec<_> = names.iter().enumerate().map(|(k, name)| (name.as_str(), at(&pool, &starts, k))).collect();
        optimizer.add_buffers(0, &ranges)?;
        for (k, (w, g)) in w.iter().zip(&g).enumerate() {
            let name = format!("w{k}");
            optimizer.set_gradient(name.as_str(), Gradient::Buffer(at(&pool_g, &grad_starts, k)))?;
            arena.add(0, &name, w)?;
            arena.write_gradient(name.as_str(), g)?;
        }
        let (gpu, lens) = (gpu.clone(), lens.to_vec());
        Ok(Self { gpu, lens, parameters: pool, gradients: pool_g, starts, grad_starts, optimizer, arena })
    }

    fn step(&mut self) -> Result<(), Failed> {
        self.arena.step()?;
        Ok(self.optimizer.step()?)
    }

    /// Parameters, states, counts and gradients are the arena's to the bit, and what lies between them is as it was.
    fn check(&self, what: &str) -> Result<(), Failed> {
        self.compare(what, same)
    }

    fn compare(&self, what: &str, equal: impl Fn(&str, &[f32], &[f32]) -> Result<(), Failed>) -> Result<(), Failed> {
        for ((name, in_pool), (_, in_arena)) in everything::<f32>(&self.optimizer)?.iter().zip(everything(&self.arena)?)
        {
            equal(&format!("{what}: {name}"), in_pool, &in_arena)?;
        }
        let (mut left, mut left_g) = (content(&self.gpu, &self.parameters)?, content(&self.gpu, &self.gradients)?);
        let one_pool = self.parameters == self.gradients;
        for (k, &len) in self.lens.iter().enumerate() {
            let gradient = &mut left_g[self.grad_starts[k]..][..len];
            let name = format!("w{k}");
            same(&format!("{what}: gradient {k}"), gradient, &self.arena.read_gradient_blocking(name.as_str())?)?;
            gradient.fill(PATTERN);
            left[self.starts[k]..][..len].fill(PATTERN);
            if one_pool {
                left[self.grad_starts[k]..][..len].fill(PATTERN);
                left_g[self.starts[k]..][..len].fill(PATTERN);
            }
        }
        let touched = left.iter().chain(&left_g).position(|x| *x != PATTERN);
        ensure(touched.is_none(), format!("{what}: element {touched:?} outside of the tensors has changed"))
    }
}

fn optimizer(gpu: &Gpu, rule: &AnyRule, settings: Settings) -> Result<Optimizer, wgpu_optim::Error> {
    Optimizer::new(&gpu.into(), rule.clone(), settings)
}

fn every_rule_at_any_offset(gpu: &Gpu) -> Result<(), Failed> {
    for (name, rule) in rules::all() {
        for layout in &LAYOUTS {
            let make = || optimizer(gpu, &rule, Settings::lr(0.01));
            let mut pools = Pools::new(gpu, make, &LENS, layout, false)?;
            pools.step()?;
            pools.step()?;
            pools.check(name)?;
            // Fours, and what is left behind them.
            let expected = if layout.step == 4 { 2 } else { 3 };
            let found = pools.optimizer.dispatches();
            ensure(found <= expected, format!("{name}: {found} dispatches"))?;
        }
    }
    Ok(())
}

fn parameters_and_gradients_in_one_pool(gpu: &Gpu) -> Result<(), Failed> {
    for zero_grad in [false, true] {
        for layout in &LAYOUTS {
            for (name, rule) in rules::all().into_iter().step_by(5) {
                let settings = Settings { zero_grad, ..Settings::lr(0.01) };
                let mut pools = Pools::new(gpu, || optimizer(gpu, &rule, settings), &LENS, layout, true)?;
                pools.step()?;
                pools.step()?;
                pools.check(name)?;
            }
        }
    }
    Ok(())
}

/// Norms, decisions, noise, rows, averages: each has its own way to a tensor.
fn everything_at_once_in_a_pool(gpu: &Gpu) -> Result<(), Failed> {
    let lens = [12, 35, 4099, 640];
    let settings = Settings {
        weight_decay: WeightDecay::L2(0.01),
        clip_value: Some(500.0),
        centralize: true,
        adaptive_clip: Some(AdaptiveClip::torch(0.5)),
        noise: Some(Noise { eta: 0.1, gamma: 0.55, seed: 3 }),
        ..Settings::lr(0.01)
    };
    for rule in [AnyRule::from(Adam::amsgrad()), rules::by_name("lamb")?, rules::by_name("adagrad-norm")?] {
        for (layout, one_pool) in LAYOUTS.iter().flat_map(|layout| [(layout, false), (layout, true)]) {
            let make = || {
                let mut optimizer = optimizer(gpu, &rule, settings)?;
                optimizer.set_averaging(0, Averaging::Ema(0.9))?;
                optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
                optimizer.set_loss_scaler(LossScaler { init_scale: 2.0, ..LossScaler::default() })?;
                Ok(optimizer)
            };
            let mut pools = Pools::new(gpu, make, &lens, layout, one_pool)?;
            for optimizer in [&mut pools.optimizer, &mut pools.arena] {
                optimizer.set_options("w1", Options { shape: Some([5, 7]), lr_scale: 0.5, ..Options::default() })?;
                optimizer.set_options("w3", Options { shape: Some([640, 1]), ..Options::default() })?;
            }
            for step in 0..3 {
                pools.step()?;
                pools.check(&format!("{} {step}", rule.name()))?;
            }
            for optimizer in [&mut pools.optimizer, &mut pools.arena] {
                optimizer.swap_averages(0)?;
            }
            pools.check(&format!("{} averages", rule.name()))?;
        }
    }
    Ok(())
}

/// What a device binds starts at multiples of 256 bytes: here both would be bound in part twice.
fn rows_of_a_gradient_just_behind_its_parameter(gpu: &Gpu) -> Result<(), Failed> {
    let settings = Settings { centralize: true, adaptive_clip: Some(AdaptiveClip::torch(0.5)), ..Settings::lr(0.01) };
    for layout in &LAYOUTS {
        let make = || optimizer(gpu, &Adam::default().into(), settings);
        let mut pools = Pools::new(gpu, make, &[35], layout, true)?;
        for optimizer in [&mut pools.optimizer, &mut pools.arena] {
            optimizer.set_options("w0", Options { shape: Some([5, 7]), ..Options::default() })?;
        }
        pools.step()?;
        pools.check("rows")?;
    }
    Ok(())
}

fn windows_of_a_pool_larger_than_a_binding(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| limits.max_storage_buffer_binding_size = 4096)?;
    for name in ["adam", "lamb", "adagrad-norm", "sgd"] {
        let rule = rules::by_name(name)?;
        for (layout, one_pool) in LAYOUTS.iter().flat_map(|layout| [(layout, false), (layout, true)]) {
            let make = || optimizer(&low, &rule, Settings::lr(0.01));
            let mut pools = Pools::new(&low, make, &[700, 5003, 61], layout, one_pool)?;
            pools.step()?;
            pools.step()?;
            // A norm's partial sums are cut where the windows are.
            let exact = rule.reduce().is_none();
            pools.compare(name, |what, x, b| {
                if exact { same(what, x, b) } else { close(what, x, b, &vec![2.0; b.len()], TOLERANCE) }
            })?;
        }
    }
    Ok(())
}

fn few_workgroups_cut_a_pool(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| limits.max_compute_workgroups_per_dimension = 16)?;
    let make = || optimizer(&low, &Adam::default().into(), Settings::lr(0.01));
    let mut pools = Pools::new(&low, make, &[4; 40], &LAYOUTS[0], false)?;
    pools.step()?;
    pools.check("adam")?;
    ensure(pools.optimizer.dispatches() == 3, format!("{} dispatches of 16 blocks", pools.optimizer.dispatches()))
}

fn look_ahead_in_a_pool(gpu: &Gpu) -> Result<(), Failed> {
    for layout in &LAYOUTS {
        let make = || optimizer(gpu, &Momentum::default().into(), Settings::lr(0.01));
        let mut pools = Pools::new(gpu, make, &LENS, layout, true)?;
        pools.step()?;
        pools.optimizer.look_ahead()?;
        pools.arena.look_ahead()?;
        pools.check("at the point")?;
        pools.step()?;
        pools.check("behind it")?;
    }
    Ok(())
}

/// A step that is left out, with the kernels of a group that has one row for all.
fn skips_and_zeroed_gradients_in_a_pool(gpu: &Gpu) -> Result<(), Failed> {
    for (layout, one_pool) in LAYOUTS.iter().flat_map(|layout| [(layout, false), (layout, true)]) {
        for zero_grad in [false, true] {
            let make = || {
                let settings = Settings { zero_grad, ..Settings::lr(0.01) };
                let mut optimizer = optimizer(gpu, &Adam::default().into(), settings)?;
                optimizer.set_averaging(0, Averaging::Ema(0.9))?;
                optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
                Ok(optimizer)
            };
            let mut pools = Pools::new(gpu, make, &LENS, layout, one_pool)?;
            pools.step()?;
            for optimizer in [&mut pools.optimizer, &mut pools.arena] {
                let mut bad = optimizer.read_gradient_blocking::<f32>("w5")?;
                bad[1000] = f32::NAN;
                optimizer.write_gradient("w5", &bad)?;
            }
            pools.step()?;
            for optimizer in [&mut pools.optimizer, &mut pools.arena] {
                ensure(optimizer.read_report_blocking()?.skipped_steps == 1, "the NaN is skipped")?;
                optimizer.settle_blocking()?;
                optimizer.write_gradient("w5", &parameters(LENS[5], 9))?;
            }
            pools.step()?;
            pools.check(&format!("zero_grad {zero_grad}"))?;
        }
    }
    Ok(())
}

fn micro_batches_in_a_pool(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    for layout in &LAYOUTS {
        let make = || optimizer(gpu, &Adam::default().into(), Settings::lr(0.01));
        let mut pools = Pools::new(gpu, make, &LENS, layout, false)?;
        let batches: Vec<_> = (7..).zip(LENS).map(|(k, len)| parameters(len, k)).collect();
        let (all, starts) = layout.pool(&batches);
        let pool = buffer(gpu, &all, FOREIGN);
        let additions = |optimizer: &Optimizer| -> Vec<(ParameterId, BufferRange)> {
            let range = |k: usize| BufferRange::new(&pool, 4 * starts[k] as u64, LENS[k]);
            optimizer.parameters().enumerate().map(|(k, (id, _))| (id, range(k))).collect()
        };
        let mut counts = Vec::new();
        for _ in 0..3 {
            for _ in 0..3 {
                for optimizer in [&mut pools.optimizer, &mut pools.arena] {
                    let mut encoder = gpu.device().create_command_encoder(&Default::default());
                    optimizer.encode_accumulate(&mut encoder, &additions(optimizer))?;
                    gpu.queue().submit([encoder.finish()]);
                    // The ring of coefficients grows with what is in flight.
                    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
                }
            }
            pools.step()?;
            gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
            counts.push(objects(gpu));
        }
        pools.check("three batches")?;
        ensure(counts[1] == counts[2], format!("objects {counts:?}"))?;
    }
    Ok(())
}

fn one_dispatch_for_each_set_of_buffers(gpu: &Gpu) -> Result<(), Failed> {
    let make = || optimizer(gpu, &Adam::default().into(), Settings::lr(0.01));
    let mut pools = Pools::new(gpu, make, &[320; 200], &LAYOUTS[0], false)?;
    pools.step()?;
    ensure(pools.optimizer.dispatches() == 1, format!("{} dispatches in one pool", pools.optimizer.dispatches()))?;
    for k in 0..5 {
        let (name, alone) = (format!("alone{k}"), buffer(gpu, &parameters(64, k), FOREIGN));
        pools.optimizer.add_buffer(0, &name, BufferRange::whole(&alone))?;
        let g = BufferRange::whole(&buffer(gpu, &parameters(64, k + 50), FOREIGN));
        pools.optimizer.set_gradient(name.as_str(), Gradient::Buffer(g))?;
    }
    pools.step()?;
    ensure(pools.optimizer.dispatches() == 6, format!("{} dispatches in six places", pools.optimizer.dispatches()))?;
    // Of four in one pool, the two that are long have dispatches without a table.
    let lens = [64, (1 << 18) + 64, 1 << 18, (1 << 18) + 128];
    let mut pools = Pools::new(gpu, make, &lens, &Layout { gap: 64, step: 64 }, false)?;
    pools.step()?;
    ensure(pools.optimizer.dispatches() == 3, format!("{} dispatches of four", pools.optimizer.dispatches()))
}

/// Adam binds the four storage buffers that a modest device has: two tensors in pools are then two dispatches.
fn no_table_where_there_is_no_room(gpu: &Gpu) -> Result<(), Failed> {
    let low = device_like(gpu, |limits| limits.max_storage_buffers_per_shader_stage = 4)?;
    let make = || optimizer(&low, &Adam::default().into(), Settings::lr(0.01));
    for (one_pool, dispatches) in [(false, 2), (true, 1)] {
        let mut pools = Pools::new(&low, make, &[64, 128], &Layout { gap: 64, step: 64 }, one_pool)?;
        pools.step()?;
        pools.step()?;
        pools.check("adam")?;
        let found = pools.optimizer.dispatches();
        ensure(found == dispatches, format!("{found} dispatches, one pool: {one_pool}"))?;
    }
    Ok(())
}

/// Each step finds its tensors elsewhere in the pools, where others were before; one takes no part in some.
fn tensors_move_between_steps(gpu: &Gpu) -> Result<(), Failed> {
    let make = || optimizer(gpu, &Adam::default().into(), Settings::lr(0.01));
    let mut pools = Pools::new(gpu, make, &[64, 64, 64, 64], &Layout { gap: 4, step: 4 }, false)?;
    let ids: Vec<_> = pools.optimizer.parameters().map(|(id, _)| id).collect();
    let at = |pool: &wgpu::Buffer, start: usize| BufferRange::new(pool, 4 * start as u64, 64);
    for step in 0..6 {
        // Values go round the places, and the gradients the other way.
        let places: Vec<_> = (0..4).map(|k| pools.starts[(k + step) % 4]).collect();
        let grad_places: Vec<_> = (0..4).map(|k| pools.grad_starts[(k + 3 * step) % 4]).collect();
        let mut placed = Vec::new();
        for (k, &id) in ids.iter().enumerate() {
            let name = format!("w{k}");
            let (w, g) = (pools.arena.read_blocking::<f32>(name.as_str())?, parameters(64, (10 * step + k) as u64));
            pools.arena.write_gradient(name.as_str(), &g)?;
            for (range, values) in [(at(&pools.parameters, places[k]), w), (at(&pools.gradients, grad_places[k]), g)] {
                gpu.queue().write_buffer(&range.buffer, range.offset, bytemuck::cast_slice(&values));
            }
            let missing = k == 2 && step % 3 == 1;
            pools.arena.set_gradient(name.as_str(), if missing { Gradient::Missing } else { Gradient::Own })?;
            if !missing {
                let gradient = Some(at(&pools.gradients, grad_places[k]));
                placed.push(Location { id, parameter: at(&pools.parameters, places[k]), gradient });
            }
        }
        pools.optimizer.relocate(&placed)?;
        pools.step()?;
        for place in &placed {
            let found = pools.optimizer.read_blocking::<f32>(place.id)?;
            let name = format!("w{}", ids.iter().position(|id| *id == place.id).unwrap_or(9));
            same(&format!("step {step}, {name}"), &found, &pools.arena.read_blocking(name.as_str())?)?;
            ensure(pools.optimizer.steps(place.id)? == pools.arena.steps(name.as_str())?, "steps")?;
        }
    }
    // Two in one place, a length, one that lies in the optimizer's own memory, one named twice: nothing changes.
    let place =
        |k: usize, start: usize| Location { id: ids[k], parameter: at(&pools.parameters, start), gradient: None };
    let mut bad = vec![vec![place(0, 4), place(1, 8)], vec![place(0, 4), place(0, 100)]];
    bad.push(vec![Location { parameter: BufferRange::new(&pools.parameters, 0, 63), ..place(0, 4) }]);
    for placed in &bad {
        let refused = pools.optimizer.relocate(placed);
        ensure(refused.is_err(), format!("{placed:?}"))?;
    }
    let refused = pools.arena.relocate(&[place(0, 4)]);
    ensure(matches!(refused, Err(wgpu_optim::Error::Unsupported { .. })), format!("{refused:?}"))?;
    pools.optimizer.step()?;
    ensure(pools.optimizer.steps(ids[0])? == 7, "the last good places hold")
}

/// Velocities 1, lr 1: whoever steps with a gradient of 0 moves by −0.9.
fn unbound_states_stay(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Momentum::keras(0.9), 1.0)?;
    optimizer.set_averaging(0, Averaging::Ema(0.5))?;
    let [here, away, zero] =
        [[0.0; 64], [5.0; 64], [0.0; 64]].map(|values| BufferRange::whole(&buffer(gpu, &values, FOREIGN)));
    let ids = optimizer.add_buffers(0, &[("here", here.clone()), ("away", away.clone())])?;
    for &id in &ids {
        optimizer.write_state(id, "momentum_buffer", &[-1.0f32; 64])?;
    }
    let file = tempfile::NamedTempFile::new()?;
    optimizer.save(file.path())?;
    let place = |k: usize, range: &BufferRange| {
        let gradient = Some(zero.clone());
        Location { id: ids[k], parameter: range.clone(), gradient }
    };
    optimizer.relocate(&[place(0, &here)])?;
    let bytes = std::fs::read(file.path())?;
    let refused = [
        optimizer.read_blocking::<f32>("away").map(drop),
        optimizer.write("away", &[0.0f32; 64]),
        optimizer.parameter("away").map(drop),
        optimizer.set_gradient("away", Gradient::Buffer(zero.clone())),
        optimizer.swap_averages(0),
        optimizer.save(file.path()),
        optimizer.load(file.path()),
    ];
    for (k, refused) in refused.iter().enumerate() {
        let named = matches!(refused, Err(wgpu_optim::Error::Unsupported { .. }));
        ensure(named, format!("{k}: {refused:?}"))?;
    }
    ensure(std::fs::read(file.path())? == bytes, "a refused save has written")?;
    optimizer.look_ahead()?;
    optimizer.step()?;
    close("here", &content(gpu, &here.buffer)?, &[-0.9; 64], &[1.0; 64], TOLERANCE)?;
    same("away", &content(gpu, &away.buffer)?, &[5.0; 64])?;
    same("its velocity", &optimizer.read_state_blocking("away", "momentum_buffer")?, &[-1.0f32; 64])?;
    optimizer.relocate(&[place(0, &here), place(1, &away)])?;
    optimizer.look_ahead()?;
    optimizer.step()?;
    close("away", &content(gpu, &away.buffer)?, &[4.1; 64], &[1.0; 64], TOLERANCE)
}

fn the_second_step_makes_no_objects(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = device_like(gpu, |_| {})?;
    let make = || optimizer(&gpu, &Adam::default().into(), Settings::lr(0.01));
    let mut pools = Pools::new(&gpu, make, &LENS, &LAYOUTS[1], false)?;
    let mut after = Vec::new();
    for _ in 0..3 {
        pools.step()?;
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        after.push(objects(&gpu));
    }
    ensure(after[0] == after[2], format!("{after:?}"))
}
