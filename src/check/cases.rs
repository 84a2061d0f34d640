//! From a golden file's optimizer and hyperparameters to our rule and settings, or to the reason why there is none.

use crate::rules::{
    AdEmaMix, AdaDelta, AdaGrad, AdaGradNorm, AdaMax, Adam, Amsgrad, Lamb, Lars, Lion, Momentum, NAdam, NovoGrad,
    RmsProp, Sgd,
};
use crate::{AdaptiveClip, AnyRule, ClipNorm, Error, Extent, Precision, Settings, States, WeightDecay, from_torch};
use serde_json::Value;

use super::golden::Case;
use super::hyper::{Hyper, Skip, equal};

/// How one case runs here.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) rule: AnyRule,
    pub(crate) settings: Settings,
    pub(crate) precision: Precision,
    pub(crate) schedule: Schedule,
    /// Of all gradients together.
    pub(crate) clip: Option<ClipNorm>,
    /// Gradients of the file that one step takes the mean of.
    pub(crate) batches: u64,
    /// Shift to the look-ahead point before each gradient.
    pub(crate) look_ahead: bool,
    /// The file's velocity points along the step, ours against it.
    pub(crate) flipped_momentum: bool,
}

/// The textbook files' learning rate by step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Schedule {
    Constant,
    InverseSqrt,
    InverseTime,
    InverseLinear(f64),
}

impl Schedule {
    pub(crate) fn factor(self, t: u64) -> f64 {
        let t = t as f64;
        match self {
            Self::Constant => 1.0,
            Self::InverseSqrt => 1.0 / t.sqrt(),
            Self::InverseTime => 1.0 / t,
            Self::InverseLinear(decay) => 1.0 / (1.0 + decay * t),
        }
    }
}

/// How a case runs here, or why it does not.
pub(crate) fn setup(case: &Case) -> Result<Setup, Skip> {
    let mut hyper = Hyper::new(case);
    match case.library.as_str() {
        "torch" => torch(&mut hyper),
        "keras" => keras(&mut hyper),
        "optax" => optax(&mut hyper),
        "textbook" => textbook(&mut hyper),
        "bitsandbytes" => bitsandbytes(&mut hyper),
        "pytorch-optimizer" => kozistr(&mut hyper),
        "torchao" => torchao(&mut hyper),
        other => Err(format!("library {other:?} is not known")),
    }
}

fn plain(rule: impl Into<AnyRule>, settings: Settings) -> Setup {
    let rule = rule.into();
    Setup {
        rule,
        settings,
        precision: Precision::f32(),
        schedule: Schedule::Constant,
        clip: None,
        batches: 1,
        look_ahead: false,
        flipped_momentum: false,
    }
}

fn unknown<T>(case: &Case) -> Result<T, Skip> {
    Err(format!("optimizer `{}` is not implemented", case.optimizer))
}

fn decay(decoupled: bool, lambda: f64) -> WeightDecay {
    match (decoupled, lambda) {
        (_, 0.0) => WeightDecay::None,
        (true, lambda) => WeightDecay::Decoupled(lambda),
        (false, lambda) => WeightDecay::L2(lambda),
    }
}

fn torch(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    let group = Value::Object(h.case.hyper.clone()).to_string();
    match from_torch(&h.case.optimizer, &group) {
        Ok((rule, settings)) => Ok(plain(rule, settings)),
        Err(Error::UnknownRule { .. }) => unknown(h.case),
        Err(e) => Err(e.to_string()),
    }
}

fn keras(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    let rule: AnyRule = match h.case.optimizer.as_str() {
        "SGD" => match (h.number("momentum")?, h.flag("nesterov")?) {
            (0.0, _) => Sgd.into(),
            (momentum, nesterov) => Momentum { nesterov, ..Momentum::keras(momentum) }.into(),
        },
        "Adagrad" => AdaGrad {
            initial_accumulator_value: h.number("initial_accumulator_value")?,
            eps: h.number("epsilon")?,
            ..AdaGrad::keras()
        }
        .into(),
        "RMSprop" => RmsProp {
            alpha: h.number("rho")?,
            eps: h.number("epsilon")?,
            centered: h.flag("centered")?,
            momentum: h.number("momentum")?,
            ..RmsProp::keras()
        }
        .into(),
        "Adadelta" => AdaDelta { rho: h.number("rho")?, eps: h.number("epsilon")? }.into(),
        "Adam" | "AdamW" => {
            let (beta1, beta2) = (h.number("beta_1")?, h.number("beta_2")?);
            let amsgrad = h.flag("amsgrad")?.then_some(Amsgrad::Raw);
            Adam { beta1, beta2, eps: h.number("epsilon")?, amsgrad, ..Adam::keras() }.into()
        }
        "Adamax" => {
            let (beta1, beta2) = (h.number("beta_1")?, h.number("beta_2")?);
            AdaMax { beta1, beta2, eps: h.number("epsilon")?, ..AdaMax::keras() }.into()
        }
        "Lion" => Lion { beta1: h.number("beta_1")?, beta2: h.number("beta_2")? }.into(),
        "Nadam" => {
            let (beta1, beta2) = (h.number("beta_1")?, h.number("beta_2")?);
            NAdam { beta1, beta2, eps: h.number("epsilon")?, ..NAdam::keras() }.into()
        }
        "Lamb" => {
            let (beta1, beta2) = (h.number("beta_1")?, h.number("beta_2")?);
            Lamb { beta1, beta2, eps: h.number("epsilon")?, ..Lamb::keras() }.into()
        }
        _ => return unknown(h.case),
    };
    let weight_decay = decay(true, h.number_or("weight_decay", 0.0)?);
    if weight_decay != WeightDecay::None && rule.reduce().is_some() {
        return Err("`weight_decay` outside the trust ratio is not implemented".into());
    }
    // Keras divides the gradients by the factor on the loss.
    let grad_scale = 1.0 / h.number_or("loss_scale_factor", 1.0)?;
    let clip_value = h.value("clipvalue").and_then(Value::as_f64);
    let clip_norm = h.value("clipnorm").and_then(Value::as_f64).map(ClipNorm::optax);
    let clip = h.value("global_clipnorm").and_then(Value::as_f64).map(ClipNorm::optax);
    let lr = Settings::lr(h.number("learning_rate")?);
    let settings = Settings { weight_decay, grad_scale, clip_value, clip_norm, ..lr };
    let neutral = [("use_ema", false.into()), ("gradient_accumulation_steps", Value::Null)];
    // What these say matters with use_ema alone.
    h.read.extend(["ema_momentum", "ema_overwrite_frequency"]);
    h.finish(&neutral)?;
    Ok(Setup { clip, ..plain(rule, settings) })
}

fn optax(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
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
            Lamb { beta1, beta2, eps: h.number("eps")?, eps_root: h.number("eps_root")? }.into()
        }
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
    // adadelta adds the decay before the scaling (L2), the …w after it (decoupled).
    let decoupled = optimizer.ends_with('w') || ["lamb", "novograd", "lion", "ademamix"].contains(&rule.name());
    let weight_decay = decay(decoupled, h.number_or("weight_decay", 0.0)?);
    let settings = Settings { weight_decay, adaptive_clip, ..Settings::lr(h.number("learning_rate")?) };
    let mut neutral = vec![("bias_correction", false.into()), ("nesterov", false.into())];
    // All tensors are decayed and scaled; a chain is told apart by its name, and its other numbers are read.
    neutral.extend(["weight_decay_mask", "trust_ratio_mask"].map(|key| (key, true.into())));
    if optimizer.starts_with("chain") || batches > 1 {
        h.read.push("chain");
    }
    neutral.extend(["mu_dtype", "accumulator_dtype", "mask", "weight_decay_mask"].map(|key| (key, Value::Null)));
    h.finish(&neutral)?;
    Ok(Setup { clip, batches, flipped_momentum: optimizer == "rmsprop", ..plain(rule, settings) })
}

fn textbook(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    let optimizer = h.case.optimizer.as_str();
    let schedule = match h.value("schedule").and_then(Value::as_str).unwrap_or("const") {
        "const" => Schedule::Constant,
        "inv_sqrt" => Schedule::InverseSqrt,
        "inv_t" => Schedule::InverseTime,
        "inv_linear" => Schedule::InverseLinear(h.number("decay")?),
        other => return Err(format!("`schedule` = {other:?} is not implemented")),
    };
    // `decay` is the inverse-linear schedule's alone.
    h.read.push("decay");
    let mut settings = Settings::lr(h.number_or("lr", 1.0)?);
    let form = h.value("form").and_then(Value::as_str).map(str::to_owned);
    let unknown_form = Err(format!("`form` = {form:?} is not implemented"));
    let rule: AnyRule = match optimizer {
        "SGD" => Sgd.into(),
        "ClassicalMomentum" | "NesterovLookahead" => Momentum::keras(h.number("rho")?).into(),
        "HeavyBall" => Momentum::heavy_ball(h.number("rho")?).into(),
        "EmaMomentum" => Momentum::ema(h.number("beta")?).into(),
        "AdaGrad" => AdaGrad { eps: h.number("eps")?, eps_inside: h.flag("eps_inside")?, ..AdaGrad::torch() }.into(),
        "RMSProp" => {
            let (alpha, eps) = (h.number("rho")?, h.number("eps")?);
            RmsProp { alpha, eps, eps_inside: h.flag("eps_inside")?, ..RmsProp::torch() }.into()
        }
        "GravesRMSProp" => {
            let (alpha, momentum) = (h.number("rho")?, h.number("mu")?);
            RmsProp { alpha, momentum, eps: h.number("eps")?, ..RmsProp::graves() }.into()
        }
        "AdaDelta" => AdaDelta { rho: h.number("rho")?, eps: h.number("eps")? }.into(),
        "Adam" | "AMSGrad" => {
            let (beta1, beta2, eps) = (h.number("b1")?, h.number("b2")?, h.number("eps")?);
            let base = match (optimizer, form.as_deref()) {
                ("Adam", Some("paper") | None) => Adam::torch(),
                ("Adam", Some("no_bias_correction")) => Adam::uncorrected(),
                ("Adam", Some("eps_hat")) => Adam::keras(),
                ("Adam", Some("decoupled_paper")) => {
                    settings.lr_factor = h.number("eta")?;
                    settings.weight_decay = WeightDecay::DecoupledFromLr(h.number("wd")?);
                    Adam::torch()
                }
                ("AMSGrad", Some("reddi")) => Adam::amsgrad_reddi(),
                ("AMSGrad", Some("mhat")) => Adam::amsgrad_mhat(),
                ("AMSGrad", Some("max_of_vhat")) => Adam::amsgrad_optax(),
                _ => return unknown_form,
            };
            Adam { beta1, beta2, eps, ..base }.into()
        }
        "AdaMax" => AdaMax { beta1: h.number("b1")?, beta2: h.number("b2")?, ..AdaMax::paper() }.into(),
        "Nadam" => {
            let (beta1, beta2) = (h.number("b1")?, h.number("b2")?);
            NAdam { beta1, beta2, eps: h.number("eps")?, ..NAdam::optax() }.into()
        }
        "Lamb" => {
            settings.weight_decay = decay(true, h.number("wd")?);
            Lamb { beta1: h.number("b1")?, beta2: h.number("b2")?, eps: h.number("eps")?, ..Lamb::optax() }.into()
        }
        "Lion" => {
            settings.weight_decay = decay(true, h.number("wd")?);
            Lion { beta1: h.number("b1")?, beta2: h.number("b2")? }.into()
        }
        "AdaGradNorm" => {
            let over = match h.value("scope").and_then(Value::as_str) {
                Some("global") => Extent::Group,
                Some("tensor") => Extent::Tensor,
                other => return Err(format!("`scope` = {other:?} is not implemented")),
            };
            AdaGradNorm { b0: h.number("b0")?, over }.into()
        }
        _ => return unknown(h.case),
    };
    h.finish(&[])?;
    let look_ahead = optimizer == "NesterovLookahead";
    let flipped_momentum = optimizer == "GravesRMSProp";
    Ok(Setup { schedule, look_ahead, flipped_momentum, ..plain(rule, settings) })
}

fn bitsandbytes(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    let (beta1, beta2) = h.pair("betas")?;
    let one_beta = if beta2 == 0.0 { Ok(beta1) } else { Err(format!("`betas[1]` = {beta2} is not implemented")) };
    let (name, bits) = match h.case.optimizer.strip_suffix("8bit") {
        Some(name) => (name, 8),
        None => (h.case.optimizer.as_str(), 32),
    };
    let mut settings = Settings::lr(h.number("lr")?);
    if bits == 8 && ["AdamW", "Lion", "AdEMAMix"].contains(&name) {
        // Its kernel for the CPU decays before the step, as ours; the one in 32 bits behind it.
        settings.weight_decay = decay(true, h.number("weight_decay")?);
    }
    let rule: AnyRule = match name {
        "Adam" | "AdamW" => Adam { beta1, beta2, eps: h.number("eps")?, ..Adam::torch() }.into(),
        "Lion" => {
            h.read.push("eps");
            Lion { beta1, beta2 }.into()
        }
        "AdEMAMix" => {
            let ([.., beta3], alpha, eps) = (h.three("betas")?, h.number("alpha")?, h.number("eps")?);
            AdEmaMix { beta1, beta2, beta3, alpha, eps, ..AdEmaMix::default() }.into()
        }
        "RMSprop" => RmsProp { alpha: one_beta?, eps: h.number("eps")?, ..RmsProp::torch() }.into(),
        "SGD" => {
            h.read.extend(["momentum", "eps"]);
            Momentum::torch(one_beta?).into()
        }
        _ => return unknown(h.case),
    };
    h.read.push("min_8bit_size");
    if let Some(args) = h.value("args").cloned() {
        let neutral = |key: &str, value: &Value| match key {
            "optim_bits" => equal(value, &bits.into()),
            "max_unorm" => equal(value, &0.into()),
            "skip_zeros" => *value == Value::Bool(false),
            "min_8bit_size" => true,
            _ => false,
        };
        for (key, value) in args.as_object().into_iter().flatten() {
            if !neutral(key, value) {
                return Err(format!("`args.{key}` = {value} is not implemented"));
            }
        }
    }
    h.finish(&[("weight_decay", 0.into()), ("alpha", 0.into()), ("t_alpha", Value::Null), ("t_beta3", Value::Null)])?;
    let states = if bits == 8 { States::BitsandbytesCpu } else { States::F32 };
    Ok(Setup { precision: Precision { states, min_8bit_size: 1, ..Precision::f32() }, ..plain(rule, settings) })
}

fn torchao(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    let rule: AnyRule = match h.case.optimizer.as_str() {
        "Adam8bit" | "AdamW8bit" => {
            let (beta1, beta2) = h.pair("betas")?;
            Adam { beta1, beta2, eps: h.number("eps")?, ..Adam::torch() }.into()
        }
        _ => return Err(format!("`{}` has states in a format that is not implemented", h.case.optimizer)),
    };
    let decoupled = h.case.optimizer.starts_with("AdamW");
    let settings =
        Settings { weight_decay: decay(decoupled, h.number("weight_decay")?), ..Settings::lr(h.number("lr")?) };
    h.finish(&[("amsgrad", false.into()), ("block_size", 256.into())])?;
    let precision = Precision { states: States::Torchao, min_8bit_size: 256, ..Precision::f32() };
    Ok(Setup { precision, ..plain(rule, settings) })
}

fn kozistr(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
    if h.case.optimizer == "NovoGrad" {
        let (beta1, beta2) = h.pair("betas")?;
        let grad_averaging = h.flag("grad_averaging")?;
        let rule = NovoGrad { beta1, beta2, eps: h.number("eps")?, grad_averaging, ..NovoGrad::paper() };
        let settings = Settings::lr(h.number("lr")?);
        h.finish(&[("weight_decay", 0.into()), ("weight_decouple", false.into()), ("fixed_decay", false.into())])?;
        return Ok(plain(rule, settings));
    }
    if h.case.optimizer == "Lion" {
        let (beta1, beta2) = h.pair("betas")?;
        let weight_decay = decay(h.flag("weight_decouple")?, h.number("weight_decay")?);
        let settings = Settings { weight_decay, ..Settings::lr(h.number("lr")?) };
        h.finish(&[("fixed_decay", false.into())])?;
        return Ok(plain(Lion { beta1, beta2 }, settings));
    }
    if h.case.optimizer == "AdEMAMix" {
        let [beta1, beta2, beta3] = h.three("betas")?;
        let (alpha, eps) = (h.number("alpha")?, h.number("eps")?);
        let settings = Settings::lr(h.number("lr")?);
        let neutral = [("weight_decay", 0.into()), ("weight_decouple", false.into()), ("fixed_decay", false.into())];
        h.finish(&[&neutral[..], &[("t_alpha_beta3", Value::Null)]].concat())?;
        return Ok(plain(AdEmaMix { beta1, beta2, beta3, alpha, eps, ..AdEmaMix::default() }, settings));
    }
    if h.case.optimizer != "SGDW" {
        return unknown(h.case);
    }
    let rule: AnyRule = match (h.number("momentum")?, h.flag("nesterov")?) {
        (0.0, _) => Sgd.into(),
        (momentum, nesterov) => Momentum { nesterov, ..Momentum::torch(momentum) }.into(),
    };
    let weight_decay = decay(h.flag("weight_decouple")?, h.number("weight_decay")?);
    if let WeightDecay::L2(lambda) = weight_decay {
        return Err(format!("`weight_decay` = {lambda} without `weight_decouple` is not implemented"));
    }
    let settings = Settings { weight_decay, ..Settings::lr(h.number("lr")?) };
    h.finish(&[("maximize", false.into()), ("dampening", 0.into())])?;
    Ok(plain(rule, settings))
}

/// Our name for a state in the file, the tensor that it is of (all of them: `None`), and its sign.
pub(crate) fn state_name(case: &Case, setup: &Setup, key: &str) -> Option<(&'static str, Option<usize>, f64)> {
    let (name, tensor) = match case.library.as_str() {
        "keras" => {
            let (tensor, name) = key.split_once("/p")?.1.split_once('_')?;
            (name, Some(tensor.parse().ok()?))
        }
        "optax" => {
            let (name, tensor) = key.rsplit_once('.')?.1.strip_suffix(']')?.split_once('[')?;
            (name, Some(tensor.parse().ok()?))
        }
        _ => (key, None),
    };
    let states = setup.rule.states();
    let rule = setup.rule.name();
    let ours = match (rule, name) {
        (
            "adam" | "nadam" | "adamax" | "lamb" | "novograd" | "lion" | "ademamix",
            "m" | "m1" | "mu" | "momentum" | "moments" | "state1",
        ) => "exp_avg",
        ("ademamix", "m2") => "exp_avg_slow",
        ("adam" | "nadam" | "lamb" | "novograd" | "ademamix", "v" | "nu" | "velocity" | "grads_ema" | "state2") => {
            "exp_avg_sq"
        }
        ("lars", "trace") => "momentum_buffer",
        ("adam", "vmax" | "nu_max" | "velocity_hat") => "max_exp_avg_sq",
        ("adamax", "u" | "nu" | "norm") => "exp_inf",
        ("momentum" | "rmsprop", "trace" | "momentum" | "delta") | ("momentum", "v" | "m" | "state1") => {
            "momentum_buffer"
        }
        ("rmsprop", "s" | "n" | "nu" | "velocity" | "state1") => "square_avg",
        ("rmsprop", "gbar" | "mu" | "average_gradient") => "grad_avg",
        ("adagrad", "s" | "sum_of_squares" | "accumulator") => "sum",
        ("adadelta", "Eg2" | "e_g" | "accumulated_grad") => "square_avg",
        ("adadelta", "Ed2" | "e_x" | "accumulated_delta_var") => "acc_delta",
        _ => states.iter().copied().find(|state| *state == name)?,
    };
    let sign = if setup.flipped_momentum && ours == "momentum_buffer" { -1.0 } else { 1.0 };
    states.contains(&ours).then_some((ours, tensor, sign))
}
