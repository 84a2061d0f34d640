use super::prelude::*;

/// Fromage, whose step is a fraction of each tensor's norm: [Bernstein et al., 2020](https://arxiv.org/abs/2002.03432).
///
/// ```text
/// w ← (w − lr·‖w‖/‖g‖·g) / √(1 + lr²)       the ratio is 1 where a norm is 0
/// ```
/// Norms of each tensor, at least `min_norm`. No state; 20 bytes of traffic an element: the norms take one more pass.
/// optax has min_norm = 1e-6, pytorch-optimizer 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Fromage {
    /// The least that a norm counts as, 0 or more.
    pub min_norm: f64,
}

impl Default for Fromage {
    /// The same as [`Fromage::optax`].
    fn default() -> Self {
        Self::optax()
    }
}

impl Fromage {
    /// Norms of at least 1e-6.
    pub fn optax() -> Self {
        Self { min_norm: 1e-6 }
    }
    /// Norms as they are.
    pub fn pytorch_optimizer() -> Self {
        Self { min_norm: 0.0 }
    }
}

fields! {
    /// Coefficients of [`Fromage`].
    pub struct Hyper { rate, shrink, min_norm, trust_ratio }
}

impl Rule for Fromage {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = ();
    const NAME: &'static str = "fromage";
    const SHADER: &'static str = include_str!("../../shaders/fromage.wgsl");
    const LR: f64 = 1e-2;
    const MEASURES: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        at_least_zero("min_norm", self.min_norm)
    }

    fn stages(&self) -> &'static [Stage] {
        const REDUCE: Reduce =
            Reduce { over: Extent::Tensor, parameter: true, reads: &[], keeps: None, into: "trust_ratio" };
        &[Stage::Reduce(REDUCE), Stage::Map]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let shrink = 1.0 / step.lr.hypot(1.0);
        Hyper { rate: step.lr * shrink, shrink, min_norm: self.min_norm, trust_ratio: 1.0 }
    }

    fn trust<F: Real>(&self, w: F, g: F, _s: &mut F, h: &Hyper<F>) -> F {
        let at_least = |norm: F| if norm < h.min_norm { h.min_norm } else { norm };
        let (weight, gradient) = (at_least(w), at_least(g));
        if weight == F::zero() || gradient == F::zero() { F::one() } else { weight / gradient }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, _s: &mut (), h: &Hyper<F>) -> F {
        h.shrink * w - h.rate * h.trust_ratio * g
    }
}
