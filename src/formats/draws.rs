//! Random bits for rounding, from a hash of counters: the same on every device, and in a run that goes on where another
//! stopped. WGSL half: shaders/draws.wgsl.

/// What [`Draws::of_state`] gets for the parameter itself: no rule has so many states.
pub(crate) const PARAMETER: u32 = 31;

/// The random bits of one state in one step. Rounding wants unbiased bits, not a generator's quality: the function is
/// [a hash of 32 bits](https://nullprogram.com/blog/2018/07/31/) with two keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draws {
    pub(crate) keys: [u32; 2],
}

impl Draws {
    /// Those of the tensor with this hash, of one step.
    pub(crate) fn of_tensor(self, tensor: u32) -> Self {
        Self { keys: [self.keys[0] ^ tensor, self.keys[1] ^ tensor.rotate_left(16)] }
    }

    /// Those of one of the tensor's storages.
    pub(crate) fn of_state(self, state: u32) -> Self {
        let step = state.wrapping_mul(0x9e37_79b9);
        Self { keys: self.keys.map(|key| key.wrapping_add(step)) }
    }

    /// 32 bits for this element of the tensor.
    #[inline(always)]
    pub(crate) fn of(self, element: u32) -> u32 {
        let mut x = element.wrapping_add(self.keys[0]);
        x = (x ^ x >> 16).wrapping_mul(0x7feb_352d) ^ self.keys[1];
        x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
        x ^ x >> 16
    }
}
