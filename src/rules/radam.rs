use super::prelude::*;

/// RAdam, Adam with a rectified variance: [Liu et al., 2020](https://arxiv.org/abs/1908.03265).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²
/// ρ∞ = 2/(1 − β₂) − 1,  ρ = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ)
/// r = √((ρ − 4)(ρ − 2)ρ∞ / ((ρ∞ − 4)(ρ∞ − 2)ρ))
/// w ← w − lr·r·m̂ / (√(v̂ + eps_root) + ε)    where ρ > 5
/// w ← w − lr·m̂                              where not: m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
/// ```
/// States `exp_avg` m, `exp_avg_sq` v; 28 bytes of traffic an element. PyTorch adds ε to the uncorrected √v
/// (`eps_hat`), optax to √v̂; pytorch-optimizer does as PyTorch, but takes no step at all while ρ ≤ 5. PyTorch has ρ >
/// 5, the other two ρ ≥ 5: this matters only if ρ is exactly 5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct RAdam {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// ε̂: ε is added to the uncorrected √v, `m̂·√(1 − β₂ᵗ) / (√v + ε)`.
    pub eps_hat: bool,
    /// A second ε, inside the root; 0 or more.
    pub eps_root: f64,
    /// Take the step without v while ρ ≤ 5; otherwise none.
    pub degenerated_to_sgd: bool,
}

impl Default for RAdam {
    /// The same as [`RAdam::torch`].
    fn default() -> Self {
        Self::torch()
    }
}

impl RAdam {
    /// β = (0.9, 0.999), ε̂ = 1e-8.
    pub fn torch() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, eps_hat: true, eps_root: 0.0, degenerated_to_sgd: true }
    }
    /// ε beside √v̂.
    pub fn optax() -> Self {
        Self { eps_hat: false, ..Self::torch() }
    }
    /// No step while ρ ≤ 5.
    pub fn pytorch_optimizer() -> Self {
        Self { degenerated_to_sgd: false, ..Self::torch() }
    }
}

fields! {
    /// Coefficients of [`RAdam`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, eps_root, eps, rectified }
}
fields! {
    /// State of [`RAdam`].
    pub struct State { exp_avg, exp_avg_sq }
}

impl Rule for RAdam {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "radam";
    const SHADER: &'static str = include_str!("../../shaders/radam.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        require(!self.eps_hat || self.eps_root == 0.0, "eps_hat", 1.0, "0 with eps_root")
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let (m_hat, v_hat) = (1.0 / one_minus_power(beta1, step.t), 1.0 / one_minus_power(self.beta2, step.t));
        let rectification = rectification(self.beta2, step.t);
        let unrectified = if self.degenerated_to_sgd { 1.0 } else { 0.0 };
        let beside_root = if self.eps_hat && rectification.is_some() { v_hat.sqrt() } else { 1.0 };
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            step_size: step.lr * m_hat * rectification.unwrap_or(unrectified) / beside_root,
            correction: if self.eps_hat { 1.0 } else { v_hat },
            eps_root: self.eps_root,
            eps: self.eps,
            rectified: f64::from(rectification.is_some()),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        let root = (h.correction * v + h.eps_root).sqrt() + h.eps;
        w - h.step_size * ratio(m, if h.rectified == F::one() { root } else { F::one() })
    }
}
