//! The hyperparameters of a golden file. None is ignored in silence.

use serde_json::Value;

use super::golden::Case;

/// Why a case is skipped, with the key.
pub(crate) type Skip = String;

/// The hyperparameters of a case. Each must be read, or have a value that changes nothing.
pub(crate) struct Hyper<'a> {
    pub(crate) case: &'a Case,
    pub(crate) read: Vec<&'static str>,
}

impl<'a> Hyper<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        Self { case, read: Vec::new() }
    }

    pub(crate) fn value(&mut self, key: &'static str) -> Option<&Value> {
        self.read.push(key);
        self.case.hyper.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn number(&mut self, key: &'static str) -> Result<f64, Skip> {
        self.value(key).and_then(Value::as_f64).ok_or_else(|| format!("`{key}` is not a number"))
    }

    pub(crate) fn number_or(&mut self, key: &'static str, default: f64) -> Result<f64, Skip> {
        if self.value(key).is_none() { Ok(default) } else { self.number(key) }
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Result<bool, Skip> {
        self.flag_or(key, false)
    }

    pub(crate) fn flag_or(&mut self, key: &'static str, default: bool) -> Result<bool, Skip> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| format!("`{key}` is not a flag")),
        }
    }

    pub(crate) fn pair(&mut self, key: &'static str) -> Result<(f64, f64), Skip> {
        let pair = self.value(key).and_then(Value::as_array);
        let number = |k: usize| pair.and_then(|pair| pair.get(k)).and_then(Value::as_f64);
        number(0).zip(number(1)).ok_or_else(|| format!("`{key}` is not a pair"))
    }

    pub(crate) fn three(&mut self, key: &'static str) -> Result<[f64; 3], Skip> {
        let three = self.value(key).and_then(Value::as_array);
        let number = |k: usize| three.and_then(|three| three.get(k)).and_then(Value::as_f64);
        match [number(0), number(1), number(2)] {
            [Some(a), Some(b), Some(c)] => Ok([a, b, c]),
            _ => Err(format!("`{key}` are not three numbers")),
        }
    }

    /// Fails for a key that was neither read nor has the neutral value given here.
    pub(crate) fn finish(&self, neutral: &[(&str, Value)]) -> Result<(), Skip> {
        for (key, value) in &self.case.hyper {
            let is_neutral = |&(name, ref at): &(&str, Value)| name == key && equal(at, value);
            if !self.read.contains(&key.as_str()) && !neutral.iter().any(is_neutral) {
                return Err(format!("`{key}` = {value} is not implemented"));
            }
        }
        Ok(())
    }
}

pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a == b)
}
