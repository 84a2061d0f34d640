//! Golden files, in the format of their README.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The kinds of files that compare solvers.
pub(crate) const SOLVERS: [&str; 4] = ["objective_trajectory", "minimize", "least_squares", "nist_strd"];

/// All files, parsed; a file that is not JSON keeps its error.
#[derive(Debug)]
pub struct Golden(BTreeMap<String, Result<Value, String>>);

/// One trajectory of one library in one precision.
pub(crate) struct Case {
    pub(crate) file: String,
    /// `torch`, `keras`, `optax`, `textbook`, …
    pub(crate) library: String,
    pub(crate) optimizer: String,
    pub(crate) hyper: Map<String, Value>,
    pub(crate) f64: bool,
    pub(crate) pure: bool,
    pub(crate) f32_comparable: bool,
    /// Set if there is a float32 run of the library to compare with.
    pub(crate) suggested_tol_f32: Option<f64>,
    pub(crate) f32_displacement: f64,
    pub(crate) steps: u64,
    /// Each tensor's, as the file has it.
    pub(crate) shapes: Vec<Vec<usize>>,
    pub(crate) params0: Tensors,
    /// By step, from 0.
    pub(crate) grads: Vec<Tensors>,
    pub(crate) params: BTreeMap<u64, Tensors>,
    pub(crate) lookahead_params: BTreeMap<u64, Tensors>,
    /// Where Schedule-Free is evaluated.
    pub(crate) eval_params: BTreeMap<u64, Tensors>,
    pub(crate) state: Map<String, Value>,
}

/// Flat tensors.
pub(crate) type Tensors = Vec<Vec<f64>>;

impl Golden {
    /// These files, by their names.
    pub fn new(files: BTreeMap<String, Result<Value, String>>) -> Self {
        Self(files)
    }

    /// An archive: an object whose keys are the names of files.
    pub fn read(archive: &str) -> Result<Self, String> {
        match serde_json::from_str(archive).map_err(|e| e.to_string())? {
            Value::Object(files) => Ok(Self(files.into_iter().map(|(name, value)| (name, Ok(value))).collect())),
            _ => Err("the archive is not an object".into()),
        }
    }

    /// Names of all trajectory files, and of those that cannot be read.
    pub fn names(&self) -> Vec<&str> {
        let kinds = ["trajectory", "lr_schedule", "weight_averaging", "grad_util", "grad_scaler"];
        let known = |kind: &str| kinds.contains(&kind) || SOLVERS.contains(&kind);
        let relevant =
            |value: &Result<Value, String>| value.as_ref().map_or(true, |v| v["kind"].as_str().is_some_and(known));
        self.0.iter().filter(|(_, value)| relevant(value)).map(|(name, _)| name.as_str()).collect()
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.0.contains_key(file)
    }

    /// The file, if it is of this kind.
    pub fn of_kind(&self, kind: &str, file: &str) -> Option<&Value> {
        self.value(file).ok().filter(|value| value["kind"] == kind)
    }

    pub(crate) fn case(&self, file: &str) -> Result<Case, String> {
        let value = self.value(file)?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let object = |key: &str| value[key].as_object().cloned().unwrap_or_default();
        let number = |key: &str| value[key].as_f64();
        let by_step = |key: &str| -> Result<BTreeMap<u64, Tensors>, String> {
            let step = |(step, tensors): (String, Value)| {
                let step = step.parse().map_err(|_| format!("`{key}` has a step {step:?}"))?;
                Ok((step, tensors_of(&tensors)?))
            };
            object(key).into_iter().map(step).collect()
        };
        let grads = self.resolve(&value["grads"])?;
        let grads: Vec<_> = grads.as_array().ok_or("no `grads`")?.iter().map(tensors_of).collect::<Result<_, _>>()?;
        let params0 = tensors_of(self.resolve(&value["params0"])?)?;
        let params = by_step("params")?;
        let steps = number("steps").map(|x| x as u64).ok_or("no `steps`")?;
        let complete = grads.len() as u64 >= steps && params.contains_key(&steps);
        let (lookahead_params, eval_params) = (by_step("lookahead_params")?, by_step("eval_params")?);
        let tensors = params.values().chain(&grads).chain(lookahead_params.values()).chain(eval_params.values());
        if !complete || params0.is_empty() || !same_shape(&params0, tensors) {
            return Err("`steps`, `params0`, `grads` and `params` do not fit together".into());
        }
        Ok(Case {
            library: library(file, &text("origin"), &text("source")),
            file: file.into(),
            optimizer: text("optimizer"),
            hyper: object("hyper"),
            f64: text("dtype") == "f64",
            pure: value["f64_pure"] != false,
            f32_comparable: value["f32_comparable"] != false,
            suggested_tol_f32: number("suggested_tol_f32"),
            f32_displacement: number("f32_vs_f64_disp_l2").unwrap_or(0.0),
            steps,
            shapes: shapes_of(value),
            params0,
            grads,
            params,
            lookahead_params,
            eval_params,
            state: object("state"),
        })
    }

    pub(crate) fn value(&self, file: &str) -> Result<&Value, String> {
        match self.0.get(file) {
            Some(Ok(value)) => Ok(value),
            Some(Err(e)) => Err(e.clone()),
            None => Err(format!("there is no file {file}")),
        }
    }

    /// Follows `{file, key}` references.
    fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value, String> {
        match (value["file"].as_str(), value["key"].as_str()) {
            (Some(file), Some(key)) => match &self.value(file)?[key] {
                Value::Null => Err(format!("{file} has no `{key}`")),
                found => Ok(found),
            },
            _ => Ok(value),
        }
    }
}

fn library(file: &str, origin: &str, source: &str) -> String {
    let name = if origin == "textbook" { origin } else { source.split([' ', ',']).next().unwrap_or(file) };
    name.to_lowercase()
}

fn same_shape<'a>(a: &Tensors, mut others: impl Iterator<Item = &'a Tensors>) -> bool {
    others.all(|b| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.len() == b.len()))
}

/// The tensors' shapes.
pub(crate) fn shapes_of(value: &Value) -> Vec<Vec<usize>> {
    let shape =
        |shape: &Value| shape.as_array().into_iter().flatten().filter_map(|n| Some(n.as_u64()? as usize)).collect();
    value["shapes"].as_array().into_iter().flatten().map(shape).collect()
}

pub(crate) fn tensors_of(value: &Value) -> Result<Tensors, String> {
    value.as_array().ok_or("a list of tensors was expected")?.iter().map(numbers_of).collect()
}

/// A flat tensor; a bare number is a tensor of one element.
pub(crate) fn numbers_of(value: &Value) -> Result<Vec<f64>, String> {
    match value {
        Value::Array(numbers) => numbers.iter().map(number_of).collect(),
        _ => Ok(vec![number_of(value)?]),
    }
}

fn number_of(value: &Value) -> Result<f64, String> {
    match value.as_str() {
        Some("NaN") => Ok(f64::NAN),
        Some("Infinity") => Ok(f64::INFINITY),
        Some("-Infinity") => Ok(f64::NEG_INFINITY),
        _ => value.as_f64().ok_or_else(|| format!("{value} is not a number")),
    }
}
