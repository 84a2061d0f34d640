//! Translates PyTorch's parameter groups to rules and settings, and back. It knows the rules; they do not know it.

use serde_json::{Map, Value, json};

use crate::any_rule::AnyRule;
use crate::error::{Error, Result};
use crate::rules::{
    AdaDelta, AdaGrad, AdaMax, Adam, Amsgrad, Asgd, Momentum, MomentumForm, NAdam, RAdam, RmsProp, Rprop, Sgd,
};
use crate::settings::{Settings, WeightDecay};

/// Keys of a group that compute nothing: how PyTorch runs the step, what schedulers keep there, and names.
const BESIDE: [&str; 20] = [
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "params",
    "param_names",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_lr",
    "max_momentum",
    "base_momentum",
    "swa_lr",
    "name",
    "names",
    "group_name",
    "layer_id",
    "layer_name",
    // timm's schedulers multiply them into `lr`.
    "lr_mult",
    "lr_scale",
];

/// A parameter group of PyTorch's class.
struct Group<'a> {
    class: &'a str,
    of: &'a Map<String, Value>,
}

impl Group<'_> {
    fn get<T>(&self, key: &str, as_type: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let reason = || format!("a parameter group of PyTorch's {} has no `{key}`, or another kind of it", self.class);
        self.of.get(key).and_then(as_type).ok_or_else(|| Error::Checkpoint { reason: reason() })
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.get(key, Value::as_f64)
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.get(key, Value::as_bool)
    }

    fn flag_or_false(&self, key: &str) -> Result<bool> {
        if self.of.contains_key(key) { self.flag(key) } else { Ok(false) }
    }

    fn pair(&self, key: &str) -> Result<(f64, f64)> {
        self.get(key, |value| value[0].as_f64().zip(value[1].as_f64()))
    }

    fn betas(&self) -> Result<(f64, f64)> {
        self.pair("betas")
    }

    fn rule(&self) -> Result<AnyRule> {
        Ok(match self.class {
            "SGD" => match (self.number("momentum")?, self.flag("nesterov")?) {
                (0.0, false) => Sgd.into(),
                (momentum, nesterov) => {
                    let dampening = self.number("dampening")?;
                    Momentum { momentum, dampening, nesterov, form: MomentumForm::LrOutside }.into()
                }
            },
            "Adagrad" => {
                let initial_accumulator_value = self.number("initial_accumulator_value")?;
                let (lr_decay, eps) = (self.number("lr_decay")?, self.number("eps")?);
                AdaGrad { lr_decay, initial_accumulator_value, eps, eps_inside: false }.into()
            }
            "RMSprop" => {
                let (alpha, eps) = (self.number("alpha")?, self.number("eps")?);
                let (centered, momentum) = (self.flag("centered")?, self.number("momentum")?);
                RmsProp { alpha, eps, centered, momentum, ..RmsProp::torch() }.into()
            }
            "Adadelta" => AdaDelta { rho: self.number("rho")?, eps: self.number("eps")? }.into(),
            "Adam" | "AdamW" => {
                let ((beta1, beta2), eps) = (self.betas()?, self.number("eps")?);
                let amsgrad = self.flag("amsgrad")?.then_some(Amsgrad::Raw);
                Adam { beta1, beta2, eps, amsgrad, ..Adam::torch() }.into()
            }
            "Adamax" => {
                let ((beta1, beta2), eps) = (self.betas()?, self.number("eps")?);
                AdaMax { beta1, beta2, eps, ..AdaMax::torch() }.into()
            }
            "NAdam" => {
                let ((beta1, beta2), eps) = (self.betas()?, self.number("eps")?);
                let momentum_decay = Some(self.number("momentum_decay")?);
                NAdam { beta1, beta2, eps, momentum_decay, ..NAdam::torch() }.into()
            }
            "RAdam" => {
                let ((beta1, beta2), eps) = (self.betas()?, self.number("eps")?);
                RAdam { beta1, beta2, eps, ..RAdam::torch() }.into()
            }
            "Rprop" => {
                let ((eta_minus, eta_plus), (step_min, step_max)) = (self.pair("etas")?, self.pair("step_sizes")?);
                Rprop { eta_minus, eta_plus, step_min, step_max, lagged: false }.into()
            }
            "ASGD" => {
                let (lambd, alpha) = (self.number("lambd")?, self.number("alpha")?);
                Asgd { lambd, alpha, t0: self.number("t0")? }.into()
            }
            name => {
                let known = "SGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam, Rprop, ASGD".into();
                return Err(Error::UnknownRule { name: name.into(), known });
            }
        })
    }

    fn settings(&self) -> Result<Settings> {
        // PyTorch's Rprop has no decay.
        let lambda = if self.class == "Rprop" { 0.0 } else { self.number("weight_decay")? };
        let decoupled = self.class == "AdamW" || self.flag_or_false("decoupled_weight_decay")?;
        let weight_decay = match (lambda, decoupled) {
            (0.0, _) => WeightDecay::None,
            (lambda, true) => WeightDecay::Decoupled(lambda),
            (lambda, false) => WeightDecay::L2(lambda),
        };
        Ok(Settings { weight_decay, maximize: self.flag_or_false("maximize")?, ..Settings::lr(self.number("lr")?) })
    }
}

/// The rule and the settings of one of PyTorch's optimizers: its class, and one of its `param_groups` as JSON.
///
/// ```
/// use wgpu_optim::{WeightDecay, from_torch};
/// let group = r#"{"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "amsgrad": false}"#;
/// let (rule, settings) = from_torch("AdamW", group)?;
/// assert_eq!((rule.name(), settings.weight_decay), ("adam", WeightDecay::Decoupled(0.01)));
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownRule`] for another class than SGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam,
/// Rprop and ASGD, [`Error::Hyperparameter`], [`Error::Checkpoint`] for a group that lacks a hyperparameter or has one
/// that is not known.
pub fn from_torch(class: &str, group: &str) -> Result<(AnyRule, Settings)> {
    let group = serde_json::from_str(group).map_err(|e| Error::Checkpoint { reason: e.to_string() })?;
    read(class, &group)
}

/// The rule and the settings of a group of PyTorch's class. Refuses an unknown key, since it may compute something,
/// unless it is in [`BESIDE`] or null.
pub(crate) fn read(class: &str, group: &Map<String, Value>) -> Result<(AnyRule, Settings)> {
    let read = Group { class, of: group };
    let (rule, settings) = (read.rule()?, read.settings()?);
    rule.0.check()?;
    settings.check()?;
    let known = write(&rule, &settings, class == "AdamW").map(|(_, known)| known).unwrap_or_default();
    let unknown = |(key, value): &(&String, &Value)| {
        !known.contains_key(*key) && !BESIDE.contains(&key.as_str()) && !value.is_null()
    };
    match group.iter().find(unknown) {
        Some((key, value)) => {
            let what = format!("`{key}` = {value} of a group of PyTorch's {class} is not known");
            let reason =
                format!("{what}: leave it out if the optimizer's `defaults` do not have it, it computes nothing");
            Err(Error::Checkpoint { reason })
        }
        None => Ok((rule, settings)),
    }
}

/// PyTorch's class and parameter group for a rule and its decay; `None` if PyTorch has no such form. `adamw` says which
/// class Adam without decay is.
pub(crate) fn write(rule: &AnyRule, settings: &Settings, adamw: bool) -> Option<(&'static str, Map<String, Value>)> {
    let saved: Map<String, Value> = serde_json::from_str(&rule.0.save()).unwrap_or_default();
    let (lambda, decoupled) = match settings.weight_decay {
        WeightDecay::None => (0.0, false),
        WeightDecay::L2(lambda) => (lambda, false),
        WeightDecay::Decoupled(lambda) => (lambda, lambda > 0.0),
        WeightDecay::DecoupledFromLr(_) => return None,
    };
    let betas = json!([saved.get("beta1"), saved.get("beta2")]);
    let amsgrad = saved.get("amsgrad").is_some_and(|kind| !kind.is_null());
    let (class, own) = match rule.name() {
        "sgd" => ("SGD", json!({ "momentum": 0.0, "dampening": 0.0, "nesterov": false })),
        "momentum" => ("SGD", json!({})),
        "adagrad" => ("Adagrad", json!({})),
        "rmsprop" => ("RMSprop", json!({})),
        "adadelta" => ("Adadelta", json!({})),
        "adam" if decoupled || (adamw && lambda == 0.0) => {
            ("AdamW", json!({ "betas": betas, "amsgrad": amsgrad, "decoupled_weight_decay": true }))
        }
        "adam" => ("Adam", json!({ "betas": betas, "amsgrad": amsgrad, "decoupled_weight_decay": false })),
        "adamax" => ("Adamax", json!({ "betas": betas })),
        "nadam" => ("NAdam", json!({ "betas": betas, "decoupled_weight_decay": decoupled })),
        "radam" => ("RAdam", json!({ "betas": betas, "decoupled_weight_decay": decoupled })),
        "rprop" => {
            let etas = json!([saved.get("eta_minus"), saved.get("eta_plus")]);
            ("Rprop", json!({ "etas": etas, "step_sizes": [saved.get("step_min"), saved.get("step_max")] }))
        }
        "asgd" => ("ASGD", json!({})),
        _ => return None,
    };
    let named = ["momentum", "dampening", "nesterov", "lr_decay", "initial_accumulator_value", "eps", "alpha"];
    let named = named.into_iter().chain(["centered", "rho", "momentum_decay", "lambd", "t0"]);
    let mut group: Map<_, _> = named.filter_map(|key| Some((key.to_owned(), saved.get(key).cloned()?))).collect();
    group.extend(own.as_object().cloned()?);
    group.extend([
        ("lr".to_owned(), json!(settings.lr * settings.lr_factor)),
        ("maximize".to_owned(), json!(settings.maximize)),
    ]);
    if class != "Rprop" {
        group.insert("weight_decay".to_owned(), json!(lambda));
    }
    // PyTorch does not have a form of the rule or of decay that would come back as another.
    let again = Group { class, of: &group };
    let same = again.rule().ok()?.0.save() == rule.0.save();
    let decay = again.settings().ok()?.weight_decay;
    (same && (lambda == 0.0 || decay == settings.weight_decay)).then_some((class, group))
}
