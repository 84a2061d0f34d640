//! How many objects of a kind there are, for wgpu's counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

static COUNTS: [AtomicIsize; 6] = [const { AtomicIsize::new(0) }; 6];

/// Kept by each clone of an object.
#[derive(Clone, Debug)]
pub struct Counted<const KIND: usize>(Arc<()>);

#[allow(clippy::new_without_default, reason = "an object is nothing that there is by default")]
impl<const KIND: usize> Counted<KIND> {
    pub fn new() -> Self {
        COUNTS[KIND].fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(()))
    }

    pub fn count() -> isize {
        COUNTS[KIND].load(Ordering::Relaxed)
    }
}

impl<const KIND: usize> Drop for Counted<KIND> {
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) == 1 {
            COUNTS[KIND].fetch_sub(1, Ordering::Relaxed);
        }
    }
}
