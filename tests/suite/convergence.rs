//! Every rule descends, on the device, with gradients that are computed from what it has made of the parameters.

use libtest_mimic::Failed;
use wgpu_optim::{Device, Gpu, Optimizer, rules};

use crate::compare::ensure;
use crate::fixture::parameters;
use crate::tests;

tests!(every_rule_descends_a_quadratic);

/// ½Σ cᵢ(wᵢ − 1)² with curvatures of 0.1 … 1.
fn every_rule_descends_a_quadratic(gpu: &Gpu) -> Result<(), Failed> {
    let start = parameters(10, 1);
    let curvature = |i: usize| 0.1 + 0.1 * i as f32;
    let loss = |w: &[f32]| w.iter().enumerate().map(|(i, w)| curvature(i) * (w - 1.0).powi(2) / 2.0).sum::<f32>();
    for device in [gpu.into(), Device::Cpu] {
        for (name, rule) in rules::all() {
            // What brings each rule near the minimum in 200 steps; AdaDelta starts from √ε = 1e-3 a step.
            let lr = match rule.name() {
                "sgd" | "asgd" | "qhm" | "ftrl" | "optimistic_gradient_descent" => 0.5,
                "momentum" | "pnm" | "aggmo" | "accsgd" | "madgrad" => 0.1,
                _ if name == "schedule-free-sgd" => 0.5,
                "adagrad" => 0.5,
                // It begins with 1/10,000 of Adam's step size.
                "adamod" => 1.0,
                "yogi" | "schedule_free" | "radam" | "adapnm" => 0.1,
                "cocob" => 1.0,
                "adadelta" => 10.0,
                "adagrad_norm" | "lars" => 1.0,
                _ if name == "novograd-averaged" => 0.1,
                _ => 0.02,
            };
            let mut optimizer = Optimizer::new(&device, rule, lr)?;
            let w = optimizer.add(0, "w", &start)?;
            for _ in 0..200 {
                let now = optimizer.read_blocking::<f32>(w)?;
                let gradient: Vec<_> = now.iter().enumerate().map(|(i, w)| curvature(i) * (w - 1.0)).collect();
                optimizer.write_gradient(w, &gradient)?;
                optimizer.step()?;
            }
            let (before, after) = (loss(&start), loss(&optimizer.read_blocking::<f32>(w)?));
            ensure(after < 0.1 * before, format!("{name} on {}: {before} → {after}", device.name()))?;
        }
    }
    Ok(())
}
