//! A rule over tiles of elements, and what stands between a gradient and its rule.

use super::{MAX_STATES, TILE};
use crate::noise::Stream;
use crate::rule::{Fields, Real, Rule, coefficient};
use crate::scaling::factors;
use crate::settings::Coefficients;

/// A rule in one step, tile by tile.
pub(super) trait Tiles<F>: Sync {
    /// How many states the rule declares.
    fn states(&self) -> usize;
    /// Whether it keeps this one.
    fn uses(&self, k: usize) -> bool;
    /// One tile's new parameters; `first` is its first element, of the tensor.
    fn update(&self, w: [F; TILE], g: [F; TILE], states: &mut [[F; TILE]; MAX_STATES], first: usize) -> [F; TILE];
    /// What the rule measures in one tile.
    fn measure(&self, w: &[F; TILE], g: &[F; TILE], states: &[[F; TILE]; MAX_STATES], first: usize) -> [F; TILE];
}

/// What the loops around tiles are compiled for: each rule by itself, or in a browser, where wasm is loaded over a
/// network, all rules at once.
#[cfg(not(target_family = "wasm"))]
pub(super) fn sized<T: Clone>(tiles: &T) -> T {
    tiles.clone()
}

#[cfg(target_family = "wasm")]
pub(super) fn sized<F, T: Tiles<F>>(tiles: &T) -> &dyn Tiles<F> {
    tiles
}

#[cfg(target_family = "wasm")]
impl<F> Tiles<F> for &dyn Tiles<F> {
    fn states(&self) -> usize {
        (**self).states()
    }
    fn uses(&self, k: usize) -> bool {
        (**self).uses(k)
    }
    fn update(&self, w: [F; TILE], g: [F; TILE], states: &mut [[F; TILE]; MAX_STATES], first: usize) -> [F; TILE] {
        (**self).update(w, g, states, first)
    }
    fn measure(&self, w: &[F; TILE], g: &[F; TILE], states: &[[F; TILE]; MAX_STATES], first: usize) -> [F; TILE] {
        (**self).measure(w, g, states, first)
    }
}

/// `EXTRAS`: whether its driver has more than a scale and L2 decay.
#[derive(Clone)]
pub(super) struct OfRule<R: Rule, F: Real, const EXTRAS: bool> {
    rule: R,
    hyper: R::Hyper<F>,
    driver: Driver<F>,
}

impl<R: Rule, F: Real, const EXTRAS: bool> OfRule<R, F, EXTRAS> {
    pub(super) fn new(rule: &R, hyper: R::Hyper<F>, c: &Coefficients) -> Self {
        Self { rule: rule.clone(), hyper, driver: Driver::of(c) }
    }
}

impl<R: Rule, F: Real, const EXTRAS: bool> Tiles<F> for OfRule<R, F, EXTRAS> {
    #[inline(always)]
    fn states(&self) -> usize {
        <R::State<F> as Fields<F>>::NAMES.len()
    }

    #[inline(always)]
    fn uses(&self, k: usize) -> bool {
        Rule::uses(&self.rule, <R::State<F> as Fields<F>>::NAMES[k])
    }

    #[inline(always)]
    fn update(&self, mut w: [F; TILE], g: [F; TILE], states: &mut [[F; TILE]; MAX_STATES], first: usize) -> [F; TILE] {
        let Self { rule, hyper, driver } = self;
        let noise = driver.noise::<EXTRAS>(first);
        for i in 0..TILE {
            let mut s = R::State::<F>::load(|k| states[k][i]);
            let g = driver.gradient::<EXTRAS>(g[i], w[i], noise[i]);
            w[i] = rule.update(w[i] - driver.decay * w[i], g, &mut s, hyper);
            s.store(|k, x| states[k][i] = x);
        }
        w
    }

    #[inline(always)]
    fn measure(&self, w: &[F; TILE], g: &[F; TILE], states: &[[F; TILE]; MAX_STATES], first: usize) -> [F; TILE] {
        // Copies, which stay in registers.
        let (rule, hyper, driver) = (self.rule.clone(), self.hyper, self.driver.clone());
        let (noise, mut x) = (driver.noise::<EXTRAS>(first), [F::zero(); TILE]);
        for i in 0..TILE {
            let g = driver.gradient::<EXTRAS>(g[i], w[i], noise[i]);
            x[i] = rule.measure(w[i] - driver.decay * w[i], g, &R::State::<F>::load(|k| states[k][i]), &hyper);
        }
        x
    }
}

/// What stands between a gradient and its rule.
#[derive(Clone)]
pub(super) struct Driver<F> {
    /// What `EXTRAS` says where it says anything: see [`update`].
    extras: bool,
    grad_scale: F,
    grad_power: F,
    decay: F,
    pub(super) l2: F,
    limit: F,
    zero: bool,
    stream: Option<Stream>,
}

impl<F: Real> Driver<F> {
    pub(super) fn of(c: &Coefficients) -> Self {
        let [grad_scale, grad_power] = factors(c.grad_scale);
        let (decay, l2) = (coefficient(c.decay), coefficient(c.l2));
        let limit = c.clip_value.map_or(F::infinity(), coefficient);
        let (extras, zero) = (c.extras(), c.zero_non_finite);
        Self { extras, grad_scale, grad_power, decay, l2, limit, zero, stream: c.noise }
    }

    #[inline(always)]
    fn gradient<const EXTRAS: bool>(&self, g: F, w: F, noise: F) -> F {
        if !EXTRAS || (cfg!(target_family = "wasm") && !self.extras) {
            return self.grad_scale * g + self.l2 * w;
        }
        let g = self.grad_scale * (self.grad_power * g);
        let g = if self.zero && !g.is_finite() { F::zero() } else { g };
        clip(g, self.limit) + noise + self.l2 * w
    }

    /// The noise on the elements from `first` on, which is a multiple of four.
    #[inline(always)]
    fn noise<const EXTRAS: bool>(&self, first: usize) -> [F; TILE] {
        let mut noise = [F::zero(); TILE];
        if EXTRAS {
            self.draw(first, &mut noise);
        }
        noise
    }

    fn draw(&self, first: usize, noise: &mut [F; TILE]) {
        let Some(stream) = &self.stream else { return };
        for (block, four) in noise.chunks_mut(4).enumerate() {
            let drawn = stream.four((first / 4 + block) as u32);
            four.iter_mut().zip(drawn).for_each(|(noise, x)| *noise = F::of(x));
        }
    }
}

/// To ±limit; NaN passes: the twin of the shaders' `clip`.
fn clip<F: Real>(x: F, limit: F) -> F {
    if x > limit {
        limit
    } else if x < -limit {
        -limit
    } else {
        x
    }
}
