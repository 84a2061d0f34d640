//! Says which tests take long, so that a run that hangs says where.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A test that runs longer than this is named, again and again.
const LONG: Duration = Duration::from_secs(120);

static RUNNING: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

fn running() -> MutexGuard<'static, BTreeMap<String, Instant>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A test that is running, until this is dropped.
pub(crate) struct Running(String);

impl Running {
    pub(crate) fn new(test: &str) -> Self {
        running().insert(test.into(), Instant::now());
        Self(test.into())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        running().remove(&self.0);
    }
}

pub(crate) fn start() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(LONG / 4);
            for (test, since) in running().iter().filter(|(_, since)| since.elapsed() > LONG) {
                eprintln!("{test} has been running for {} s", since.elapsed().as_secs());
            }
        }
    });
}
