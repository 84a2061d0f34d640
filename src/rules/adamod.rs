use super::prelude::*;

/// AdaMod, Adam whose step sizes are at most their own average: [Ding et al., 2019](https://arxiv.org/abs/1910.12249).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²
/// η = lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) / (√v + ε)
/// s ← β₃s + (1 − β₃)η
/// w ← w − min(η, s)·m
/// ```
/// States `exp_avg` m, `exp_avg_sq` v, `exp_avg_lr` s; 36 bytes of traffic an element. pytorch-optimizer's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaMod {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// β₃ of the average of step sizes, in 0 ≤ β₃ < 1.
    pub beta3: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
}

impl Default for AdaMod {
    /// β = (0.9, 0.99, 0.9999), ε = 1e-8.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, beta3: 0.9999, eps: 1e-8 }
    }
}

fields! {
    /// Coefficients of [`AdaMod`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, step_size, eps }
}
fields! {
    /// State of [`AdaMod`].
    pub struct State { exp_avg, exp_avg_sq, exp_avg_lr }
}

impl Rule for AdaMod {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adamod";
    const SHADER: &'static str = include_str!("../../shaders/adamod.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, 0.0)?;
        below_one("beta3", self.beta3)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            beta3: self.beta3,
            one_minus_beta3: 1.0 - self.beta3,
            step_size: step.lr * one_minus_power(self.beta2, step.t).sqrt() / one_minus_power(beta1, step.t),
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        let eta = ratio(h.step_size, v.sqrt() + h.eps);
        let mean = h.beta3 * s.exp_avg_lr + h.one_minus_beta3 * eta;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        s.exp_avg_lr = mean;
        w - within(eta, F::zero(), mean) * m
    }
}
