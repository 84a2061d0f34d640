//! Buffers of our own.

use std::ops::Deref;
use std::sync::Arc;

/// A buffer of the optimizer. In a browser the last clone destroys it: the garbage collector does not see memory of the
/// GPU.
#[derive(Clone, Debug)]
pub(crate) struct OwnBuffer(Arc<Last>);

#[derive(Debug)]
struct Last(wgpu::Buffer);

impl OwnBuffer {
    pub(crate) fn new(buffer: wgpu::Buffer) -> Self {
        Self(Arc::new(Last(buffer)))
    }
}

impl Deref for OwnBuffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.0.0
    }
}

#[cfg(target_family = "wasm")]
impl Drop for Last {
    fn drop(&mut self) {
        if !KEPT.get() {
            self.0.destroy();
        }
    }
}

#[cfg(target_family = "wasm")]
thread_local! {
    static KEPT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Drops this without destroying its buffers: JavaScript may hold some of them.
#[cfg(all(feature = "js", target_family = "wasm"))]
pub(crate) fn leave_to_the_collector<T>(what: T) {
    KEPT.set(true);
    drop(what);
    KEPT.set(false);
}
