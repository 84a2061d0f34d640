use super::prelude::*;

/// NAdam, Adam with Nesterov momentum: [Dozat, 2016](https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²
/// μₜ = β₁·(1 − ½·0.96^(t·momentum_decay)),  Πₜ = μ₁·…·μₜ
/// w ← w − lr·((1 − μₜ)/(1 − Πₜ)·g + μₜ₊₁/(1 − Πₜ₊₁)·m) / (√(v/(1 − β₂ᵗ)) + ε)
/// ```
/// States `exp_avg` m, `exp_avg_sq` v; 28 bytes of traffic an element. The products Πₜ (PyTorch's `mu_product`) are
/// computed from t on the host. `momentum_decay` 0.004 is PyTorch's, 1 is Keras'; `None` keeps μ = β₁, which is Dozat's
/// simple form and optax' `adam(nesterov=True)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct NAdam {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root, as optax; 0 or more.
    pub eps_root: f64,
    /// How fast μ grows to β₁, 0 or more; `None` for μ = β₁ at once.
    pub momentum_decay: Option<f64>,
}

impl Default for NAdam {
    fn default() -> Self {
        Self::torch()
    }
}

impl NAdam {
    /// Momentum decay 0.004, ε = 1e-8.
    pub fn torch() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, eps_root: 0.0, momentum_decay: Some(0.004) }
    }
    /// Momentum decay 1, ε = 1e-7.
    pub fn keras() -> Self {
        Self { eps: 1e-7, momentum_decay: Some(1.0), ..Self::torch() }
    }
    /// Constant μ, ε = 1e-8.
    pub fn optax() -> Self {
        Self { momentum_decay: None, ..Self::torch() }
    }

    /// Πₜ with its own β₁, PyTorch's `mu_product`.
    pub(crate) fn mu_product(&self, t: u64) -> f64 {
        self.momentum_products(self.beta1, t)[2]
    }

    /// μₜ, μₜ₊₁, Πₜ, Πₜ₊₁. The product stops once 1 − Π is 1 in f64: after 437 factors for β₁ = 0.9.
    fn momentum_products(&self, beta1: f64, t: u64) -> [f64; 4] {
        let Some(decay) = self.momentum_decay else {
            let now = 1.0 - one_minus_power(beta1, t);
            return [beta1, beta1, now, now * beta1];
        };
        let mu = |i: u64| beta1 * (1.0 - 0.5 * 0.96f64.powf(i as f64 * decay));
        let mut product = 1.0;
        for i in 1..=t {
            product *= mu(i);
            if product < 1e-20 {
                product = 0.0;
                break;
            }
        }
        [mu(t), mu(t + 1), product, product * mu(t + 1)]
    }
}

fields! {
    /// Coefficients of [`NAdam`].
    pub struct Hyper {
        beta1, one_minus_beta1, beta2, one_minus_beta2, gradient_rate, momentum_rate, correction, eps_root, eps,
    }
}
fields! {
    /// State of [`NAdam`].
    pub struct State { exp_avg, exp_avg_sq }
}

impl Rule for NAdam {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "nadam";
    const SHADER: &'static str = include_str!("../../shaders/nadam.wgsl");
    const LR: f64 = 2e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        self.momentum_decay.map_or(Ok(()), |x| at_least_zero("momentum_decay", x))
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let [mu, mu_next, product, product_next] = self.momentum_products(beta1, step.t);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            gradient_rate: step.lr * (1.0 - mu) / (1.0 - product),
            momentum_rate: step.lr * mu_next / (1.0 - product_next),
            correction: 1.0 / one_minus_power(self.beta2, step.t),
            eps_root: self.eps_root,
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        let step = h.gradient_rate * g + h.momentum_rate * m;
        w - ratio(step, (h.correction * v + h.eps_root).sqrt() + h.eps)
    }
}
