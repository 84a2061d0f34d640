use super::prelude::*;

/// Optimistic gradient descent, for games: [Mokhtari et al., 2020](https://arxiv.org/abs/1901.08511).
///
/// ```text
/// w ← w − lr·((α + β)g − βg_old)       g_old = g at the first step
/// ```
/// State `previous_grad` g_old; 20 bytes of traffic an element. The form of optax.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct OptimisticGradientDescent {
    /// α, 0 or more.
    pub alpha: f64,
    /// β, 0 or more.
    pub beta: f64,
}

impl Default for OptimisticGradientDescent {
    /// α = β = 1.
    fn default() -> Self {
        Self { alpha: 1.0, beta: 1.0 }
    }
}

fields! {
    /// Coefficients of [`OptimisticGradientDescent`].
    pub struct Hyper { rate, previous_rate, first }
}
fields! {
    /// State of [`OptimisticGradientDescent`].
    pub struct State { previous_grad }
}

impl Rule for OptimisticGradientDescent {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "optimistic_gradient_descent";
    const SHADER: &'static str = include_str!("../../shaders/optimistic_gradient_descent.wgsl");
    const LR: f64 = 1e-2;
    stored!();

    fn check(&self) -> Result<()> {
        at_least_zero("alpha", self.alpha)?;
        at_least_zero("beta", self.beta)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let (rate, previous_rate) = (step.lr * (self.alpha + self.beta), step.lr * self.beta);
        Hyper { rate, previous_rate, first: first_step(step.t) }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let previous = if h.first == F::one() { g } else { s.previous_grad };
        s.previous_grad = g;
        w - (h.rate * g - h.previous_rate * previous)
    }
}
