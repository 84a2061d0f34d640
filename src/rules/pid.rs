use super::prelude::*;

/// PID, a controller with the gradient, its sum and its change: [An et al.,
/// 2018](https://doi.org/10.1109/CVPR.2018.00889).
///
/// ```text
/// i ← ρi + (1 − dampening)g
/// d ← ρd + (1 − ρ)(g − g_old)          ρd at the first step
/// w ← w − lr·(g + k_i·i + k_d·d)
/// ```
/// States `grad_buffer` g_old, `i_buffer` i, `d_buffer` d; 36 bytes of traffic an element. pytorch-optimizer's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Pid {
    /// ρ, in 0 ≤ ρ < 1.
    pub momentum: f64,
    /// From 0 to 1.
    pub dampening: f64,
    /// k_i, 0 or more.
    pub integral: f64,
    /// k_d, 0 or more.
    pub derivative: f64,
}

impl Default for Pid {
    /// ρ = 0.9, k_i = 5, k_d = 10, no dampening.
    fn default() -> Self {
        Self { momentum: 0.9, dampening: 0.0, integral: 5.0, derivative: 10.0 }
    }
}

fields! {
    /// Coefficients of [`Pid`].
    pub struct Hyper { momentum, gain, change_gain, lr, integral_rate, derivative_rate }
}
fields! {
    /// State of [`Pid`].
    pub struct State { grad_buffer, i_buffer, d_buffer }
}

impl Rule for Pid {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "pid";
    const SHADER: &'static str = include_str!("../../shaders/pid.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("momentum", self.momentum)?;
        require((0.0..=1.0).contains(&self.dampening), "dampening", self.dampening, "0 to 1")?;
        at_least_zero("integral", self.integral)?;
        at_least_zero("derivative", self.derivative)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let momentum = step.momentum.unwrap_or(self.momentum);
        Hyper {
            momentum,
            gain: 1.0 - self.dampening,
            change_gain: if step.t == 1 { 0.0 } else { 1.0 - momentum },
            lr: step.lr,
            integral_rate: step.lr * self.integral,
            derivative_rate: step.lr * self.derivative,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let i = h.momentum * s.i_buffer + h.gain * g;
        let d = h.momentum * s.d_buffer + h.change_gain * (g - s.grad_buffer);
        s.i_buffer = i;
        s.d_buffer = d;
        s.grad_buffer = g;
        w - (h.lr * g + h.integral_rate * i + h.derivative_rate * d)
    }
}
