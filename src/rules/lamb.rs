use super::prelude::*;

/// LAMB, Adam with a step of each tensor's own length: [You et al., 2020](https://arxiv.org/abs/1904.00962).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²
/// r = m̂ / (√(v̂ + eps_root) + ε) + λw       m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
/// w ← w − lr·φ(‖w‖)/(‖r‖ + trust_eps)·r     the ratio is 1 where a norm is 0
/// ```
/// φ(x) = min(x, max_weight_norm), the identity without. λ is
/// [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled), inside the ratio; with `decay_outside`, as Keras, w
/// decays to (1 − lr·λ)w before all. States `exp_avg` m, `exp_avg_sq` v; 44 bytes of traffic an element: the norms take
/// one more pass, which stores nothing. pytorch-optimizer's r is m / (√v + ε), and it divides lr by 1 − β₁ᵗ
/// (`bias_correction` off).
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
    /// Correct the biases of m and v in r.
    #[serde(default = "yes")]
    pub bias_correction: bool,
    /// What is added to ‖r‖, 0 or more.
    #[serde(default)]
    pub trust_eps: f64,
    /// The largest ‖w‖ that counts, above 0.
    #[serde(default)]
    pub max_weight_norm: Option<f64>,
    /// Decay w by itself, outside the ratio.
    #[serde(default)]
    pub decay_outside: bool,
}

// What files say that were written before there was a choice.
fn yes() -> bool {
    true
}

impl Default for Lamb {
    fn default() -> Self {
        Self::optax()
    }
}

impl Lamb {
    /// β = (0.9, 0.999), ε = 1e-6.
    pub fn optax() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-6,
            eps_root: 0.0,
            bias_correction: true,
            trust_eps: 0.0,
            max_weight_norm: None,
            decay_outside: false,
        }
    }
    /// ε = 1e-7, and the decay outside the ratio.
    pub fn keras() -> Self {
        Self { eps: 1e-7, decay_outside: true, ..Self::optax() }
    }
    /// Without bias correction in r, ‖w‖ up to 10, ε beside ‖r‖, and the decay outside the ratio.
    pub fn pytorch_optimizer() -> Self {
        Self {
            bias_correction: false,
            trust_eps: 1e-6,
            max_weight_norm: Some(10.0),
            decay_outside: true,
            ..Self::optax()
        }
    }
}

fields! {
    /// Coefficients of [`Lamb`].
    pub struct Hyper {
        beta1, one_minus_beta1, beta2, one_minus_beta2, m_correction, v_correction, eps_root, eps, weight_decay,
        lr, decay, trust_eps, max_weight_norm, trust_ratio,
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
    const MEASURES: bool = true;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        at_least_zero("trust_eps", self.trust_eps)?;
        self.max_weight_norm.map_or(Ok(()), |limit| above_zero("max_weight_norm", limit))
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
        let (m_hat, v_hat) = (1.0 / one_minus_power(beta1, step.t), 1.0 / one_minus_power(self.beta2, step.t));
        let (m_correction, v_correction, lr) =
            if self.bias_correction { (m_hat, v_hat, step.lr) } else { (1.0, 1.0, step.lr * m_hat) };
        let (inside, outside) =
            if self.decay_outside { (0.0, step.lr * step.weight_decay) } else { (step.weight_decay, 0.0) };
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            m_correction,
            v_correction,
            eps_root: self.eps_root,
            eps: self.eps,
            weight_decay: inside,
            lr,
            decay: outside,
            trust_eps: self.trust_eps,
            max_weight_norm: self.max_weight_norm.unwrap_or(f32::MAX.into()),
            trust_ratio: 1.0,
        }
    }

    #[inline(always)]
    fn measure<F: Real>(&self, w: F, g: F, s: &State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        direction(w, m, v, h)
    }

    fn trust<F: Real>(&self, w: F, r: F, _s: &mut F, h: &Hyper<F>) -> F {
        let weight = within((w - h.decay * w).abs(), F::zero(), h.max_weight_norm);
        if w == F::zero() || r == F::zero() { F::one() } else { weight / (r + h.trust_eps) }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        w - h.decay * w - h.lr * h.trust_ratio * direction(w, m, v, h)
    }
}
