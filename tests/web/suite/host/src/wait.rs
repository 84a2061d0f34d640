//! Waiting: the whole wasm stack is suspended (JSPI) while the page goes on.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::Instant;

static LAST: AtomicU32 = AtomicU32::new(0);

/// The promise of this number.
struct Promise(u32);

impl Wake for Promise {
    fn wake(self: Arc<Self>) {
        // SAFETY: the import takes a number.
        unsafe { crate::resume(self.0) }
    }
}

/// `pollster::block_on`.
pub fn block_on<F: Future>(future: F) -> F::Output {
    loop_until(future, f64::INFINITY).expect("it waits for ever")
}

/// [`block_on`], as long as this at most.
pub fn block_on_for<F: Future>(future: F, limit: Duration) -> Option<F::Output> {
    loop_until(future, limit.as_secs_f64() * 1000.0)
}

fn loop_until<F: Future>(future: F, milliseconds: f64) -> Option<F::Output> {
    let mut future = pin!(future);
    let since = Instant::now();
    loop {
        let promise = LAST.fetch_add(1, Ordering::Relaxed);
        let waker = Waker::from(Arc::new(Promise(promise)));
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = milliseconds - since.elapsed().as_secs_f64() * 1000.0;
        if left <= 0.0 {
            return None;
        }
        // SAFETY: the import takes numbers. What runs meanwhile uses the stack above ours, and leaves it as it was: it
        // never waits itself.
        unsafe { crate::suspend(promise, left) }
    }
}

/// Lets the page go on for this long, and at least for one turn.
pub fn turn(duration: Duration) {
    // SAFETY: as in `block_on`.
    unsafe { crate::pause(duration.as_secs_f64() * 1000.0) }
}
