use super::prelude::*;

/// Adan, Nesterov's momentum in an adaptive form: [Xie et al., 2022](https://arxiv.org/abs/2208.06677).
///
/// ```text
/// d = g − g_old                                   0 at the first step
/// m ← β₁m + (1 − β₁)g
/// b ← β₂b + (1 − β₂)d
/// n ← β₃n + (1 − β₃)(g + κd)²
/// w ← (w − lr·(m̂ + κ·b̂) / (√(n̂ + eps_root) + ε)) / (1 + lr·λ)
/// m̂ = m / (1 − β₁ᵗ),  b̂ = b / (1 − β₂ᵗ),  n̂ = n / (1 − β₃ᵗ)
/// ```
/// λ is [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled). States `exp_avg` m, `exp_avg_diff` b, `exp_avg_sq`
/// n, `previous_grad` g_old; 44 bytes of traffic an element. The paper's β are 1 minus these. κ is β₂, as in the paper
/// and in pytorch-optimizer; optax has 1 − β₂. Without `proximal` the decay is `w − lr·λ·w`, as in optax.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Adan {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// β₃, in 0 ≤ β₃ < 1.
    pub beta3: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root; 0 or more.
    pub eps_root: f64,
    /// κ, the weight of the difference, 0 or more; `None` is β₂.
    pub kappa: Option<f64>,
    /// Divide by 1 + lr·λ behind the step.
    pub proximal: bool,
}

impl Default for Adan {
    /// β = (0.98, 0.92, 0.99), ε = 1e-8, κ = β₂, proximal: the paper.
    fn default() -> Self {
        Self { beta1: 0.98, beta2: 0.92, beta3: 0.99, eps: 1e-8, eps_root: 0.0, kappa: None, proximal: true }
    }
}

impl Adan {
    /// κ = 1 − β₂ = 0.08, both ε = 1e-8, not proximal.
    pub fn optax() -> Self {
        Self { kappa: Some(0.08), eps_root: 1e-8, proximal: false, ..Self::default() }
    }
}

fields! {
    /// Coefficients of [`Adan`].
    pub struct Hyper {
        beta1, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, rate, difference_rate,
        correction, eps_root, eps, kappa, decay, shrink, first,
    }
}
fields! {
    /// State of [`Adan`].
    pub struct State { exp_avg, exp_avg_diff, exp_avg_sq, previous_grad }
}

impl Rule for Adan {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adan";
    const SHADER: &'static str = include_str!("../../shaders/adan.wgsl");
    const LR: f64 = 1e-3;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        below_one("beta3", self.beta3)?;
        self.kappa.map_or(Ok(()), |kappa| at_least_zero("kappa", kappa))
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let (beta2, beta3, decay) = (self.beta2, self.beta3, step.lr * step.weight_decay);
        let kappa = self.kappa.unwrap_or(beta2);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2,
            one_minus_beta2: 1.0 - beta2,
            beta3,
            one_minus_beta3: 1.0 - beta3,
            rate: step.lr / one_minus_power(beta1, step.t),
            difference_rate: step.lr * kappa / one_minus_power(beta2, step.t),
            correction: 1.0 / one_minus_power(beta3, step.t),
            eps_root: self.eps_root,
            eps: self.eps,
            kappa,
            decay: if self.proximal { 0.0 } else { decay },
            shrink: if self.proximal { 1.0 / (1.0 + decay) } else { 1.0 },
            first: first_step(step.t),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let d = if h.first == F::one() { F::zero() } else { g - s.previous_grad };
        let x = g + h.kappa * d;
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let b = h.beta2 * s.exp_avg_diff + h.one_minus_beta2 * d;
        let n = h.beta3 * s.exp_avg_sq + h.one_minus_beta3 * x * x;
        s.exp_avg = m;
        s.exp_avg_diff = b;
        s.exp_avg_sq = n;
        s.previous_grad = g;
        let u = ratio(h.rate * m + h.difference_rate * b, (h.correction * n + h.eps_root).sqrt() + h.eps);
        h.shrink * (w - h.decay * w - u)
    }
}
