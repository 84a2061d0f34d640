//! Translates the parameter groups and states of bitsandbytes' optimizers to rules, settings and states, and back.

use serde_json::{Map, Value, json};

use crate::any_rule::AnyRule;
use crate::error::{Error, Result};
use crate::rules::{AdEmaMix, AdaGrad, Adam, Lion, Momentum, RmsProp, Sgd};
use crate::settings::{Settings, WeightDecay};

/// What bitsandbytes keeps of a parameter besides its step count: states, and of those in 8 bits the blocks' largest
/// magnitudes and the map. The slow average of AdEMAMix is the second row of its first state; in files that we write it
/// is a tensor of its own.
pub(crate) const TENSORS: [&str; 3] = ["state", "absmax", "qmap"];
pub(crate) const SLOW: &str = "_slow";

/// Whether a group is one of bitsandbytes: its classes in 32 bits have PyTorch's names.
pub(crate) fn owns(class: &str, group: &Map<String, Value>) -> bool {
    let name = plain(class);
    let shared = match name {
        "Lion" | "AdEMAMix" => true,
        "Adam" | "AdamW" => !group.contains_key("amsgrad"),
        "SGD" | "RMSprop" | "Adagrad" => group.contains_key("betas"),
        _ => false,
    };
    name != class || shared
}

/// A class without what says where its states are, and in how many bits.
fn plain(class: &str) -> &str {
    let name = class.strip_prefix("Paged").unwrap_or(class);
    name.strip_suffix("8bit").or(name.strip_suffix("32bit")).unwrap_or(name)
}

/// Where bitsandbytes has a state: in its first or its second, and in which row of that.
pub(crate) fn place(state: &str) -> Option<(u8, usize)> {
    match state {
        "exp_avg" | "momentum_buffer" | "square_avg" | "sum" => Some((1, 0)),
        "exp_avg_slow" => Some((1, 1)),
        "exp_avg_sq" => Some((2, 0)),
        _ => None,
    }
}

/// Whether this tensor is a part of what such a place has.
pub(crate) fn is_of(tensor: &str, (number, _): (u8, usize)) -> bool {
    let tensor = tensor.strip_suffix(SLOW).unwrap_or(tensor);
    TENSORS.iter().any(|of| tensor.strip_prefix(of).is_some_and(|rest| rest == number.to_string()))
}

/// The rule and the settings of a group of bitsandbytes' class.
pub(crate) fn read(class: &str, group: &Map<String, Value>) -> Result<(AnyRule, Settings)> {
    let name = plain(class);
    let reason =
        |key: &str| format!("a parameter group of bitsandbytes' {class} has no `{key}`, or another kind of it");
    let number =
        |key: &str| group.get(key).and_then(Value::as_f64).ok_or_else(|| Error::Checkpoint { reason: reason(key) });
    let steps = |key: &str| match group.get(key) {
        None | Some(Value::Null) => Ok(None),
        // Of a tensor it is written as a float.
        Some(value) => match value.as_f64().filter(|steps| steps.fract() == 0.0 && (0.0..9e15).contains(steps)) {
            Some(steps) => Ok(Some(steps as u64)),
            None => Err(Error::Checkpoint { reason: reason(key) }),
        },
    };
    let beta = |k: usize| {
        let beta = group.get("betas").and_then(|betas| betas.get(k)).and_then(Value::as_f64);
        beta.ok_or_else(|| Error::Checkpoint { reason: reason("betas") })
    };
    let eps = || number("eps");
    let rule: AnyRule = match name {
        "Adam" | "AdamW" => Adam { beta1: beta(0)?, beta2: beta(1)?, eps: eps()?, ..Adam::torch() }.into(),
        "AdEMAMix" => AdEmaMix {
            beta1: beta(0)?,
            beta2: beta(1)?,
            beta3: beta(2)?,
            alpha: number("alpha")?,
            eps: eps()?,
            eps_root: 0.0,
            t_alpha: steps("t_alpha")?,
            t_beta3: steps("t_beta3")?,
        }
        .into(),
        "Lion" => Lion { beta1: beta(0)?, beta2: beta(1)? }.into(),
        "SGD" if beta(0)? == 0.0 => Sgd.into(),
        // Its kernels leave dampening out.
        "SGD" => Momentum::torch(beta(0)?).into(),
        "RMSprop" => RmsProp { alpha: beta(0)?, eps: eps()?, ..RmsProp::torch() }.into(),
        "Adagrad" => AdaGrad { eps: eps()?, ..AdaGrad::torch() }.into(),
        _ => {
            let known =
                "Adam, AdamW, AdEMAMix, Lion, SGD, RMSprop, Adagrad, each with or without Paged and 8bit".into();
            return Err(Error::UnknownRule { name: class.into(), known });
        }
    };
    let decouples = ["Adam", "AdamW", "AdEMAMix", "Lion"].contains(&name);
    let weight_decay = match (number("weight_decay")?, decouples) {
        (0.0, _) => WeightDecay::None,
        (lambda, true) => WeightDecay::Decoupled(lambda),
        (lambda, false) => WeightDecay::L2(lambda),
    };
    let settings = Settings { weight_decay, ..Settings::lr(number("lr")?) };
    rule.0.check()?;
    settings.check()?;
    let known = ["params", "initial_lr", "lr", "betas", "eps", "weight_decay", "alpha", "t_alpha", "t_beta3"];
    match group.iter().find(|(key, value)| !known.contains(&key.as_str()) && !value.is_null()) {
        Some((key, value)) => {
            let reason = format!("`{key}` = {value} of a group of bitsandbytes' {class} is not known");
            Err(Error::Checkpoint { reason })
        }
        None => Ok((rule, settings)),
    }
}

/// bitsandbytes' class in 8 bits, and its parameter group, for a rule and its decay; `None` if it has no such form.
pub(crate) fn write(rule: &AnyRule, settings: &Settings) -> Option<(&'static str, Map<String, Value>)> {
    let saved: Map<String, Value> = serde_json::from_str(&rule.0.save()).unwrap_or_default();
    let number = |key: &str| saved.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let lambda = match settings.weight_decay {
        WeightDecay::None => 0.0,
        WeightDecay::L2(lambda) | WeightDecay::Decoupled(lambda) => lambda,
        WeightDecay::DecoupledFromLr(_) => return None,
    };
    let (class, betas, eps) = match rule.name() {
        // Its Adam8bit does the same.
        "adam" => ("AdamW8bit", json!([number("beta1"), number("beta2")]), number("eps")),
        "ademamix" => ("AdEMAMix8bit", json!([number("beta1"), number("beta2"), number("beta3")]), number("eps")),
        "lion" => ("Lion8bit", json!([number("beta1"), number("beta2")]), 0.0),
        "momentum" if number("momentum") > 0.0 => ("SGD8bit", json!([number("momentum"), 0.0]), 0.0),
        "rmsprop" => ("RMSprop8bit", json!([number("alpha"), 0.0]), number("eps")),
        "adagrad" => ("Adagrad8bit", json!([0.0, 0.0]), number("eps")),
        _ => return None,
    };
    let mut group = Map::from_iter([
        ("lr".to_owned(), json!(settings.lr * settings.lr_factor)),
        ("betas".to_owned(), betas),
        ("eps".to_owned(), json!(eps)),
        ("weight_decay".to_owned(), json!(lambda)),
    ]);
    if class.starts_with("Ad") && class != "Adagrad8bit" {
        group.extend(["t_alpha", "t_beta3"].map(|key| (key.to_owned(), json!(saved.get(key)))));
        group.insert("alpha".into(), json!(number("alpha")));
    }
    // Not if reading the group back would give another rule or another decay.
    let (again, with) = read(class, &group).ok()?;
    let same = again.0.save() == rule.0.save() && !settings.maximize;
    (same && (lambda == 0.0 || with.weight_decay == settings.weight_decay)).then_some((class, group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;

    /// What it writes it reads; what would come back as another rule it does not write.
    #[test]
    fn groups_come_back() {
        let mut written = Vec::new();
        for (name, rule) in rules::all() {
            for decay in [WeightDecay::None, WeightDecay::Decoupled(0.1), WeightDecay::L2(0.1)] {
                let settings = Settings { weight_decay: decay, ..Settings::lr(0.01) };
                let Some((class, group)) = write(&rule, &settings) else { continue };
                let (again, with) = read(class, &group).unwrap();
                assert_eq!((again.0.save(), with), (rule.0.save(), settings), "{name}");
                assert!(owns(class, &group));
                written.push((name, class, decay));
            }
        }
        let has = |name: &str, decay| written.iter().filter(|(of, _, with)| *of == name && *with == decay).count();
        for name in ["adam", "lion", "ademamix"] {
            assert_eq!([has(name, WeightDecay::Decoupled(0.1)), has(name, WeightDecay::L2(0.1))], [1, 0], "{name}");
        }
        for name in ["momentum", "rmsprop", "adagrad"] {
            assert_eq!([has(name, WeightDecay::Decoupled(0.1)), has(name, WeightDecay::L2(0.1))], [0, 1], "{name}");
        }
        for name in ["sgd", "amsgrad", "nesterov", "adam-keras", "rmsprop-centered", "lamb"] {
            assert_eq!(has(name, WeightDecay::None), 0, "{name}");
        }
        assert!(read("Adam8bit", &Map::from_iter([("x".to_owned(), json!(1))])).is_err());
        let grows = AdEmaMix { t_alpha: Some(1000), t_beta3: None, ..AdEmaMix::default() };
        let (class, mut group) = write(&grows.into(), &Settings::lr(0.1)).unwrap();
        for (steps, read_as) in [(json!(1000), true), (json!(1000.0), true), (json!("soon"), false), (json!(-1), false)]
        {
            group.insert("t_alpha".into(), steps.clone());
            let same = read(class, &group).is_ok_and(|(rule, _)| rule.0.save() == AnyRule::from(grows).0.save());
            assert_eq!(same, read_as, "{steps}");
        }
        let (_, group) = write(&rules::Adam::default().into(), &Settings::lr(0.1)).unwrap();
        for class in ["PagedAdamW8bit", "PagedAdam", "Adam8bit", "AdamW32bit", "AdamW"] {
            assert!(owns(class, &group) && read(class, &group).is_ok(), "{class}");
        }
        let torchs = Map::from_iter([("amsgrad".to_owned(), json!(false)), ("momentum".to_owned(), json!(0.9))]);
        assert!(!["Adam", "AdamW", "SGD", "RMSprop", "NAdam"].iter().any(|class| owns(class, &torchs)));
    }
}
