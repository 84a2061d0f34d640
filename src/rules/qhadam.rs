use super::prelude::*;

/// QHAdam, Adam with quasi-hyperbolic moments: [Ma and Yarats, 2019](https://arxiv.org/abs/1810.06801).
///
/// ```text
/// m ← running mean of g, with weights of β₁: m + (g − m)·(1 − β₁)/(1 − β₁ᵗ)
/// v ← running mean of g², with weights of β₂
/// w ← w − lr·(ν₁m + (1 − ν₁)g) / (√(ν₂v + (1 − ν₂)g²) + ε)
/// ```
/// States `exp_avg` m, `exp_avg_sq` v, whose biases are already corrected; 28 bytes of traffic an element.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct QhAdam {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ν₁, the part of m in the step, from 0 to 1.
    pub nu1: f64,
    /// ν₂, the part of v in its square, from 0 to 1.
    pub nu2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
}

impl Default for QhAdam {
    /// β = (0.9, 0.999), ν = (1, 1), ε = 1e-8: Adam. The paper recommends β = (0.995, 0.999), ν = (0.7, 1).
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, nu1: 1.0, nu2: 1.0, eps: 1e-8 }
    }
}

fields! {
    /// Coefficients of [`QhAdam`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, nu2, one_minus_nu2, rate, gradient_rate, eps }
}
fields! {
    /// State of [`QhAdam`].
    pub struct State { exp_avg, exp_avg_sq }
}

impl Rule for QhAdam {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "qhadam";
    const SHADER: &'static str = include_str!("../../shaders/qhadam.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, 0.0)?;
        require((0.0..=1.0).contains(&self.nu1), "nu1", self.nu1, "0 to 1")?;
        require((0.0..=1.0).contains(&self.nu2), "nu2", self.nu2, "0 to 1")
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let taken = |beta: f64| (1.0 - beta) / one_minus_power(beta, step.t);
        let (first, second) = (taken(beta1), taken(self.beta2));
        Hyper {
            beta1: 1.0 - first,
            one_minus_beta1: first,
            beta2: 1.0 - second,
            one_minus_beta2: second,
            nu2: self.nu2,
            one_minus_nu2: 1.0 - self.nu2,
            rate: step.lr * self.nu1,
            gradient_rate: step.lr * (1.0 - self.nu1),
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        w - ratio(h.rate * m + h.gradient_rate * g, (h.nu2 * v + h.one_minus_nu2 * g * g).sqrt() + h.eps)
    }
}
