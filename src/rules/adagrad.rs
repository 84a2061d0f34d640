use super::prelude::*;

/// AdaGrad: [Duchi, Hazan and Singer, 2011](https://jmlr.org/papers/v12/duchi11a.html).
///
/// ```text
/// s ← s + g²
/// w ← w − lr / (1 + (t − 1)·lr_decay) · g / (√s + ε)
/// ```
/// State `sum` is s; 20 bytes of traffic an element. Where the denominator is 0 (ε = 0 and no gradient yet), w stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaGrad {
    /// Decay of the learning rate, 0 or more.
    pub lr_decay: f64,
    /// What s starts from, 0 or more.
    pub initial_accumulator_value: f64,
    /// ε, 0 or more.
    pub eps: f64,
    /// ε inside the root, √(s + ε), as Keras and optax; else outside, as PyTorch.
    pub eps_inside: bool,
}

impl Default for AdaGrad {
    fn default() -> Self {
        Self::torch()
    }
}

impl AdaGrad {
    /// ε = 1e-10 outside the root, s from 0.
    pub fn torch() -> Self {
        Self { lr_decay: 0.0, initial_accumulator_value: 0.0, eps: 1e-10, eps_inside: false }
    }
    /// ε = 1e-7 inside the root, s from 0.1.
    pub fn keras() -> Self {
        Self { lr_decay: 0.0, initial_accumulator_value: 0.1, eps: 1e-7, eps_inside: true }
    }
    /// The same as [`AdaGrad::keras`].
    pub fn optax() -> Self {
        Self::keras()
    }
}

fields! {
    /// Coefficients of [`AdaGrad`].
    pub struct Hyper { lr, eps_inside, eps_outside }
}
fields! {
    /// State of [`AdaGrad`].
    pub struct State { sum }
}

impl Rule for AdaGrad {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adagrad";
    const SHADER: &'static str = include_str!("../../shaders/adagrad.wgsl");
    const LR: f64 = 1e-2;
    stored!();

    fn check(&self) -> Result<()> {
        at_least_zero("lr_decay", self.lr_decay)?;
        at_least_zero("initial_accumulator_value", self.initial_accumulator_value)?;
        at_least_zero("eps", self.eps)
    }

    fn initial(&self, _state: &str) -> f64 {
        self.initial_accumulator_value
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let lr = step.lr / (1.0 + (step.t - 1) as f64 * self.lr_decay);
        let (eps_inside, eps_outside) = inside_outside(self.eps, self.eps_inside);
        Hyper { lr, eps_inside, eps_outside }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let sum = s.sum + g * g;
        s.sum = sum;
        w - h.lr * ratio(g, (sum + h.eps_inside).sqrt() + h.eps_outside)
    }
}
