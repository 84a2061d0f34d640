use super::prelude::*;

/// Sophia, momentum divided by an estimate of the Hessian's diagonal: [Liu et al.,
/// 2023](https://arxiv.org/abs/2305.14342).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// w ← w − lr·min(max(m̂ / max(γh, ε), −ρ), ρ)     m̂ = m / (1 − β₁ᵗ)
/// h ← β₂h + (1 − β₂)·hessian                     at step 1, 1 + k, 1 + 2k, …
/// ```
/// States `exp_avg` m, `exp_hessian` h, and `hessian`, your estimate of the diagonal. Write it before steps 1, 1 + k,
/// 1 + 2k, … with [`Optimizer::write_state`](crate::Optimizer::write_state), or bind
/// [`Optimizer::state_range`](crate::Optimizer::state_range) in the kernel that makes it: `B·g²` of a batch of B with
/// sampled labels (Gauss–Newton–Bartlett), or `u·(Hu)` with random signs u (Hutchinson). While h is 0, nearly every
/// element moves by ±lr·ρ. 36 bytes of traffic an element. The form of optax; there ρ is `clip_threshold`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Sophia {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// γ, above 0: the larger, the fewer elements are clipped.
    pub gamma: f64,
    /// ε, the least that is divided by, above 0.
    pub eps: f64,
    /// ρ, above 0.
    pub clip_threshold: f64,
    /// k, 1 or more.
    pub update_interval: u64,
}

impl Default for Sophia {
    /// β = (0.965, 0.99), γ = 0.01, ε = 1e-8, ρ = 1, k = 10.
    fn default() -> Self {
        Self { beta1: 0.965, beta2: 0.99, gamma: 0.01, eps: 1e-8, clip_threshold: 1.0, update_interval: 10 }
    }
}

fields! {
    /// Coefficients of [`Sophia`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, correction, gamma, eps, limit, lr }
}
fields! {
    /// State of [`Sophia`].
    pub struct State { exp_avg, exp_hessian, hessian }
}

impl Rule for Sophia {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "sophia";
    const SHADER: &'static str = include_str!("../../shaders/sophia.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, 0.0)?;
        above_zero("gamma", self.gamma)?;
        above_zero("eps", self.eps)?;
        above_zero("clip_threshold", self.clip_threshold)?;
        require(self.update_interval > 0, "update_interval", 0.0, "1 or more")
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let updates = (step.t - 1).is_multiple_of(self.update_interval.max(1));
        let beta2 = if updates { self.beta2 } else { 1.0 };
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2,
            one_minus_beta2: 1.0 - beta2,
            correction: 1.0 / one_minus_power(beta1, step.t),
            gamma: self.gamma,
            eps: self.eps,
            limit: self.clip_threshold,
            lr: step.lr,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let u = within(h.correction * m / largest(h.gamma * s.exp_hessian, h.eps), -h.limit, h.limit);
        s.exp_avg = m;
        s.exp_hessian = h.beta2 * s.exp_hessian + h.one_minus_beta2 * s.hessian;
        w - h.lr * u
    }
}
