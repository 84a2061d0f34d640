//! Our steps against the trajectories of PyTorch, Keras, optax and the papers: what `wgpu-optim check` and the page in
//! `examples/web` share. The files, and the format, are those of `tests/golden.json.gz`.

use std::collections::BTreeMap;

use serde_json::Value;
use wgpu::util::DeviceExt;

use crate::{BufferRange, Device, Error, Gpu, Optimizer, ParameterId, Real, Settings, States, WeightDecay};

mod averages;
mod cases;
mod clipping;
mod comparison;
mod golden;
mod hyper;
mod low_bit;
mod nist;
mod scaler;
mod schedules;
mod solvers;

pub use comparison::{Verdict, Worst};
pub use golden::Golden;
pub use nist::WithModel;
pub use solvers::{Fit, Set};

use averages::Averages;
use cases::{Setup, setup, state_name};
use comparison::{Engine, F32_FILE, F64, keep_worse, scaled, set_shapes};
use golden::{Case, SOLVERS, Tensors, numbers_of};
use schedules::{Rates, rates};

/// f64 against an f64 file of which the library itself computes a part in f32.
const F64_IMPURE: f64 = 1e-5;
/// f32 against an f64 file that has no float32 run of the library beside it.
const F32_ALONE: f64 = 5e-6;
/// A schedule's rates and momenta, relative.
const SCHEDULE: f64 = 1e-12;
/// Half a unit in the last place: each step rounds parameter and state, and the terms of each, a few times.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// What a run leaves: parameters by step (and look-ahead points), the last state.
struct Trajectory {
    params: BTreeMap<u64, Tensors>,
    /// The largest magnitude that each parameter has had at any step (CPU only).
    scale: Tensors,
    look_ahead: BTreeMap<u64, Tensors>,
    state: BTreeMap<(&'static str, usize), Vec<f64>>,
    /// The largest magnitude of each state so far, element by element: the scale of its error.
    state_scale: BTreeMap<(&'static str, usize), Vec<f64>>,
}

/// Golden files, and where they are run.
#[derive(Debug)]
pub struct Check {
    golden: Golden,
    engines: Vec<Engine>,
}

impl Check {
    /// On the CPU, in f64 and f32, and on these devices.
    pub fn new(golden: Golden, gpus: &[Gpu]) -> Self {
        let cpu = |name: &str, f64| Engine { name: name.into(), device: Device::Cpu, f64 };
        let mut engines = vec![cpu("CPU f64", true), cpu("CPU f32", false)];
        engines.extend(gpus.iter().map(|gpu| Engine { name: gpu.name(), device: gpu.into(), f64: false }));
        Self { golden, engines }
    }

    /// The files that are compared.
    pub fn names(&self) -> Vec<&str> {
        self.golden.names()
    }

    /// What the devices are called.
    pub fn engines(&self) -> Vec<&str> {
        self.engines.iter().map(|engine| engine.name.as_str()).collect()
    }

    /// Runs a file.
    pub async fn run(&self, file: &str) -> Verdict {
        let unreadable = |e| Verdict::Failed { worst: Worst::failed(e), engine: "any device".into() };
        let (golden, engines) = (&self.golden, &self.engines[..]);
        let verdict = if let Some(value) = golden.of_kind("lr_schedule", file) {
            schedule(value)
        } else if let Some(value) = golden.of_kind("weight_averaging", file) {
            averages(golden, file, value, engines).await
        } else if let Some(value) = golden.of_kind("grad_util", file) {
            clipping::verdict(golden, file, value, engines).await
        } else if let Some(value) = golden.of_kind("grad_scaler", file) {
            scaler::verdict(value, engines).await
        } else if let Some(value) = SOLVERS.iter().find_map(|kind| golden.of_kind(kind, file)) {
            solvers::verdict(value, engines).await
        } else {
            match golden.case(file) {
                Ok(case) => Ok(verdict(golden, &case, engines).await),
                Err(e) => Err(e),
            }
        };
        verdict.unwrap_or_else(unreadable)
    }
}

async fn verdict(golden: &Golden, case: &Case, engines: &[Engine]) -> Verdict {
    let setup = match setup(case) {
        Ok(setup) => setup,
        Err(why) => return Verdict::Skipped(why),
    };
    if setup.precision.states != States::F32 {
        return low_bit::verdict(case, &setup, engines).await;
    }
    let twin = |from: &str, to: &str| case.file.replace(from, to);
    // A float32 file is compared through its f64 twin: that is exact, the library's own float32 run is not.
    let f64_twin = (!case.f64).then(|| twin(".f32.", ".f64.")).filter(|file| golden.has(file));
    let reference = match f64_twin.map(|file| golden.case(&file)).transpose() {
        Ok(reference) => reference,
        Err(e) => return Verdict::Skipped(format!("its f64 twin: {e}")),
    };
    let expected = reference.as_ref().unwrap_or(case);
    if !case.f32_comparable && !case.f64 {
        return Verdict::Skipped("not comparable in f32, says the file".into());
    }
    let f32_here = case.f32_comparable && (!case.f64 || !golden.has(&twin(".f64.", ".f32.")));
    // The exact run, on the CPU: it gives the scale of each state's error, and is what an f64 file is compared with.
    let oracle = match trajectory::<f64>(&Device::Cpu, expected, &setup).await {
        Err(Error::Hyperparameter { name, value, range }) => {
            return Verdict::Skipped(format!("`{name}` = {value} is not implemented, only {range}"));
        }
        other => other,
    };
    let mut worst: Option<(Worst, String)> = None;
    for engine in engines.iter().filter(|engine| if engine.f64 { case.f64 } else { f32_here }) {
        let f32_run = match engine.f64 {
            true => Ok(None),
            false => trajectory::<f32>(&engine.device, expected, &setup).await.map(Some),
        };
        let found = match (&oracle, &f32_run) {
            (Ok(oracle), Ok(None)) => compare(expected, &setup, oracle, oracle, true),
            (Ok(oracle), Ok(Some(ours))) => compare(expected, &setup, oracle, ours, false),
            (Err(e), _) | (_, Err(e)) => Worst::failed(e.to_string()),
        };
        keep_worse(&mut worst, found, engine);
    }
    Verdict::of(worst)
}

/// Compares a schedule's rates, and the momentum where it cycles, with a file's.
fn schedule(file: &Value) -> Result<Verdict, String> {
    let empty = serde_json::Map::new();
    let (scheduler, hyper) =
        (file["scheduler"].as_str().unwrap_or_default(), file["hyper"].as_object().unwrap_or(&empty));
    let expected = numbers_of(&file["lr"])?;
    let metric = if file["metric"].is_null() { Vec::new() } else { numbers_of(&file["metric"])? };
    let ours: Vec<f64> = match rates(scheduler, hyper) {
        Err(why) => return Ok(Verdict::Skipped(why)),
        Ok(Rates::Plateau(mut plateau)) => {
            let first = plateau.lr;
            std::iter::once(first).chain(metric.iter().map(|&m| plateau.observe(m))).collect()
        }
        Ok(Rates::Schedule(base, schedule)) => {
            if let Some(momentum) = file.get("momentum").filter(|m| !m.is_null()).map(numbers_of).transpose()? {
                if momentum.len() != expected.len() {
                    return Err("`lr` and `momentum` do not fit together".into());
                }
                for (k, b) in (0..).zip(momentum) {
                    let x = schedule.momentum(k).ok_or("the schedule has no momentum")?;
                    if (x - b).abs() > SCHEDULE * b.abs() {
                        return Err(format!("momentum {x} at step {k} is not {b}"));
                    }
                }
            }
            (0..expected.len() as u64).map(|k| base * schedule.at(k)).collect()
        }
    };
    if ours.len() < expected.len() || expected.is_empty() {
        return Err("`lr` and `metric` do not fit together".into());
    }
    let notes = file["notes"].as_str().unwrap_or_default();
    let tolerance = match scheduler {
        _ if notes.contains("compare at 1e-5") => F64_IMPURE,
        // torch computes each rate from the one before, whose rounding grows where the cosine turns.
        "CosineAnnealingLR" => 10.0 * SCHEDULE,
        _ => SCHEDULE,
    };
    // Relative to the rate, but no finer than one rounding of the highest: torch's OneCycleLR ends in a difference of
    // large numbers.
    let floor = f64::EPSILON / SCHEDULE * expected.iter().copied().fold(0.0, f64::max);
    let mut worst = Worst { ratio: -1.0, error: 0.0, what: String::new() };
    for (k, (&x, &b)) in ours.iter().zip(&expected).enumerate() {
        let error = if x == b { 0.0 } else { (x - b).abs() / b.abs().max(floor) };
        let ratio = if error.is_nan() { f64::INFINITY } else { error / tolerance };
        if ratio > worst.ratio {
            worst = Worst { ratio, error, what: format!("lr at step {k}") };
        }
    }
    Ok(Verdict::of(Some((worst, "the host, f64".into()))))
}

/// Compares a group's averages with a file's: an f64 file in f64, a float32 one (or an f64 one alone) in f32 on every
/// device.
async fn averages(golden: &Golden, name: &str, file: &Value, engines: &[Engine]) -> Result<Verdict, String> {
    let is_f64 = file["dtype"] == "f64";
    let twin = if is_f64 { None } else { golden.of_kind("weight_averaging", &name.replace(".f32.", ".f64.")) };
    let f32_here = !is_f64 || !golden.has(&name.replace(".f64.", ".f32."));
    let reference = twin.unwrap_or(file);
    let case = match Averages::read(reference)? {
        Ok(case) => case,
        Err(why) => return Ok(Verdict::Skipped(why)),
    };
    let suggested = reference["suggested_tol_f32"].as_f64().unwrap_or(F32_FILE);
    let mut worst: Option<(Worst, String)> = None;
    for engine in engines.iter().filter(|engine| if engine.f64 { is_f64 } else { f32_here }) {
        let tolerance = if engine.f64 { F64 } else { suggested };
        let run = match engine.f64 {
            true => case.run::<f64>(&engine.device).await,
            false => case.run::<f32>(&engine.device).await,
        };
        let found = match run {
            Err(e) => Worst::failed(e.to_string()),
            Ok(ours) => {
                let mut worst = Worst { ratio: -1.0, error: 0.0, what: String::new() };
                let mut scale: Tensors = case.start().iter().map(|p| p.iter().map(|x| x.abs()).collect()).collect();
                for (x, (t, b)) in ours.iter().zip(&case.averaged) {
                    for (k, (x, b)) in x.iter().zip(b).enumerate() {
                        for (i, (&x, &b)) in x.iter().zip(b).enumerate() {
                            scale[k][i] = f64::max(scale[k][i], b.abs());
                            let error = scaled(x, b, scale[k][i]);
                            let ratio = if error.is_nan() { f64::INFINITY } else { error / tolerance };
                            if ratio > worst.ratio {
                                worst = Worst { ratio, error, what: format!("average of p{k}[{i}] at step {t}") };
                            }
                        }
                    }
                }
                worst
            }
        };
        keep_worse(&mut worst, found, engine);
    }
    Ok(Verdict::of(worst))
}

/// Runs the case on one device, through the same calls as any user.
async fn trajectory<F: Real>(device: &Device, case: &Case, setup: &Setup) -> Result<Trajectory, Error> {
    let cast = |v: &Vec<f64>| v.iter().map(|&x| F::of(x)).collect::<Vec<F>>();
    let mut optimizer = Optimizer::new(device, setup.rule.clone(), setup.settings)?;
    optimizer.set_clip_norm(setup.clip)?;
    let names: Vec<_> = (0..case.params0.len()).map(|k| format!("p{k}")).collect();
    let values: Vec<_> = case.params0.iter().map(cast).collect();
    let tensors: Vec<_> = names.iter().zip(&values).map(|(name, v)| (name.as_str(), v.as_slice())).collect();
    let ids = optimizer.add_all(0, &tensors)?;
    set_shapes(&mut optimizer, &ids, &case.shapes)?;
    let mut run = Trajectory {
        params: BTreeMap::new(),
        scale: case.params0.iter().map(|p| p.iter().map(|x| x.abs()).collect()).collect(),
        look_ahead: BTreeMap::new(),
        state: BTreeMap::new(),
        state_scale: BTreeMap::new(),
    };
    let states = setup.rule.states();
    for t in 1..=case.steps {
        if setup.look_ahead {
            optimizer.look_ahead()?;
        }
        for (&id, g) in ids.iter().zip(&case.grads[t as usize - 1]) {
            match setup.batches {
                1 => optimizer.write_gradient(id, &cast(g))?,
                _ => accumulate(&mut optimizer, id, &cast(g))?,
            }
        }
        if !t.is_multiple_of(setup.batches) {
            if case.params.contains_key(&t) {
                run.params.insert(t, read::<F>(&optimizer, &ids).await?);
            }
            continue;
        }
        let lr_factor = setup.settings.lr_factor * setup.schedule.factor(t);
        optimizer.set_settings(0, Settings { lr_factor, ..setup.settings })?;
        optimizer.step()?;
        if case.params.contains_key(&t) {
            run.params.insert(t, read::<F>(&optimizer, &ids).await?);
        }
        if case.lookahead_params.contains_key(&t) {
            optimizer.look_ahead()?;
            run.look_ahead.insert(t, read::<F>(&optimizer, &ids).await?);
        }
        // Each read waits for the device: only the oracle needs every step.
        let oracle = matches!(device, Device::Cpu);
        if oracle {
            for (scale, now) in run.scale.iter_mut().zip(read::<F>(&optimizer, &ids).await?) {
                scale.iter_mut().zip(now).for_each(|(scale, x)| *scale = scale.max(x.abs()));
            }
        }
        if oracle || t == case.steps {
            for (&name, (tensor, &id)) in
                states.iter().flat_map(|name| ids.iter().enumerate().map(move |id| (name, id)))
            {
                let state = wide(optimizer.read_state::<F>(id, name).await?);
                let scale = run.state_scale.entry((name, tensor)).or_insert_with(|| vec![0.0; state.len()]);
                scale.iter_mut().zip(&state).for_each(|(scale, x)| *scale = scale.max(x.abs()));
                run.state.insert((name, tensor), state);
            }
        }
    }
    Ok(run)
}

/// A micro-batch's gradient, on a GPU by way of a buffer of the caller's.
fn accumulate<F: Real>(optimizer: &mut Optimizer, id: ParameterId, gradient: &[F]) -> Result<(), Error> {
    let Device::Gpu(gpu) = optimizer.device().clone() else { return optimizer.accumulate(id, gradient) };
    let buffer = gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("micro-batch"),
        contents: bytemuck::cast_slice(gradient),
        usage: wgpu::BufferUsages::STORAGE,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    optimizer.encode_accumulate(&mut encoder, &[(id, BufferRange::whole(&buffer))])?;
    gpu.queue().submit([encoder.finish()]);
    Ok(())
}

async fn read<F: Real>(optimizer: &Optimizer, ids: &[ParameterId]) -> Result<Tensors, Error> {
    let mut all = Vec::new();
    for &id in ids {
        all.push(wide(optimizer.read::<F>(id).await?));
    }
    Ok(all)
}

/// A state of each of these parameters.
async fn read_states<F: Real>(optimizer: &Optimizer, ids: &[ParameterId], state: &str) -> Result<Tensors, Error> {
    let mut all = Vec::new();
    for &id in ids {
        all.push(wide(optimizer.read_state::<F>(id, state).await?));
    }
    Ok(all)
}

fn wide<F: Real>(numbers: Vec<F>) -> Vec<f64> {
    numbers.into_iter().map(|x| x.to_f64().unwrap_or(f64::NAN)).collect()
}

/// The worst of: parameters at every recorded step, their displacement at the last one, and the state.
fn compare(case: &Case, setup: &Setup, oracle: &Trajectory, ours: &Trajectory, f64: bool) -> Worst {
    let steps = case.steps as f64;
    let f32_file = !case.f64;
    let tolerance = match (f64, case.suggested_tol_f32) {
        (true, _) if case.pure => F64,
        (true, _) => F64_IMPURE,
        _ if f32_file => F32_FILE,
        (false, Some(suggested)) => suggested,
        // 5e-6 covers 20 steps; each step more may round the parameter once more.
        (false, None) => F32_ALONE.max(ROUNDING * steps),
    };
    // A state's error is the sum of its steps' roundings, of at most four operations each.
    let state_tolerance = if f64 || f32_file { tolerance } else { F32_ALONE.max(4.0 * ROUNDING * steps) };
    // With L2 decay exp_avg is a mean of h = g + λw: it takes over λ times the error of w. exp_avg_sq is a mean of h²:
    // it takes over 2|h|λ times the error of w, at most h² + (λw)² times the relative one. Where g is 0, or nearly
    // cancels λw, this exceeds what the state's own size allows. There Adam's steps, of lr whatever the size of h, also
    // amplify each rounding of w.
    let carried = |state: &str, w: f64| match (setup.settings.weight_decay, state) {
        (WeightDecay::L2(lambda), "exp_avg" | "momentum_buffer") if !f64 => lambda * w,
        (WeightDecay::L2(lambda), "exp_avg_sq") if !f64 => (lambda * w).powi(2),
        _ => 0.0,
    };
    let mut worst = Worst { ratio: -1.0, error: 0.0, what: "nothing".into() };
    let mut note = |error: f64, tolerance: f64, what: &dyn Fn() -> String| {
        // NaN is worse than anything.
        let ratio = if error.is_nan() { f64::INFINITY } else { error / tolerance };
        if ratio > worst.ratio {
            worst = Worst { ratio, error, what: what() };
        }
    };
    // Files of their own scale: what the recorded steps show. Where the tolerance is ours, f32 is measured against the
    // largest magnitude of all steps, since a parameter that swings out between two recorded ones has rounded there.
    let unscaled = !f64 && (f32_file || case.suggested_tol_f32.is_none());
    let mut scale: Tensors = case.params0.iter().map(|p| p.iter().map(|x| x.abs()).collect()).collect();
    if unscaled {
        scale.clone_from(&oracle.scale);
    }
    for (&t, expected) in &case.params {
        for (k, b) in expected.iter().enumerate() {
            for (i, &b) in b.iter().enumerate() {
                scale[k][i] = scale[k][i].max(b.abs());
                let points =
                    [("p", &ours.params, &case.params), ("look-ahead p", &ours.look_ahead, &case.lookahead_params)];
                for (what, ours, golden) in points {
                    let Some((x, b)) = ours.get(&t).zip(golden.get(&t)).map(|(x, b)| (x[k][i], b[k][i])) else {
                        continue;
                    };
                    note(scaled(x, b, scale[k][i]), tolerance, &|| format!("{what}{k}[{i}] at step {t}"));
                }
            }
        }
    }
    if let (false, Some((t, b)), Some((_, x))) = (f64, case.params.last_key_value(), ours.params.last_key_value()) {
        for (k, (b, x)) in b.iter().zip(x).enumerate() {
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let moved = norm(&mut b.iter().zip(&case.params0[k]).map(|(b, p)| b - p));
            if moved > 0.0 {
                let error = norm(&mut b.iter().zip(x).map(|(b, x)| b - x)) / moved;
                // What rounding the parameters once a step may cost, or four times what it costs the library.
                let rounding = ROUNDING * steps * norm(&mut scale[k].iter().copied()) / moved;
                let tolerance = (4.0 * case.f32_displacement).max(4.0 * rounding).max(1e-5);
                note(error, tolerance, &|| format!("displacement of p{k} at step {t}"));
            }
        }
    }
    for (key, value) in &case.state {
        let Some((state, tensor, sign)) = state_name(case, setup, key) else {
            continue;
        };
        let per_tensor = match tensor {
            Some(tensor) => vec![(tensor, numbers_of(value))],
            None => value.as_array().into_iter().flatten().map(numbers_of).enumerate().collect(),
        };
        if tensor.is_none() && per_tensor.len() != case.params0.len() {
            note(f64::NAN, 1.0, &|| format!("state {state}: {} tensors", per_tensor.len()));
        }
        for (k, expected) in per_tensor {
            let name = || format!("state {state} of p{k}");
            let (Ok(b), Some(x)) = (expected, ours.state.get(&(state, k))) else {
                note(f64::NAN, 1.0, &name);
                continue;
            };
            if b.len() != x.len() {
                note(f64::NAN, 1.0, &name);
                continue;
            }
            let Some(scale) = oracle.state_scale.get(&(state, k)) else { continue };
            for (i, (&x, b)) in x.iter().zip(b).enumerate() {
                let b = sign * b;
                let scale = scale[i].max(b.abs()).max(carried(state, oracle.scale[k][i]));
                note(scaled(x, b, scale), state_tolerance, &|| format!("{}[{i}]", name()));
            }
        }
    }
    worst
}
