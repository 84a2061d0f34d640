use super::prelude::*;

/// RMSProp: [Hinton, 2012](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf); centered and with
/// momentum as [Graves, 2013](https://arxiv.org/abs/1308.0850).
///
/// ```text
/// v ← αv + (1 − α)g²
/// ḡ ← αḡ + (1 − α)g         centered: v − ḡ² stands for v below
/// d ← g / (√v + ε)
/// w ← w − lr·d              momentum μ: b ← μb + d;  w ← w − lr·b
/// ```
/// States `square_avg` v, `momentum_buffer` b (with momentum), `grad_avg` ḡ (centered); 20 bytes of traffic an element,
/// 8 more for each of the two options.
///
/// Centered, `v − ḡ²` can round below 0, where PyTorch's root is NaN. Here it counts as 0, and where v has overflowed
/// (|g| above 1e19) the step is 0: with ε of 1e-19 or more, no history of finite gradients gives a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct RmsProp {
    /// α, in 0 ≤ α < 1.
    pub alpha: f64,
    /// ε, 0 or more.
    pub eps: f64,
    /// ε inside the root, √(v + ε), as Keras and optax; else outside, as PyTorch.
    pub eps_inside: bool,
    /// Divide by the standard deviation of the gradient instead of its root mean square.
    pub centered: bool,
    /// μ, in 0 ≤ μ < 1; 0 for no momentum and no buffer.
    pub momentum: f64,
    /// The learning rate inside the momentum, `b ← μb + lr·d`, as Keras, optax and Graves; else outside, as PyTorch.
    pub lr_inside: bool,
    /// What v starts from, 0 or more: optax' `initial_scale`.
    pub initial: f64,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self::torch()
    }
}

impl RmsProp {
    /// α = 0.99, ε = 1e-8 outside the root, lr outside the momentum.
    pub fn torch() -> Self {
        Self {
            alpha: 0.99,
            eps: 1e-8,
            eps_inside: false,
            centered: false,
            momentum: 0.0,
            lr_inside: false,
            initial: 0.0,
        }
    }
    /// α (Keras: rho) = 0.9, ε = 1e-7 inside the root, lr inside the momentum.
    pub fn keras() -> Self {
        Self { alpha: 0.9, eps: 1e-7, eps_inside: true, lr_inside: true, ..Self::torch() }
    }
    /// α (optax: decay) = 0.9, ε = 1e-8 inside the root, lr inside the momentum.
    pub fn optax() -> Self {
        Self { eps: 1e-8, ..Self::keras() }
    }
    /// [Graves, 2013](https://arxiv.org/abs/1308.0850), eq. 38–41: α = 0.95, μ = 0.9, ε = 1e-4 inside the root,
    /// centered, lr inside.
    pub fn graves() -> Self {
        Self { alpha: 0.95, eps: 1e-4, centered: true, momentum: 0.9, ..Self::keras() }
    }
}

fields! {
    /// Coefficients of [`RmsProp`].
    pub struct Hyper { alpha, one_minus_alpha, eps_inside, eps_outside, momentum, gain, rate }
}
fields! {
    /// State of [`RmsProp`].
    pub struct State { square_avg, momentum_buffer, grad_avg }
}

impl Rule for RmsProp {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "rmsprop";
    const SHADER: &'static str = include_str!("../../shaders/rmsprop.wgsl");
    const LR: f64 = 1e-2;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("alpha", self.alpha)?;
        below_one("momentum", self.momentum)?;
        at_least_zero("eps", self.eps)?;
        at_least_zero("initial", self.initial)
    }

    fn uses(&self, state: &str) -> bool {
        match state {
            "momentum_buffer" => self.momentum > 0.0,
            "grad_avg" => self.centered,
            _ => true,
        }
    }

    fn initial(&self, state: &str) -> f64 {
        if state == "square_avg" { self.initial } else { 0.0 }
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("CENTERED", self.centered), ("MOMENTUM", self.momentum > 0.0)]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let (eps_inside, eps_outside) = inside_outside(self.eps, self.eps_inside);
        let inside = self.lr_inside && self.momentum > 0.0;
        let (gain, rate) = if inside { (step.lr, 1.0) } else { (1.0, step.lr) };
        Hyper {
            alpha: self.alpha,
            one_minus_alpha: 1.0 - self.alpha,
            eps_inside,
            eps_outside,
            momentum: step.momentum.unwrap_or(self.momentum),
            gain,
            rate,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let v = h.alpha * s.square_avg + h.one_minus_alpha * g * g;
        s.square_avg = v;
        let mut variance = v;
        if self.centered {
            let mean = h.alpha * s.grad_avg + h.one_minus_alpha * g;
            s.grad_avg = mean;
            // v − ḡ² can round below 0, and is ∞ − ∞ once v has overflowed: no gradient history makes a NaN of it.
            variance = if v.is_finite() { (v - mean * mean).max(F::zero()) } else { v };
        }
        let d = ratio(g, (variance + h.eps_inside).sqrt() + h.eps_outside);
        if self.momentum > 0.0 {
            let b = h.momentum * s.momentum_buffer + h.gain * d;
            s.momentum_buffer = b;
            return w - h.rate * b;
        }
        w - h.rate * d
    }
}
