use super::prelude::*;

/// Lion: [Chen et al., 2023](https://arxiv.org/abs/2302.06675).
///
/// ```text
/// w ← w − lr·sign(β₁m + (1 − β₁)g)
/// m ← β₂m + (1 − β₂)g
/// ```
/// State `exp_avg` m; 20 bytes of traffic an element. The sign of 0 is 0, and that of NaN is NaN. Each element moves by
/// `lr` or not at all, so the learning rate is 3 to 10 times smaller than Adam's, and a decoupled decay as many times
/// larger. The paper, Keras, optax, bitsandbytes and lion-pytorch agree.
///
/// ```
/// use wgpu_optim::{Device, Optimizer, Settings, WeightDecay, rules::Lion};
/// let settings = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(1e-4) };
/// let optimizer = Optimizer::new(&Device::Cpu, Lion::default(), settings)?;
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Lion {
    /// β₁ of the direction, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂ of the average, in 0 ≤ β₂ < 1.
    pub beta2: f64,
}

impl Default for Lion {
    /// β = (0.9, 0.99).
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99 }
    }
}

fields! {
    /// Coefficients of [`Lion`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, one_minus_beta2, lr }
}
fields! {
    /// State of [`Lion`].
    pub struct State { exp_avg }
}

impl Rule for Lion {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "lion";
    const SHADER: &'static str = include_str!("../../shaders/lion.wgsl");
    const LR: f64 = 1e-4;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("beta1", self.beta1)?;
        below_one("beta2", self.beta2)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let (beta1, beta2) = (step.momentum.unwrap_or(self.beta1), self.beta2);
        Hyper { beta1, one_minus_beta1: 1.0 - beta1, beta2, one_minus_beta2: 1.0 - beta2, lr: step.lr }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = s.exp_avg;
        s.exp_avg = h.beta2 * m + h.one_minus_beta2 * g;
        w - h.lr * sign_of(h.beta1 * m + h.one_minus_beta1 * g)
    }
}
