//! Options that no golden file shows, against their formulas written out in f64.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::{Adam, Amsgrad, Momentum, NAdam, RmsProp};
use wgpu_optim::{AnyRule, Device, Optimizer};

use crate::compare::ensure;

const LR: f64 = 0.1;
const GRADIENTS: [f64; 6] = [1.0, -0.5, 1e-4, 0.0, 3.0, -2.0];

/// The rule's w after these gradients, from 1.
fn ours(rule: AnyRule) -> Result<f64, Failed> {
    let mut optimizer = Optimizer::new(&Device::Cpu, rule, LR)?;
    optimizer.add(0, "w", &[1.0f64])?;
    for g in GRADIENTS {
        optimizer.write_gradient("w", &[g])?;
        optimizer.step()?;
    }
    Ok(optimizer.read_blocking::<f64>("w")?[0])
}

/// The same with w ← step(t, g, w).
fn formula(mut step: impl FnMut(i32, f64, f64) -> f64) -> f64 {
    GRADIENTS.iter().zip(1..).fold(1.0, |w, (&g, t)| step(t, g, w))
}

fn agree(name: &str, rule: impl Into<AnyRule>, formula: f64) -> Result<(), Failed> {
    let ours = ours(rule.into())?;
    ensure((ours - formula).abs() < 1e-12, format!("{name}: {ours} against {formula}"))
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("formula::rmsprop_initial", || {
            let mut v = 1.0f64;
            let expected = formula(|_, g, w| {
                v = 0.9 * v + 0.1 * g * g;
                w - LR * g / (v + 1e-8).sqrt()
            });
            agree("initial", RmsProp { initial: 1.0, ..RmsProp::optax() }, expected)
        }),
        Trial::test("formula::amsgrad_optax_corrections", || {
            for (m_hat, v_hat) in [(true, false), (false, true), (false, false)] {
                let (mut m, mut v, mut largest) = (0.0f64, 0.0f64, 0.0f64);
                let expected = formula(|t, g, w| {
                    m = 0.9 * m + 0.1 * g;
                    v = 0.999 * v + 0.001 * g * g;
                    let m = if m_hat { m / (1.0 - 0.9f64.powi(t)) } else { m };
                    largest = largest.max(if v_hat { v / (1.0 - 0.999f64.powi(t)) } else { v });
                    w - LR * m / (largest.sqrt() + 1e-8)
                });
                let corrections = Adam { bias_correction_m: m_hat, bias_correction_v: v_hat, ..Adam::torch() };
                agree("amsgrad", Adam { amsgrad: Some(Amsgrad::Corrected), ..corrections }, expected)?;
            }
            Ok(())
        }),
        Trial::test("formula::nadam_eps_root", || {
            let (mut m, mut v) = (0.0f64, 0.0f64);
            let expected = formula(|t, g, w| {
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let m_bar = 0.9 * m / (1.0 - 0.9f64.powi(t + 1)) + 0.1 * g / (1.0 - 0.9f64.powi(t));
                w - LR * m_bar / ((v / (1.0 - 0.999f64.powi(t)) + 1e-3).sqrt() + 1e-8)
            });
            agree("eps_root", NAdam { eps_root: 1e-3, ..NAdam::optax() }, expected)
        }),
        Trial::test("formula::momentum_ema_nesterov", || {
            let mut v = 0.0f64;
            let expected = formula(|_, g, w| {
                v = 0.9 * v + 0.1 * g;
                w - LR * (0.9 * v + 0.1 * g)
            });
            agree("ema", Momentum::ema(0.9).nesterov(), expected)
        }),
        Trial::test("formula::nesterov_rearranged", || {
            // The lecture notes' form: w += −ρ·v_old + (1 + ρ)·v.
            let mut v = 0.0f64;
            let expected = formula(|_, g, w| {
                let old = v;
                v = 0.9 * v - LR * g;
                w - 0.9 * old + 1.9 * v
            });
            agree("rearranged", Momentum::keras(0.9).nesterov(), expected)
        }),
        Trial::test("formula::nadam_after_many_steps", || {
            // Πμ has vanished: the step is that of the limit μ = β₁·(1 − ½·0.96^(t·ψ)) without corrections.
            let mut optimizer = Optimizer::new(&Device::Cpu, NAdam::torch(), LR)?;
            optimizer.add(0, "w", &[0.0f64])?;
            optimizer.set_steps("w", 999_999_999)?;
            optimizer.write_gradient("w", &[1.0f64])?;
            optimizer.step()?;
            let w = optimizer.read_blocking::<f64>("w")?[0];
            let expected = -LR * (0.1 * 1.0 + 0.9 * 0.1) / (0.001f64.sqrt() + 1e-8);
            ensure((w - expected).abs() < 1e-12, format!("{w} against {expected}"))
        }),
    ]
}
