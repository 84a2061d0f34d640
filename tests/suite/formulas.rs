//! Options that no golden file shows, against their formulas written out in f64.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::{
    AccSgd, AdaBelief, Adam, Adan, Amsgrad, Ftrl, LaProp, Lamb, Madgrad, Momentum, NAdam, RmsProp, ScheduleFree,
};
use wgpu_optim::{AnyRule, Device, Optimizer, Settings, WeightDecay};

use crate::compare::ensure;

const LR: f64 = 0.1;
const LAMBDA: f64 = 0.2;
const GRADIENTS: [f64; 6] = [1.0, -0.5, 1e-4, 0.0, 3.0, -2.0];

/// The rule's w after these gradients, from 1.
fn ours(rule: AnyRule, settings: Settings) -> Result<f64, Failed> {
    let mut optimizer = Optimizer::new(&Device::Cpu, rule, settings)?;
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
    agree_with(name, rule, Settings::lr(LR), formula)
}

/// With a decoupled decay of λ.
fn agree_decayed(name: &str, rule: impl Into<AnyRule>, formula: f64) -> Result<(), Failed> {
    agree_with(name, rule, Settings { weight_decay: WeightDecay::Decoupled(LAMBDA), ..Settings::lr(LR) }, formula)
}

fn agree_with(name: &str, rule: impl Into<AnyRule>, settings: Settings, formula: f64) -> Result<(), Failed> {
    let ours = ours(rule.into(), settings)?;
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
        Trial::test("formula::adan_decays_behind_the_step_or_beside_it", || {
            for proximal in [true, false] {
                let (mut m, mut b, mut n, mut old) = (0.0f64, 0.0f64, 0.0f64, None);
                let expected = formula(|t, g, w| {
                    let d = g - old.unwrap_or(g);
                    old = Some(g);
                    m = 0.98 * m + 0.02 * g;
                    b = 0.9 * b + 0.1 * d;
                    n = 0.99 * n + 0.01 * (g + 0.9 * d).powi(2);
                    let [m, b, n] = [(m, 0.98f64), (b, 0.9), (n, 0.99)].map(|(x, beta)| x / (1.0 - beta.powi(t)));
                    let u = LR * (m + 0.9 * b) / (n.sqrt() + 1e-8);
                    if proximal { (w - u) / (1.0 + LR * LAMBDA) } else { w - LR * LAMBDA * w - u }
                });
                // κ is β₂.
                agree_decayed("adan", Adan { beta2: 0.9, proximal, ..Adan::default() }, expected)?;
            }
            Ok(())
        }),
        Trial::test("formula::schedule_free_decays_at_w_and_warms_up", || {
            let rule = ScheduleFree { warmup: 4, r: 1.0, ..ScheduleFree::sgd() };
            let (mut x, mut z, mut sum) = (1.0f64, 1.0f64, 0.0f64);
            let expected = formula(|t, g, w| {
                let t = f64::from(t);
                let part = (t / 4.0).min(1.0);
                z -= LR * part * (g + LAMBDA * w);
                sum += t * part * part;
                x += t * part * part / sum * (z - x);
                0.9 * x + 0.1 * z
            });
            agree_decayed("schedule_free", rule, expected)
        }),
        Trial::test("formula::laprop_centered", || {
            let (mut m, mut v, mut mean) = (0.0f64, 0.0f64, 0.0f64);
            let mut optimizer = Optimizer::new(
                &Device::Cpu,
                LaProp { centered: true, ..LaProp::default() },
                Settings { weight_decay: WeightDecay::Decoupled(LAMBDA), ..Settings::lr(LR) },
            )?;
            optimizer.add(0, "w", &[1.0f64])?;
            let mut w = 1.0f64;
            // The mean counts from step 11 on.
            for t in 1..=14 {
                let g = (f64::from(t) * 1.7).sin() + 0.5;
                optimizer.write_gradient("w", &[g])?;
                optimizer.step()?;
                v = 0.999 * v + 0.001 * g * g;
                mean = 0.999 * mean + 0.001 * g;
                let variance = if t > 10 { v - mean * mean } else { v };
                let root = (variance + 1e-15).sqrt() + 1e-15;
                m = 0.9 * m + 0.1 * g / (root / (1.0 - 0.999f64.powi(t)).sqrt());
                w = (w - LR * m / (1.0 - 0.9f64.powi(t))) * (1.0 - LR * LAMBDA);
            }
            let ours = optimizer.read_blocking::<f64>("w")?[0];
            ensure((ours - w).abs() < 1e-12, format!("laprop: {ours} against {w}"))
        }),
        Trial::test("formula::madgrad_decays_by_the_whole_rate", || {
            let (mut n, mut q) = (0.0f64, 0.0f64);
            let expected = formula(|t, g, w| {
                let gain = (LR + 1e-6) * f64::from(t).sqrt();
                n += gain * g * g;
                q += gain * g;
                0.9 * w + 0.1 * (1.0 - q / (n.cbrt() + 1e-6)) - LR * LAMBDA * w
            });
            agree_decayed("madgrad", Madgrad::default(), expected)
        }),
        Trial::test("formula::accsgd_begins_before_the_decay", || {
            let (beta, mut b) = (10.0 * 0.49 / 1000.0, 1.0f64);
            let zeta = 0.7 / (0.7 + beta);
            let expected = formula(|_, g, w| {
                let w = w - LR * LAMBDA * w;
                b = (1.0 - beta) * b + beta * (w - LR * 1000.0 / 0.7 * g);
                zeta * (w - LR * g) + (1.0 - zeta) * b
            });
            agree_decayed("accsgd", AccSgd::default(), expected)
        }),
        Trial::test("formula::lamb_decays_outside_the_ratio", || {
            for limit in [None, Some(0.5)] {
                let (mut m, mut v) = (0.0f64, 0.0f64);
                let expected = formula(|t, g, w| {
                    let w = w * (1.0 - LR * LAMBDA);
                    m = 0.9 * m + 0.1 * g;
                    v = 0.999 * v + 0.001 * g * g;
                    let r = m / (1.0 - 0.9f64.powi(t)) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-7);
                    // A norm of one number is its magnitude.
                    w - LR * w.abs().min(limit.unwrap_or(f64::MAX)) / r.abs() * r
                });
                agree_decayed("lamb", Lamb { max_weight_norm: limit, ..Lamb::keras() }, expected)?;
            }
            Ok(())
        }),
        Trial::test("formula::adabelief_rectified", || {
            // With β₂ = 0.9 ρ∞ is 19, and ρ is above 5 from step 6 on.
            let (mut m, mut s) = (0.0f64, 0.0f64);
            let expected = formula(|t, g, w| {
                m = 0.9 * m + 0.1 * g;
                s = 0.9 * s + 0.1 * (g - m).powi(2) + 1e-16;
                let (c1, power) = (1.0 - 0.9f64.powi(t), 0.9f64.powi(t));
                let rho = 19.0 - 2.0 * f64::from(t) * power / (1.0 - power);
                if rho > 5.0 {
                    let r = ((rho - 4.0) * (rho - 2.0) * 19.0 / (15.0 * 17.0 * rho)).sqrt();
                    w - LR * r * (1.0 - power).sqrt() / c1 * m / (s.sqrt() + 1e-16)
                } else {
                    w - LR * m / c1
                }
            });
            agree("adabelief", AdaBelief { beta2: 0.9, rectify: true, ..AdaBelief::default() }, expected)
        }),
        Trial::test("formula::ftrl_shrinks", || {
            let (mut n, mut z) = (0.1f64, 0.0f64);
            let expected = formula(|_, g, w| {
                let after = n + g * g;
                z += g + 2.0 * 0.3 * w - (after.sqrt() - n.sqrt()) / LR * w;
                n = after;
                (z.clamp(-0.05, 0.05) - z) / ((n.sqrt() + 1.0) / LR + 0.4)
            });
            let rule = Ftrl { l1: 0.05, l2: 0.4, l2_shrinkage: 0.3, beta: 1.0, ..Ftrl::default() };
            agree("ftrl", rule, expected)
        }),
    ]
}
