//! What the machine has: vector units, threads, caches that want to know ahead.

use std::cell::RefCell;

use crate::rule::Real;

/// Runs `f` as it is compiled for the widest vector unit that this machine has. The numbers are the same on all of
/// them.
#[inline(always)]
pub(super) fn widest<T>(f: impl FnOnce() -> T) -> T {
    #[cfg(not(target_family = "wasm"))]
    return pulp::Arch::new().dispatch(f);
    #[cfg(target_family = "wasm")]
    f()
}

/// What `f` makes of each, in order; on all threads.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn map<T: Send, U: Send>(items: Vec<T>, f: impl Fn(T) -> U + Send + Sync) -> Vec<U> {
    use rayon::prelude::*;
    items.into_par_iter().map(f).collect()
}

/// The same in a browser, on its one thread, which may not share what it has.
#[cfg(target_family = "wasm")]
pub(crate) fn map<T, U>(items: Vec<T>, f: impl Fn(T) -> U) -> Vec<U> {
    items.into_iter().map(f).collect()
}

thread_local! {
    static SCRATCH: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with scratch memory for this many numbers, which holds anything. A thread keeps its scratch: memory that
/// is freed after each step is unmapped, which interrupts all other threads.
pub(super) fn with_scratch<F: Real, T>(len: usize, f: impl FnOnce(&mut [F]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(scratch.len().max(len), 0.0);
        f(&mut bytemuck::cast_slice_mut(scratch)[..len])
    })
}

/// Asks for what lies 512 bytes behind this tile: roots and divisions leave the loads too little room to run ahead by
/// themselves.
#[inline(always)]
pub(super) fn prefetch<F, const N: usize>(tile: &[F; N]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(sse) = pulp::core_arch::x86::Sse::try_new() {
        let ahead = tile.as_ptr().cast::<i8>().wrapping_add(512);
        for line in (0..size_of_val(tile)).step_by(64) {
            sse._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ahead.wrapping_add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = tile;
}
