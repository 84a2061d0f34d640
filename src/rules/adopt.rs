use super::prelude::*;

/// ADOPT, Adam that divides by the second moment before it knows the gradient, and converges with any β₂: [Taniguchi et
/// al., 2024](https://arxiv.org/abs/2411.02853).
///
/// ```text
/// v ← g²                                       the first step, which does nothing else
/// u = min(max(g / max(√v, ε), −c), c)          c = (t − clip_from)^¼
/// m ← β₁m + (1 − β₁)u
/// w ← w − lr·m
/// v ← β₂v + (1 − β₂)g²
/// ```
/// States `exp_avg` m, `exp_avg_sq` v; 28 bytes of traffic an element. The authors' code and optax have clip_from = 1;
/// pytorch-optimizer has 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Adopt {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, the least root that is divided by, above 0.
    pub eps: f64,
    /// Clip u, as the paper recommends.
    pub clipping: bool,
    /// The last step at which c is 0.
    pub clip_from: u64,
}

impl Default for Adopt {
    /// The same as [`Adopt::optax`].
    fn default() -> Self {
        Self::optax()
    }
}

impl Adopt {
    /// β = (0.9, 0.9999), ε = 1e-6.
    pub fn optax() -> Self {
        Self { beta1: 0.9, beta2: 0.9999, eps: 1e-6, clipping: true, clip_from: 1 }
    }
    /// c = t^¼.
    pub fn pytorch_optimizer() -> Self {
        Self { clip_from: 0, ..Self::optax() }
    }
}

fields! {
    /// Coefficients of [`Adopt`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, limit, eps, lr }
}
fields! {
    /// State of [`Adopt`].
    pub struct State { exp_avg, exp_avg_sq }
}

impl Rule for Adopt {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adopt";
    const SHADER: &'static str = include_str!("../../shaders/adopt.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, 0.0)?;
        above_zero("eps", self.eps)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let first = step.t == 1;
        let beta1 = if first { 1.0 } else { step.momentum.unwrap_or(self.beta1) };
        let beta2 = if first { 0.0 } else { self.beta2 };
        let limit = match self.clipping {
            _ if first => 0.0,
            true => (step.t.saturating_sub(self.clip_from) as f64).powf(0.25),
            false => f32::MAX.into(),
        };
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2,
            one_minus_beta2: 1.0 - beta2,
            limit,
            eps: self.eps,
            lr: step.lr,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let u = within(g / largest(s.exp_avg_sq.sqrt(), h.eps), -h.limit, h.limit);
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * u;
        s.exp_avg = m;
        s.exp_avg_sq = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        w - h.lr * m
    }
}
