//! Saving and loading: exactly, from any device to any other, or not at all.

use std::io::{Cursor, Write};

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::{AdaGradNorm, Adam, Momentum, NovoGrad, Sgd};
use wgpu_optim::{
    AnyRule, Averaging, BufferRange, ClipNorm, Device, Error, Gpu, Gradient, LoadOptions, LossScaler, Mismatch, Noise,
    Optimizer, Options, Real, Rule, SaveOptions, Schedule, Settings, Step, WeightDecay, fields, rules,
};

use crate::compare::ensure;
use crate::fixture::{FOREIGN, buffer, parameters};
use crate::tests;

tests!(
    a_load_takes_back_what_the_host_does_not_know,
    resume_is_exact_on_every_device,
    every_rule_resumes,
    a_large_state_is_never_on_the_host_as_a_whole,
    callers_buffers_are_saved_and_loaded,
);

type OnCpu = fn() -> Result<(), Failed>;

/// Those that need no GPU.
pub(crate) fn trials() -> Vec<Trial> {
    let cpu: [(&str, OnCpu); 6] = [
        ("strict_loading_lists_everything", strict_loading_lists_everything),
        ("lenient_loading_takes_what_fits", lenient_loading_takes_what_fits),
        ("a_failed_save_leaves_the_old_file", a_failed_save_leaves_the_old_file),
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
        // By way of the same device, and of the CPU and back. (Not of the GPU: AdaGrad-Norm's number of a group is f64 on the CPU.)
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

fn strict_loading_lists_everything() -> Result<(), Failed> {
    let file = saved(&mut two(["kept", "theirs"], [4, 2], Adam::default())?)?;
    let mut optimizer = two(["kept", "ours"], [5, 2], Adam::default())?;
    let before = saved(&mut optimizer)?;
    let Err(Error::Mismatch(mismatch)) = load(&mut optimizer, &file) else { return Err("no mismatch".into()) };
    let of = |name: &str| vec![name.to_owned(), format!("{name}.exp_avg"), format!("{name}.exp_avg_sq")];
    ensure(mismatch.missing == of("ours") && mismatch.unexpected == of("theirs"), format!("{mismatch:?}"))?;
    let differs = |name: &String| name.contains("([4] of F32 in the file, [5] of F32 here)");
    ensure(mismatch.different[0] == "kept (4 elements in the file, 5 here)", format!("{mismatch:?}"))?;
    ensure(mismatch.different.len() == 4 && mismatch.different[1..].iter().all(differs), format!("{mismatch:?}"))?;
    let said = Error::Mismatch(mismatch).to_string();
    ensure(said.contains("3 missing: ours, ours.exp_avg,") && said.contains("3 unexpected: theirs,"), &said)?;
    ensure(saved(&mut optimizer)? == before, "something was loaded")?;
    // Another rule, configuration in words; another number of groups; another averaging.
    let mut other = two(["kept", "theirs"], [4, 2], Momentum::default())?;
    let Err(Error::Mismatch(mismatch)) = load(&mut other, &file) else { return Err("no mismatch".into()) };
    ensure(mismatch.different[0].starts_with("the rule of group 0 (adam {\"beta1\":0.9,"), format!("{mismatch:?}"))?;
    let mut other = two(["kept", "theirs"], [4, 2], Adam::default())?;
    other.add_group(Adam::default(), 0.1)?;
    let Err(Error::Mismatch(mismatch)) = load(&mut other, &file) else { return Err("no mismatch".into()) };
    ensure(mismatch.different == ["the groups (1 in the file, 2 here)"], format!("{mismatch:?}"))?;
    let mut averaged = Optimizer::new(&Device::Cpu, Adam::default(), 0.5)?;
    averaged.set_averaging(0, Averaging::Ema(0.9))?;
    averaged.add_all(0, &[("kept", &[0.0f32; 4][..]), ("theirs", &[0.0; 2])])?;
    let Err(Error::Mismatch(mismatch)) = load(&mut averaged, &file) else { return Err("no mismatch".into()) };
    ensure(mismatch.missing == ["kept.average", "theirs.average"], format!("{mismatch:?}"))
}

fn lenient_loading_takes_what_fits() -> Result<(), Failed> {
    let mut from = two(["kept", "theirs"], [4, 2], Adam { beta1: 0.5, ..Adam::default() })?;
    from.set_lr(0, 0.25)?;
    let file = saved(&mut from)?;
    let mut optimizer = two(["kept", "ours"], [4, 2], Adam::default())?;
    optimizer.step()?;
    let ours = optimizer.read_state_blocking::<f32>("ours", "exp_avg")?;
    let mismatch =
        optimizer.load_from(&mut Cursor::new(&file), LoadOptions { strict: false, ..LoadOptions::default() })?;
    ensure(mismatch.missing.len() == 3 && mismatch.unexpected.len() == 3, format!("{mismatch:?}"))?;
    ensure(mismatch.different.is_empty() && optimizer.lr(0)? == 0.25, "the configuration fits")?;
    ensure((optimizer.steps("kept")?, optimizer.steps("ours")?) == (1, 2), "step counts")?;
    for slot in ["exp_avg", "exp_avg_sq"] {
        let [a, b] = [&from, &optimizer].map(|optimizer| optimizer.read_state_blocking::<f32>("kept", slot));
        ensure(a? == b?, slot)?;
    }
    ensure(from.read_blocking::<f32>("kept")? == optimizer.read_blocking::<f32>("kept")?, "values")?;
    ensure(optimizer.read_state_blocking::<f32>("ours", "exp_avg")? == ours, "what is not in the file has changed")?;
    // More groups in the file than here; a rule whose states have the same names and are others.
    from.add_group(Adam::default(), 0.1)?;
    let more = saved(&mut from)?;
    let lenient = || LoadOptions { strict: false, ..LoadOptions::default() };
    let mut fewer = two(["kept", "theirs"], [4, 2], Adam::default())?;
    let mismatch = fewer.load_from(&mut Cursor::new(&more), lenient())?;
    ensure(mismatch.different == ["the groups (2 in the file, 1 here)"], format!("{mismatch:?}"))?;
    ensure(fewer.lr(0)? == 0.25 && fewer.steps("theirs")? == 1, "the first group fits")?;
    let velocity = saved(&mut two(["kept", "theirs"], [4, 2], Momentum::keras(0.9))?)?;
    let mut nesterov = two(["kept", "theirs"], [4, 2], Momentum::default().nesterov())?;
    nesterov.step()?;
    let before = nesterov.read_state_blocking::<f32>("kept", "momentum_buffer")?;
    nesterov.load_from(&mut Cursor::new(&velocity), lenient())?;
    let after = nesterov.read_state_blocking::<f32>("kept", "momentum_buffer")?;
    ensure(after == before && nesterov.steps("kept")? == 2, "another rule's velocity")?;
    // A rule without states, of another length; a transposed matrix.
    let plain = saved(&mut two(["kept", "theirs"], [4, 2], Sgd)?)?;
    let mut longer = two(["kept", "theirs"], [5, 2], Sgd)?;
    longer.step()?;
    longer.load_from(&mut Cursor::new(&plain), lenient())?;
    ensure((longer.steps("kept")?, longer.steps("theirs")?) == (2, 1), "a step count of another tensor's")?;
    let shaped = |shape| -> Result<Optimizer, Error> {
        let mut optimizer = two(["kept", "theirs"], [6, 2], Sgd)?;
        optimizer.set_options("kept", Options { shape: Some(shape), ..Options::default() })?;
        Ok(optimizer)
    };
    let transposed = load(&mut shaped([2, 3])?, &saved(&mut shaped([3, 2])?)?);
    ensure(matches!(&transposed, Err(Error::Mismatch(m)) if m.different.len() == 1), format!("{transposed:?}"))?;
    // One state of another length: none of that parameter's is taken, nor its count.
    let mut longer = two(["kept", "theirs"], [5, 2], Adam::default())?;
    longer.step()?;
    longer.load_from(&mut Cursor::new(&file), LoadOptions { strict: false, ..LoadOptions::default() })?;
    ensure((longer.steps("kept")?, longer.steps("theirs")?) == (2, 1), "all or nothing of a parameter")
}

/// Takes some bytes and then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0 {
            0 => Err(std::io::Error::other("the disk is full")),
            room => {
                self.0 -= room.min(bytes.len());
                Ok(room.min(bytes.len()))
            }
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn a_failed_save_leaves_the_old_file() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("momentum.safetensors");
    let mut optimizer = two(["a", "b"], [4, 2], Momentum::default())?;
    optimizer.save(&path)?;
    let old = std::fs::read(&path)?;
    ensure(old == saved(&mut optimizer)?, "a file is what a stream is")?;
    optimizer.step()?;
    optimizer.look_ahead()?;
    let refused = optimizer.save(&path);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    let refused = optimizer.load(&path);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    optimizer.step()?;
    for room in [0, 5, old.len() - 1] {
        let full = pollster::block_on(optimizer.save_to(&mut Full(room), SaveOptions::default()));
        ensure(matches!(full, Err(Error::Io { .. })), format!("{full:?}"))?;
    }
    optimizer.accumulate(optimizer.id("a")?, &[0.0f32; 4])?;
    let refused = optimizer.save(&path);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    ensure(std::fs::read(&path)? == old, "the old file has changed")?;
    ensure(std::fs::read_dir(directory.path())?.count() == 1, "something is left beside it")?;
    let nowhere = optimizer.load(directory.path().join("nowhere"));
    ensure(matches!(nowhere, Err(Error::Io { file, .. }) if file.ends_with("nowhere")), "no such file")?;
    // Two tensors of one name.
    let mut clash = two(["a", "a.momentum_buffer"], [4, 4], Momentum::default())?;
    let refused = pollster::block_on(clash.save_to(&mut Vec::new(), SaveOptions::default()));
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "")?;
        let mode = |path: &std::path::Path| std::fs::metadata(path).map(|file| file.permissions().mode());
        ensure(mode(&path)? == mode(&plain)?, "others may not read it as they may any new file")?;
    }
    Ok(())
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
