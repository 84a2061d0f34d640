//! Files of pytorch-optimizer.

use crate::rules::{
    AccSgd, AdEmaMix, AdaBelief, AdaBound, AdaMod, AdaPnm, Adan, Adopt, AggMo, DiffGrad, Fromage, Ftrl, LaProp, Lamb,
    Lars, Lion, Madgrad, Momentum, NovoGrad, Pid, Pnm, QhAdam, Qhm, RAdam, ScheduleFree, Sgd, Signum, Yogi,
};
use crate::{AnyRule, Settings, WeightDecay};
use serde_json::Value;

use super::{Hyper, Setup, Skip, decay, plain, unknown};

pub(super) fn setup(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    let optimizer = h.case.optimizer.as_str();
    let rule = match optimizer {
        "Fromage" => Fromage::pytorch_optimizer().into(),
        "LARS" => Lars {
            momentum: h.number("momentum")?,
            nesterov: h.flag("nesterov")?,
            trust_coefficient: h.number("trust_coefficient")?,
            eps: 0.0,
        }
        .into(),
        "SGDW" | "SignSGD" | "QHM" | "AccSGD" | "PID" | "PNM" | "AggMo" | "FTRL" | "MADGRAD" => of_momentum(h)?,
        _ => of_moments(h)?,
    };
    let lambda = h.number_or("weight_decay", 0.0)?;
    // Both have their own way with a decay that is not decoupled.
    let own = ["Lamb", "Adan"].contains(&optimizer);
    let weight_decay = decay(h.flag_or("weight_decouple", true)? || own, lambda);
    if optimizer == "SGDW" && matches!(weight_decay, WeightDecay::L2(_)) {
        return Err(format!("`weight_decay` = {lambda} without `weight_decouple` is not implemented"));
    }
    let settings = Settings { weight_decay, ..Settings::lr(h.number("lr")?) };
    let off = ["fixed_decay", "maximize", "ams_bound", "use_palm", "rectify", "adam", "pre_norm"]
        .map(|key| (key, false.into()));
    let zero = ["dampening", "max_grad_norm", "decoupling_c", "warmup_steps"].map(|key| (key, 0.into()));
    // What ScheduleFree keeps there of its state, before the first step.
    let begun = [("train_mode", true.into()), ("weight_sum", 0.into()), ("lr_max", (-1).into())];
    let unset = [("t_alpha_beta3", Value::Null)];
    h.finish(&[&off[..], &zero, &begun, &unset].concat())?;
    // The paper leaves vectors to plain momentum.
    let vectors = match optimizer {
        "LARS" if weight_decay != WeightDecay::None => return Err("`weight_decay` is not implemented".into()),
        "LARS" => Some(Momentum { nesterov: h.flag("nesterov")?, ..Momentum::keras(h.number("momentum")?) }.into()),
        _ => None,
    };
    Ok(Setup { vectors, ..plain(rule, settings) })
}

fn of_momentum(h: &mut Hyper<'_>) -> Result<AnyRule, Skip> {
    Ok(match h.case.optimizer.as_str() {
        "SGDW" => match (h.number("momentum")?, h.flag("nesterov")?) {
            (0.0, _) => Sgd.into(),
            (momentum, nesterov) => Momentum { nesterov, ..Momentum::torch(momentum) }.into(),
        },
        "SignSGD" => Signum { momentum: h.number("momentum")? }.into(),
        "QHM" => Qhm { momentum: h.number("momentum")?, nu: h.number("nu")? }.into(),
        "AccSGD" => AccSgd { kappa: h.number("kappa")?, xi: h.number("xi")?, constant: h.number("constant")? }.into(),
        "PID" => Pid {
            momentum: h.number("momentum")?,
            dampening: h.number("dampening")?,
            integral: h.number("integral")?,
            derivative: h.number("derivative")?,
        }
        .into(),
        "PNM" => {
            let (beta1, beta2) = h.pair("betas")?;
            Pnm { beta1, beta2 }.into()
        }
        "AggMo" => AggMo { betas: h.three("betas")? }.into(),
        "FTRL" => {
            let power = h.number("lr_power")?;
            if power != -0.5 {
                return Err(format!("`lr_power` = {power} is not implemented"));
            }
            let (l1, l2) = (h.number("lambda_1")?, h.number("lambda_2")?);
            Ftrl { l1, l2, beta: h.number("beta")?, ..Ftrl::pytorch_optimizer() }.into()
        }
        "MADGRAD" => Madgrad { momentum: h.number("momentum")?, eps: h.number("eps")? }.into(),
        _ => return unknown(h.case),
    })
}

fn of_moments(h: &mut Hyper<'_>) -> Result<AnyRule, Skip> {
    let optimizer = h.case.optimizer.as_str();
    if optimizer == "Tiger" {
        return Ok(Signum { momentum: h.number("beta")? }.into());
    }
    if optimizer.starts_with("ScheduleFree") {
        let (beta1, beta2) = match optimizer {
            "ScheduleFreeSGD" => (h.number("momentum")?, None),
            "ScheduleFreeAdamW" => h.pair("betas").map(|(beta1, beta2)| (beta1, Some(beta2)))?,
            _ => return unknown(h.case),
        };
        let (r, weight_lr_power) = (h.number("r")?, h.number("weight_lr_power")?);
        let eps_root = ADDED_TO_SQUARES;
        let eps = h.number("eps")?;
        return Ok(ScheduleFree { beta1, beta2, eps, eps_root, r, weight_lr_power, warmup: 0 }.into());
    }
    let (beta1, beta2) = match h.three("betas") {
        Ok([beta1, beta2, _]) => (beta1, beta2),
        Err(_) => h.pair("betas").or_else(|_| unknown(h.case))?,
    };
    let beta3 = h.three("betas").map(|betas| betas[2]);
    let eps = h.number_or("eps", 0.0)?;
    Ok(match optimizer {
        "NovoGrad" => {
            let grad_averaging = h.flag("grad_averaging")?;
            NovoGrad { beta1, beta2, eps, grad_averaging, ..NovoGrad::paper() }.into()
        }
        "Lion" => Lion { beta1, beta2 }.into(),
        "AdEMAMix" => {
            AdEmaMix { beta1, beta2, beta3: beta3?, alpha: h.number("alpha")?, eps, ..AdEmaMix::default() }.into()
        }
        "RAdam" => RAdam { beta1, beta2, eps, ..RAdam::pytorch_optimizer() }.into(),
        "AdaBelief" => AdaBelief { beta1, beta2, eps, eps_root: eps, rectify: h.flag("rectify")? }.into(),
        "ADOPT" => Adopt { beta1, beta2, eps, ..Adopt::pytorch_optimizer() }.into(),
        "Adan" => {
            let proximal = !h.flag("weight_decouple")?;
            Adan { beta1, beta2, beta3: beta3?, eps, proximal, ..Adan::default() }.into()
        }
        "Lamb" if h.flag("grad_averaging")? => {
            // It belongs to `pre_norm`, which is off.
            h.read.push("max_grad_norm");
            let decay_outside = h.flag("weight_decouple")?;
            Lamb { beta1, beta2, eps, trust_eps: eps, decay_outside, ..Lamb::pytorch_optimizer() }.into()
        }
        "Yogi" => Yogi { beta1, beta2, eps, initial_accumulator: h.number("initial_accumulator")? }.into(),
        "LaProp" => LaProp { beta1, beta2, eps, centered: h.flag("centered")?, ..LaProp::default() }.into(),
        "AdaBound" => {
            let (final_lr, gamma, amsbound) = (h.number("final_lr")?, h.number("gamma")?, h.flag("ams_bound")?);
            AdaBound { beta1, beta2, eps, final_lr, gamma, amsbound, ..AdaBound::default() }.into()
        }
        "AdaMod" => AdaMod { beta1, beta2, beta3: beta3?, eps }.into(),
        "DiffGrad" if !h.flag("rectify")? => DiffGrad { beta1, beta2, eps, ..DiffGrad::default() }.into(),
        "AdaPNM" => {
            let amsgrad = h.flag("ams_bound")?;
            AdaPnm { beta1, beta2, beta3: beta3?, eps, amsgrad, ..AdaPnm::default() }.into()
        }
        "QHAdam" => {
            let (nu1, nu2) = h.pair("nus")?;
            QhAdam { beta1, beta2, nu1, nu2, eps }.into()
        }
        _ => return unknown(h.case),
    })
}

/// pytorch-optimizer adds it under many roots.
const ADDED_TO_SQUARES: f64 = 1e-15;
