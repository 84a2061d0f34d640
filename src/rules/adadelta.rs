use super::prelude::*;

/// AdaDelta: [Zeiler, 2012](https://arxiv.org/abs/1212.5701).
///
/// ```text
/// v ← ρv + (1 − ρ)g²
/// δ ← √(u + ε) / √(v + ε) · g
/// u ← ρu + (1 − ρ)δ²
/// w ← w − lr·δ
/// ```
/// States `square_avg` v, `acc_delta` u; 28 bytes of traffic an element. The paper has no learning rate: 1, PyTorch's
/// default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaDelta {
    /// ρ, in 0 ≤ ρ < 1.
    pub rho: f64,
    /// ε, above 0: with 0 nothing would ever move.
    pub eps: f64,
}

impl Default for AdaDelta {
    fn default() -> Self {
        Self::torch()
    }
}

impl AdaDelta {
    /// ρ = 0.9, ε = 1e-6.
    pub fn torch() -> Self {
        Self { rho: 0.9, eps: 1e-6 }
    }
    /// ρ = 0.95, ε = 1e-7 (and Keras' default learning rate is 0.001).
    pub fn keras() -> Self {
        Self { rho: 0.95, eps: 1e-7 }
    }
    /// The same as [`AdaDelta::torch`].
    pub fn optax() -> Self {
        Self::torch()
    }
}

fields! {
    /// Coefficients of [`AdaDelta`].
    pub struct Hyper { lr, rho, one_minus_rho, eps }
}
fields! {
    /// State of [`AdaDelta`].
    pub struct State { square_avg, acc_delta }
}

impl Rule for AdaDelta {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adadelta";
    const SHADER: &'static str = include_str!("../../shaders/adadelta.wgsl");
    const LR: f64 = 1.0;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("rho", self.rho)?;
        above_zero("eps", self.eps)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        Hyper { lr: step.lr, rho: self.rho, one_minus_rho: 1.0 - self.rho, eps: self.eps }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let v = h.rho * s.square_avg + h.one_minus_rho * g * g;
        let delta = ratio((s.acc_delta + h.eps).sqrt(), (v + h.eps).sqrt()) * g;
        s.square_avg = v;
        s.acc_delta = h.rho * s.acc_delta + h.one_minus_rho * delta * delta;
        w - h.lr * delta
    }
}
