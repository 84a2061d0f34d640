//! Random bits for rounding, from a hash of counters: the same on every device, and in a run that goes on where another
//! stopped. WGSL half: shaders/draws.wgsl.

/// What [`Draws::of_state`] gets for the parameter itself: no rule has so many states.
pub(crate) const PARAMETER: u32 = 31;

/// The random bits of one state in one step. Rounding wants unbiased bits, not a generator's quality: the function is
/// [a hash of 32 bits](https://nullprogram.com/blog/2018/07/31/) with two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draws {
    pub(crate) keys: [u32; 2],
    /// What the hash is multiplied by.
    factor: u32,
}

impl Default for Draws {
    fn default() -> Self {
        Self::new([0; 2])
    }
}

impl Draws {
    pub(crate) fn new(keys: [u32; 2]) -> Self {
        Self { keys, factor: 1 }
    }

    /// Those of the tensor with this hash, of one step.
    pub(crate) fn of_tensor(self, tensor: u32) -> Self {
        Self { keys: [self.keys[0] ^ tensor, self.keys[1] ^ tensor.rotate_left(16)], ..self }
    }

    /// Those of one of the tensor's storages.
    pub(crate) fn of_state(self, state: u32) -> Self {
        Self { factor: state.wrapping_mul(0x3c6e_f372).wrapping_add(1), ..self }
    }

    /// 32 bits for this element of the tensor; the upper ones are the better ones.
    #[inline(always)]
    pub(crate) fn of(self, element: u32) -> u32 {
        self.of_hash(self.hash(element))
    }

    /// The bits of this storage, of the element's hash: times an odd number, so that 16 upper bits of one storage say
    /// little of those of another.
    #[inline(always)]
    pub(crate) fn of_hash(self, hash: u32) -> u32 {
        hash.wrapping_mul(self.factor)
    }

    /// What all storages share.
    #[inline(always)]
    pub(crate) fn hash(self, element: u32) -> u32 {
        let mut x = element.wrapping_add(self.keys[0]);
        x = (x ^ x >> 16).wrapping_mul(0x7feb_352d) ^ self.keys[1];
        x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
        x ^ x >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the upper 16 bits: neither the next element, nor the next step, nor another storage knows this one's. The
    /// correlation of n pairs is off by 1/√n in the mean square; five of that are allowed.
    #[test]
    fn nobody_knows_anothers_bits() {
        let n = 1 << 17;
        let of = |draws: Draws, first: u32| -> Vec<f64> {
            (first..first + n).map(|k| f64::from(draws.of(k) >> 16) / 65_535.0 - 0.5).collect()
        };
        for keys in [[0, 0], [1, 2], [0x1234_5678, 0x9abc_def0]] {
            let draws = |state: u32| Draws::new(keys).of_tensor(77).of_state(state);
            let this = of(draws(0), 0);
            let mean = this.iter().sum::<f64>() / f64::from(n);
            assert!(mean.abs() < 5.0 * (1.0 / 12.0 / f64::from(n)).sqrt(), "{keys:?}: mean {mean}");
            let mut others = vec![("the next element".to_owned(), this.clone(), of(draws(0), 1))];
            let next = Draws::new([keys[0] ^ 0x5bd1_e995, keys[1].wrapping_add(99)]).of_tensor(77);
            others.push(("another step".into(), this, of(next, 0)));
            for (a, b) in [(0, 1), (0, PARAMETER), (1, PARAMETER), (1, 2), (0, 2), (2, PARAMETER)] {
                others.push((format!("storages {a} and {b}"), of(draws(a), 0), of(draws(b), 0)));
            }
            for (what, a, b) in others {
                let found = 12.0 * a.iter().zip(&b).map(|(a, b)| a * b).sum::<f64>() / f64::from(n);
                assert!(found.abs() < 5.0 / f64::from(n).sqrt(), "{keys:?}, {what}: {found}");
            }
        }
    }
}
