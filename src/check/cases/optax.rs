//! Files of optax.

use crate::rules::{
    AcProp, AdEmaMix, AdaBelief, AdaDelta, AdaGrad, AdaMax, Adam, Adan, Adopt, Amsgrad, Cocob, Fromage, Lamb, Lars,
    Lion, Madgrad, Momentum, NAdam, NovoGrad, OptimisticGradientDescent, RAdam, RmsProp, Rprop, ScheduleFree, Sgd,
    Signum, Sophia, Yogi,
};
use crate::{AdaptiveClip, AnyRule, ClipNorm, Settings};
use serde_json::Value;

use super::{Hyper, Setup, Skip, decay, plain, unknown};

pub(super) fn setup(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    let optimizer = h.case.optimizer.as_str();
    let rule: AnyRule = match optimizer {
        "sgd" => match (h.number_or("momentum", 0.0)?, h.flag("nesterov")?) {
            (0.0, _) => Sgd.into(),
            (momentum, nesterov) => Momentum { nesterov, ..Momentum::torch(momentum) }.into(),
        },
        "adagrad" => AdaGrad {
            initial_accumulator_value: h.number("initial_accumulator_value")?,
            eps: h.number("eps")?,
            ..AdaGrad::optax()
        }
        .into(),
        "rmsprop" => RmsProp {
            alpha: h.number("decay")?,
            eps: h.number("eps")?,
            eps_inside: h.flag_or("eps_in_sqrt", true)?,
            centered: h.flag("centered")?,
            momentum: h.number_or("momentum", 0.0)?,
            initial: h.number_or("initial_scale", 0.0)?,
            ..RmsProp::optax()
        }
        .into(),
        "adadelta" => AdaDelta { rho: h.number("rho")?, eps: h.number("eps")? }.into(),
        "adam" | "adamw" | "nadam" | "nadamw" | "amsgrad" => {
            let (beta1, beta2, eps) = (h.number("b1")?, h.number("b2")?, h.number("eps")?);
            let eps_root = h.number_or("eps_root", 0.0)?;
            let nesterov = h.flag("nesterov")? || optimizer.starts_with("nadam");
            let mut adam = Adam { beta1, beta2, eps, eps_root, ..Adam::optax() };
            if optimizer == "amsgrad" {
                adam.amsgrad = Some(Amsgrad::Corrected);
                adam.bias_correction_m = h.flag_or("bias_correction_mu", true)?;
                adam.bias_correction_v = h.flag_or("bias_correction_nu", true)?;
            }
            match nesterov {
                true => NAdam { beta1, beta2, eps, eps_root, momentum_decay: None }.into(),
                false => adam.into(),
            }
        }
        "adamax" | "adamaxw" => {
            let (beta1, beta2) = (h.number("b1")?, h.number("b2")?);
            AdaMax { beta1, beta2, eps: h.number("eps")?, ..AdaMax::optax() }.into()
        }
        "lamb" => {
            let (beta1, beta2) = (h.number("b1")?, h.number("b2")?);
            Lamb { beta1, beta2, eps: h.number("eps")?, eps_root: h.number("eps_root")?, ..Lamb::optax() }.into()
        }
        "fromage" => Fromage { min_norm: h.number("min_norm")? }.into(),
        "lion" => Lion { beta1: h.number("b1")?, beta2: h.number("b2")? }.into(),
        "ademamix" => AdEmaMix {
            beta1: h.number("b1")?,
            beta2: h.number("b2")?,
            beta3: h.number("b3")?,
            alpha: h.number("alpha")?,
            eps: h.number("eps")?,
            eps_root: h.number("eps_root")?,
            ..AdEmaMix::default()
        }
        .into(),
        "novograd" => {
            let (beta1, beta2, eps) = (h.number("b1")?, h.number("b2")?, h.number("eps")?);
            NovoGrad { beta1, beta2, eps, eps_root: h.number("eps_root")?, grad_averaging: false }.into()
        }
        "lars" => Lars {
            momentum: h.number("momentum")?,
            nesterov: h.flag("nesterov")?,
            trust_coefficient: h.number("trust_coefficient")?,
            eps: h.number("eps")?,
        }
        .into(),
        "sign_sgd" => Signum::sign_sgd().into(),
        "signum" => Signum { momentum: h.number("beta")? }.into(),
        "radam" => {
            let (beta1, beta2, eps) = (h.number("b1")?, h.number("b2")?, h.number("eps")?);
            RAdam { beta1, beta2, eps, eps_root: h.number("eps_root")?, ..RAdam::optax() }.into()
        }
        "adabelief" => {
            let (beta1, beta2, eps) = (h.number("b1")?, h.number("b2")?, h.number("eps")?);
            AdaBelief { beta1, beta2, eps, eps_root: h.number("eps_root")?, rectify: false }.into()
        }
        "acprop" => {
            let (beta1, beta2, eps) = (h.number("b1")?, h.number("b2")?, h.number("eps")?);
            AcProp { beta1, beta2, eps, eps_root: h.number("eps_root")? }.into()
        }
        "adan" => {
            let (beta1, beta2, beta3) = (h.number("b1")?, h.number("b2")?, h.number("b3")?);
            let (eps, eps_root) = (h.number("eps")?, h.number("eps_root")?);
            Adan { beta1, beta2, beta3, eps, eps_root, kappa: Some(1.0 - beta2), ..Adan::optax() }.into()
        }
        "adopt" => {
            // As a text, and the default.
            h.read.push("clip_value_fn");
            let (beta1, beta2, eps) = (h.number("b1")?, h.number("b2")?, h.number("eps")?);
            Adopt { beta1, beta2, eps, clipping: h.flag("use_clipping")?, ..Adopt::optax() }.into()
        }
        "yogi" => {
            let (beta1, beta2) = (h.number("b1")?, h.number("b2")?);
            Yogi { beta1, beta2, eps: h.number("eps")?, ..Yogi::default() }.into()
        }
        "sophia" => {
            // As a text: the square of the gradient.
            h.read.push("hessian_diagonal_fn");
            Sophia {
                beta1: h.number("b1")?,
                beta2: h.number("b2")?,
                gamma: h.number("gamma")?,
                eps: h.number("eps")?,
                clip_threshold: h.number("clip_threshold")?,
                update_interval: h.number("update_interval")? as u64,
            }
            .into()
        }
        "rprop" => Rprop {
            eta_minus: h.number("eta_minus")?,
            eta_plus: h.number("eta_plus")?,
            step_min: h.number("min_step_size")?,
            step_max: h.number("max_step_size")?,
            ..Rprop::optax()
        }
        .into(),
        "madgrad" => Madgrad { momentum: h.number("momentum")?, eps: h.number("eps")? }.into(),
        "cocob" => Cocob { alpha: h.number("alpha")?, eps: h.number("eps")? }.into(),
        "optimistic_gradient_descent" => {
            OptimisticGradientDescent { alpha: h.number("alpha")?, beta: h.number("beta")? }.into()
        }
        "schedule_free_sgd" | "schedule_free_adamw" => {
            let beta2 = h.value("b2").and_then(Value::as_f64);
            let eps = h.number_or("eps", 1e-8)?;
            let (beta1, weight_lr_power) = (h.number("b1")?, h.number("weight_lr_power")?);
            ScheduleFree { beta1, beta2, eps, weight_lr_power, ..ScheduleFree::sgd() }.into()
        }
        "chain_clip_adam" | "multisteps_adam" => Adam::optax().into(),
        "chain_agc_sgd" => Sgd.into(),
        _ => return unknown(h.case),
    };
    let clip = match optimizer {
        "chain_clip_adam" => Some(ClipNorm::optax(h.number("max_norm")?)),
        _ => None,
    };
    let batches = if optimizer == "multisteps_adam" { h.number("every_k")? as u64 } else { 1 };
    let adaptive_clip = match optimizer {
        "chain_agc_sgd" => {
            let (clipping, eps) = (h.number("clipping")?, h.number("eps")?);
            Some(AdaptiveClip { eps, ..AdaptiveClip::optax(clipping) })
        }
        _ => None,
    };
    // These add the decay to the gradient (L2), the others behind their scaling (decoupled).
    let l2 = ["sgd", "adadelta", "lars", "chain_agc_sgd", "madgrad"].contains(&optimizer);
    let weight_decay = decay(!l2, h.number_or("weight_decay", 0.0)?);
    let settings = Settings { weight_decay, adaptive_clip, ..Settings::lr(h.number("learning_rate")?) };
    let mut neutral = vec![("bias_correction", false.into()), ("nesterov", false.into())];
    // All tensors are decayed and scaled; a chain is told apart by its name, and its other numbers are read.
    neutral.extend(["weight_decay_mask", "trust_ratio_mask"].map(|key| (key, true.into())));
    if optimizer.starts_with("chain") || batches > 1 {
        h.read.push("chain");
    }
    let unset = ["mu_dtype", "accumulator_dtype", "mask", "weight_decay_mask", "state_dtype", "warmup_steps"];
    neutral.extend(unset.map(|key| (key, Value::Null)));
    // RAdam's, below which the variance has no bound.
    neutral.push(("threshold", 5.into()));
    h.finish(&neutral)?;
    Ok(Setup {
        clip,
        batches,
        flipped_momentum: optimizer == "rmsprop",
        squares: optimizer == "sophia",
        ..plain(rule, settings)
    })
}
