use super::prelude::*;

/// AdaBound, Adam whose steps are bounded more and more tightly: [Luo et al., 2019](https://arxiv.org/abs/1902.09843).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²                                     amsbound: v̄ ← max(v̄, v) stands for v below
/// η = lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) / (√(v + eps_root) + ε)
/// w ← w − min(max(η, final_lr·(1 − 1/(γt + 1))), final_lr·(1 + 1/(γt)))·m
/// ```
/// States `exp_avg` m, `exp_avg_sq` v, `max_exp_avg_sq` v̄; 28 bytes of traffic an element, 36 with amsbound.
/// pytorch-optimizer's form at a constant learning rate: it and the authors scale final_lr with the schedule, and here
/// it is what it says, or 0 where the learning rate is 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaBound {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root; 0 or more.
    pub eps_root: f64,
    /// The learning rate that the bounds end at, 0 or more.
    pub final_lr: f64,
    /// γ, how fast they close, above 0.
    pub gamma: f64,
    /// Divide by the largest v so far.
    pub amsbound: bool,
}

impl Default for AdaBound {
    /// β = (0.9, 0.999), ε = 1e-8, 1e-15 inside the root, final_lr = 0.1, γ = 1e-3.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, eps_root: 1e-15, final_lr: 0.1, gamma: 1e-3, amsbound: false }
    }
}

fields! {
    /// Coefficients of [`AdaBound`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, low, high, eps_root, eps }
}
fields! {
    /// State of [`AdaBound`].
    pub struct State { exp_avg, exp_avg_sq, max_exp_avg_sq }
}

impl Rule for AdaBound {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adabound";
    const SHADER: &'static str = include_str!("../../shaders/adabound.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        at_least_zero("final_lr", self.final_lr)?;
        above_zero("gamma", self.gamma)
    }

    fn uses(&self, state: &str) -> bool {
        state != "max_exp_avg_sq" || self.amsbound
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("AMSBOUND", self.amsbound)]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let closed = self.gamma * step.t as f64;
        let final_lr = if step.lr > 0.0 { self.final_lr } else { 0.0 };
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            step_size: step.lr * one_minus_power(self.beta2, step.t).sqrt() / one_minus_power(beta1, step.t),
            low: final_lr * (1.0 - 1.0 / (closed + 1.0)),
            high: (final_lr * (1.0 + 1.0 / closed)).min(f32::MAX.into()),
            eps_root: self.eps_root,
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let mut v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        if self.amsbound {
            v = largest(s.max_exp_avg_sq, v);
            s.max_exp_avg_sq = v;
        }
        w - within(ratio(h.step_size, (v + h.eps_root).sqrt() + h.eps), h.low, h.high) * m
    }
}
