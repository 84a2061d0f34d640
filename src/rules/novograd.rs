use super::prelude::*;

/// NovoGrad, momentum of gradients that are normalised tensor by tensor:
/// [Ginsburg et al., 2019](https://arxiv.org/abs/1905.11286).
///
/// ```text
/// v ← β₂v + (1 − β₂)‖g‖²                    ‖g‖² at the first step
/// m ← β₁m + g / (√(v + eps_root) + ε) + λw  grad_averaging: (1 − β₁) times what is added
/// w ← w − lr·m
/// ```
/// λ is [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled), inside the momentum. State `exp_avg` m, and one
/// number a tensor, `exp_avg_sq` v; 24 bytes of traffic an element, 28 with L2 decay: the norm takes one more pass. A
/// norm above 1.8e19, whose square overflows in f32, makes no step with any gradient from then on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct NovoGrad {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root, as optax; 0 or more.
    pub eps_root: f64,
    /// Weigh what is added to m by 1 − β₁, as Apex can.
    pub grad_averaging: bool,
}

impl Default for NovoGrad {
    fn default() -> Self {
        Self::optax()
    }
}

impl NovoGrad {
    /// β = (0.9, 0.25), ε = 1e-6.
    pub fn optax() -> Self {
        Self { beta1: 0.9, beta2: 0.25, eps: 1e-6, eps_root: 0.0, grad_averaging: false }
    }
    /// The paper's β = (0.95, 0.98), ε = 1e-8, as pytorch-optimizer.
    pub fn paper() -> Self {
        Self { beta1: 0.95, beta2: 0.98, eps: 1e-8, ..Self::optax() }
    }
}

fields! {
    /// Coefficients of [`NovoGrad`].
    pub struct Hyper { beta1, gain, beta2, one_minus_beta2, eps_root, eps, weight_decay, lr, trust_ratio }
}
fields! {
    /// State of [`NovoGrad`].
    pub struct State { exp_avg }
}

impl Rule for NovoGrad {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "novograd";
    const SHADER: &'static str = include_str!("../../shaders/novograd.wgsl");
    const LR: f64 = 1e-3;
    const MEASURES: bool = true;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)
    }

    fn stages(&self) -> &'static [Stage] {
        const REDUCE: Reduce = Reduce {
            over: Extent::Tensor,
            parameter: false,
            reads: &[],
            keeps: Some("exp_avg_sq"),
            into: "trust_ratio",
        };
        &[Stage::Reduce(REDUCE), Stage::Map]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let beta2 = if step.t == 1 { 0.0 } else { self.beta2 };
        Hyper {
            beta1,
            gain: if self.grad_averaging { 1.0 - beta1 } else { 1.0 },
            beta2,
            one_minus_beta2: 1.0 - beta2,
            eps_root: self.eps_root,
            eps: self.eps,
            weight_decay: step.weight_decay,
            lr: step.lr,
            trust_ratio: 1.0,
        }
    }

    fn trust<F: Real>(&self, _w: F, g: F, s: &mut F, h: &Hyper<F>) -> F {
        let v = h.beta2 * *s + h.one_minus_beta2 * g * g;
        *s = v;
        let root = (v + h.eps_root).sqrt() + h.eps;
        if root == F::zero() { F::zero() } else { F::one() / root }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.gain * (h.trust_ratio * g + h.weight_decay * w);
        s.exp_avg = m;
        w - h.lr * m
    }
}
