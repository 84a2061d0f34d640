//! The class `Check`: golden trajectories on the page's device. With the feature `check`.

use std::rc::Rc;

use js_sys::Promise;
use wasm_bindgen::prelude::*;

use super::adopt::adopt_device;
use super::errors::fault;
use super::shared::promise;
use crate::check::{Check, Golden};

/// Our steps against the trajectories of PyTorch, Keras, optax and the papers, as the command `wgpu-optim check`.
#[wasm_bindgen(js_name = Check)]
#[derive(Debug)]
pub struct JsCheck(Rc<Check>);

#[wasm_bindgen(js_class = Check)]
impl JsCheck {
    /// On the CPU, and on this `GPUDevice` if there is one. `golden` is the archive `tests/golden.json`.
    #[wasm_bindgen(unchecked_return_type = "Promise<Check>")]
    pub fn start(
        #[wasm_bindgen(unchecked_param_type = "GPUDevice | undefined")] device: JsValue,
        golden: String,
    ) -> Promise {
        promise(async move {
            let gpu = if device.is_undefined() { None } else { Some(adopt_device(&device).await?) };
            let golden = Golden::read(&golden).map_err(|e| fault("Golden", &e))?;
            Ok(JsCheck(Rc::new(Check::new(golden, gpu.as_slice()))).into())
        })
    }

    /// Names of the files.
    #[wasm_bindgen(getter)]
    pub fn files(&self) -> Vec<String> {
        self.0.names().into_iter().map(str::to_owned).collect()
    }

    /// What the devices are called.
    #[wasm_bindgen(getter)]
    pub fn devices(&self) -> Vec<String> {
        self.0.engines().into_iter().map(str::to_owned).collect()
    }

    /// Runs a file. The object is a line of `wgpu-optim check --json`.
    #[wasm_bindgen(unchecked_return_type = "Promise<Verdict>")]
    pub fn run(&self, file: String) -> Promise {
        let check = self.0.clone();
        promise(async move { js_sys::JSON::parse(&check.run(&file).await.json(&file)) })
    }
}

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = "
export interface Verdict {
    file: string;
    verdict: 'passed' | 'failed' | 'skipped';
    /** The worst error, and the part of its tolerance that it is; `null` where it is not finite. */
    worst_error?: number | null;
    of_tolerance?: number | null;
    what?: string;
    engine?: string;
    /** Why it is skipped. */
    why?: string;
}
";
