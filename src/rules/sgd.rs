use super::prelude::*;

/// Stochastic gradient descent: [Robbins and Monro, 1951](https://doi.org/10.1214/aoms/1177729586).
///
/// ```text
/// w ← w − lr·g
/// ```
/// No state; 12 bytes of traffic an element. With momentum, see [`Momentum`](super::Momentum).
///
/// ```
/// use wgpu_optim::{Device, Optimizer, rules::Sgd};
/// let mut sgd = Optimizer::new(&Device::Cpu, Sgd, 0.5)?;
/// let w = sgd.add(0, "w", &[1.0f32])?;
/// sgd.write_gradient(w, &[0.5f32])?;
/// sgd.step()?;
/// assert_eq!(sgd.read_blocking::<f32>(w)?, [0.75]);
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sgd;

fields! {
    /// Coefficients of [`Sgd`].
    pub struct Hyper { lr }
}

impl Rule for Sgd {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = ();
    const NAME: &'static str = "sgd";
    const SHADER: &'static str = include_str!("../../shaders/sgd.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        Hyper { lr: step.lr }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, _: &mut (), h: &Hyper<F>) -> F {
        w - h.lr * g
    }
}
