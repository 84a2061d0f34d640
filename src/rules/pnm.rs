use super::prelude::*;

/// PNM, positive-negative momentum: [Xie et al., 2021](https://arxiv.org/abs/2103.17182).
///
/// ```text
/// x ← β₁²x + (1 − β₁²)g            x and y: m₊ and m₋ in odd steps, m₋ and m₊ in even ones
/// w ← w − lr·((1 + β₂)x − β₂y) / √((1 + β₂)² + β₂²)
/// ```
/// States `pos_momentum` m₊, `neg_momentum` m₋; 28 bytes of traffic an element. pytorch-optimizer's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Pnm {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, the part of the negative momentum, 0 or more.
    pub beta2: f64,
}

impl Default for Pnm {
    /// β = (0.9, 1).
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 1.0 }
    }
}

fields! {
    /// Coefficients of [`Pnm`].
    pub struct Hyper { beta1, one_minus_beta1, rate, negative_rate, odd }
}
fields! {
    /// State of [`Pnm`].
    pub struct State { pos_momentum, neg_momentum }
}

impl Rule for Pnm {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "pnm";
    const SHADER: &'static str = include_str!("../../shaders/pnm.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("beta1", self.beta1)?;
        at_least_zero("beta2", self.beta2)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let (beta1, part) = (step.momentum.unwrap_or(self.beta1).powi(2), self.beta2);
        let rate = step.lr / (1.0 + part).hypot(part);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            rate: rate * (1.0 + part),
            negative_rate: rate * part,
            odd: f64::from(step.t % 2 == 1),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let odd = h.odd == F::one();
        let x = h.beta1 * if odd { s.pos_momentum } else { s.neg_momentum } + h.one_minus_beta1 * g;
        let y = if odd { s.neg_momentum } else { s.pos_momentum };
        s.pos_momentum = if odd { x } else { s.pos_momentum };
        s.neg_momentum = if odd { s.neg_momentum } else { x };
        w - (h.rate * x - h.negative_rate * y)
    }
}
