//! Where a model is evaluated: on averages, or where Schedule-Free says.

#![expect(clippy::await_holding_refcell_ref, reason = "what is called meanwhile gets the error `Busy`")]

use js_sys::Promise;
use wasm_bindgen::prelude::*;

use super::JsOptimizer;
use super::shared::{index, nothing};

#[wasm_bindgen(js_class = Optimizer)]
impl JsOptimizer {
    /// Exchanges a group's parameters and their averages, to evaluate on these; once more, before the next step, puts
    /// them back.
    #[wasm_bindgen(js_name = swapAverages, unchecked_return_type = "Promise<void>")]
    pub fn swap_averages(&self, group: Option<f64>) -> Promise {
        self.0.later(async move |shared| {
            let mut optimizer = shared.get_mut()?;
            optimizer.settle().await?;
            Ok(nothing(optimizer.swap_averages(index(group)?)?))
        })
    }

    /// Moves parameters of Schedule-Free to where the model is to be evaluated and saved. Other rules' stay.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn evaluate(&self) -> Promise {
        self.0.later(async |shared| {
            let mut optimizer = shared.get_mut()?;
            optimizer.settle().await?;
            Ok(nothing(optimizer.evaluate()?))
        })
    }

    /// Takes `evaluate` back: in between, `step` throws.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn train(&self) -> Promise {
        self.0.later(async |shared| {
            let mut optimizer = shared.get_mut()?;
            optimizer.settle().await?;
            Ok(nothing(optimizer.train()?))
        })
    }
}
