//! `std::thread`, with one thread.

use std::time::Duration;

pub use std::thread::{current, scope};

/// Never runs: what the suite starts in the background only watches.
pub fn spawn<T>(_: impl FnOnce() -> T) {}

pub fn sleep(duration: Duration) {
    crate::turn(duration);
}
