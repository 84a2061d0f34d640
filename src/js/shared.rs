//! What the class `Optimizer` and its unfinished calls share; promises; numbers and indices of JavaScript's.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::HashSet;
use std::pin::Pin;
use std::rc::Rc;

use js_sys::{Float32Array, Promise};
use wasm_bindgen::prelude::*;

use super::adopt::adopt_buffer;
use super::errors::{Js, fault};
use crate::gpu::memory::BufferRange;
use crate::gpu::own::leave_to_the_collector;
use crate::gpu::{Device, Gpu};
use crate::optimizer::Optimizer;

/// An optimizer that calls which have not finished hold, too.
#[derive(Debug)]
pub(super) struct Shared {
    /// `None` once it is destroyed.
    optimizer: RefCell<Option<Optimizer>>,
    /// Calls that have begun and not finished.
    waiting: Cell<u32>,
    /// Buffers of the caller's.
    adopted: RefCell<Vec<wgpu::Buffer>>,
}

impl Drop for Shared {
    /// Of an optimizer that nobody destroyed: the page may still bind what `parameter` gave it.
    fn drop(&mut self) {
        leave_to_the_collector(self.optimizer.take());
    }
}

fn busy() -> JsValue {
    fault("Busy", "a call to this optimizer has not finished: await it before this one")
}

impl Shared {
    pub(super) fn new(optimizer: Optimizer) -> Rc<Self> {
        let optimizer = RefCell::new(Some(optimizer));
        Rc::new(Self { optimizer, waiting: Cell::new(0), adopted: RefCell::default() })
    }

    pub(super) fn get(&self) -> Js<Ref<'_, Optimizer>> {
        let destroyed = |_| fault("Destroyed", "this optimizer was destroyed");
        Ref::filter_map(self.optimizer.try_borrow().map_err(|_| busy())?, Option::as_ref).map_err(destroyed)
    }

    /// For a call that has begun.
    pub(super) fn get_mut(&self) -> Js<RefMut<'_, Optimizer>> {
        let destroyed = |_| fault("Destroyed", "this optimizer was destroyed");
        let optimizer = self.optimizer.try_borrow_mut().map_err(|_| busy())?;
        RefMut::filter_map(optimizer, Option::as_mut).map_err(destroyed)
    }

    /// For a new call: refuses while another one has not finished, even one that has not begun.
    pub(super) fn change(&self) -> Js<RefMut<'_, Optimizer>> {
        if self.waiting.get() > 0 { Err(busy()) } else { self.get_mut() }
    }

    pub(super) fn destroy(&self) -> Js<()> {
        if self.waiting.get() > 0 {
            return Err(busy());
        }
        drop(self.optimizer.try_borrow_mut().map_err(|_| busy())?.take());
        Ok(())
    }

    pub(super) fn gpu(&self) -> Js<Gpu> {
        match self.get()?.device() {
            Device::Gpu(gpu) => Ok(gpu.clone()),
            Device::Cpu => Err(fault("Unsupported", "this optimizer runs on the CPU and has no buffers")),
        }
    }

    /// A range of the caller's. Forgets buffers that nobody uses any more, now and then.
    pub(super) fn adopt(&self, range: &JsValue) -> Js<BufferRange> {
        let gpu = self.gpu()?;
        let mut adopted = self.adopted.take();
        {
            let optimizer = self.get()?;
            if adopted.len() > 4 * optimizer.parameters().count() + 64 {
                let ranges = |id| [optimizer.parameter(id), optimizer.gradient(id)].into_iter().flatten();
                let used = optimizer.parameters().flat_map(|(id, _)| ranges(id)).map(|range| &range.buffer);
                let used: HashSet<_> = used.collect();
                adopted.retain(|buffer| used.contains(buffer));
            }
        }
        // Nothing is borrowed while JavaScript runs.
        let range = adopt_buffer(&gpu, &mut adopted, range);
        self.adopted.replace(adopted);
        range
    }

    /// A promise of what `f` does. Until then, calls that change the optimizer are refused.
    pub(super) fn later(self: &Rc<Self>, f: impl AsyncFnOnce(&Self) -> Js<JsValue> + 'static) -> Promise {
        let shared = self.clone();
        shared.waiting.update(|count| count + 1);
        promise(async move {
            let result = f(&shared).await;
            shared.waiting.update(|count| count - 1);
            result
        })
    }
}

/// A promise of what `f` gives. One type for all, so that there is one machine for promises in the wasm.
pub(super) fn promise(f: impl Future<Output = Js<JsValue>> + 'static) -> Promise {
    let f: Pin<Box<dyn Future<Output = Js<JsValue>>>> = Box::pin(f);
    wasm_bindgen_futures::future_to_promise(f)
}

pub(super) fn nothing((): ()) -> JsValue {
    JsValue::UNDEFINED
}

pub(super) fn floats(x: Vec<f32>) -> JsValue {
    Float32Array::from(&x[..]).into()
}

/// A name. Whoever calls without TypeScript may give anything.
pub(super) fn text(name: &JsValue) -> Js<String> {
    name.as_string().ok_or_else(|| fault("Options", "a name is a text"))
}

/// The numbers of a `Float32Array`.
pub(super) fn numbers(name: &str, values: JsValue) -> Js<Vec<f32>> {
    let array = values.dyn_into::<Float32Array>();
    let array = array.map_err(|_| fault("Options", &format!("the values of `{name}` are no Float32Array")))?;
    Ok(array.to_vec())
}

/// A group's number; 0 where none is given.
pub(super) fn index(group: Option<f64>) -> Js<usize> {
    let group = group.unwrap_or(0.0);
    match group {
        whole if whole >= 0.0 && whole.fract() == 0.0 && whole < 1e9 => Ok(whole as usize),
        other => Err(fault("Options", &format!("{other} is no number of a group"))),
    }
}
