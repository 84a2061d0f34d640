//! What all comparisons with golden files share: where they run, how exactly, and what they say.

use crate::{Device, Error, Optimizer, Options, ParameterId};
use serde_json::json;

/// f64 against an f64 file (README of the golden files).
pub(crate) const F64: f64 = 1e-11;
/// f32 against a file that exists in float32 alone.
pub(crate) const F32_FILE: f64 = 1e-5;

/// Where a case runs, and how exactly.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) device: Device,
    pub(crate) f64: bool,
}

/// The worst error of one comparison: 1 is the tolerance.
#[derive(Debug)]
pub struct Worst {
    pub ratio: f64,
    pub error: f64,
    pub what: String,
}

impl Worst {
    pub(crate) fn none() -> Self {
        Self { ratio: -1.0, error: 0.0, what: "nothing".into() }
    }

    /// Keeps the worse of the two.
    pub(crate) fn note(&mut self, error: f64, tolerance: f64, what: impl FnOnce() -> String) {
        // NaN is worse than anything.
        let ratio = if error.is_nan() { f64::INFINITY } else { error / tolerance };
        if ratio > self.ratio {
            *self = Self { ratio, error, what: what() };
        }
    }

    pub(crate) fn failed(what: String) -> Self {
        Self { ratio: f64::INFINITY, error: f64::NAN, what }
    }
}

/// What came of a file's comparison.
#[derive(Debug)]
pub enum Verdict {
    Passed { worst: Worst, engine: String },
    Failed { worst: Worst, engine: String },
    Skipped(String),
}

/// Keeps the worse comparison, and where it was made.
pub(crate) fn keep_worse(worst: &mut Option<(Worst, String)>, found: Worst, engine: &Engine) {
    if worst.as_ref().is_none_or(|(worst, _)| found.ratio > worst.ratio) {
        *worst = Some((found, engine.name.clone()));
    }
}

impl Verdict {
    /// Of the worst comparison and where it was made.
    pub(crate) fn of(worst: Option<(Worst, String)>) -> Self {
        match worst {
            None => Self::Skipped("no device for it here".into()),
            Some((worst, engine)) if worst.ratio <= 1.0 => Self::Passed { worst, engine },
            Some((worst, engine)) => Self::Failed { worst, engine },
        }
    }

    pub fn line(&self, file: &str) -> String {
        let (word, worst, engine) = match self {
            Self::Passed { worst, engine } => ("ok  ", worst, engine),
            Self::Failed { worst, engine } => ("FAIL", worst, engine),
            Self::Skipped(why) => return format!("skip {file:<50} {why}"),
        };
        format!("{word} {file:<50} {:8.1e} {:5.2} of tolerance: {} on {engine}", worst.error, worst.ratio, worst.what)
    }

    pub fn json(&self, file: &str) -> String {
        let (verdict, worst, engine) = match self {
            Self::Passed { worst, engine } => ("passed", worst, engine),
            Self::Failed { worst, engine } => ("failed", worst, engine),
            Self::Skipped(why) => {
                return json!({ "file": file, "verdict": "skipped", "why": why }).to_string();
            }
        };
        let (error, ratio, what) = (worst.error, worst.ratio, &worst.what);
        json!({ "file": file, "verdict": verdict, "worst_error": error, "of_tolerance": ratio, "what": what, "engine": engine })
            .to_string()
    }
}

/// Tells the optimizer which tensors are matrices: the first axis, and the rest.
pub(crate) fn set_shapes(optimizer: &mut Optimizer, ids: &[ParameterId], shapes: &[Vec<usize>]) -> Result<(), Error> {
    for (&id, shape) in ids.iter().zip(shapes).filter(|(_, shape)| shape.len() > 1) {
        let shape = Some([shape[0], shape[1..].iter().product()]);
        optimizer.set_options(id, Options { shape, ..Options::default() })?;
    }
    Ok(())
}

/// |x − b| / scale; 0 where they are equal, also both NaN.
pub(crate) fn scaled(x: f64, b: f64, scale: f64) -> f64 {
    if x == b || (x.is_nan() && b.is_nan()) { 0.0 } else { (x - b).abs() / scale }
}
