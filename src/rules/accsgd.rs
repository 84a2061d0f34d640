use super::prelude::*;

/// AccSGD, accelerated SGD for noisy gradients: [Kidambi et al., 2018](https://arxiv.org/abs/1803.05591).
///
/// ```text
/// α = 1 − ξc²/κ,  β = 1 − α,  ζ = c/(c + β)
/// b ← (1 − β)b + β(w − lr·κ/c·g)
/// w ← ζ(w − lr·g) + (1 − ζ)b
/// ```
/// State `momentum_buffer` b, which begins as w; 20 bytes of traffic an element. λ of
/// [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled) decays w before the step. pytorch-optimizer's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AccSgd {
    /// κ, the ratio of the long step to the short one, above 0.
    pub kappa: f64,
    /// ξ, the statistical advantage, above 0.
    pub xi: f64,
    /// c, in 0 < c < 1.
    pub constant: f64,
}

impl Default for AccSgd {
    /// κ = 1000, ξ = 10, c = 0.7.
    fn default() -> Self {
        Self { kappa: 1000.0, xi: 10.0, constant: 0.7 }
    }
}

fields! {
    /// Coefficients of [`AccSgd`].
    pub struct Hyper { beta, one_minus_beta, long_rate, zeta, one_minus_zeta, lr, decay, first }
}
fields! {
    /// State of [`AccSgd`].
    pub struct State { momentum_buffer }
}

impl Rule for AccSgd {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "accsgd";
    const SHADER: &'static str = include_str!("../../shaders/accsgd.wgsl");
    const LR: f64 = 1e-3;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        above_zero("kappa", self.kappa)?;
        above_zero("xi", self.xi)?;
        above_zero("constant", self.constant)?;
        below_one("constant", self.constant)?;
        let most = self.kappa / self.constant.powi(2);
        require(self.xi <= most, "xi", self.xi, "0 to kappa / constant²")
    }

    // It is a weight.
    fn is_moment(&self, _state: &str) -> bool {
        false
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let c = self.constant;
        let beta = self.xi * c * c / self.kappa;
        let zeta = c / (c + beta);
        Hyper {
            beta,
            one_minus_beta: 1.0 - beta,
            long_rate: step.lr * self.kappa / c,
            zeta,
            one_minus_zeta: 1.0 - zeta,
            lr: step.lr,
            decay: step.lr * step.weight_decay,
            first: first_step(step.t),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let x = w - h.decay * w;
        let before = if h.first == F::one() { w } else { s.momentum_buffer };
        let b = h.one_minus_beta * before + h.beta * (x - h.long_rate * g);
        s.momentum_buffer = b;
        h.zeta * (x - h.lr * g) + h.one_minus_zeta * b
    }
}
