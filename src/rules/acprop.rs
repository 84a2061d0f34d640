use super::prelude::*;

/// ACProp, AdaBelief that divides before it knows the gradient: [Zhuang et al.,
/// 2021](https://arxiv.org/abs/2110.05454).
///
/// ```text
/// w ← w − lr·g / (√ŝ + ε)          ŝ = s / (1 − β₂ᵗ⁻¹) of the steps before, 1 at the first
/// s ← β₂s + (1 − β₂)(g − m)² + eps_root
/// m ← β₁m + (1 − β₁)g
/// ```
/// States `exp_avg` m, `exp_avg_var` s; 28 bytes of traffic an element. The form of optax.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AcProp {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// What s grows by at each step, 0 or more.
    pub eps_root: f64,
}

impl Default for AcProp {
    /// β = (0.9, 0.999), both ε = 1e-16.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-16, eps_root: 1e-16 }
    }
}

fields! {
    /// Coefficients of [`AcProp`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, correction, eps_root, eps, lr, first }
}
fields! {
    /// State of [`AcProp`].
    pub struct State { exp_avg, exp_avg_var }
}

impl Rule for AcProp {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "acprop";
    const SHADER: &'static str = include_str!("../../shaders/acprop.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let before = one_minus_power(self.beta2, step.t - 1);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            correction: if before > 0.0 { 1.0 / before } else { 1.0 },
            eps_root: self.eps_root,
            eps: self.eps,
            lr: step.lr,
            first: first_step(step.t),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let variance = if h.first == F::one() { F::one() } else { h.correction * s.exp_avg_var };
        let difference = g - s.exp_avg;
        s.exp_avg = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        s.exp_avg_var = h.beta2 * s.exp_avg_var + h.one_minus_beta2 * difference * difference + h.eps_root;
        w - h.lr * ratio(g, variance.sqrt() + h.eps)
    }
}
