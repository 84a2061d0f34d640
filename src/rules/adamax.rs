use super::prelude::*;

/// AdaMax: [Kingma and Ba, 2015](https://arxiv.org/abs/1412.6980), section 7.1.
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// u ← max(β₂u, |g| + ε)
/// w ← w − lr / (1 − β₁ᵗ) · m / u
/// ```
/// States `exp_avg` m, `exp_inf` u; 28 bytes of traffic an element. The paper has no ε: with `eps: 0.0` and no gradient
/// yet, w stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaMax {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more.
    pub eps: f64,
    /// `m / (u + ε)` with `u ← max(β₂u, |g|)`, as Keras; else inside the maximum, as PyTorch and optax.
    pub eps_outside: bool,
}

impl Default for AdaMax {
    fn default() -> Self {
        Self::torch()
    }
}

impl AdaMax {
    /// ε = 1e-8 inside the maximum.
    pub fn torch() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, eps_outside: false }
    }
    /// ε = 1e-7 added to u.
    pub fn keras() -> Self {
        Self { eps: 1e-7, eps_outside: true, ..Self::torch() }
    }
    /// The same as [`AdaMax::torch`].
    pub fn optax() -> Self {
        Self::torch()
    }
    /// The paper's: no ε.
    pub fn paper() -> Self {
        Self { eps: 0.0, ..Self::torch() }
    }
}

fields! {
    /// Coefficients of [`AdaMax`].
    pub struct Hyper { beta1, one_minus_beta1, beta2, step_size, eps_inside, eps_outside }
}
fields! {
    /// State of [`AdaMax`].
    pub struct State { exp_avg, exp_inf }
}

impl Rule for AdaMax {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adamax";
    const SHADER: &'static str = include_str!("../../shaders/adamax.wgsl");
    const LR: f64 = 2e-3;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("beta1", self.beta1)?;
        below_one("beta2", self.beta2)?;
        at_least_zero("eps", self.eps)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let (eps_inside, eps_outside) = inside_outside(self.eps, !self.eps_outside);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            step_size: step.lr / one_minus_power(beta1, step.t),
            eps_inside,
            eps_outside,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let u = largest(h.beta2 * s.exp_inf, g.abs() + h.eps_inside);
        s.exp_avg = m;
        s.exp_inf = u;
        w - h.step_size * ratio(m, u + h.eps_outside)
    }
}
