//! Errors as JavaScript sees them: an `Error` with our words and a `code`.

use js_sys::Reflect;
use wasm_bindgen::JsValue;

use crate::error::Error;

pub(super) type Js<T> = Result<T, JsValue>;

/// An `Error` with this code.
pub(super) fn fault(code: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    // A new object takes any property.
    _ = Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}

impl From<Error> for JsValue {
    fn from(error: Error) -> Self {
        fault(code(&error), &error.to_string())
    }
}

/// The variant's name.
fn code(error: &Error) -> &'static str {
    match error {
        Error::NoAdapter { .. } => "NoAdapter",
        Error::DeviceRefused { .. } => "DeviceRefused",
        Error::Shader { .. } => "Shader",
        Error::Length { .. } => "Length",
        Error::UnknownParameter { .. } => "UnknownParameter",
        Error::UnknownState { .. } => "UnknownState",
        Error::UnknownGroup { .. } => "UnknownGroup",
        Error::UnknownRule { .. } => "UnknownRule",
        Error::MissingUsage { .. } => "MissingUsage",
        Error::Overlap { .. } => "Overlap",
        Error::Misaligned { .. } => "Misaligned",
        Error::OutOfBounds { .. } => "OutOfBounds",
        Error::OverLimit { .. } => "OverLimit",
        Error::Hyperparameter { .. } => "Hyperparameter",
        Error::Schedule { .. } => "Schedule",
        Error::DuplicateName { .. } => "DuplicateName",
        Error::ElementType { .. } => "ElementType",
        Error::Unsupported { .. } => "Unsupported",
        Error::TooManyStepsInFlight { .. } => "TooManyStepsInFlight",
        Error::DeviceLost => "DeviceLost",
        Error::Io { .. } => "Io",
        Error::Checkpoint { .. } => "Checkpoint",
        Error::Mismatch(_) => "Mismatch",
        Error::ReadBack { .. } => "ReadBack",
        Error::Rejected { .. } => "Rejected",
    }
}
