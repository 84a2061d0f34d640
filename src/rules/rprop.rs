use super::prelude::*;

/// Rprop, a step size for each element from the sign of its gradients: [Riedmiller and Braun,
/// 1993](https://doi.org/10.1109/ICNN.1993.298623).
///
/// ```text
/// η ← min(max(η·η⁺, step_min), step_max)    where g·g_old > 0,  η⁻ for η⁺ where g·g_old < 0
/// g ← 0                                     where g·g_old < 0
/// w ← w − η·sign(g)
/// ```
/// States `prev` g_old, `step_size` η, which is the learning rate of the first step and no later one; 28 bytes of
/// traffic an element. It is for gradients of all data: noise turns signs. PyTorch's form. optax 0.2.8 applies the
/// update that it stored a step earlier (`lagged`): none at the first step, and none where the sign has just turned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Rprop {
    /// η⁻, in 0 < η⁻ < 1.
    pub eta_minus: f64,
    /// η⁺, above 1.
    pub eta_plus: f64,
    /// The smallest step size, 0 or more.
    pub step_min: f64,
    /// The largest step size.
    pub step_max: f64,
    /// Apply the update of the step before, as optax.
    pub lagged: bool,
}

impl Default for Rprop {
    /// η = (0.5, 1.2), step sizes from 1e-6 to 50.
    fn default() -> Self {
        Self { eta_minus: 0.5, eta_plus: 1.2, step_min: 1e-6, step_max: 50.0, lagged: false }
    }
}

impl Rprop {
    /// [`Rprop::lagged`].
    pub fn optax() -> Self {
        Self { lagged: true, ..Self::default() }
    }
}

fields! {
    /// Coefficients of [`Rprop`].
    pub struct Hyper { eta_minus, eta_plus, step_min, step_max, lr, first }
}
fields! {
    /// State of [`Rprop`].
    pub struct State { prev, step_size }
}

impl Rule for Rprop {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "rprop";
    const SHADER: &'static str = include_str!("../../shaders/rprop.wgsl");
    const LR: f64 = 1e-2;
    stored!();

    fn check(&self) -> Result<()> {
        above_zero("eta_minus", self.eta_minus)?;
        below_one("eta_minus", self.eta_minus)?;
        require(self.eta_plus > 1.0 && in_f32(self.eta_plus), "eta_plus", self.eta_plus, "above 1, to 3.4e38")?;
        at_least_zero("step_min", self.step_min)?;
        require(
            self.step_max >= self.step_min && in_f32(self.step_max),
            "step_max",
            self.step_max,
            "step_min to 3.4e38",
        )
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("LAGGED", self.lagged)]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        Hyper {
            eta_minus: self.eta_minus,
            eta_plus: self.eta_plus,
            step_min: self.step_min,
            step_max: self.step_max,
            lr: step.lr,
            first: first_step(step.t),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let turned = sign_of(g) * sign_of(s.prev);
        let eta = if h.first == F::one() { h.lr } else { s.step_size };
        let factor = if turned > F::zero() { h.eta_plus } else { F::one() };
        let factor = if turned < F::zero() { h.eta_minus } else { factor };
        let step = within(eta * factor, h.step_min, h.step_max);
        s.step_size = step;
        let kept = if turned < F::zero() { F::zero() } else { g };
        if self.lagged {
            let before = if turned < F::zero() { F::zero() } else { s.prev };
            s.prev = step * sign_of(kept);
            return w - before;
        }
        s.prev = kept;
        w - step * sign_of(kept)
    }
}
