use super::prelude::*;

/// AdaBelief, Adam that divides by how far gradients are from what was expected: [Zhuang et al.,
/// 2020](https://arxiv.org/abs/2010.07468).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// s ← β₂s + (1 − β₂)(g − m)² + eps_root
/// w ← w − lr·m̂ / (√ŝ + ε)         m̂ = m / (1 − β₁ᵗ),  ŝ = s / (1 − β₂ᵗ)
/// ```
/// States `exp_avg` m, `exp_avg_var` s; 28 bytes of traffic an element. eps_root is added at each step, so that s grows
/// by it, as in the paper; pytorch-optimizer adds its ε there, and both defaults are 1e-16. With `rectify` the step is
/// that of RAdam, with ε beside the uncorrected √s, as in the authors' code.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaBelief {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// What s grows by at each step, 0 or more.
    pub eps_root: f64,
    /// Rectify the variance as [`RAdam`](super::RAdam).
    pub rectify: bool,
}

impl Default for AdaBelief {
    /// β = (0.9, 0.999), both ε = 1e-16: optax, pytorch-optimizer.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-16, eps_root: 1e-16, rectify: false }
    }
}

fields! {
    /// Coefficients of [`AdaBelief`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, correction, eps_root, eps, rectified }
}
fields! {
    /// State of [`AdaBelief`].
    pub struct State { exp_avg, exp_avg_var }
}

impl Rule for AdaBelief {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adabelief";
    const SHADER: &'static str = include_str!("../../shaders/adabelief.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let (m_hat, v_hat) = (1.0 / one_minus_power(beta1, step.t), 1.0 / one_minus_power(self.beta2, step.t));
        let rectification = rectification(self.beta2, step.t).filter(|_| self.rectify);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            step_size: step.lr * m_hat * rectification.map_or(1.0, |r| r / v_hat.sqrt()),
            correction: if self.rectify { 1.0 } else { v_hat },
            eps_root: self.eps_root,
            eps: self.eps,
            rectified: f64::from(!self.rectify || rectification.is_some()),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_var + h.one_minus_beta2 * (g - m) * (g - m) + h.eps_root;
        s.exp_avg = m;
        s.exp_avg_var = v;
        let root = (h.correction * v).sqrt() + h.eps;
        w - h.step_size * ratio(m, if h.rectified == F::one() { root } else { F::one() })
    }
}
