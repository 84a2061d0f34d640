use super::prelude::*;

/// QHM, quasi-hyperbolic momentum: [Ma and Yarats, 2019](https://arxiv.org/abs/1810.06801).
///
/// ```text
/// m ← ρm + (1 − ρ)g
/// w ← w − lr·(νm + (1 − ν)g)
/// ```
/// State `momentum_buffer` m; 20 bytes of traffic an element.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Qhm {
    /// ρ, in 0 ≤ ρ < 1.
    pub momentum: f64,
    /// ν, the part of the momentum in the step, from 0 to 1.
    pub nu: f64,
}

impl Default for Qhm {
    /// ρ = 0.999, ν = 0.7: the paper.
    fn default() -> Self {
        Self { momentum: 0.999, nu: 0.7 }
    }
}

fields! {
    /// Coefficients of [`Qhm`].
    pub struct Hyper { momentum, one_minus_momentum, rate, gradient_rate }
}
fields! {
    /// State of [`Qhm`].
    pub struct State { momentum_buffer }
}

impl Rule for Qhm {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "qhm";
    const SHADER: &'static str = include_str!("../../shaders/qhm.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("momentum", self.momentum)?;
        require((0.0..=1.0).contains(&self.nu), "nu", self.nu, "0 to 1")
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let momentum = step.momentum.unwrap_or(self.momentum);
        Hyper {
            momentum,
            one_minus_momentum: 1.0 - momentum,
            rate: step.lr * self.nu,
            gradient_rate: step.lr * (1.0 - self.nu),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.momentum * s.momentum_buffer + h.one_minus_momentum * g;
        s.momentum_buffer = m;
        w - (h.rate * m + h.gradient_rate * g)
    }
}
