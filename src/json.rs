//! JSON into our types, by way of [`Value`]: serde compiles each type once a source of values, and with a second source
//! the wasm of the npm package had 50 KB more.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Result, Value};

pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_value(serde_json::from_str::<Value>(text)?)
}

/// What [`read`] takes, as a value.
pub(crate) fn value(of: &impl Serialize) -> Result<Value> {
    serde_json::from_str(&serde_json::to_string(of)?)
}
