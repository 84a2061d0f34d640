use super::prelude::*;

/// Signum, the sign of the momentum, and sign SGD: [Bernstein et al., 2018](https://arxiv.org/abs/1802.04434); Tiger:
/// [Su, 2023](https://github.com/bojone/tiger).
///
/// ```text
/// m ← ρm + (1 − ρ)g
/// w ← w − lr·sign(m)        ρ = 0: sign(g)
/// ```
/// State `momentum_buffer` m, none with ρ = 0; 20 bytes of traffic an element, 12 without. The sign of 0 is 0. `signum`
/// and `sign_sgd` of optax, `SignSGD` and `Tiger` of pytorch-optimizer agree.
///
/// Bernstein et al. write m without the factor 1 − ρ: the sign is the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Signum {
    /// ρ, in 0 ≤ ρ < 1.
    pub momentum: f64,
}

impl Default for Signum {
    /// ρ = 0.9.
    fn default() -> Self {
        Self { momentum: 0.9 }
    }
}

impl Signum {
    /// ρ = 0, without a state.
    pub fn sign_sgd() -> Self {
        Self { momentum: 0.0 }
    }
    /// ρ = 0.965.
    pub fn tiger() -> Self {
        Self { momentum: 0.965 }
    }
}

fields! {
    /// Coefficients of [`Signum`].
    pub struct Hyper { momentum, one_minus_momentum, lr }
}
fields! {
    /// State of [`Signum`].
    pub struct State { momentum_buffer }
}

impl Rule for Signum {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "signum";
    const SHADER: &'static str = include_str!("../../shaders/signum.wgsl");
    const LR: f64 = 1e-4;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("momentum", self.momentum)
    }

    fn uses(&self, _state: &str) -> bool {
        self.momentum != 0.0
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("MOMENTUM", self.momentum != 0.0)]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let momentum = step.momentum.unwrap_or(self.momentum);
        Hyper { momentum, one_minus_momentum: 1.0 - momentum, lr: step.lr }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        if self.momentum == 0.0 {
            return w - h.lr * sign_of(g);
        }
        let m = h.momentum * s.momentum_buffer + h.one_minus_momentum * g;
        s.momentum_buffer = m;
        w - h.lr * sign_of(m)
    }
}
