//! Saving and loading: exactly, from any device to any other, or not at all.

use std::io::Cursor;

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::{AdaGradNorm, Adam, Momentum, NovoGrad};
use wgpu_optim::{
    AnyRule, Averaging, BufferRange, ClipNorm, Device, Error, Extent, Gpu, Gradient, LoadOptions, LossScaler, Mismatch,
    Noise, Optimizer, Options, Real, Rule, SaveOptions, Schedule, Settings, Step, WeightDecay, fields, rules,
};

use crate::compare::{ensure, same};
use crate::fixture::{FOREIGN, buffer, parameters};
use crate::tests;

tests!(
    a_load_takes_back_what_the_host_does_not_know,
    an_outcome_after_a_load_does_not_count,
    resume_is_exact_on_every_device,
    every_rule_resumes,
    a_large_state_is_never_on_the_host_as_a_whole,
    callers_buffers_are_saved_and_loaded,
    a_file_of_version_1_loads_on_a_gpu,
);

pub(crate) type OnCpu = fn() -> Result<(), Failed>;

/// Those that need no GPU.
pub(crate) fn trials() -> Vec<Trial> {
    let cpu: [(&str, OnCpu); 4] = [
        ("a_file_of_version_1_loads", a_file_of_version_1_loads),
        ("a_custom_rule_keeps_its_configuration", a_custom_rule_keeps_its_configuration),
        ("states_alone", states_alone),
        ("f64_is_kept", f64_is_kept),
    ];
    cpu.into_iter().map(|(name, test)| Trial::test(format!("checkpoint::{name}"), test)).collect()
}

/// Everything that an optimizer keeps, as bytes.
pub(crate) fn saved(optimizer: &mut Optimizer) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    pollster::block_on(optimizer.save_to(&mut bytes, SaveOptions::default()))?;
    Ok(bytes)
}

pub(crate) fn load(optimizer: &mut Optimizer, bytes: &[u8]) -> Result<Mismatch, Error> {
    optimizer.load_from(&mut Cursor::new(bytes), LoadOptions::default())
}

/// Three groups with all that a file has to keep; `plain` for one that knows nothing of it yet.
fn rich(device: &Device, plain: bool) -> Result<Optimizer, Error> {
    let noise = Some(Noise { eta: 0.01, gamma: 0.55, seed: 1 << 60 });
    let settings = Settings { weight_decay: WeightDecay::Decoupled(0.1), noise, ..Settings::lr(0.01) };
    let adam = if plain { Adam::amsgrad() } else { Adam { beta1: 0.8, eps: 1.0 / 3.0 * 1e-7, ..Adam::amsgrad() } };
    let mut optimizer = Optimizer::new(device, adam, if plain { Settings::lr(1.0) } else { settings })?;
    optimizer.set_averaging(0, if plain { Averaging::EmaFromZero(0.5) } else { Averaging::EmaDebiased(0.9) })?;
    let novograd = NovoGrad { grad_averaging: !plain, ..NovoGrad::paper() };
    optimizer.add_group(novograd, Settings { grad_scale: 0.5, ..Settings::lr(0.02) })?;
    optimizer.add_group(AdaGradNorm::default(), 0.03)?;
    for (group, names) in [(0, ["a.weight", "a.bias"]), (1, ["b.weight", "b.bias"]), (2, ["c.weight", "c.bias"])] {
        for (name, len) in names.into_iter().zip([35, 3]) {
            optimizer.add(group, name, &if plain { vec![0.0; len] } else { parameters(len, len as u64) })?;
        }
    }
    if !plain {
        optimizer.set_schedule(0, Schedule::cosine(20).warmup(3))?;
        optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
        optimizer.set_loss_scaler(LossScaler { init_scale: 8.0, growth_interval: 3, ..LossScaler::default() })?;
        optimizer.set_options("a.weight", Options { shape: Some([5, 7]), lr_scale: 0.3, ..Options::default() })?;
    }
    Ok(optimizer)
}

/// Steps `from` to `to`: in one a gradient overflows, in two a parameter has none.
fn train(optimizer: &mut Optimizer, from: u64, to: u64) -> Result<(), Error> {
    let ids: Vec<_> = optimizer.parameters().map(|(id, name)| (id, name.ends_with("bias"))).collect();
    for t in from..to {
        for &(id, bias) in &ids {
            let mut gradient = parameters(if bias { 3 } else { 35 }, t);
            if t == 3 {
                gradient[1] = f32::INFINITY;
            }
            optimizer.write_gradient(id, &gradient)?;
        }
        let missing = t % 4 == 2;
        optimizer.set_gradient("a.bias", if missing { Gradient::Missing } else { Gradient::Own })?;
        optimizer.step()?;
    }
    Ok(())
}

fn resume_is_exact_on_every_device(gpu: &Gpu) -> Result<(), Failed> {
    for device in [Device::from(gpu), Device::Cpu] {
        let mut through = rich(&device, false)?;
        train(&mut through, 0, 5)?;
        let halfway = saved(&mut through)?;
        let report = through.report();
        ensure(report.skipped_steps == 1 && report.growth_tracker == 1, format!("not mid-growth: {report:?}"))?;
        train(&mut through, 5, 11)?;
        let whole = saved(&mut through)?;
        ensure(through.steps("a.bias")? < through.steps("a.weight")?, "no cohort has missed a gradient")?;
        // By way of the same device, and of the CPU and back. (Not of the GPU: AdaGrad-Norm's number of a group is f64
        // on the CPU.)
        for by_way_of in [device.clone(), Device::Cpu] {
            let mut between = rich(&by_way_of, true)?;
            load(&mut between, &halfway)?;
            let copied = saved(&mut between)?;
            ensure(copied == halfway, format!("{} changes a file", by_way_of.name()))?;
            let mut resumed = rich(&device, true)?;
            load(&mut resumed, &copied)?;
            train(&mut resumed, 5, 11)?;
            ensure(saved(&mut resumed)? == whole, format!("{} by way of {}", device.name(), by_way_of.name()))?;
            ensure(resumed.lr(0)? == through.lr(0)?, "another rate")?;
        }
    }
    Ok(())
}

/// Between a step and the next look at its outcome the host still has the report of the last load.
fn a_load_takes_back_what_the_host_does_not_know(gpu: &Gpu) -> Result<(), Failed> {
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.1)?;
    optimizer.set_loss_scaler(LossScaler { init_scale: 8.0, ..LossScaler::default() })?;
    optimizer.add(0, "w", &[1.0f32; 8])?;
    let file = saved(&mut optimizer)?;
    for _ in 0..2 {
        load(&mut optimizer, &file)?;
        optimizer.write_gradient("w", &[f32::INFINITY; 8])?;
        optimizer.step()?;
        load(&mut optimizer, &file)?;
        let report = optimizer.read_report_blocking()?;
        ensure((report.loss_scale, report.skipped_steps) == (8.0, 0), format!("{report:?}"))?;
    }
    Ok(())
}

/// Steps that are submitted, and one in an encoder that is submitted late: whatever becomes of them is of before the
/// load.
fn an_outcome_after_a_load_does_not_count(gpu: &Gpu) -> Result<(), Failed> {
    for (bad, late) in [(1.0, false), (f32::INFINITY, false), (1.0, true), (f32::INFINITY, true)] {
        let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.1)?;
        optimizer.set_loss_scaler(LossScaler { init_scale: 8.0, ..LossScaler::default() })?;
        optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 10))?;
        optimizer.add(0, "w", &[1.0f32; 8])?;
        optimizer.write_gradient("w", &[1.0f32; 8])?;
        optimizer.step()?;
        let file = saved(&mut optimizer)?;
        optimizer.write_gradient("w", &[bad; 8])?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        optimizer.encode(&mut encoder)?;
        optimizer.encode(&mut encoder)?;
        if !late {
            gpu.queue().submit([encoder.finish()]);
            load(&mut optimizer, &file)?;
        } else {
            // The step itself happens after the load, and so does the load again.
            load(&mut optimizer, &file)?;
            gpu.queue().submit([encoder.finish()]);
            optimizer.settle_blocking()?;
            ensure(optimizer.steps("w")? == 1, format!("{} steps after a late step", optimizer.steps("w")?))?;
            load(&mut optimizer, &file)?;
        }
        let counted = |o: &Optimizer| Ok::<_, Error>((o.steps("w")?, o.schedule_step(0)?));
        ensure(counted(&optimizer)? == (1, 1), format!("at once: {:?}", counted(&optimizer)?))?;
        optimizer.settle_blocking()?;
        ensure(counted(&optimizer)? == (1, 1), format!("once they are known: {:?}", counted(&optimizer)?))?;
        ensure(saved(&mut optimizer)? == file, "another file")?;
    }
    Ok(())
}

/// A rule's states, their number, and what the second half of a run makes of them.
fn every_rule_resumes(gpu: &Gpu) -> Result<(), Failed> {
    let run = |optimizer: &mut Optimizer, steps: std::ops::Range<u64>| -> Result<(), Error> {
        for t in steps {
            optimizer.write_gradient("w", &parameters(70, t))?;
            optimizer.step()?;
        }
        Ok(())
    };
    for (name, rule) in rules::all() {
        let make = || -> Result<Optimizer, Error> {
            let mut optimizer = Optimizer::new(&gpu.into(), rule.clone(), 0.01)?;
            optimizer.add(0, "w", &parameters(70, 99))?;
            Ok(optimizer)
        };
        let (mut through, mut resumed) = (make()?, make()?);
        run(&mut through, 0..3)?;
        load(&mut resumed, &saved(&mut through)?)?;
        run(&mut through, 3..6)?;
        run(&mut resumed, 3..6)?;
        ensure(saved(&mut resumed)? == saved(&mut through)?, name)?;
    }
    Ok(())
}

fn a_large_state_is_never_on_the_host_as_a_whole(gpu: &Gpu) -> Result<(), Failed> {
    let len = (1 << 23) + 5;
    for device in [Device::from(gpu), Device::Cpu] {
        let make = || -> Result<Optimizer, Error> {
            let mut optimizer = Optimizer::new(&device, Momentum::default(), 0.01)?;
            optimizer.add(0, "w", &vec![1.5f32; len])?;
            optimizer.write_state("w", "momentum_buffer", &vec![0.5f32; len])?;
            Ok(optimizer)
        };
        let (mut from, mut to) = (make()?, make()?);
        to.write("w", &vec![0.0f32; len])?;
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("large.safetensors");
        let mut outcome = Ok(());
        let mut seen = Vec::new();
        let used = allocation_counter::measure(|| {
            let mut progress = |done, all| seen.push((done, all));
            let save = SaveOptions { progress: Some(&mut progress), ..SaveOptions::default() };
            outcome = from.save_with(&path, save);
            let mut progress = |done, all| seen.push((done, all));
            let load = LoadOptions { progress: Some(&mut progress), ..LoadOptions::default() };
            outcome = std::mem::replace(&mut outcome, Ok(())).and_then(|()| to.load_with(&path, load).map(drop));
        });
        outcome?;
        // Three pieces of 16 MiB: read back, as bytes, and what wgpu stages.
        ensure(used.bytes_max < 56 << 20, format!("{} MiB on {}", used.bytes_max >> 20, device.name()))?;
        ensure(seen.len() == 12 && seen[5].0 == seen[5].1 && seen[11].0 == seen[11].1, format!("progress {seen:?}"))?;
        ensure(seen[5].1 == std::fs::metadata(&path)?.len(), "the whole file is all bytes")?;
        ensure(to.read_blocking::<f32>("w")? == vec![1.5; len], "the values")?;
        ensure(to.read_state_blocking::<f32>("w", "momentum_buffer")? == vec![0.5; len], "the states")?;
    }
    Ok(())
}

fn callers_buffers_are_saved_and_loaded(gpu: &Gpu) -> Result<(), Failed> {
    let make = |usage| -> Result<(Optimizer, BufferRange), Failed> {
        let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 0.01)?;
        let range = BufferRange::new(&buffer(gpu, &parameters(50, 1), usage), 12, 40);
        optimizer.add_buffer(0, "w", range.clone())?;
        optimizer.set_gradient("w", Gradient::Buffer(BufferRange::whole(&buffer(gpu, &parameters(40, 2), usage))))?;
        Ok((optimizer, range))
    };
    let (mut from, _) = make(FOREIGN)?;
    from.step()?;
    let file = saved(&mut from)?;
    let (mut to, _) = make(FOREIGN)?;
    load(&mut to, &file)?;
    ensure(saved(&mut to)? == file, "another file")?;
    // A buffer that nobody may write to is found before anything is written.
    let (mut fixed, _) = make(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC)?;
    let before = saved(&mut fixed)?;
    let refused = load(&mut fixed, &file);
    ensure(matches!(refused, Err(Error::MissingUsage { .. })), format!("{refused:?}"))?;
    ensure(saved(&mut fixed)? == before, "a part was loaded")
}

pub(crate) fn two(names: [&str; 2], lens: [usize; 2], rule: impl Into<AnyRule>) -> Result<Optimizer, Error> {
    let mut optimizer = Optimizer::new(&Device::Cpu, rule, 0.5)?;
    for (name, len) in names.into_iter().zip(lens) {
        optimizer.add(0, name, &parameters(len, len as u64))?;
        optimizer.write_gradient(name, &parameters(len, 1))?;
    }
    optimizer.step()?;
    Ok(optimizer)
}

/// A rule of a user's own, which says nothing about checkpoints.
#[derive(Clone, Debug)]
struct Scaled {
    by: f64,
}

fields! { struct Hyper { lr } }

impl Rule for Scaled {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = ();
    const NAME: &'static str = "scaled";
    const LR: f64 = 1e-3;
    const SHADER: &'static str = "";

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
    fn hyper(&self, step: &Step) -> Hyper<f64> {
        Hyper { lr: self.by * step.lr }
    }
    fn update<F: Real>(&self, w: F, g: F, (): &mut (), h: &Hyper<F>) -> F {
        w - h.lr * g
    }
}

/// Its own configuration fits, no other.
fn a_custom_rule_keeps_its_configuration() -> Result<(), Failed> {
    let mut optimizer = two(["a", "b"], [4, 2], Scaled { by: 0.5 })?;
    let file = saved(&mut optimizer)?;
    let mut same = two(["a", "b"], [4, 2], Scaled { by: 0.5 })?;
    load(&mut same, &file)?;
    ensure(saved(&mut same)? == file, "another file")?;
    let mut other = two(["a", "b"], [4, 2], Scaled { by: 0.25 })?;
    let loaded = load(&mut other, &file);
    ensure(matches!(loaded, Err(Error::Mismatch(_))), format!("{loaded:?}"))
}

fn states_alone() -> Result<(), Failed> {
    let mut from = two(["a", "b"], [4, 2], Adam::default())?;
    let mut file = Vec::new();
    pollster::block_on(from.save_to(&mut file, SaveOptions { parameters: false, ..SaveOptions::default() }))?;
    // Into the caller's slices, whose values are the caller's.
    let mut slices = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
    slices.add_slice::<f32>(0, "a", 4)?;
    slices.add_slice::<f32>(0, "b", 2)?;
    load(&mut slices, &file)?;
    ensure(slices.steps("a")? == 1, "steps")?;
    // A file with values, of which none are wanted.
    let with = saved(&mut from)?;
    let strict = load(&mut slices, &with);
    ensure(matches!(strict, Err(Error::Mismatch(_))), format!("{strict:?}"))?;
    slices.load_from(&mut Cursor::new(&with), LoadOptions { parameters: false, ..LoadOptions::default() })?;
    let [a, b] = [&from, &slices].map(|optimizer| optimizer.read_state_blocking::<f32>("b", "exp_avg"));
    ensure(a? == b?, "states")
}

fn f64_is_kept() -> Result<(), Failed> {
    let make = || -> Result<Optimizer, Error> {
        let mut optimizer = Optimizer::new(&Device::Cpu, AdaGradNorm::default(), 0.1)?;
        optimizer.add(0, "w", &[1.0 / 3.0, 2.0])?;
        optimizer.write_gradient("w", &[0.1, 0.7])?;
        Ok(optimizer)
    };
    let (mut from, mut to) = (make()?, make()?);
    from.step()?;
    let file = saved(&mut from)?;
    load(&mut to, &file)?;
    ensure(saved(&mut to)? == file, "another file")?;
    let mut single = Optimizer::new(&Device::Cpu, AdaGradNorm::default(), 0.1)?;
    single.add(0, "w", &[0.0f32; 2])?;
    let Err(Error::Mismatch(mismatch)) = load(&mut single, &file) else { return Err("no mismatch".into()) };
    ensure(mismatch.different == ["w ([2] of F64 in the file, [2] of F32 here)"], format!("{mismatch:?}"))
}

/// Written by the last commit before version 2, by what [`trained`] does.
const VERSION_1: &[u8] = include_bytes!("version_1.safetensors");

const TENSORS: [(usize, &str, usize); 6] = [
    (0, "a.weight", 5),
    (0, "a.bias", 2),
    (1, "b.weight", 4),
    (1, "b.bias", 1),
    (2, "c.weight", 3),
    (3, "d.weight", 2),
];

/// A state of each extent, and an average.
fn of_each_extent(device: &Device) -> Result<Optimizer, Error> {
    let mut optimizer = Optimizer::new(device, NovoGrad::paper(), 0.02)?;
    optimizer.add_group(AdaGradNorm::default(), 0.03)?;
    optimizer.add_group(Adam::default(), 0.01)?;
    optimizer.set_averaging(2, Averaging::Ema(0.9))?;
    optimizer.add_group(AdaGradNorm { over: Extent::Tensor, ..AdaGradNorm::default() }, 0.04)?;
    for (group, name, len) in TENSORS {
        optimizer.add(group, name, &(0..len).map(|k| k as f32 - 1.5).collect::<Vec<_>>())?;
    }
    Ok(optimizer)
}

fn trained() -> Result<Optimizer, Error> {
    let mut optimizer = of_each_extent(&Device::Cpu)?;
    for step in 1..4 {
        for (_, name, len) in TENSORS {
            let gradient: Vec<_> = (0..len).map(|k| (k as f32 - 0.75) * step as f32).collect();
            optimizer.write_gradient(name, &gradient)?;
        }
        optimizer.step()?;
    }
    Ok(optimizer)
}

/// Its groups say nothing of their storage, and AdaGrad-Norm's `over` is called `scope` in it.
fn a_file_of_version_1_loads() -> Result<(), Failed> {
    let header = String::from_utf8_lossy(VERSION_1);
    ensure(header.contains("version\\\":1,") && header.contains("\\\"scope\\\":\\\"group\\\""), "it is another file")?;
    ensure(!header.contains("storage"), "it is another file")?;
    let mut loaded = of_each_extent(&Device::Cpu)?;
    load(&mut loaded, VERSION_1)?;
    // What the file lacks is added, and nothing else differs.
    ensure(saved(&mut loaded)? == saved(&mut trained()?)?, "something was not loaded")
}

fn a_file_of_version_1_loads_on_a_gpu(gpu: &Gpu) -> Result<(), Failed> {
    let (mut loaded, from) = (of_each_extent(&gpu.into())?, trained()?);
    load(&mut loaded, VERSION_1)?;
    for (group, name, _) in TENSORS {
        ensure(loaded.steps(name)? == 3, name)?;
        same(name, &loaded.read_blocking::<f32>(name)?, &from.read_blocking(name)?)?;
        let average = (group == 2).then_some("average");
        for state in loaded.rule(group)?.states().into_iter().chain(average) {
            let [here, there] = [&loaded, &from].map(|optimizer| optimizer.read_state_blocking::<f32>(name, state));
            same(&format!("{name}.{state}"), &here?, &there?)?;
        }
    }
    Ok(())
}
