use super::prelude::*;

/// Averaged SGD: [Polyak and Juditsky, 1992](https://doi.org/10.1137/0330046), with the step sizes of [Xu,
/// 2011](https://arxiv.org/abs/1107.2490).
///
/// ```text
/// ηₜ = lr / (1 + λ·lr·(t − 1))^α
/// w  ← w − ληₜw − ηₜg
/// ax ← ax + μₜ(w − ax)             μₜ = 1 / max(1, t − 1 − t0)
/// ```
/// State `ax`, the average: w itself up to step t0 + 2; 20 bytes of traffic an element. The form and the names of
/// PyTorch, which makes ηₜ at the end of step t − 1, and so follows a change of the learning rate one step later. To
/// evaluate on the average, read the state `ax`; or leave `t0` at its default and use
/// [`Averaging`](crate::Averaging), with any rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Asgd {
    /// λ, 0 or more.
    pub lambd: f64,
    /// α, the power of the decay of η, 0 or more.
    pub alpha: f64,
    /// The step from which w is averaged, 0 or more.
    pub t0: f64,
}

impl Default for Asgd {
    /// λ = 1e-4, α = 0.75, t0 = 10⁶.
    fn default() -> Self {
        Self { lambd: 1e-4, alpha: 0.75, t0: 1e6 }
    }
}

impl Asgd {
    /// η of step t.
    pub fn eta(&self, lr: f64, t: u64) -> f64 {
        lr / (1.0 + self.lambd * lr * t.saturating_sub(1) as f64).powf(self.alpha)
    }
    /// μ of step t.
    pub fn mu(&self, t: u64) -> f64 {
        1.0 / (t.saturating_sub(1) as f64 - self.t0).max(1.0)
    }
}

fields! {
    /// Coefficients of [`Asgd`].
    pub struct Hyper { shrink, eta, mu }
}
fields! {
    /// State of [`Asgd`].
    pub struct State { ax }
}

impl Rule for Asgd {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "asgd";
    const SHADER: &'static str = include_str!("../../shaders/asgd.wgsl");
    const LR: f64 = 1e-2;
    stored!();

    fn check(&self) -> Result<()> {
        at_least_zero("lambd", self.lambd)?;
        at_least_zero("alpha", self.alpha)?;
        at_least_zero("t0", self.t0)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let eta = self.eta(step.lr, step.t);
        Hyper { shrink: self.lambd * eta, eta, mu: self.mu(step.t) }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let x = w - h.shrink * w - h.eta * g;
        s.ax = if h.mu == F::one() { x } else { s.ax + h.mu * (x - s.ax) };
        x
    }
}
