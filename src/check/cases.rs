//! From a golden file's optimizer and hyperparameters to our rule and settings, or to the reason why there is none.

use crate::rules::{
    AdaDelta, AdaGrad, AdaGradNorm, AdaMax, Adam, Amsgrad, Ftrl, Lamb, Lion, Momentum, NAdam, RmsProp, ScheduleFree,
    Sgd,
};
use crate::{AnyRule, Averaging, ClipNorm, Error, Extent, Precision, Settings, WeightDecay, from_torch};
use serde_json::Value;

use super::golden::Case;
use super::hyper::{Hyper, Skip, equal};

mod bitsandbytes;
mod optax;
mod pytorch_optimizer;
mod states;

pub(crate) use states::state_name;

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
    /// An average of the parameters, which the file has in the place of the look-ahead point.
    pub(crate) averaging: Option<Averaging>,
    /// Vectors have a group of their own, with this rule.
    pub(crate) vectors: Option<AnyRule>,
    /// Sophia's estimate of the Hessian is the square of the gradient.
    pub(crate) squares: bool,
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
        "optax" => optax::setup(&mut hyper),
        "textbook" => textbook(&mut hyper),
        "bitsandbytes" => bitsandbytes::bitsandbytes(&mut hyper),
        "pytorch-optimizer" => pytorch_optimizer::setup(&mut hyper),
        "torchao" => bitsandbytes::torchao(&mut hyper),
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
        averaging: None,
        vectors: None,
        squares: false,
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
        "Ftrl" => Ftrl {
            initial_accumulator_value: h.number("initial_accumulator_value")?,
            l1: h.number("l1_regularization_strength")?,
            l2: 2.0 * h.number("l2_regularization_strength")?,
            l2_shrinkage: h.number("l2_shrinkage_regularization_strength")?,
            beta: h.number("beta")?,
        }
        .into(),
        "ScheduleFreeAdamW" => {
            let (beta1, beta2) = (h.number("beta_1")?, Some(h.number("beta_2")?));
            // Its weights are all 1.
            let (warmup, weight_lr_power) = (h.number("warmup_steps")? as u64, 0.0);
            ScheduleFree { beta1, beta2, eps: h.number("epsilon")?, warmup, weight_lr_power, ..ScheduleFree::adamw() }
                .into()
        }
        _ => return unknown(h.case),
    };
    let weight_decay = decay(true, h.number_or("weight_decay", 0.0)?);
    // Keras divides the gradients by the factor on the loss.
    let grad_scale = 1.0 / h.number_or("loss_scale_factor", 1.0)?;
    let clip_value = h.value("clipvalue").and_then(Value::as_f64);
    let clip_norm = h.value("clipnorm").and_then(Value::as_f64).map(ClipNorm::optax);
    let clip = h.value("global_clipnorm").and_then(Value::as_f64).map(ClipNorm::optax);
    let lr = Settings::lr(h.number("learning_rate")?);
    let settings = Settings { weight_decay, grad_scale, clip_value, clip_norm, ..lr };
    let neutral = [
        ("use_ema", false.into()),
        ("gradient_accumulation_steps", Value::Null),
        ("learning_rate_power", (-0.5).into()),
    ];
    // What these say matters with use_ema alone.
    h.read.extend(["ema_momentum", "ema_overwrite_frequency"]);
    h.finish(&neutral)?;
    Ok(Setup { clip, ..plain(rule, settings) })
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
        "SGD" | "PolyakAveraging" => Sgd.into(),
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
    let averaging = (optimizer == "PolyakAveraging").then_some(Averaging::Swa { from: 1, every: 1 });
    Ok(Setup { schedule, look_ahead, flipped_momentum, averaging, ..plain(rule, settings) })
}
