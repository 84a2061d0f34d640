use super::prelude::*;

/// AdaPNM, Adam with positive-negative momentum: [Xie et al., 2021](https://arxiv.org/abs/2103.17182).
///
/// ```text
/// x ← β₁²x + (1 − β₁²)g            x and y: m₊ and m₋ in odd steps, m₋ and m₊ in even ones
/// v ← β₂v + (1 − β₂)g²             amsgrad: v̄ ← max(v̄, v) stands for v below
/// w ← w − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ)·((1 + β₃)x − β₃y) / √((1 + β₃)² + β₃²) / (√(v + eps_root) + ε)
/// ```
/// States `exp_avg` m₊, `neg_exp_avg` m₋, `exp_avg_sq` v, `max_exp_avg_sq` v̄; 44 bytes of traffic an element, 36
/// without amsgrad. pytorch-optimizer's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaPnm {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// β₃, the part of the negative momentum, 0 or more.
    pub beta3: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root; 0 or more.
    pub eps_root: f64,
    /// Divide by the largest v so far.
    pub amsgrad: bool,
}

impl Default for AdaPnm {
    /// β = (0.9, 0.999, 1), ε = 1e-8, 1e-15 inside the root, amsgrad.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, beta3: 1.0, eps: 1e-8, eps_root: 1e-15, amsgrad: true }
    }
}

fields! {
    /// Coefficients of [`AdaPnm`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, rate, negative_rate, eps_root, eps, odd }
}
fields! {
    /// State of [`AdaPnm`].
    pub struct State { exp_avg, neg_exp_avg, exp_avg_sq, max_exp_avg_sq }
}

impl Rule for AdaPnm {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adapnm";
    const SHADER: &'static str = include_str!("../../shaders/adapnm.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        at_least_zero("beta3", self.beta3)
    }

    fn uses(&self, state: &str) -> bool {
        state != "max_exp_avg_sq" || self.amsgrad
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("AMSGRAD", self.amsgrad)]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let (square, part) = (beta1.powi(2), self.beta3);
        let corrections = one_minus_power(self.beta2, step.t).sqrt() / one_minus_power(beta1, step.t);
        let rate = step.lr * corrections / (1.0 + part).hypot(part);
        Hyper {
            beta1: square,
            one_minus_beta1: 1.0 - square,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            rate: rate * (1.0 + part),
            negative_rate: rate * part,
            eps_root: self.eps_root,
            eps: self.eps,
            odd: f64::from(step.t % 2 == 1),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let odd = h.odd == F::one();
        let x = h.beta1 * if odd { s.exp_avg } else { s.neg_exp_avg } + h.one_minus_beta1 * g;
        let y = if odd { s.neg_exp_avg } else { s.exp_avg };
        s.exp_avg = if odd { x } else { s.exp_avg };
        s.neg_exp_avg = if odd { s.neg_exp_avg } else { x };
        let mut v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg_sq = v;
        if self.amsgrad {
            v = largest(s.max_exp_avg_sq, v);
            s.max_exp_avg_sq = v;
        }
        w - ratio(h.rate * x - h.negative_rate * y, (v + h.eps_root).sqrt() + h.eps)
    }
}
