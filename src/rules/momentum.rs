use super::prelude::*;

/// Where the learning rate and the gain of the gradient stand in [`Momentum`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MomentumForm {
    /// `v ← ρv + (1 − dampening)·g;  w ← w − lr·v`: PyTorch, optax. The velocity forgets no change of `lr`.
    #[default]
    LrOutside,
    /// `v ← ρv − lr·(1 − dampening)·g;  w ← w + v`: the lecture notes, Keras. The velocity carries the old `lr` along.
    LrInside,
    /// `v ← ρv + (1 − ρ)g;  w ← w − lr·v`: the velocity is a moving average of the gradients.
    Ema,
}

/// Momentum: [Polyak, 1964](https://doi.org/10.1016/0041-5553(64)90137-5), and Nesterov's accelerated gradient in the
/// form of [Sutskever et al., 2013](https://proceedings.mlr.press/v28/sutskever13.html).
///
/// ```text
/// v ← ρv + g
/// w ← w − lr·v              nesterov: w − lr·(g + ρv)
/// ```
/// For a constant `lr` the forms of [`MomentumForm`] take the same steps. State `momentum_buffer` is v; 20 bytes of
/// traffic an element. As in PyTorch, `dampening` does not act on a parameter's first step.
///
/// With `nesterov` the parameters stand at the look-ahead point, which is what PyTorch, Keras and optax store: with lr
/// inside the velocity it is the lecture notes' rearranged form `w ← w − ρ·v_old + (1 + ρ)·v`, since v = ρ·v_old −
/// lr·g. For the two-point form leave `nesterov` off and call
/// [`Optimizer::encode_look_ahead`](crate::Optimizer::encode_look_ahead) before each gradient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Momentum {
    /// ρ, in 0 ≤ ρ < 1.
    pub momentum: f64,
    /// Part of the gradient that the velocity leaves out, in 0 ≤ dampening ≤ 1. Not with `nesterov` or
    /// [`MomentumForm::Ema`].
    pub dampening: f64,
    /// Step from the look-ahead point.
    pub nesterov: bool,
    /// Where the learning rate stands.
    pub form: MomentumForm,
}

impl Default for Momentum {
    fn default() -> Self {
        Self { momentum: 0.9, dampening: 0.0, nesterov: false, form: MomentumForm::LrOutside }
    }
}

impl Momentum {
    /// The learning rate outside the velocity, as PyTorch's and optax's `SGD(momentum=…)`.
    pub fn torch(momentum: f64) -> Self {
        Self { momentum, ..Self::default() }
    }
    /// The learning rate inside the velocity, as Keras' `SGD(momentum=…)` and the lecture notes.
    pub fn keras(momentum: f64) -> Self {
        Self { momentum, form: MomentumForm::LrInside, ..Self::default() }
    }
    /// Polyak's heavy ball: `w ← w − lr·g + ρ·(w − w_before)`. The last displacement is the velocity of
    /// [`Momentum::keras`].
    pub fn heavy_ball(momentum: f64) -> Self {
        Self::keras(momentum)
    }
    /// Step along the moving average of the gradients.
    pub fn ema(momentum: f64) -> Self {
        Self { momentum, form: MomentumForm::Ema, ..Self::default() }
    }
    /// The same with Nesterov's look-ahead.
    #[must_use]
    pub fn nesterov(self) -> Self {
        Self { nesterov: true, ..self }
    }
}

fields! {
    /// Coefficients of [`Momentum`].
    pub struct Hyper { momentum, gain, rate, gradient_rate, shift }
}
fields! {
    /// State of [`Momentum`].
    pub struct State { momentum_buffer }
}

impl Rule for Momentum {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "momentum";
    const SHADER: &'static str = include_str!("../../shaders/momentum.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("momentum", self.momentum)?;
        let exclusive = self.nesterov || self.form == MomentumForm::Ema;
        let range = if exclusive { "0 with nesterov or MomentumForm::Ema" } else { "0 to 1" };
        let highest = if exclusive { 0.0 } else { 1.0 };
        require((0.0..=highest).contains(&self.dampening), "dampening", self.dampening, range)?;
        require(!self.nesterov || self.momentum > 0.0, "momentum", self.momentum, "above 0 with nesterov")
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("NESTEROV", self.nesterov)]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let (rho, lr) = (step.momentum.unwrap_or(self.momentum), step.lr);
        let undamped = if step.t == 1 { 1.0 } else { 1.0 - self.dampening };
        let (gain, rate) = match self.form {
            MomentumForm::LrOutside => (undamped, -lr),
            MomentumForm::LrInside => (-lr * undamped, 1.0),
            MomentumForm::Ema => (1.0 - rho, -lr),
        };
        let (rate, gradient_rate) = if self.nesterov { (rho * rate, rate * gain) } else { (rate, 0.0) };
        Hyper { momentum: rho, gain, rate, gradient_rate, shift: step.look_ahead }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let x = w - h.shift * s.momentum_buffer;
        let v = h.momentum * s.momentum_buffer + h.gain * g;
        s.momentum_buffer = v;
        if self.nesterov {
            return x + h.gradient_rate * g + h.rate * v;
        }
        x + h.rate * v
    }

    fn look_ahead(&self, step: &Step) -> Option<f64> {
        let rate = if self.form == MomentumForm::LrInside { 1.0 } else { -step.lr };
        (!self.nesterov).then(|| rate * step.momentum.unwrap_or(self.momentum))
    }
}
