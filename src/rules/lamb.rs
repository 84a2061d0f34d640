use super::prelude::*;

/// LAMB, Adam with a step of each tensor's own length: [You et al., 2020](https://arxiv.org/abs/1904.00962).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²
/// r = m̂ / (√(v̂ + eps_root) + ε) + λw       m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
/// w ← w − lr·‖w‖/‖r‖·r                      the ratio is 1 where a norm is 0
/// ```
/// λ is [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled), inside the ratio. States `exp_avg` m, `exp_avg_sq`
/// v; 44 bytes of traffic an element: the norms take one more pass, which stores nothing. Of the paper's choices: φ is
/// the identity, as in optax and Keras.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Lamb {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root, as optax; 0 or more.
    pub eps_root: f64,
}

impl Default for Lamb {
    fn default() -> Self {
        Self::optax()
    }
}

impl Lamb {
    /// β = (0.9, 0.999), ε = 1e-6.
    pub fn optax() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-6, eps_root: 0.0 }
    }
    /// ε = 1e-7.
    pub fn keras() -> Self {
        Self { eps: 1e-7, ..Self::optax() }
    }
}

fields! {
    /// Coefficients of [`Lamb`].
    pub struct Hyper {
        beta1, one_minus_beta1, beta2, one_minus_beta2, m_correction, v_correction, eps_root, eps, weight_decay, lr,
        trust_ratio,
    }
}
fields! {
    /// State of [`Lamb`].
    pub struct State { exp_avg, exp_avg_sq }
}

#[inline(always)]
fn direction<F: Real>(w: F, m: F, v: F, h: &Hyper<F>) -> F {
    ratio(h.m_correction * m, (h.v_correction * v + h.eps_root).sqrt() + h.eps) + h.weight_decay * w
}

impl Rule for Lamb {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "lamb";
    const SHADER: &'static str = include_str!("../../shaders/lamb.wgsl");
    const LR: f64 = 1e-3;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)
    }

    fn stages(&self) -> &'static [Stage] {
        const REDUCE: Reduce = Reduce {
            over: Extent::Tensor,
            parameter: true,
            reads: &["exp_avg", "exp_avg_sq"],
            keeps: None,
            into: "trust_ratio",
        };
        &[Stage::Reduce(REDUCE), Stage::Map]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            m_correction: 1.0 / one_minus_power(beta1, step.t),
            v_correction: 1.0 / one_minus_power(self.beta2, step.t),
            eps_root: self.eps_root,
            eps: self.eps,
            weight_decay: step.weight_decay,
            lr: step.lr,
            trust_ratio: 1.0,
        }
    }

    #[inline(always)]
    fn measure<F: Real>(&self, w: F, g: F, s: &State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        direction(w, m, v, h)
    }

    fn trust<F: Real>(&self, w: F, r: F, _s: &mut F, _h: &Hyper<F>) -> F {
        if w == F::zero() || r == F::zero() { F::one() } else { w / r }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        w - h.lr * h.trust_ratio * direction(w, m, v, h)
    }
}
