//! Golden `grad_scaler` files: torch's GradScaler, iteration by iteration, with momentum behind it.

use crate::rules::Momentum;
use crate::{Device, Error, LossScaler, Optimizer, Real};
use serde_json::Value;

use super::comparison::{Engine, F32_FILE, Verdict, Worst, keep_worse, scaled};
use super::golden::numbers_of;

/// One iteration: the gradient that came, and what there was after it.
struct Iteration {
    gradient: Vec<f64>,
    skipped: bool,
    scale: f64,
    tracker: f64,
    params: Vec<f64>,
}

/// Compares scale, tracker, skips and parameters with a file's, after each iteration.
pub(crate) async fn verdict(file: &Value, engines: &[Engine]) -> Result<Verdict, String> {
    let hyper = &file["hyper"];
    let number = |key: &str| hyper[key].as_f64().ok_or_else(|| format!("`{key}` is not a number"));
    let scaler = LossScaler {
        init_scale: number("init_scale")?,
        growth_factor: number("growth_factor")?,
        backoff_factor: number("backoff_factor")?,
        growth_interval: number("growth_interval")? as u32,
        ..LossScaler::default()
    };
    if hyper["optimizer"] != "SGD(lr=0.01, momentum=0.9)" {
        return Ok(Verdict::Skipped(format!("`optimizer` = {} is not known", hyper["optimizer"])));
    }
    let start = numbers_of(&file["params0"])?;
    let iteration = |value: &Value| -> Result<Iteration, String> {
        let one = |key: &str| value[key].as_f64().ok_or_else(|| format!("`{key}` is not a number"));
        let (gradient, params) = (numbers_of(&value["scaled_grad"])?, numbers_of(&value["params"])?);
        if gradient.len() != start.len() || params.len() != start.len() {
            return Err("`scaled_grad` and `params` do not fit".into());
        }
        let skipped = value["skipped"].as_bool().ok_or("`skipped` is not a flag")?;
        Ok(Iteration { gradient, skipped, scale: one("scale_after")?, tracker: one("growth_tracker")?, params })
    };
    let sequence = file["sequence"].as_array().ok_or("no `sequence`")?.iter();
    let iterations = sequence.map(iteration).collect::<Result<Vec<_>, _>>()?;
    let mut worst: Option<(Worst, String)> = None;
    for engine in engines {
        let run = match engine.f64 {
            true => run::<f64>(&engine.device, scaler, &start, &iterations).await,
            false => run::<f32>(&engine.device, scaler, &start, &iterations).await,
        };
        let found = run.unwrap_or_else(|e| Worst::failed(e.to_string()));
        keep_worse(&mut worst, found, engine);
    }
    Ok(Verdict::of(worst))
}

async fn run<F: Real>(
    device: &Device,
    scaler: LossScaler,
    start: &[f64],
    iterations: &[Iteration],
) -> Result<Worst, Error> {
    let cast = |v: &[f64]| v.iter().map(|&x| F::of(x)).collect::<Vec<F>>();
    let mut optimizer = Optimizer::new(device, Momentum::torch(0.9), 0.01)?;
    optimizer.set_loss_scaler(scaler)?;
    let w = optimizer.add(0, "w", &cast(start))?;
    let (mut worst, mut skips) = (Worst::none(), 0);
    for (k, iteration) in iterations.iter().enumerate() {
        optimizer.write_gradient(w, &cast(&iteration.gradient))?;
        optimizer.step()?;
        let report = optimizer.read_report().await?;
        skips += u64::from(iteration.skipped);
        let exactly = [
            ("scale", report.loss_scale, iteration.scale),
            ("growth tracker", report.growth_tracker.into(), iteration.tracker),
            ("skips", report.skipped_steps as f64, skips as f64),
        ];
        for (what, x, b) in exactly {
            let error = if x == b { 0.0 } else { f64::INFINITY };
            worst.note(error, 1.0, || format!("{what} {x}, not {b}, after iteration {k}"));
        }
        for (i, (x, &b)) in optimizer.read::<F>(w).await?.into_iter().zip(&iteration.params).enumerate() {
            let x = x.to_f64().unwrap_or(f64::NAN);
            let error = scaled(x, b, b.abs().max(start[i].abs()));
            worst.note(error, F32_FILE, || format!("w[{i}] after iteration {k}"));
        }
    }
    Ok(worst)
}
