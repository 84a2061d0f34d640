//! Our steps against the trajectories of PyTorch, Keras, optax and the papers: what `wgpu-optim check` and the page in
//! `examples/web` share. The files, and the format, are those of `tests/golden.json.gz`.

use serde_json::Value;

use crate::{Device, Error, Gpu, States};

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
mod trajectory;

pub use comparison::{Verdict, Worst};
pub use golden::Golden;
pub use nist::WithModel;
pub use solvers::{Fit, Set};

use averages::Averages;
use cases::setup;
use comparison::{Engine, F32_FILE, F64, keep_worse, scaled};
use golden::{Case, SOLVERS, Tensors, numbers_of};
use schedules::{Rates, rates};
use trajectory::{compare, read_states, trajectory};

/// f64 against an f64 file of which the library itself computes a part in f32.
const F64_IMPURE: f64 = 1e-5;
/// A schedule's rates and momenta, relative.
const SCHEDULE: f64 = 1e-12;
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
