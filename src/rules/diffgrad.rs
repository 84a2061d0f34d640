use super::prelude::*;

/// diffGrad, Adam that slows down where gradients change little: [Dubey et al.,
/// 2020](https://arxiv.org/abs/1909.11015).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²
/// f = 1 / (1 + exp(−|g_old − g|))
/// w ← w − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ)·f·m / (√(v + eps_root) + ε)
/// ```
/// States `exp_avg` m, `exp_avg_sq` v, `previous_grad` g_old, 0 at first; 36 bytes of traffic an element.
/// pytorch-optimizer's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct DiffGrad {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root; 0 or more.
    pub eps_root: f64,
}

impl Default for DiffGrad {
    /// β = (0.9, 0.999), ε = 1e-8, 1e-15 inside the root.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, eps_root: 1e-15 }
    }
}

fields! {
    /// Coefficients of [`DiffGrad`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, eps_root, eps }
}
fields! {
    /// State of [`DiffGrad`].
    pub struct State { exp_avg, exp_avg_sq, previous_grad }
}

impl Rule for DiffGrad {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "diffgrad";
    const SHADER: &'static str = include_str!("../../shaders/diffgrad.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            step_size: step.lr * one_minus_power(self.beta2, step.t).sqrt() / one_minus_power(beta1, step.t),
            eps_root: self.eps_root,
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        let friction = F::one() / (F::one() + (-(s.previous_grad - g).abs()).exp());
        s.exp_avg = m;
        s.exp_avg_sq = v;
        s.previous_grad = g;
        w - h.step_size * ratio(friction * m, (v + h.eps_root).sqrt() + h.eps)
    }
}
