//! A lost device: every call that would give it something to do says so, at each point of a step, with each feature;
//! nothing panics, and nothing waits for ever.

use std::io::Cursor;

use libtest_mimic::Failed;
use wgpu_optim::rules::{AdaGradNorm, Adam, Lamb, Momentum, NovoGrad};
use wgpu_optim::solve::{GpuFits, GpuLeastSquares, GpuMinimizer, LeastSquares, Options as Search, Polynomial};
use wgpu_optim::{
    AdaptiveClip, AnyRule, Averaging, BufferRange, ClipNorm, Error, Extent, Gpu, Gradient, LoadOptions, LossScaler,
    Noise, NonFinite, Optimizer, Options, ParameterId, SaveOptions, Schedule, Settings,
};

use crate::compare::ensure;
use crate::fixture::{FOREIGN, Kernel, as_callers, buffer, device_like, gradients_for, parameters};
use crate::tests;

tests!(
    every_call_at_each_point,
    solvers_on_a_lost_device,
    a_device_that_was_lost_before,
    lost_while_another_thread_polls,
);

/// An optimizer with all that some feature needs, on buffers of its own and of the caller's.
struct Scene {
    name: &'static str,
    optimizer: Optimizer,
    foreign: BufferRange,
    foreign_id: ParameterId,
    saved: Vec<u8>,
    looks_ahead: bool,
    averages: bool,
    encoder: Option<wgpu::CommandEncoder>,
}

impl Scene {
    fn new(
        gpu: &Gpu,
        name: &'static str,
        rule: impl Into<AnyRule>,
        settings: Settings,
        set: impl FnOnce(&mut Optimizer) -> Result<(), Error>,
    ) -> Result<Self, Failed> {
        let rule = rule.into();
        let mut optimizer = Optimizer::new(&gpu.into(), rule.clone(), settings)?;
        set(&mut optimizer)?;
        let g = gradients_for(&rule, 96, 2);
        optimizer.add(0, "own", &parameters(96, 1))?;
        optimizer.write_gradient("own", &g)?;
        let foreign = BufferRange::new(&buffer(gpu, &parameters(256, 3), FOREIGN), 256, 96);
        let foreign_id = optimizer.add_buffer(0, "foreign", foreign.clone())?;
        let gradient = BufferRange::new(&buffer(gpu, &g, FOREIGN), 0, 96);
        optimizer.set_gradient("foreign", Gradient::Buffer(gradient))?;
        optimizer.set_options("own", Options { shape: Some([8, 12]), ..Options::default() })?;
        optimizer.step()?;
        let mut saved = Vec::new();
        pollster::block_on(optimizer.save_to(&mut saved, SaveOptions::default()))?;
        let looks_ahead = rule.name() == "momentum";
        let averages = settings.adaptive_clip.is_none() && rule.name() == "adam";
        Ok(Self { name, optimizer, foreign, foreign_id, saved, looks_ahead, averages, encoder: None })
    }

    /// One of each feature.
    fn all(gpu: &Gpu) -> Result<Vec<Self>, Failed> {
        let plain = Settings::lr(0.01);
        let noisy = Settings { noise: Some(Noise { eta: 0.1, gamma: 0.5, seed: 1 }), ..plain };
        let each = Settings { clip_norm: Some(ClipNorm::torch(1.0)), centralize: true, ..plain };
        let units = Settings {
            adaptive_clip: Some(AdaptiveClip { clipping: 0.01, eps: 1e-3, over: Extent::Row }),
            zero_grad: true,
            ..plain
        };
        let nothing = |_: &mut Optimizer| Ok(());
        Ok(vec![
            Self::new(gpu, "averages", Adam::default(), plain, |o| o.set_averaging(0, Averaging::Ema(0.9)))?,
            Self::new(gpu, "clipping", Adam::default(), plain, |o| {
                o.set_averaging(0, Averaging::Ema(0.9))?;
                o.set_schedule(0, Schedule::cosine(100))?;
                o.set_loss_scaler(LossScaler::default())?;
                o.set_clip_norm(ClipNorm::torch(1.0))
            })?,
            Self::new(gpu, "clipping each", Momentum::default(), each, |o| {
                o.set_non_finite(NonFinite::Zero);
                Ok(())
            })?,
            Self::new(gpu, "units", Adam::default(), units, nothing)?,
            Self::new(gpu, "noise", Lamb::default(), noisy, nothing)?,
            Self::new(gpu, "a number each", NovoGrad::default(), plain, nothing)?,
            Self::new(gpu, "a number a group", AdaGradNorm::default(), plain, nothing)?,
        ])
    }

    fn record(&mut self, gpu: &Gpu) -> Result<(), Failed> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.optimizer.encode(&mut encoder)?;
        self.encoder = Some(encoder);
        Ok(())
    }

    /// Calls everything; each must say that the device is lost.
    fn check(&mut self, gpu: &Gpu, round: usize) -> Result<(), Failed> {
        let (o, range) = (&mut self.optimizer, &self.foreign);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let name = |what: &str| format!("{what}{round}");
        let own = o.id("own")?;
        let storage = o.rule(0)?.storage();
        let state = storage.iter().find(|s| s.extent == Extent::Element).map(|s| s.name);
        let mut said = vec![
            ("step", o.step()),
            ("encode", o.encode(&mut encoder)),
            ("wait_for_room", o.wait_for_room()),
            ("settle", o.settle_blocking()),
            ("zero_grad", o.zero_grad()),
            ("encode_zero_grad", o.encode_zero_grad(&mut encoder)),
            ("encode_accumulate", o.encode_accumulate(&mut encoder, &[(self.foreign_id, range.clone())])),
            ("encode_accumulate nothing", o.encode_accumulate(&mut encoder, &[])),
            ("accumulate", o.accumulate(own, &[1.0f32; 96])),
            ("write", o.write("own", &[1.0f32; 96])),
            ("write_gradient", o.write_gradient("own", &[1.0f32; 96])),
            ("write foreign", o.write("foreign", &[1.0f32; 96])),
            ("read", o.read_blocking::<f32>("own").map(drop)),
            ("read foreign", o.read_blocking::<f32>("foreign").map(drop)),
            ("read_gradient", o.read_gradient_blocking::<f32>("own").map(drop)),
            ("read_report", o.read_report_blocking().map(drop)),
            ("loss_scale", o.loss_scale().map(drop)),
            ("set_loss_scale", o.set_loss_scale(2.0, 0, 0)),
            ("add", o.add(0, &name("a"), &[1.0f32; 9]).map(drop)),
            ("add_all", o.add_all(0, &[(name("b").as_str(), &[0.0f32; 9][..])]).map(drop)),
            ("add_buffer", o.add_buffer(0, &name("c"), BufferRange::new(&range.buffer, 0, 4)).map(drop)),
            ("add_group", o.add_group(Adam::default(), 0.1).map(drop)),
            ("add_group of another rule", o.add_group(Adam::amsgrad(), 0.1).map(drop)),
            ("save", pollster::block_on(o.save_to(&mut Vec::new(), SaveOptions::default()))),
            ("load", o.load_from(&mut Cursor::new(&self.saved), LoadOptions::default()).map(drop)),
            ("new", Optimizer::new(&gpu.into(), Adam::default(), 0.1).map(drop)),
        ];
        if let Some(state) = state {
            said.push(("write_state", o.write_state("own", state, &[1.0f32; 96])));
            said.push(("read_state", o.read_state_blocking::<f32>("own", state).map(drop)));
        }
        if self.looks_ahead {
            said.push(("look_ahead", o.look_ahead()));
            said.push(("encode_look_ahead", o.encode_look_ahead(&mut encoder)));
        }
        if self.averages {
            said.push(("swap_averages", o.swap_averages(0)));
        }
        for (call, said) in said {
            ensure(matches!(said, Err(Error::DeviceLost)), format!("{}, {call}: {said:?}", self.name))?;
        }
        // What only the host knows still answers.
        _ = (o.report(), o.steps("own")?, o.lr(0)?);
        o.set_lr(0, 0.1)?;
        ensure(o.steps("own")? <= 4, "a step on a lost device was counted")
    }

    /// What a program does when it gives up: remove everything and let go.
    fn give_up(mut self) -> Result<(), Failed> {
        self.optimizer.remove("own")?;
        self.optimizer.remove("foreign")?;
        let nothing = self.optimizer.step();
        ensure(matches!(nothing, Err(Error::DeviceLost)), format!("{}, without parameters: {nothing:?}", self.name))
    }
}

/// On a device of our own and on a caller's: with steps that have finished, that are recorded, and that are submitted.
/// wgpu maps the last ones and releases all buffers in one poll, and calls back after that.
fn every_call_at_each_point(gpu: &Gpu) -> Result<(), Failed> {
    for callers in [false, true] {
        let ours = device_like(gpu, |_| {})?;
        let gpu = &if callers { as_callers(&ours) } else { ours };
        let [mut finished, mut recorded, mut submitted] = [Scene::all(gpu)?, Scene::all(gpu)?, Scene::all(gpu)?];
        finished.iter_mut().try_for_each(|scene| scene.optimizer.step())?;
        gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        recorded.iter_mut().try_for_each(|scene| scene.record(gpu))?;
        for _ in 0..3 {
            submitted.iter_mut().try_for_each(|scene| scene.optimizer.step())?;
        }
        gpu.device().destroy();
        // The first to poll is the program, or we.
        if callers {
            gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        }
        let mut scenes: Vec<_> = submitted.into_iter().chain(recorded).chain(finished).collect();
        for round in 0..2 {
            for scene in &mut scenes {
                scene.check(gpu, round)?;
            }
            // The encoders that were recorded in time come too late now.
            let late = scenes.iter_mut().filter_map(|scene| scene.encoder.take());
            let scope = gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
            late.for_each(|encoder| _ = gpu.queue().submit([encoder.finish()]));
            drop(scope);
            gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        }
        scenes.into_iter().try_for_each(Scene::give_up)?;
    }
    Ok(())
}

fn solvers_on_a_lost_device(gpu: &Gpu) -> Result<(), Failed> {
    for callers in [false, true] {
        let ours = device_like(gpu, |_| {})?;
        let gpu = &if callers { as_callers(&ours) } else { ours };
        let mut minimizer = GpuMinimizer::new(gpu, 8, Search::lbfgs())?;
        let bowl = "@group(0) @binding(0) var<storage, read> x: array<f32>;
            @group(0) @binding(1) var<storage, read_write> g: array<f32>;
            @group(0) @binding(2) var<storage, read_write> value: array<f32>;
            @compute @workgroup_size(1) fn main() {
                value[0] = 0.0;
                for (var i = 0u; i < arrayLength(&x); i++) { value[0] += x[i] * x[i]; g[i] = 2.0 * x[i]; }
            }";
        let kernel = Kernel::new(gpu, bowl, &[minimizer.x(), minimizer.gradient(), minimizer.value()]);
        minimizer.write(&[1.0; 8])?;
        minimizer.step_blocking(|encoder| kernel.record(encoder))?;
        let mut squares = GpuLeastSquares::new(gpu, 8, 2, LeastSquares::default())?;
        squares.write(&[1.0; 2])?;
        squares.solve_blocking(|_| Ok::<_, Error>(()))?;
        let fits = GpuFits::<Polynomial<2>>::new(gpu, 3, 4, LeastSquares::default())?;
        let samples = vec![0.5; fits.data().len];
        fits.write(&samples, &vec![0.0; fits.x().len])?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        fits.encode(&mut encoder)?;
        // Lost in the middle of a run, and before the next.
        let mut evaluations = 0;
        minimizer.write(&[3.0; 8])?;
        let within = minimizer.step_blocking(|encoder| {
            evaluations += 1;
            if evaluations == 2 {
                gpu.device().destroy();
            }
            kernel.record(encoder)
        });
        let mut said = vec![("step", within.map(drop))];
        for _ in 0..2 {
            said.push(("minimizer.step", minimizer.step_blocking(|encoder| kernel.record(encoder)).map(drop)));
            said.push(("minimizer.write", minimizer.write(&[1.0; 8])));
            said.push(("minimizer.read", minimizer.read_blocking().map(drop)));
            said.push(("minimizer.new", GpuMinimizer::new(gpu, 8, Search::lbfgs()).map(drop)));
            said.push(("squares.solve", squares.solve_blocking(|_| Ok::<_, Error>(())).map(drop)));
            said.push(("squares.summary", pollster::block_on(squares.summary()).map(drop)));
            said.push(("squares.write", squares.write(&[1.0; 2])));
            said.push(("squares.read", squares.read_blocking().map(drop)));
            said.push(("squares.set_bounds", squares.set_bounds(&[0.0; 2], &[1.0; 2])));
            said.push(("squares.new", GpuLeastSquares::new(gpu, 8, 2, LeastSquares::default()).map(drop)));
            said.push(("fits.write", fits.write(&samples, &vec![0.0; fits.x().len])));
            said.push(("fits.encode", fits.encode(&mut encoder)));
            said.push(("fits.read", fits.read_blocking().map(drop)));
            said.push(("fits.new", GpuFits::<Polynomial<2>>::new(gpu, 3, 4, LeastSquares::default()).map(drop)));
            gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        }
        for (call, said) in said {
            ensure(matches!(said, Err(Error::DeviceLost)), format!("{call}: {said:?}"))?;
        }
    }
    Ok(())
}

fn a_device_that_was_lost_before(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = device_like(gpu, |_| {})?;
    gpu.device().destroy();
    for gpu in [as_callers(&gpu), gpu] {
        let said = Optimizer::new(&(&gpu).into(), Adam::default(), 0.1).map(drop);
        ensure(matches!(said, Err(Error::DeviceLost)), format!("{said:?}"))?;
    }
    Ok(())
}

/// Callbacks then run there, while the device goes.
fn lost_while_another_thread_polls(gpu: &Gpu) -> Result<(), Failed> {
    for _ in 0..5 {
        let gpu = &device_like(gpu, |_| {})?;
        let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.1)?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        optimizer.add(0, "w", &[1.0f32; 1000])?;
        optimizer.write_gradient("w", &[1.0f32; 1000])?;
        let polled = std::thread::scope(|scope| {
            let polls = scope.spawn(|| (0..200).try_for_each(|_| gpu.device().poll(wgpu::PollType::Poll).map(drop)));
            for k in 0..40 {
                if k == 20 {
                    gpu.device().destroy();
                }
                let (stepped, read) = (optimizer.step(), optimizer.read_blocking::<f32>("w").map(drop));
                for said in [stepped, read] {
                    let right = if k < 20 { said.is_ok() } else { matches!(said, Err(Error::DeviceLost)) };
                    ensure(right, format!("{k}: {said:?}"))?;
                }
            }
            polls.join().map_err(|_| Failed::from("a poll panicked"))
        })?;
        polled?;
    }
    Ok(())
}
