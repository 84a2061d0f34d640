//! Golden `weight_averaging` files: the average that a group keeps, of parameters that are set to the file's.

use crate::{Averaging, Device, Error, Gradient, Optimizer, Real, rules::Sgd};
use serde_json::Value;

use super::golden::{Tensors, tensors_of};

/// A file's parameters by step, and the averages after each step.
pub(crate) struct Averages {
    kind: Averaging,
    params: Vec<Tensors>,
    pub(crate) averaged: Vec<(u64, Tensors)>,
}

impl Averages {
    /// The file, or the reason why its kind of average is not ours, or why it cannot be read.
    pub(crate) fn read(file: &Value) -> Result<Result<Self, String>, String> {
        let hyper = file["hyper"].as_object().ok_or("no `hyper`")?;
        let decay = || hyper.get("decay").and_then(Value::as_f64).ok_or("no `decay`");
        let optax = file["function"].as_str().is_some_and(|name| name.starts_with("optax"));
        let debias = hyper.get("debias").and_then(Value::as_bool).unwrap_or(true);
        let kind = match hyper.get("kind").and_then(Value::as_str) {
            Some("swa") => Averaging::Swa { from: 1, every: 1 },
            Some("ema") if !optax => Averaging::Ema(decay()?),
            Some("ema") if debias => Averaging::EmaDebiased(decay()?),
            Some("ema") => Averaging::EmaFromZero(decay()?),
            other => return Ok(Err(format!("`kind` = {other:?} is not implemented"))),
        };
        let known = |key: &str, value: &Value| match key {
            "kind" | "decay" | "debias" | "api" => true,
            "avg" => value == "equal",
            _ => false,
        };
        if let Some((key, value)) = hyper.iter().find(|(key, value)| !known(key, value)) {
            return Ok(Err(format!("`{key}` = {value} is not implemented")));
        }
        let params = file["model_params"].as_array().ok_or("no `model_params`")?.iter().map(tensors_of);
        let averaged = file["averaged"].as_object().ok_or("no `averaged`")?.iter();
        let step = |(t, tensors): (&String, &Value)| {
            Ok::<_, String>((t.parse().map_err(|_| t.clone())?, tensors_of(tensors)?))
        };
        let (params, mut averaged): (Vec<Tensors>, Vec<_>) =
            (params.collect::<Result<_, _>>()?, averaged.map(step).collect::<Result<_, _>>()?);
        averaged.sort_by_key(|(t, _): &(u64, _)| *t);
        let times = averaged.first().is_some_and(|(t, _)| *t > 0)
            && averaged.last().is_some_and(|(t, _)| (*t as usize) < params.len());
        let shapes = |tensors: &Tensors| tensors.iter().map(Vec::len).collect::<Vec<_>>();
        let all = || params.iter().chain(averaged.iter().map(|(_, tensors)| tensors));
        let fits = times
            && all().all(|tensors| shapes(tensors) == shapes(&params[0]))
            && shapes(&params[0]).iter().sum::<usize>() > 0;
        if fits {
            Ok(Ok(Self { kind, params, averaged }))
        } else {
            Err("`model_params` and `averaged` do not fit".into())
        }
    }

    /// The parameters before the first step.
    pub(crate) fn start(&self) -> &Tensors {
        &self.params[0]
    }

    /// The averages after each recorded step on this device: no gradient, no rate, the parameters written by hand.
    pub(crate) async fn run<F: Real>(&self, device: &Device) -> Result<Vec<Tensors>, Error> {
        let cast = |v: &Vec<f64>| v.iter().map(|&x| F::of(x)).collect::<Vec<F>>();
        let mut optimizer = Optimizer::new(device, Sgd, 0.0)?;
        optimizer.set_averaging(0, self.kind)?;
        let mut ids = Vec::new();
        for (k, values) in self.params[0].iter().enumerate() {
            let id = optimizer.add(0, &format!("p{k}"), &cast(values))?;
            optimizer.set_gradient(id, Gradient::Own)?;
            ids.push(id);
        }
        let mut all = Vec::new();
        for (t, params) in self.params.iter().enumerate().skip(1) {
            for (&id, values) in ids.iter().zip(params) {
                optimizer.write(id, &cast(values))?;
            }
            optimizer.step()?;
            if self.averaged.iter().any(|(recorded, _)| *recorded as usize == t) {
                all.push(super::read_states::<F>(&optimizer, &ids, "average").await?);
            }
        }
        Ok(all)
    }
}
