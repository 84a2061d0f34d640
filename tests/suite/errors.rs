//! Bad input: the error that names it, and nothing changed. Every case goes through the public API, and every buffer is
//! compared byte for byte before and after.

use libtest_mimic::Failed;
use wgpu_optim::rules::{AdaDelta, AdaGrad, AdaMax, Adam, Momentum, NAdam, RmsProp, Sgd};
use wgpu_optim::{
    AnyRule, BufferRange, Device, Error, Extent, Fields, Format, Gpu, Gradient, Location, Optimizer, Real, Reduce,
    Result, Rule, Settings, Slices, Stage, Step, WeightDecay, rules,
};

use crate::compare::{ensure, same};
use crate::fixture::{ADAPTERS, FOREIGN, buffer, content, device_like, everything, parameters};
use crate::tests;

tests!(
    no_adapter,
    device_refused,
    shader_rejected,
    wrong_input_changes_nothing,
    hyperparameters_have_ranges,
    wrong_device,
    wrong_slices,
    destroyed_buffer,
);

fn no_adapter(gpu: &Gpu) -> Result<(), Failed> {
    // The environment is the process's: ask a child for it.
    let known = gpu.device().adapter_info().name;
    let exe = std::process::Command::new(env!("CARGO_BIN_EXE_wgpu-optim"))
        .args(["info"])
        .env("WGPU_ADAPTER_NAME", "no such adapter")
        .output()?;
    let said = String::from_utf8_lossy(&exe.stdout).into_owned() + &String::from_utf8_lossy(&exe.stderr);
    ensure(said.contains("no GPU adapter was found") && said.contains(&known), said)
}

fn device_refused(gpu: &Gpu) -> Result<(), Failed> {
    let name = gpu.device().adapter_info().name;
    let mut adapters = ADAPTERS.get().into_iter().flatten();
    let adapter = adapters.find(|adapter| adapter.get_info().name == name).ok_or("the adapter is gone")?;
    let limits = wgpu::Limits { max_buffer_size: u64::MAX, ..wgpu::Limits::default() };
    let refused = pollster::block_on(Gpu::with_limits(adapter, wgpu::Features::empty(), limits)).map(|_| ());
    let text = format!("{refused:?}");
    ensure(matches!(refused, Err(Error::DeviceRefused { .. })) && text.contains("max_buffer_size"), text)?;
    let missing = wgpu::Features::all() - adapter.features();
    let refused = pollster::block_on(Gpu::with_limits(adapter, missing, wgpu::Limits::default())).map(|_| ());
    let text = format!("{refused:?}");
    ensure(matches!(refused, Err(Error::DeviceRefused { .. })) && text.contains("lacks the features"), text)
}

wgpu_optim::fields! { struct Coefficients { lr } }

/// SGD with a mistake in line 5 of its shader; or with a reduction that it does not announce.
#[derive(Clone, Debug)]
struct Broken {
    reduces: bool,
}

impl Rule for Broken {
    type Hyper<F: Real> = Coefficients<F>;
    type State<F: Real> = ();
    const NAME: &'static str = "broken";
    const SHADER: &'static str = "struct Hyper { lr: f32 }\n\n\
        fn update(w: Lane, g: Lane, h: Hyper) -> Lane {\n    // the step\n    return w - h.rate * g;\n}\n";
    const LR: f64 = 1.0;
    fn check(&self) -> Result<()> {
        Ok(())
    }
    fn stages(&self) -> &'static [Stage] {
        const OVER: Extent = Extent::Tensor;
        const REDUCE: Reduce = Reduce { over: OVER, parameter: false, reads: &[], keeps: None, into: "lr" };
        if self.reduces { &[Stage::Reduce(REDUCE), Stage::Map] } else { &[Stage::Map] }
    }
    fn hyper(&self, step: &Step) -> Coefficients<f64> {
        Coefficients { lr: step.lr }
    }
    fn update<F: Real>(&self, w: F, g: F, _: &mut (), h: &Coefficients<F>) -> F {
        w - h.lr * g
    }
}

fn shader_rejected(gpu: &Gpu) -> Result<(), Failed> {
    ensure(<Coefficients<f32> as Fields<f32>>::NAMES == ["lr"], "names")?;
    let refused = Optimizer::new(&Device::Cpu, Broken { reduces: true }, 0.1).map(|_| ());
    let named = matches!(&refused, Err(Error::Unsupported { reason, .. }) if reason.contains("MEASURES"));
    ensure(named, format!("{refused:?}"))?;
    match Optimizer::new(&gpu.into(), Broken { reduces: false }, 0.1).map(|_| ()) {
        Err(Error::Shader { rule, line: Some(5), message }) if rule == "broken" => {
            ensure(message.contains("rate"), message)
        }
        other => Err(format!("{other:?}").into()),
    }
}

/// An optimizer with a parameter in the arena and one in the caller's buffers, all of whose memory can be looked at.
struct Scene {
    optimizer: Optimizer,
    buffers: Vec<wgpu::Buffer>,
}

impl Scene {
    fn new(gpu: &Gpu) -> Result<Self, Failed> {
        let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.1)?;
        optimizer.add_group(Momentum::default(), 0.1)?;
        optimizer.add(0, "own", &parameters(100, 1))?;
        optimizer.write_gradient("own", &parameters(100, 2))?;
        let buffers = vec![buffer(gpu, &parameters(300, 3), FOREIGN), buffer(gpu, &parameters(300, 4), FOREIGN)];
        optimizer.add_buffer(0, "foreign", BufferRange::new(&buffers[0], 256, 100))?;
        optimizer.set_gradient("foreign", Gradient::Buffer(BufferRange::new(&buffers[1], 256, 100)))?;
        optimizer.step()?;
        Ok(Self { optimizer, buffers })
    }

    /// All memory, and all step counts.
    fn memory(&self, gpu: &Gpu) -> Result<Vec<(String, Vec<f32>)>, Failed> {
        let mut all = everything(&self.optimizer)?;
        all.push(("own.gradient".into(), self.optimizer.read_gradient_blocking("own")?));
        for (k, buffer) in self.buffers.iter().enumerate() {
            all.push((format!("buffer {k}"), content(gpu, buffer)?));
        }
        Ok(all)
    }

    /// `run` must fail with an error that `is` recognises, and leave everything as it was.
    fn refuses<T>(
        &mut self,
        gpu: &Gpu,
        what: &str,
        run: impl FnOnce(&mut Optimizer) -> Result<T>,
        is: impl FnOnce(&Error) -> bool,
    ) -> Result<(), Failed> {
        let before = self.memory(gpu)?;
        match run(&mut self.optimizer).map(|_| ()) {
            Err(e) if is(&e) => {}
            other => return Err(format!("{what}: {other:?}").into()),
        }
        let after = self.memory(gpu)?;
        ensure(before.len() == after.len(), format!("{what}: the parameters are others"))?;
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            same(&format!("{what}: {name}"), after, before)?;
        }
        Ok(())
    }
}

fn wrong_input_changes_nothing(gpu: &Gpu) -> Result<(), Failed> {
    // Default limits: an alignment of 256 bytes.
    let gpu = &device_like(gpu, |_| {})?;
    let mut scene = Scene::new(gpu)?;
    let free = buffer(gpu, &[0.0; 300], FOREIGN);
    let at = |buffer: &wgpu::Buffer, offset, len| BufferRange::new(buffer, offset, len);
    let [parameters, gradients] = [scene.buffers[0].clone(), scene.buffers[1].clone()];
    macro_rules! refuses {
        ($what:expr, $run:expr, $error:pat $(if $guard:expr)?) => {
            scene.refuses(gpu, $what, $run, |e| matches!(e, $error $(if $guard)?))?
        };
    }
    refuses!("length", |o| o.write("own", &[0.0f32; 99]), Error::Length { expected: 100, found: 99, .. });
    refuses!("gradient length", |o| o.write_gradient("foreign", &[0.0f32; 101]), Error::Length { .. });
    refuses!("state length", |o| o.write_state("own", "exp_avg", &[0.0f32; 1]), Error::Length { .. });
    let short = Gradient::Buffer(at(&free, 0, 99));
    refuses!("gradient range", |o| o.set_gradient("foreign", short), Error::Length { expected: 100, found: 99, .. });
    refuses!("unknown name", |o| o.read_blocking::<f32>("nobody"), Error::UnknownParameter { name } if name.contains("nobody"));
    refuses!("unknown removal", |o| o.remove("nobody"), Error::UnknownParameter { .. });
    refuses!("unknown state", |o| o.read_state_blocking::<f32>("own", "momentum_buffer"), Error::UnknownState { .. });
    refuses!("unknown group", |o| o.add(7, "x", &[1.0f32]), Error::UnknownGroup { index: 7, groups: 2 });
    refuses!("unknown group's lr", |o| o.set_lr(7, 0.1), Error::UnknownGroup { .. });
    refuses!("unknown rule", |_| rules::by_name("adamm"), Error::UnknownRule { known, .. } if known.contains("adam,"));
    let indices = buffer(gpu, &[0.0; 300], wgpu::BufferUsages::INDEX);
    refuses!("usage", |o| o.add_buffer(0, "x", at(&indices, 0, 9)), Error::MissingUsage { usage, .. } if usage.contains(wgpu::BufferUsages::STORAGE));
    let unusable = Gradient::Buffer(at(&indices, 0, 100));
    refuses!("gradient usage", |o| o.set_gradient("foreign", unusable), Error::MissingUsage { .. });
    refuses!("overlap", |o| o.add_buffer(0, "x", at(&parameters, 512, 9)), Error::Overlap { .. });
    refuses!("overlap with a gradient", |o| o.add_buffer(0, "x", at(&gradients, 256, 9)), Error::Overlap { .. });
    let own_parameter = Gradient::Buffer(at(&parameters, 256, 100));
    refuses!("gradient = parameter", |o| o.set_gradient("foreign", own_parameter), Error::Overlap { .. });
    refuses!("alignment", |o| o.add_buffer(0, "x", at(&free, 2, 9)), Error::Misaligned { offset: 2, alignment: 4, .. });
    refuses!("end", |o| o.add_buffer(0, "x", at(&free, 1024, 45)), Error::OutOfBounds { end: 1204, size: 1200, .. });
    refuses!("far end", |o| o.add_buffer(0, "x", at(&free, u64::MAX - 255, 45)), Error::OutOfBounds { .. });
    refuses!("name", |o| o.add(1, "own", &[1.0f32]), Error::DuplicateName { .. });
    refuses!("names", |o| o.add_all(1, &[("x", &[1.0f32][..]), ("x", &[1.0])]), Error::DuplicateName { .. });
    refuses!("buffer name", |o| o.add_buffer(1, "own", at(&free, 0, 9)), Error::DuplicateName { .. });
    refuses!("f64", |o| o.add(0, "x", &[1.0f64]), Error::ElementType { expected: "f32", found: "f64", .. });
    refuses!("f64 write", |o| o.write("own", &[1.0f64; 100]), Error::ElementType { .. });
    let wide = BufferRange::of(&free, 0, 100, Format::F64);
    refuses!(
        "f64 range",
        |o| o.add_buffer(0, "x", wide.clone()),
        Error::ElementType { expected: "f32", found: "f64", .. }
    );
    let gradient = Gradient::Buffer(wide.clone());
    refuses!("f64 gradient", |o| o.set_gradient("foreign", gradient), Error::ElementType { found: "f64", .. });
    let id = scene.optimizer.id("foreign")?;
    let moved = Location { id, parameter: wide.clone(), gradient: None };
    refuses!("f64 place", |o| o.relocate(&[moved]), Error::ElementType { found: "f64", .. });
    let moved = Location { id, parameter: at(&free, 0, 100), gradient: Some(wide.clone()) };
    refuses!("f64 gradient's place", |o| o.relocate(&[moved]), Error::ElementType { found: "f64", .. });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let batch = [(id, wide)];
    refuses!("f64 batch", |o| o.encode_accumulate(&mut encoder, &batch), Error::ElementType { found: "f64", .. });
    refuses!("own gradient", |o| o.set_gradient("foreign", Gradient::Own), Error::Unsupported { .. });
    refuses!("another rule", |o| o.set_rule(0, Sgd), Error::Unsupported { .. });
    refuses!("another state", |o| o.set_rule(0, Adam::amsgrad()), Error::Unsupported { .. });
    let too_large = vec![0.0f32; (64 << 20) + 1];
    let limit = "max_buffer_size";
    refuses!("size", |o| o.add(0, "x", &too_large), Error::OverLimit { limit: l, available, .. } if *l == limit && *available == 256 << 20);
    let private = buffer(gpu, &[0.0; 64], wgpu::BufferUsages::STORAGE);
    scene.optimizer.add_buffer(1, "private", at(&private, 0, 64))?;
    let unreadable = scene.optimizer.read_blocking::<f32>("private");
    ensure(matches!(unreadable, Err(Error::MissingUsage { .. })), format!("{unreadable:?}"))?;
    let unwritable = scene.optimizer.write("private", &[0.0f32; 64]);
    ensure(matches!(unwritable, Err(Error::MissingUsage { .. })), format!("{unwritable:?}"))?;
    scene.optimizer.remove("private")?;
    // And it still steps.
    let before = scene.optimizer.read_blocking::<f32>("foreign")?;
    scene.optimizer.step()?;
    ensure(scene.optimizer.read_blocking::<f32>("foreign")? != before, "it steps")
}

fn hyperparameters_have_ranges(gpu: &Gpu) -> Result<(), Failed> {
    let mut scene = Scene::new(gpu)?;
    let nan = f64::NAN;
    let bad: Vec<(&str, AnyRule)> = vec![
        ("beta1", Adam { beta1: 1.0, ..Adam::default() }.into()),
        ("beta2", Adam { beta2: -0.1, ..Adam::default() }.into()),
        ("beta2", Adam { beta2: nan, ..Adam::default() }.into()),
        ("eps", Adam { eps: -1e-8, ..Adam::default() }.into()),
        ("eps_root", Adam { eps_root: f64::INFINITY, ..Adam::default() }.into()),
        ("eps_hat", Adam { eps_root: 1e-6, ..Adam::keras() }.into()),
        ("momentum", Momentum::torch(1.0).into()),
        ("momentum", Momentum::torch(0.0).nesterov().into()),
        ("dampening", Momentum { dampening: 1.5, ..Momentum::default() }.into()),
        ("dampening", Momentum { dampening: 0.1, ..Momentum::default().nesterov() }.into()),
        ("lr_decay", AdaGrad { lr_decay: -1.0, ..AdaGrad::default() }.into()),
        ("initial_accumulator_value", AdaGrad { initial_accumulator_value: nan, ..AdaGrad::default() }.into()),
        ("alpha", RmsProp { alpha: 1.0, ..RmsProp::default() }.into()),
        ("momentum", RmsProp { momentum: -0.5, ..RmsProp::default() }.into()),
        ("rho", AdaDelta { rho: 2.0, ..AdaDelta::default() }.into()),
        ("eps", AdaDelta { eps: 0.0, ..AdaDelta::default() }.into()),
        ("beta2", AdaMax { beta2: 1.0, ..AdaMax::default() }.into()),
        ("momentum_decay", NAdam { momentum_decay: Some(-1.0), ..NAdam::default() }.into()),
    ];
    for (key, rule) in bad {
        let is = |e: &Error| matches!(e, Error::Hyperparameter { name, .. } if *name == key);
        scene.refuses(gpu, key, |o| o.add_group(rule, 0.1), is)?;
    }
    let good = Settings::lr(0.1);
    let bad = [
        ("lr", Settings::lr(nan)),
        ("lr", Settings::lr(-0.1)),
        ("lr", Settings::lr(f64::INFINITY)),
        ("lr", Settings::lr(1e39)),
        ("lr · lr_factor", Settings { lr_factor: 1e30, ..Settings::lr(1e30) }),
        ("grad_scale", Settings { grad_scale: 1e300, ..good }),
        ("lr_factor", Settings { lr_factor: -1.0, ..good }),
        ("grad_scale", Settings { grad_scale: nan, ..good }),
        ("weight_decay", Settings { weight_decay: WeightDecay::L2(-1.0), ..good }),
        ("weight_decay", Settings { weight_decay: WeightDecay::Decoupled(nan), ..good }),
    ];
    for (key, settings) in bad {
        let is = |e: &Error| matches!(e, Error::Hyperparameter { name, .. } if *name == key);
        scene.refuses(gpu, key, |o| o.set_settings(0, settings), is)?;
        let is = |e: &Error| matches!(e, Error::Hyperparameter { name, .. } if *name == key);
        scene.refuses(gpu, key, |o| o.add_group(Sgd, settings), is)?;
    }
    let is = |e: &Error| matches!(e, Error::Hyperparameter { name: "beta1", .. });
    scene.refuses(gpu, "set_rule", |o| o.set_rule(0, Adam { beta1: 1.0, ..Adam::default() }), is)
}

fn wrong_device(gpu: &Gpu) -> Result<(), Failed> {
    let unsupported = |r: Result<()>| ensure(matches!(r, Err(Error::Unsupported { .. })), format!("{r:?}"));
    let mut cpu = Optimizer::new(&Device::Cpu, Sgd, 0.1)?;
    let w = cpu.add(0, "w", &[1.0f32; 4])?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    unsupported(cpu.encode(&mut encoder))?;
    unsupported(cpu.encode_look_ahead(&mut encoder))?;
    unsupported(cpu.encode_zero_grad(&mut encoder))?;
    unsupported(cpu.parameter(w).map(|_| ()))?;
    let range = BufferRange::whole(&buffer(gpu, &[0.0; 4], FOREIGN));
    unsupported(cpu.add_buffer(0, "x", range.clone()).map(|_| ()))?;
    unsupported(cpu.set_gradient(w, Gradient::Buffer(range)))?;
    let endless = cpu.add_slice::<f64>(0, "endless", usize::MAX);
    ensure(matches!(endless, Err(Error::OverLimit { .. })), format!("{endless:?}"))?;
    unsupported(Optimizer::new(&gpu.into(), Sgd, 0.1)?.add_slice::<f32>(0, "x", 4).map(|_| ()))?;
    same("w", &cpu.read_blocking(w)?, &[1.0; 4])
}

fn with<'a>(id: wgpu_optim::ParameterId, parameter: &'a mut [f64], gradient: &'a [f64]) -> Slices<'a, f64> {
    Slices { id, parameter, gradient: Some(gradient) }
}

fn wrong_slices(_: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&Device::Cpu, Sgd, 1.0)?;
    let (a, b) = (optimizer.add_slice::<f64>(0, "a", 2)?, optimizer.add_slice::<f64>(0, "b", 2)?);
    let own = optimizer.add(0, "own", &[1.0f64; 2])?;
    let (mut x, mut y, g) = ([1.0f64; 2], [1.0f64; 2], [1.0f64; 2]);
    let short = [1.0f64];
    let refused = [
        optimizer.step_slices(&mut [with(a, &mut x[..], &g[..]), with(b, &mut y[..], &short[..])]),
        optimizer.step_slices(&mut [with(a, &mut x[..], &g[..]), with(b, &mut y[..1], &g[..])]),
        optimizer.step_slices(&mut [with(a, &mut x[..], &g[..]), with(a, &mut y[..], &g[..])]),
        optimizer.step_slices(&mut [with(a, &mut x[..], &g[..]), with(own, &mut y[..], &g[..])]),
        optimizer.step_slices(&mut [Slices {
            id: a,
            parameter: &mut [1.0f32; 2][..],
            gradient: Some(&[1.0f32; 2][..]),
        }]),
    ];
    let kinds = refused.map(|r| match r {
        Err(Error::Length { .. }) => "length",
        Err(Error::Unsupported { .. }) => "unsupported",
        Err(Error::ElementType { .. }) => "type",
        _ => "?",
    });
    ensure(kinds == ["length", "length", "unsupported", "unsupported", "type"], format!("{kinds:?}"))?;
    ensure((x, y) == ([1.0; 2], [1.0; 2]) && optimizer.steps(a)? == 0, "something stepped")
}

fn destroyed_buffer(gpu: &Gpu) -> Result<(), Failed> {
    let mut scene = Scene::new(gpu)?;
    let own = scene.optimizer.read_blocking::<f32>("own")?;
    scene.buffers[1].destroy();
    let refused = scene.optimizer.step();
    ensure(matches!(&refused, Err(Error::Rejected { .. })), format!("{refused:?}"))?;
    same("own", &scene.optimizer.read_blocking("own")?, &own)?;
    ensure(scene.optimizer.steps("own")? == 1 && scene.optimizer.steps("foreign")? == 1, "the step was counted")?;
    scene.buffers[0].destroy();
    let refused = scene.optimizer.read_blocking::<f32>("foreign");
    ensure(matches!(&refused, Err(Error::ReadBack { name, .. }) if name == "foreign"), format!("{refused:?}"))?;
    scene.optimizer.remove("foreign")?;
    scene.optimizer.step()?;
    ensure(scene.optimizer.read_blocking::<f32>("own")? != own, "the rest goes on")
}
