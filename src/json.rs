//! JSON into our types.

use serde::de::DeserializeOwned;
use serde_json::Result;

/// In wasm by way of a value: serde compiles each type once a source of values, and with two sources the npm package
/// had 50 KB more. Natively the error says the line, and a field that is given twice is one.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    #[cfg(not(target_family = "wasm"))]
    return serde_json::from_str(text);
    #[cfg(target_family = "wasm")]
    serde_json::from_value(serde_json::from_str::<serde_json::Value>(text)?)
}

/// What [`read`] takes, as a value.
pub(crate) fn value(of: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::from_str(&serde_json::to_string(of)?)
}
