//! States in 8 bits against bitsandbytes and torchao: parameters, each as a part of its tensor's largest; codes; and
//! the blocks' largest magnitudes.

use crate::{Device, Error, Optimizer, SaveOptions};
use safetensors::SafeTensors;

use super::cases::{Setup, state_name};
use super::comparison::{Engine, F32_FILE, Verdict, Worst, keep_worse, scaled};
use super::golden::{Case, numbers_of};

/// Of codes where a quotient at the middle of two numbers may be the one or the other: on a GPU, and of torchao, whose
/// map is up to two units in the last place off ours. Through bitsandbytes' bins the CPU has every code, but for
/// AdEMAMix' slow average.
const CODES: f64 = 1e-3;

/// What a file has of a state: of each tensor, codes and largest magnitudes.
struct Stored {
    name: &'static str,
    codes: Vec<Vec<f64>>,
    absmax: Vec<Vec<f64>>,
}

/// The states of a case in 8 bits.
fn states(case: &Case, setup: &Setup) -> Result<Vec<Stored>, String> {
    let mut found = Vec::new();
    let of = |key: &String| {
        let (bare, absmax) = match case.library.as_str() {
            "torchao" => (key.strip_suffix(".codes")?, key.replace(".codes", ".scale")),
            _ => (key.as_str(), key.replace("state", "absmax")),
        };
        let absmax = case.state.get(&absmax).filter(|_| absmax != *key)?;
        let (name, ..) = state_name(case, setup, bare)?;
        Some((name, &case.state[key], absmax))
    };
    for (name, codes, absmax) in case.state.keys().filter_map(of) {
        let tensors = |value: &serde_json::Value| -> Result<Vec<Vec<f64>>, String> {
            value.as_array().into_iter().flatten().map(numbers_of).collect()
        };
        let (mut codes, mut absmax) = (tensors(codes)?, tensors(absmax)?);
        if setup.rule.name() == "ademamix" && name == "exp_avg" {
            // Both averages are one tensor of two rows.
            let halves = |all: &mut Vec<Vec<f64>>| all.iter_mut().map(|row| row.split_off(row.len() / 2)).collect();
            let (codes, absmax) = (halves(&mut codes), halves(&mut absmax));
            found.push(Stored { name: "exp_avg_slow", codes, absmax });
        }
        found.push(Stored { name, codes, absmax });
    }
    Ok(found)
}

pub(crate) async fn verdict(case: &Case, setup: &Setup, engines: &[Engine]) -> Verdict {
    let mut worst: Option<(Worst, String)> = None;
    for engine in engines.iter().filter(|engine| !engine.f64) {
        let found = compare(case, setup, &engine.device).await.unwrap_or_else(Worst::failed);
        keep_worse(&mut worst, found, engine);
    }
    Verdict::of(worst)
}

async fn compare(case: &Case, setup: &Setup, device: &Device) -> Result<Worst, String> {
    let failed = |e: Error| e.to_string();
    let narrow = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let mut optimizer = Optimizer::new(device, setup.rule.clone(), setup.settings).map_err(failed)?;
    optimizer.set_precision(0, setup.precision).map_err(failed)?;
    let mut ids = Vec::new();
    for (k, values) in case.params0.iter().enumerate() {
        ids.push(optimizer.add(0, &format!("p{k}"), &narrow(values)).map_err(failed)?);
    }
    let mut worst = Worst::none();
    for (t, gradients) in (1..=case.steps).zip(&case.grads) {
        for (&id, gradient) in ids.iter().zip(gradients) {
            optimizer.write_gradient(id, &narrow(gradient)).map_err(failed)?;
        }
        optimizer.step().map_err(failed)?;
        let Some(expected) = case.params.get(&t) else { continue };
        for (k, (&id, expected)) in ids.iter().zip(expected).enumerate() {
            let scale = expected.iter().fold(0.0, |most, x| f64::max(most, x.abs()));
            let found: Vec<f32> = optimizer.read(id).await.map_err(failed)?;
            for (i, (&x, &b)) in found.iter().zip(expected).enumerate() {
                worst.note(scaled(x.into(), b, scale), F32_FILE, || format!("p{k}[{i}] at step {t}"));
            }
        }
    }
    let mut file = Vec::new();
    optimizer.save_to(&mut file, SaveOptions::default()).await.map_err(failed)?;
    let file = SafeTensors::deserialize(&file).map_err(|e| e.to_string())?;
    let stored = states(case, setup)?;
    if stored.is_empty() {
        return Err("the file has no codes".into());
    }
    for (Stored { name, codes, absmax }, k) in stored.iter().flat_map(|s| (0..ids.len()).map(move |k| (s, k))) {
        let tensor = |name: &str| file.tensor(name).map(|tensor| tensor.data()).map_err(|e| format!("{name}: {e}"));
        let ours = tensor(&format!("p{k}.{name}"))?;
        let theirs = &codes[k];
        let differ = ours.iter().zip(theirs).filter(|(a, b)| f64::from(**a) != **b).count();
        // One number of AdEMAMix' slow average lies at a bin's edge, where the last place decides.
        let exact = matches!(device, Device::Cpu) && case.library == "bitsandbytes" && *name != "exp_avg_slow";
        let allowed = if exact { 0.5 } else { (CODES * theirs.len() as f64).max(1.0) };
        let all = theirs.len();
        worst.note(differ as f64, allowed, || format!("{differ} of {all} codes of {name} of p{k}"));
        let largest = bytemuck::pod_collect_to_vec::<_, f32>(tensor(&format!("p{k}.{name}_absmax"))?);
        let theirs = &absmax[k];
        if (ours.len(), largest.len()) != (all, theirs.len()) {
            return Err(format!("{} codes in {} blocks, not {all} in {}", ours.len(), largest.len(), theirs.len()));
        }
        for (i, (&x, &b)) in largest.iter().zip(theirs).enumerate() {
            worst.note(scaled(x.into(), b, b.abs()), F32_FILE, || format!("block {i} of {name} of p{k}"));
        }
    }
    Ok(worst)
}
