//! Files of bitsandbytes and torchao, whose states are in 8 bits.

use crate::rules::{AdEmaMix, Adam, Lion, Momentum, RmsProp};
use crate::{AnyRule, Precision, Settings, States};
use serde_json::Value;

use super::{Hyper, Setup, Skip, decay, equal, plain, unknown};

pub(super) fn bitsandbytes(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
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

pub(super) fn torchao(h: &mut Hyper<'_>) -> Result<Setup, Skip> {
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
