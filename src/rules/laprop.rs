use super::prelude::*;

/// LaProp, momentum of gradients that are already divided: [Ziyin et al., 2020](https://arxiv.org/abs/2002.04839).
///
/// ```text
/// v ← β₂v + (1 − β₂)g²
/// u = g / ((√(v + eps_root) + ε) / √(1 − β₂ᵗ))      centered: v − ḡ² from step 11 on, ḡ ← β₂ḡ + (1 − β₂)g
/// m ← β₁m + (1 − β₁)u
/// w ← (1 − lr·λ)·(w − lr·m̂)                         m̂ = m / (1 − β₁ᵗ)
/// ```
/// λ is [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled), behind the step as in the authors' code. States
/// `exp_avg` m, `exp_avg_sq` v, `grad_avg` ḡ if centered; 28 bytes of traffic an element, 36 if centered.
/// pytorch-optimizer keeps lr·m for m; with a constant learning rate the parameters are equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct LaProp {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root; 0 or more.
    pub eps_root: f64,
    /// Divide by the standard deviation.
    pub centered: bool,
}

impl Default for LaProp {
    /// β = (0.9, 0.999), both ε = 1e-15: pytorch-optimizer.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-15, eps_root: 1e-15, centered: false }
    }
}

fields! {
    /// Coefficients of [`LaProp`].
    pub struct Hyper {
        beta1, one_minus_beta1, beta2, one_minus_beta2, root, centering, step_size, decay, eps_root, eps,
    }
}
fields! {
    /// State of [`LaProp`].
    pub struct State { exp_avg, exp_avg_sq, grad_avg }
}

impl Rule for LaProp {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "laprop";
    const SHADER: &'static str = include_str!("../../shaders/laprop.wgsl");
    const LR: f64 = 4e-4;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)
    }

    fn uses(&self, state: &str) -> bool {
        state != "grad_avg" || self.centered
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("CENTERED", self.centered)]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            root: one_minus_power(self.beta2, step.t).sqrt(),
            centering: f64::from(step.t > 10),
            step_size: step.lr / one_minus_power(beta1, step.t),
            decay: step.lr * step.weight_decay,
            eps_root: self.eps_root,
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg_sq = v;
        let mut variance = v;
        if self.centered {
            let mean = h.beta2 * s.grad_avg + h.one_minus_beta2 * g;
            s.grad_avg = mean;
            variance = largest(v - h.centering * mean * mean, F::zero());
        }
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * ratio(h.root * g, (variance + h.eps_root).sqrt() + h.eps);
        s.exp_avg = m;
        let x = w - h.step_size * m;
        x - h.decay * x
    }
}
