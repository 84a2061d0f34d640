use super::prelude::*;

/// Yogi, Adam whose second moment changes by no more than the gradient's square: [Zaheer et al.,
/// 2018](https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← v − (1 − β₂)·sign(v − g²)·g²
/// w ← w − lr·m̂ / (√v̂ + ε)         m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
/// ```
/// States `exp_avg` m, `exp_avg_sq` v, which both begin as `initial_accumulator`; 28 bytes of traffic an element. optax
/// and pytorch-optimizer agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Yogi {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// What m and v begin as, 0 or more.
    pub initial_accumulator: f64,
}

impl Default for Yogi {
    /// β = (0.9, 0.999), ε = 1e-3, from 1e-6.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-3, initial_accumulator: 1e-6 }
    }
}

fields! {
    /// Coefficients of [`Yogi`].
    pub struct Hyper { beta1, one_minus_beta1, one_minus_beta2, step_size, correction, eps }
}
fields! {
    /// State of [`Yogi`].
    pub struct State { exp_avg, exp_avg_sq }
}

impl Rule for Yogi {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "yogi";
    const SHADER: &'static str = include_str!("../../shaders/yogi.wgsl");
    const LR: f64 = 1e-2;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, 0.0)?;
        at_least_zero("initial_accumulator", self.initial_accumulator)
    }

    fn initial(&self, _state: &str) -> f64 {
        self.initial_accumulator
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            one_minus_beta2: 1.0 - self.beta2,
            step_size: step.lr / one_minus_power(beta1, step.t),
            correction: 1.0 / one_minus_power(self.beta2, step.t),
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let (v, square) = (s.exp_avg_sq, g * g);
        // Where both are infinite, v stays so.
        let change = if v < square { square } else { F::zero() };
        let v = v + h.one_minus_beta2 * if v > square { -square } else { change };
        s.exp_avg = m;
        s.exp_avg_sq = v;
        w - h.step_size * ratio(m, (h.correction * v).sqrt() + h.eps)
    }
}
