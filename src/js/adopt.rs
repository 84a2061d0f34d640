//! From a `GPUDevice` and a `GPUBuffer` that JavaScript made to wgpu's.
//!
//! wgpu 30 gives its WebGPU objects to JavaScript (`as_webgpu`) and takes none: so `adopt.js` lends it the object at
//! the moment in which wgpu asks the browser to make one. While wgpu makes its instance, `navigator.gpu` is an object
//! whose only adapter has the caller's device; while wgpu makes a buffer, the device's `createBuffer` returns the
//! caller's. Both are put back before anything else runs. What comes out is compared with what went in.

use js_sys::{Object, Reflect};
use wasm_bindgen::prelude::*;

use super::errors::{Js, fault};
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;

#[wasm_bindgen(module = "/src/js/adopt.js")]
extern "C" {
    #[wasm_bindgen(js_name = whyNoDevice)]
    fn why_no_device(device: &JsValue) -> Option<String>;
    #[wasm_bindgen(js_name = isBuffer)]
    fn is_buffer(buffer: &JsValue) -> bool;
    #[wasm_bindgen(catch, js_name = withDevice)]
    fn with_device(device: &JsValue, make: &mut dyn FnMut()) -> Result<(), JsValue>;
    #[wasm_bindgen(catch, js_name = withBuffer)]
    fn with_buffer(device: &JsValue, buffer: &JsValue, make: &mut dyn FnMut()) -> Result<(), JsValue>;
}

fn refused(reason: &str) -> JsValue {
    fault("NoDevice", &format!("this is no GPUDevice that can be used: {reason}"))
}

/// A `GPUDevice` of JavaScript's, for optimizers. Installs no callback on it that would displace the caller's.
///
/// # Errors
/// An `Error` with the code `NoDevice`, where the value is no device, or this version of wgpu does not take it.
pub async fn adopt_device(device: &JsValue) -> Result<Gpu, JsValue> {
    if let Some(reason) = why_no_device(device) {
        return Err(refused(&reason));
    }
    let mut instance = None;
    with_device(device, &mut || {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::BROWSER_WEBGPU;
        instance = Some(wgpu::Instance::new(descriptor));
    })
    .map_err(|_| refused("`navigator.gpu` cannot be replaced"))?;
    let instance = instance.ok_or_else(|| refused("wgpu made no instance"))?;
    let adapter = instance.request_adapter(&Default::default()).await.map_err(|e| refused(&e.to_string()))?;
    let (ours, queue) = adapter.request_device(&Default::default()).await.map_err(|e| refused(&e.to_string()))?;
    let same = ours.as_webgpu().is_some_and(|ours| Object::is(ours.as_ref(), device));
    if !same {
        return Err(refused("wgpu asked for a device of its own"));
    }
    Ok(Gpu::from_wgpu(ours, queue))
}

/// A `GPUBuffer` of JavaScript's, or a part of it, as a range of f32: from a `GPUBufferBinding`
/// (`{ buffer, offset, size }`) on the device of `gpu`, which [`adopt_device`] made. `known` has the buffers that were
/// adopted before: overlaps are found by the identity of wgpu's buffer, so that a `GPUBuffer` must not become two.
///
/// # Errors
/// An `Error` with the code `NoBuffer`, where the value has no buffer, or this version of wgpu does not take it.
pub fn adopt_buffer(gpu: &Gpu, known: &mut Vec<wgpu::Buffer>, binding: &JsValue) -> Result<BufferRange, JsValue> {
    let refused = |reason: &str| fault("NoBuffer", &format!("this is no GPUBufferBinding that can be used: {reason}"));
    let of = |object: &JsValue, key: &str| Reflect::get(object, &key.into()).unwrap_or_default();
    let number = |object: &JsValue, key: &str| of(object, key).as_f64();
    let buffer = of(binding, "buffer");
    let (true, Some(whole), Some(usage)) = (is_buffer(&buffer), number(&buffer, "size"), number(&buffer, "usage"))
    else {
        return Err(refused("its `buffer` is no GPUBuffer"));
    };
    let offset = number(binding, "offset").unwrap_or(0.0);
    let size = number(binding, "size").unwrap_or(whole - offset);
    if !(offset >= 0.0 && offset.fract() == 0.0 && size >= 0.0 && size % 4.0 == 0.0) {
        return Err(refused(&format!("offset {offset}, size {size}; of f32, the size is a multiple of 4")));
    }
    let is = |ours: &wgpu::Buffer| ours.as_webgpu().is_some_and(|ours| Object::is(ours.as_ref(), &buffer));
    let range = |ours: &wgpu::Buffer| BufferRange::new(ours, offset as u64, (size / 4.0) as usize);
    if let Some(ours) = known.iter().find(|ours| is(ours)) {
        return Ok(range(ours));
    }
    let device: JsValue = gpu.device().as_webgpu().map(|device| device.clone().into()).unwrap_or_default();
    let mut adopted = None;
    with_buffer(&device, &buffer, &mut || {
        adopted = Some(gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: whole as u64,
            usage: wgpu::BufferUsages::from_bits_truncate(usage as u32),
            mapped_at_creation: false,
        }));
    })
    .map_err(|_| refused("its device does not let `createBuffer` be replaced"))?;
    let adopted = adopted.ok_or_else(|| refused("wgpu made no buffer"))?;
    if !is(&adopted) {
        return Err(refused("wgpu made a buffer of its own"));
    }
    let range = range(&adopted);
    known.push(adopted);
    Ok(range)
}

/// The range as a `GPUBufferBinding`.
pub(super) fn binding(range: &BufferRange) -> Js<JsValue> {
    let buffer = range.buffer.as_webgpu().ok_or_else(|| fault("NoBuffer", "the buffer is none of WebGPU's"))?;
    let object = Object::new();
    let fields = [
        ("buffer", buffer.clone().into()),
        ("offset", JsValue::from(range.offset as f64)),
        ("size", JsValue::from(range.words() as f64)),
    ];
    for (key, value) in fields {
        Reflect::set(&object, &key.into(), &value)?;
    }
    Ok(object.into())
}
