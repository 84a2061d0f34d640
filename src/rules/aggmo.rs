use super::prelude::*;

/// AggMo, the mean of three momenta: [Lucas et al., 2019](https://arxiv.org/abs/1804.00325).
///
/// ```text
/// vᵢ ← βᵢvᵢ + g
/// w  ← w − lr/3·(v₁ + v₂ + v₃)
/// ```
/// States `momentum_buffer_1` … `momentum_buffer_3`, none where β is 0; 28 bytes of traffic an element with the default
/// β, 36 with three momenta. pytorch-optimizer's form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AggMo {
    /// β₁, β₂ and β₃, each in 0 ≤ β < 1.
    pub betas: [f64; 3],
}

impl Default for AggMo {
    /// β = (0, 0.9, 0.99).
    fn default() -> Self {
        Self { betas: [0.0, 0.9, 0.99] }
    }
}

fields! {
    /// Coefficients of [`AggMo`].
    pub struct Hyper { beta1, beta2, beta3, rate }
}
fields! {
    /// State of [`AggMo`].
    pub struct State { momentum_buffer_1, momentum_buffer_2, momentum_buffer_3 }
}

impl Rule for AggMo {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "aggmo";
    const SHADER: &'static str = include_str!("../../shaders/aggmo.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        self.betas.iter().try_for_each(|beta| below_one("betas", *beta))
    }

    fn uses(&self, state: &str) -> bool {
        let names = ["momentum_buffer_1", "momentum_buffer_2", "momentum_buffer_3"];
        names.iter().zip(self.betas).any(|(name, beta)| *name == state && beta != 0.0)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let [beta1, beta2, beta3] = self.betas;
        Hyper { beta1, beta2, beta3, rate: step.lr / 3.0 }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let first = h.beta1 * s.momentum_buffer_1 + g;
        let second = h.beta2 * s.momentum_buffer_2 + g;
        let third = h.beta3 * s.momentum_buffer_3 + g;
        s.momentum_buffer_1 = first;
        s.momentum_buffer_2 = second;
        s.momentum_buffer_3 = third;
        w - h.rate * (first + second + third)
    }
}
