//! What only a browser has: the reason why there is no adapter, and how adapters are called.

use js_sys::{Reflect, global};
use wasm_bindgen::JsValue;

use crate::error::{Error, Result};

fn of(object: &JsValue, key: &str) -> JsValue {
    // An object without the property has `undefined`; what is no object has none either.
    Reflect::get(object, &key.into()).unwrap_or_default()
}

/// The browser's adapter.
pub(super) async fn adapter(descriptor: wgpu::InstanceDescriptor) -> Result<wgpu::Adapter> {
    let refused = |reason: &str| Err(Error::NoAdapter { reason: reason.into() });
    let global = global();
    if of(&of(&global, "navigator"), "gpu").is_undefined() {
        return match of(&global, "isSecureContext").as_bool() {
            Some(false) => refused("the page is not secure: WebGPU is there for https and localhost only"),
            _ => refused("this browser has no WebGPU"),
        };
    }
    // wgpu looks nowhere else, and panics.
    if ["Window", "WorkerGlobalScope"].iter().all(|class| of(&global, class).is_undefined()) {
        return refused("this is neither a window nor a worker: give a device to Optimizer.on");
    }
    match wgpu::Instance::new(descriptor).request_adapter(&Default::default()).await {
        Ok(adapter) => Ok(adapter),
        Err(_) => refused("the browser has WebGPU, but no adapter for this machine"),
    }
}

/// What the adapter tells of itself: `nvidia ampere`, `google swiftshader`.
pub(super) fn adapter_name(device: &wgpu::Device) -> String {
    let device: JsValue = device.as_webgpu().map(|device| device.clone().into()).unwrap_or_default();
    let info = of(&device, "adapterInfo");
    let words = ["vendor", "architecture", "device", "description"].map(|key| of(&info, key).as_string());
    let mut words: Vec<_> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    words.dedup();
    if words.is_empty() { "an unnamed adapter".into() } else { words.join(" ") }
}
