use super::prelude::*;

/// AdEMAMix: [Pagliardini et al., 2024](https://arxiv.org/abs/2409.03137). Adam with a second, slow average of the
/// gradients.
///
/// ```text
/// m₁ ← β₁m₁ + (1 − β₁)g
/// m₂ ← β₃m₂ + (1 − β₃)g
/// v  ← β₂v + (1 − β₂)g²
/// w  ← w − lr·(m̂₁ + α·m₂) / (√(v̂ + eps_root) + ε)    m̂₁ = m₁ / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
/// ```
/// States `exp_avg` m₁, `exp_avg_slow` m₂, `exp_avg_sq` v; 36 bytes of traffic an element. m₂ has no bias correction.
/// As the slow average is large at first, the paper lets α and β₃ grow to their values: `t_alpha` and `t_beta3`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdEmaMix {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// β₃ of the slow average, in 0 ≤ β₃ < 1.
    pub beta3: f64,
    /// α, the part of the slow average, 0 or more.
    pub alpha: f64,
    /// ε, 0 or more.
    pub eps: f64,
    /// A second ε, inside the root, as optax; 0 or more.
    pub eps_root: f64,
    /// Steps in which α grows linearly from 0.
    pub t_alpha: Option<u64>,
    /// Steps in which β₃ grows from β₁, the half-life of its average linearly. Both are above 0 then.
    pub t_beta3: Option<u64>,
}

impl Default for AdEmaMix {
    /// β = (0.9, 0.999, 0.9999), α = 5, ε = 1e-8, constant.
    fn default() -> Self {
        let (beta1, beta2, beta3, alpha) = (0.9, 0.999, 0.9999, 5.0);
        Self { beta1, beta2, beta3, alpha, eps: 1e-8, eps_root: 0.0, t_alpha: None, t_beta3: None }
    }
}

impl AdEmaMix {
    /// How far step t is of the `steps` that something grows in.
    fn part(t: u64, steps: Option<u64>) -> f64 {
        steps.filter(|steps| t < *steps).map_or(1.0, |steps| t as f64 / steps as f64)
    }

    /// α of step t.
    pub fn alpha_at(&self, t: u64) -> f64 {
        self.alpha * Self::part(t, self.t_alpha)
    }

    /// β₃ of step t: exp(ln β₁ · ln β₃ / ((1 − t/T) ln β₃ + t/T ln β₁)).
    pub fn beta3_at(&self, t: u64) -> f64 {
        let part = Self::part(t, self.t_beta3);
        if part == 1.0 {
            return self.beta3;
        }
        let (start, end) = (self.beta1.ln(), self.beta3.ln());
        (start * end / ((1.0 - part) * end + part * start)).exp().min(self.beta3)
    }
}

fields! {
    /// Coefficients of [`AdEmaMix`].
    pub struct Hyper {
        beta1, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, rate, slow_rate, correction, eps_root,
        eps,
    }
}
fields! {
    /// State of [`AdEmaMix`].
    pub struct State { exp_avg, exp_avg_slow, exp_avg_sq }
}

impl Rule for AdEmaMix {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "ademamix";
    const SHADER: &'static str = include_str!("../../shaders/ademamix.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        below_one("beta3", self.beta3)?;
        at_least_zero("alpha", self.alpha)?;
        let grows = self.t_beta3.is_none() || self.beta1.min(self.beta3) > 0.0;
        require(grows, "beta1", self.beta1, "above 0 with t_beta3, and so beta3")
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let (beta1, beta2, beta3) = (step.momentum.unwrap_or(self.beta1), self.beta2, self.beta3_at(step.t));
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2,
            one_minus_beta2: 1.0 - beta2,
            beta3,
            one_minus_beta3: 1.0 - beta3,
            rate: step.lr / one_minus_power(beta1, step.t),
            slow_rate: step.lr * self.alpha_at(step.t),
            correction: 1.0 / one_minus_power(beta2, step.t),
            eps_root: self.eps_root,
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let slow = h.beta3 * s.exp_avg_slow + h.one_minus_beta3 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_slow = slow;
        s.exp_avg_sq = v;
        w - ratio(h.rate * m + h.slow_rate * slow, (h.correction * v + h.eps_root).sqrt() + h.eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's appendix: f(β) = ln ½ / ln β − 1 is the half-life, which grows linearly.
    #[test]
    fn alpha_and_the_half_life_grow_linearly() {
        let rule = AdEmaMix { t_alpha: Some(100), t_beta3: Some(200), ..AdEmaMix::default() };
        assert_eq!([0, 50, 100, 1000].map(|t| rule.alpha_at(t)), [0.0, 2.5, 5.0, 5.0]);
        let half_life = |beta: f64| 0.5f64.ln() / beta.ln();
        for t in [0u64, 1, 50, 100, 199, 200, 1000] {
            let part = (t as f64 / 200.0).min(1.0);
            let expected = (1.0 - part) * half_life(0.9) + part * half_life(0.9999);
            assert!((half_life(rule.beta3_at(t)) / expected - 1.0).abs() < 1e-9, "{t}");
        }
        assert!(AdEmaMix { beta1: 0.0, ..rule }.check().is_err() && rule.check().is_ok());
    }
}
