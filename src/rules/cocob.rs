use super::prelude::*;

/// COCOB-Backprop, betting on coins, without a learning rate: [Orabona and Tommasi,
/// 2017](https://arxiv.org/abs/1705.07795).
///
/// ```text
/// c = lr·(g + λw)
/// L ← max(L, |c|)
/// A ← A + |c|
/// R ← max(R − c(w − x₀), 0)
/// θ ← θ − c
/// w ← x₀ + θ / (L·max(A + L, αL))·(L + R)
/// ```
/// x₀ is w before the first step, lr is to be 1. λ is [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled). States
/// `x0`, `scale` L, `grad_norm_sum` A, `reward` R, `grad_sum` θ; 52 bytes of traffic an element. The form of optax. A
/// step binds seven buffers, and nine with [`Settings::clip_norm`](crate::Settings::clip_norm) or noise: a device at
/// the least limits of WebGPU binds eight, and then returns [`Error::OverLimit`](crate::Error::OverLimit).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Cocob {
    /// α, how slowly it begins, above 0.
    pub alpha: f64,
    /// What L begins as, above 0.
    pub eps: f64,
}

impl Default for Cocob {
    /// α = 100, L from 1e-8.
    fn default() -> Self {
        Self { alpha: 100.0, eps: 1e-8 }
    }
}

fields! {
    /// Coefficients of [`Cocob`].
    pub struct Hyper { lr, alpha, weight_decay, first }
}
fields! {
    /// State of [`Cocob`].
    pub struct State { x0, scale, grad_norm_sum, reward, grad_sum }
}

impl Rule for Cocob {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "cocob";
    const SHADER: &'static str = include_str!("../../shaders/cocob.wgsl");
    const LR: f64 = 1.0;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        above_zero("alpha", self.alpha)?;
        above_zero("eps", self.eps)
    }

    fn initial(&self, state: &str) -> f64 {
        if state == "scale" { self.eps } else { 0.0 }
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        Hyper { lr: step.lr, alpha: self.alpha, weight_decay: step.weight_decay, first: first_step(step.t) }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let x0 = if h.first == F::one() { w } else { s.x0 };
        let c = h.lr * (g + h.weight_decay * w);
        let l = largest(s.scale, c.abs());
        let a = s.grad_norm_sum + c.abs();
        let r = largest(s.reward - c * (w - x0), F::zero());
        let theta = s.grad_sum - c;
        s.x0 = x0;
        s.scale = l;
        s.grad_norm_sum = a;
        s.reward = r;
        s.grad_sum = theta;
        x0 + theta / l / largest(a + l, h.alpha * l) * (l + r)
    }
}
