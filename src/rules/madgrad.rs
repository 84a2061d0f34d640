use super::prelude::*;

/// MADGRAD, dual averaging with a cube root: [Defazio and Jelassi, 2022](https://arxiv.org/abs/2101.11075).
///
/// ```text
/// a = (lr + ε)·√t                                   0 where lr is 0
/// n ← n + a·g²
/// q ← q + a·g
/// w ← ρw + (1 − ρ)(x₀ − q / (∛n + ε)) − lr·λ·w
/// ```
/// x₀ is w before the first step, λ that of [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled). States
/// `grad_sum_sq` n, `grad_sum` q, `x0`; 36 bytes of traffic an element. With a learning rate of 0 the sums stay, and w
/// still moves towards what they say. The code of the authors, optax and pytorch-optimizer agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Madgrad {
    /// ρ, in 0 ≤ ρ < 1.
    pub momentum: f64,
    /// ε, 0 or more.
    pub eps: f64,
}

impl Default for Madgrad {
    /// ρ = 0.9, ε = 1e-6.
    fn default() -> Self {
        Self { momentum: 0.9, eps: 1e-6 }
    }
}

fields! {
    /// Coefficients of [`Madgrad`].
    pub struct Hyper { gain, momentum, one_minus_momentum, eps, decay, first }
}
fields! {
    /// State of [`Madgrad`].
    pub struct State { grad_sum_sq, grad_sum, x0 }
}

impl Rule for Madgrad {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "madgrad";
    const SHADER: &'static str = include_str!("../../shaders/madgrad.wgsl");
    const LR: f64 = 1e-2;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        below_one("momentum", self.momentum)?;
        at_least_zero("eps", self.eps)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let momentum = step.momentum.unwrap_or(self.momentum);
        Hyper {
            gain: if step.lr > 0.0 { (step.lr + self.eps) * (step.t as f64).sqrt() } else { 0.0 },
            momentum,
            one_minus_momentum: 1.0 - momentum,
            eps: self.eps,
            decay: step.lr * step.weight_decay,
            first: first_step(step.t),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let x0 = if h.first == F::one() { w } else { s.x0 };
        let n = s.grad_sum_sq + h.gain * g * g;
        let q = s.grad_sum + h.gain * g;
        s.x0 = x0;
        s.grad_sum_sq = n;
        s.grad_sum = q;
        h.momentum * w + h.one_minus_momentum * (x0 - ratio(q, n.cube_root() + h.eps)) - h.decay * w
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn cube_roots_are_within_two_roundings() {
        let all = (0x0080_0000..=0x7f7f_ffff).step_by(9973).map(f32::from_bits);
        for x in all.chain([1e-6, 1.0, 8.0, 27.0, f32::MAX, f32::MIN_POSITIVE]) {
            let (root, exact) = (f64::from(x.cube_root()), f64::from(x).cbrt());
            assert!((root / exact - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "∛{x}: {root}, not {exact}");
        }
        assert_eq!(0f32.cube_root(), 0.0);
        assert_eq!(f32::INFINITY.cube_root(), f32::INFINITY);
        assert!(f32::NAN.cube_root().is_nan());
    }
}
