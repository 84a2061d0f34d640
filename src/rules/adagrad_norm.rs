use super::prelude::*;

/// AdaGrad-Norm, scalar AdaGrad: [Ward, Wu and Bottou, 2019](https://arxiv.org/abs/1806.01811).
///
/// ```text
/// b² ← b² + ‖g‖²
/// w ← w − lr·g / b
/// ```
/// b is one number: of the group, whose gradients then have one norm together, or of each tensor. It is kept as the
/// root, which no finite gradient makes overflow. No other state; 16 bytes of traffic an element, 20 with L2 decay: the
/// norm takes one more pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaGradNorm {
    /// The first b, 0 or more.
    pub b0: f64,
    /// Whose norm it is: [`Extent::Tensor`] or [`Extent::Group`].
    #[serde(alias = "scope")]
    pub over: Extent,
}

impl Default for AdaGradNorm {
    /// b₀ = 0.1, one b for the group.
    fn default() -> Self {
        Self { b0: 0.1, over: Extent::Group }
    }
}

fields! {
    /// Coefficients of [`AdaGradNorm`].
    pub struct Hyper { lr, trust_ratio }
}

impl Rule for AdaGradNorm {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = ();
    const NAME: &'static str = "adagrad_norm";
    const SHADER: &'static str = include_str!("../../shaders/adagrad_norm.wgsl");
    const LR: f64 = 1.0;
    const MEASURES: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        at_least_zero("b0", self.b0)?;
        let known = matches!(self.over, Extent::Tensor | Extent::Group);
        if known {
            Ok(())
        } else {
            Err(Error::Unsupported {
                operation: "a rule",
                name: Self::NAME.into(),
                reason: "its norm is over Tensor or Group",
            })
        }
    }

    fn initial(&self, _state: &str) -> f64 {
        self.b0
    }

    fn stages(&self) -> &'static [Stage] {
        const fn over(over: Extent) -> Stage {
            Stage::Reduce(Reduce { over, parameter: false, reads: &[], keeps: Some("b"), into: "trust_ratio" })
        }
        match self.over {
            Extent::Tensor => const { &[over(Extent::Tensor), Stage::Map] },
            _ => const { &[over(Extent::Group), Stage::Map] },
        }
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        Hyper { lr: step.lr, trust_ratio: 1.0 }
    }

    fn trust<F: Real>(&self, _w: F, g: F, s: &mut F, _h: &Hyper<F>) -> F {
        let largest = if *s > g { *s } else { g };
        if largest == F::zero() {
            return F::zero();
        }
        let (a, b) = (*s / largest, g / largest);
        *s = largest * (a * a + b * b).sqrt();
        F::one() / *s
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, _s: &mut (), h: &Hyper<F>) -> F {
        w - h.lr * h.trust_ratio * g
    }
}
