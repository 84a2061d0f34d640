//! What a test of the suite has around it in a browser: waiting that suspends the stack, a clock, files in memory, and
//! trials that JavaScript runs one by one.

mod counted;
pub mod fs;
pub mod thread;
mod trials;
mod wait;

use std::time::Duration;

pub use counted::Counted;
pub use fs::temporary::{Builder, NamedTempFile, tempdir};
pub use trials::{Arguments, Completion, Conclusion, Failed, Trial, run};
pub use wait::{block_on, block_on_for, turn};

#[link(wasm_import_module = "./host.mjs")]
unsafe extern "C" {
    fn now() -> f64;
    fn pause(milliseconds: f64);
    fn suspend(until: u32, milliseconds: f64);
    fn resume(until: u32);
    fn report(text: *const u8, len: usize);
}

/// std's has no clock here.
#[derive(Clone, Copy, Debug)]
pub struct Instant(f64);

impl Instant {
    pub fn now() -> Self {
        // SAFETY: the import takes nothing.
        Self(unsafe { now() })
    }

    pub fn elapsed(&self) -> Duration {
        Duration::from_secs_f64((Self::now().0 - self.0).max(0.0) / 1000.0)
    }
}

fn tell(text: &str) {
    // SAFETY: JavaScript reads these bytes before it returns.
    unsafe { report(text.as_ptr(), text.len()) }
}
