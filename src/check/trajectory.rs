//! A golden trajectory run on one device, and how far it is from the file.

use std::collections::BTreeMap;

use wgpu::util::DeviceExt;

use crate::{BufferRange, Device, Error, Optimizer, ParameterId, Real, Settings, WeightDecay};

use super::F64_IMPURE;
use super::cases::{Setup, state_name};
use super::comparison::{F32_FILE, F64, Worst, scaled, set_shapes};
use super::golden::{Case, Tensors, numbers_of};

/// f32 against an f64 file that has no float32 run of the library beside it.
const F32_ALONE: f64 = 5e-6;
/// Half a unit in the last place: each step rounds parameter and state, and the terms of each, a few times.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// What a run leaves: parameters by step (and look-ahead points), the last state.
pub(super) struct Trajectory {
    params: BTreeMap<u64, Tensors>,
    /// The largest magnitude that each parameter has had at any step (CPU only).
    scale: Tensors,
    look_ahead: BTreeMap<u64, Tensors>,
    evaluated: BTreeMap<u64, Tensors>,
    state: BTreeMap<(&'static str, usize), Vec<f64>>,
    /// The largest magnitude of each state so far, element by element: the scale of its error.
    state_scale: BTreeMap<(&'static str, usize), Vec<f64>>,
}

/// Runs the case on one device, through the same calls as any user.
pub(super) async fn trajectory<F: Real>(device: &Device, case: &Case, setup: &Setup) -> Result<Trajectory, Error> {
    let cast = |v: &Vec<f64>| v.iter().map(|&x| F::of(x)).collect::<Vec<F>>();
    let mut optimizer = Optimizer::new(device, setup.rule.clone(), setup.settings)?;
    optimizer.set_clip_norm(setup.clip)?;
    let names: Vec<_> = (0..case.params0.len()).map(|k| format!("p{k}")).collect();
    let values: Vec<_> = case.params0.iter().map(cast).collect();
    let tensors: Vec<_> = names.iter().zip(&values).map(|(name, v)| (name.as_str(), v.as_slice())).collect();
    let vectors = setup.vectors.as_ref().map(|rule| optimizer.add_group(rule.clone(), setup.settings)).transpose()?;
    let ids = match vectors {
        None => optimizer.add_all(0, &tensors)?,
        Some(vectors) => {
            let group = |shape: &Vec<usize>| if shape.len() < 2 { vectors } else { 0 };
            let added = tensors.iter().zip(&case.shapes);
            added.map(|((name, x), shape)| optimizer.add(group(shape), name, x)).collect::<Result<_, _>>()?
        }
    };
    if let Some(averaging) = setup.averaging {
        optimizer.set_averaging(0, averaging)?;
    }
    set_shapes(&mut optimizer, &ids, &case.shapes)?;
    let mut run = Trajectory {
        params: BTreeMap::new(),
        scale: case.params0.iter().map(|p| p.iter().map(|x| x.abs()).collect()).collect(),
        look_ahead: BTreeMap::new(),
        evaluated: BTreeMap::new(),
        state: BTreeMap::new(),
        state_scale: BTreeMap::new(),
    };
    let states = setup.rule.states();
    for t in 1..=case.steps {
        if setup.look_ahead {
            optimizer.look_ahead()?;
        }
        for (&id, g) in ids.iter().zip(&case.grads[t as usize - 1]) {
            if setup.squares {
                let squares: Vec<_> = g.iter().map(|g| F::of(g * g)).collect();
                optimizer.write_state(id, "hessian", &squares)?;
            }
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
        if case.eval_params.contains_key(&t) {
            optimizer.evaluate()?;
            run.evaluated.insert(t, read::<F>(&optimizer, &ids).await?);
            optimizer.train()?;
        }
        if case.lookahead_params.contains_key(&t) {
            let point = match setup.averaging {
                Some(_) => read_states::<F>(&optimizer, &ids, "average").await?,
                None => {
                    optimizer.look_ahead()?;
                    read::<F>(&optimizer, &ids).await?
                }
            };
            run.look_ahead.insert(t, point);
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
pub(super) async fn read_states<F: Real>(
    optimizer: &Optimizer,
    ids: &[ParameterId],
    state: &str,
) -> Result<Tensors, Error> {
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
pub(super) fn compare(case: &Case, setup: &Setup, oracle: &Trajectory, ours: &Trajectory, f64: bool) -> Worst {
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
    let beside = |state, k, i: usize| oracle.state_scale.get(&(state, k)).map_or(0.0, |scale| scale[i]);
    // With L2 decay exp_avg is a mean of h = g + λw: it takes over λ times the error of w. exp_avg_sq is a mean of h²:
    // it takes over 2|h|λ times the error of w, at most h² + (λw)² times the relative one. Where g is 0, or nearly
    // cancels λw, this exceeds what the state's own size allows. There Adam's steps, of lr whatever the size of h, also
    // amplify each rounding of w.
    // Ftrl's z is a sum of differences of √n/lr·w, and COCOB's reward one of c(w − x₀): their errors are those of what
    // cancels.
    let carried = |state: &str, k: usize, i: usize| match (setup.settings.weight_decay, state) {
        (WeightDecay::L2(lambda), "exp_avg" | "momentum_buffer") if !f64 => lambda * oracle.scale[k][i],
        (WeightDecay::L2(lambda), "exp_avg_sq") if !f64 => (lambda * oracle.scale[k][i]).powi(2),
        (_, "linear") => beside("accumulator", k, i).sqrt() / setup.settings.lr * oracle.scale[k][i],
        (_, "reward") => beside("grad_norm_sum", k, i) * oracle.scale[k][i],
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
                let points = [
                    ("p", &ours.params, &case.params),
                    ("look-ahead p", &ours.look_ahead, &case.lookahead_params),
                    ("evaluated p", &ours.evaluated, &case.eval_params),
                ];
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
        let Some((state, tensor, factor)) = state_name(case, setup, key) else {
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
                let b = factor * b;
                let scale = scale[i].max(b.abs()).max(carried(state, k, i));
                note(scaled(x, b, scale), state_tolerance, &|| format!("{}[{i}]", name()));
            }
        }
    }
    worst
}
