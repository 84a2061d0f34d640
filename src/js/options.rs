//! Options between JavaScript's objects in camelCase and ours, by way of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use wasm_bindgen::prelude::*;

use super::errors::{Js, fault};
use crate::any_rule::AnyRule;
use crate::averaging::Averaging;
use crate::clipping::{ClipNorm, NonFinite};
use crate::error::Result;
use crate::optimizer::Optimizer;
use crate::precision::Precision;
use crate::rules;
use crate::scaling::{LossScaler, Report};
use crate::schedule::Schedule;
use crate::settings::{Options, Settings};

#[wasm_bindgen(module = "/src/js/options.js")]
extern "C" {
    #[wasm_bindgen(catch, js_name = optionsText)]
    fn options_text(options: &JsValue) -> Result<String, JsValue>;
}

fn wrong(what: impl std::fmt::Display) -> JsValue {
    fault("Options", &what.to_string())
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn camel(name: &str) -> String {
    let mut upper = false;
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if std::mem::take(&mut upper) => out.push(c.to_ascii_uppercase()),
            c => out.push(c),
        }
    }
    out
}

/// With the names of all objects in another case.
fn renamed(value: Value, to: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().map(|(key, v)| (to(&key), renamed(v, to))).collect()),
        Value::Array(all) => Value::Array(all.into_iter().map(|v| renamed(v, to)).collect()),
        // Texts stay: names of rules and schedules among them.
        other => other,
    }
}

/// The options in snake_case. What is `undefined` is left out.
fn read(options: &JsValue) -> Js<Map<String, Value>> {
    if options.is_undefined() {
        return Ok(Map::new());
    }
    let message = |e: JsValue| e.dyn_into::<js_sys::Error>().map(|e| String::from(e.message())).unwrap_or_default();
    let text = options_text(options).map_err(|e| wrong(message(e)))?;
    let value = serde_json::from_str(&text).map_err(wrong)?;
    match renamed(value, snake) {
        Value::Object(map) => Ok(map),
        other => Err(wrong(format!("options are an object, not {other}"))),
    }
}

/// As an object of JavaScript's.
pub(super) fn write(value: &impl Serialize) -> Js<JsValue> {
    js_sys::JSON::parse(&renamed(to_value(value)?, camel).to_string())
}

fn to_value(value: &impl Serialize) -> Js<Value> {
    crate::json::value(value).map_err(wrong)
}

fn from_value<T: DeserializeOwned>(value: Value) -> Js<T> {
    serde_json::from_value(value).map_err(wrong)
}

/// A report, whose norm may be NaN or ∞, which JSON has not.
pub(super) fn report(report: Report) -> Js<JsValue> {
    let object = write(&report)?;
    js_sys::Reflect::set(&object, &"gradNorm".into(), &report.grad_norm.into())?;
    Ok(object)
}

/// `current`, with what these options say instead.
fn overlay<T: Serialize + DeserializeOwned>(current: &T, options: Map<String, Value>) -> Js<T> {
    let mut value = to_value(current)?;
    if let Value::Object(map) = &mut value {
        map.extend(options);
    }
    from_value(value)
}

/// A limit on a norm: a number, an object, or none.
fn clip_norm(value: Value) -> Js<Option<ClipNorm>> {
    // The format has no infinity.
    let infinite = |value: Value| if value == "inf" { Value::Null } else { value };
    match value {
        Value::Null => Ok(None),
        Value::Object(map) if !map.contains_key("max_norm") => Err(wrong("a limit on a norm needs `maxNorm`")),
        Value::Object(map) => {
            let map = map.into_iter().map(|(key, value)| (key, infinite(value))).collect();
            overlay(&ClipNorm::torch(1.0), map).map(Some)
        }
        inf if inf == "inf" => Ok(Some(ClipNorm::torch(f64::INFINITY))),
        number => Ok(Some(ClipNorm::torch(from_value(number)?))),
    }
}

fn precision(name: Value) -> Js<Precision> {
    match name.as_str() {
        Some("f32") => Ok(Precision::f32()),
        Some("block8") => Ok(Precision::block8()),
        Some("bf16") => Ok(Precision::bf16()),
        Some("bf16-exact-master") => Ok(Precision::bf16_exact_master()),
        _ => Err(wrong(format!("{name} is no precision: f32, block8, bf16, bf16-exact-master"))),
    }
}

/// A rule's own options, as an object; empty for a rule without any.
fn of_rule(rule: &AnyRule) -> Map<String, Value> {
    match serde_json::from_str(&rule.0.save()) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// What a page may show of a rule.
pub(super) fn describe((name, rule): (&'static str, AnyRule)) -> Value {
    serde_json::json!({
        "name": name, "lr": rule.default_lr(), "states": rule.states(), "bytes": rule.bytes_per_parameter(),
        "options": of_rule(&rule),
    })
}

/// What a group is to become.
pub(super) struct GroupPatch {
    pub(super) rule: AnyRule,
    pub(super) settings: Settings,
    schedule: Option<Option<Schedule>>,
    averaging: Option<Averaging>,
    precision: Option<Precision>,
}

impl GroupPatch {
    /// Reads `options` over what a group has; a new one has `None`.
    pub(super) fn read(options: &JsValue, now: Option<(&AnyRule, &Settings)>) -> Js<(Self, Map<String, Value>)> {
        let mut options = read(options)?;
        let schedule = match options.remove("schedule") {
            None => None,
            Some(Value::Null) => Some(None),
            Some(text) => Some(Some(Schedule::parse(text.as_str().unwrap_or_default())?)),
        };
        let averaging: Option<Averaging> = options.remove("averaging").map(from_value).transpose()?;
        // Before anything changes.
        averaging.as_ref().map_or(Ok(()), Averaging::check)?;
        schedule.iter().flatten().try_for_each(Schedule::check)?;
        let precision = options.remove("precision").map(precision).transpose()?;
        let mut rule = match (options.remove("rule"), now) {
            (Some(name), _) => rules::by_name(name.as_str().unwrap_or_default())?,
            (None, Some((rule, _))) => rule.clone(),
            (None, None) => rules::by_name("adam")?,
        };
        let settings = now.map_or(Settings::lr(rule.default_lr()), |(_, settings)| *settings);
        let known = to_value(&settings)?;
        let mut of_settings = Map::new();
        for key in known.as_object().into_iter().flat_map(Map::keys) {
            let Some(value) = options.remove(key) else { continue };
            let value = match key.as_str() {
                "clip_norm" | "group_clip_norm" => to_value(&clip_norm(value)?)?,
                _ => renamed_variant(value),
            };
            of_settings.insert(key.clone(), value);
        }
        let settings = overlay(&settings, of_settings)?;
        let mut saved = of_rule(&rule);
        let ours: Vec<_> = saved.keys().cloned().collect();
        let mut rest = Map::new();
        let mut own = false;
        for (key, value) in options {
            match saved.contains_key(&key) {
                true => (own, _) = (true, saved.insert(key, value)),
                false => _ = rest.insert(key, value),
            }
        }
        if own {
            let text = Value::Object(saved).to_string();
            rule = rule.0.restore(&text).ok_or_else(|| wrong(format!("`{}` cannot be {text}", rule.name())))?;
        }
        let patch = Self { rule, settings, schedule, averaging, precision };
        if let Some(key) = rest.keys().find(|key| !SAFEGUARDS.contains(&key.as_str())) {
            let known = ours.iter().chain(known.as_object().into_iter().flat_map(Map::keys));
            let names: Vec<_> = known.map(|name| camel(name)).collect();
            return Err(wrong(format!("`{}` is no option; there are {}", camel(key), names.join(", "))));
        }
        Ok((patch, rest))
    }

    /// Gives a group what stands beside its rule and its settings.
    pub(super) fn install(self, optimizer: &mut Optimizer, group: usize) -> Result<()> {
        let Self { schedule, averaging, precision, .. } = self;
        precision.map_or(Ok(()), |precision| optimizer.set_precision(group, precision))?;
        averaging.map_or(Ok(()), |averaging| optimizer.set_averaging(group, averaging))?;
        // The last one, since it cannot fail: it is checked.
        schedule.map_or(Ok(()), |schedule| optimizer.set_schedule(group, schedule))
    }
}

/// A variant without a number is a text, which [`renamed`] leaves alone.
fn renamed_variant(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(snake(&text)),
        other => other,
    }
}

const SAFEGUARDS: [&str; 3] = ["max_norm", "non_finite", "loss_scaler"];

/// Sets what concerns the step of all groups: all of it, or nothing.
pub(super) fn safeguard(optimizer: &mut Optimizer, mut options: Map<String, Value>) -> Js<()> {
    let clip = options.remove("max_norm").map(clip_norm).transpose()?;
    let policy: Option<NonFinite> = options.remove("non_finite").map(from_value).transpose()?;
    let scaler = match options.remove("loss_scaler") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(Value::Object(map)) => Some(Some(overlay(&LossScaler::default(), map)?)),
        Some(other) => return Err(wrong(format!("`lossScaler` is an object or null, not {other}"))),
    };
    refuse(&options)?;
    scaler.iter().flatten().try_for_each(LossScaler::check)?;
    clip.map_or(Ok(()), |clip| optimizer.set_clip_norm(clip))?;
    policy.into_iter().for_each(|policy| optimizer.set_non_finite(policy));
    scaler.map_or(Ok(()), |scaler| optimizer.set_loss_scaler(scaler))?;
    Ok(())
}

/// An error for options that nobody has taken.
pub(super) fn refuse(rest: &Map<String, Value>) -> Js<()> {
    match rest.keys().next() {
        None => Ok(()),
        Some(key) if SAFEGUARDS.contains(&key.as_str()) => {
            Err(wrong(format!("`{}` concerns all groups: see `safeguard`", camel(key))))
        }
        Some(key) => Err(wrong(format!("`{}` is no option; there are maxNorm, nonFinite, lossScaler", camel(key)))),
    }
}

/// [`safeguard`] of an object.
pub(super) fn safeguards(optimizer: &mut Optimizer, options: &JsValue) -> Js<()> {
    safeguard(optimizer, read(options)?)
}

/// A parameter's group and its other options over these.
pub(super) fn parameter(options: &JsValue, now: Options) -> Js<(Option<usize>, Options)> {
    let mut options = read(options)?;
    let group = options.remove("group").map(from_value).transpose()?;
    Ok((group, overlay(&now, options)?))
}
