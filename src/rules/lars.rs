use super::prelude::*;

/// LARS, momentum with a step of each tensor's own length: [You et al., 2017](https://arxiv.org/abs/1708.03888).
///
/// ```text
/// v ← ρv − lr·η‖w‖/(‖g‖ + ε)·g              the ratio is 1 where a norm is 0
/// w ← w + v                                 nesterov: w + ρv − lr·ratio·g
/// ```
/// g is the gradient with its [`WeightDecay::L2`](crate::WeightDecay::L2). State `momentum_buffer` v, with lr inside,
/// as optax; 28 bytes of traffic an element: the norms take one more pass. Biases and norms, which the paper leaves to
/// plain momentum, belong in a group of their own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Lars {
    /// ρ, in 0 ≤ ρ < 1.
    pub momentum: f64,
    /// Step by the look-ahead velocity.
    pub nesterov: bool,
    /// η, 0 or more.
    pub trust_coefficient: f64,
    /// ε, 0 or more.
    pub eps: f64,
}

impl Default for Lars {
    /// optax: ρ = 0.9, η = 0.001, ε = 0.
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false, trust_coefficient: 0.001, eps: 0.0 }
    }
}

fields! {
    /// Coefficients of [`Lars`].
    pub struct Hyper { momentum, lr, trust_coefficient, eps, trust_ratio }
}
fields! {
    /// State of [`Lars`].
    pub struct State { momentum_buffer }
}

impl Rule for Lars {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "lars";
    const SHADER: &'static str = include_str!("../../shaders/lars.wgsl");
    const LR: f64 = 1.0;
    const MEASURES: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("momentum", self.momentum)?;
        at_least_zero("trust_coefficient", self.trust_coefficient)?;
        at_least_zero("eps", self.eps)
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("NESTEROV", self.nesterov)]
    }

    fn stages(&self) -> &'static [Stage] {
        const REDUCE: Reduce =
            Reduce { over: Extent::Tensor, parameter: true, reads: &[], keeps: None, into: "trust_ratio" };
        &[Stage::Reduce(REDUCE), Stage::Map]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let momentum = step.momentum.unwrap_or(self.momentum);
        let Self { trust_coefficient, eps, .. } = *self;
        Hyper { momentum, lr: step.lr, trust_coefficient, eps, trust_ratio: 1.0 }
    }

    fn trust<F: Real>(&self, w: F, g: F, _s: &mut F, h: &Hyper<F>) -> F {
        if w == F::zero() || g == F::zero() { F::one() } else { h.trust_coefficient * w / (g + h.eps) }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let d = -h.lr * h.trust_ratio * g;
        let v = h.momentum * s.momentum_buffer + d;
        s.momentum_buffer = v;
        if self.nesterov { w + h.momentum * v + d } else { w + v }
    }
}
