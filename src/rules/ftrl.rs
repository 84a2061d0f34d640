use super::prelude::*;

/// FTRL-Proximal, follow the regularized leader: [McMahan et al., 2013](https://doi.org/10.1145/2487575.2488200).
///
/// ```text
/// n' = n + g²
/// z ← z + g + 2·l2_shrinkage·w − (√n' − √n)/lr·w,  n ← n'
/// w ← (min(max(z, −l1), l1) − z) / ((√n + β)/lr + l2)
/// ```
/// States `accumulator` n, `linear` z; 28 bytes of traffic an element. w is 0 where |z| ≤ l1: the solution is sparse. w
/// comes from z alone. So the first step replaces what w was, with 0 where the gradient is 0, and a decay of
/// [`Settings`](crate::Settings) has nearly no effect: use `l2`. With a learning rate of 0 nothing changes.
///
/// `l2` is twice the `l2_regularization_strength` of Keras. The power of n is −½, the default of Keras and
/// pytorch-optimizer; another one needs a `pow`, which no GPU computes exactly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Ftrl {
    /// What n begins as, 0 or more.
    pub initial_accumulator_value: f64,
    /// λ₁, 0 or more.
    pub l1: f64,
    /// λ₂, 0 or more.
    pub l2: f64,
    /// An L2 decay that enters z, but not n; 0 or more.
    pub l2_shrinkage: f64,
    /// β, 0 or more.
    pub beta: f64,
}

impl Default for Ftrl {
    /// n from 0.1, everything else 0: Keras. From 0, f32 loses the first gradients below 1e-19, whose squares are 0.
    fn default() -> Self {
        Self { initial_accumulator_value: 0.1, l1: 0.0, l2: 0.0, l2_shrinkage: 0.0, beta: 0.0 }
    }
}

impl Ftrl {
    /// n from 0.
    pub fn pytorch_optimizer() -> Self {
        Self { initial_accumulator_value: 0.0, ..Self::default() }
    }
}

fields! {
    /// Coefficients of [`Ftrl`].
    pub struct Hyper { lr, inverse_lr, l1, l2, shrinkage, beta }
}
fields! {
    /// State of [`Ftrl`].
    pub struct State { accumulator, linear }
}

impl Rule for Ftrl {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "ftrl";
    const SHADER: &'static str = include_str!("../../shaders/ftrl.wgsl");
    const LR: f64 = 0.1;
    stored!();

    fn check(&self) -> Result<()> {
        at_least_zero("initial_accumulator_value", self.initial_accumulator_value)?;
        at_least_zero("l1", self.l1)?;
        at_least_zero("l2", self.l2)?;
        at_least_zero("l2_shrinkage", self.l2_shrinkage)?;
        at_least_zero("beta", self.beta)
    }

    fn initial(&self, state: &str) -> f64 {
        if state == "accumulator" { self.initial_accumulator_value } else { 0.0 }
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        Hyper {
            lr: step.lr,
            inverse_lr: if step.lr > 0.0 { 1.0 / step.lr } else { 0.0 },
            l1: self.l1,
            l2: self.l2,
            shrinkage: 2.0 * self.l2_shrinkage,
            beta: self.beta,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        if h.lr == F::zero() {
            return w;
        }
        let n = s.accumulator + g * g;
        // (√n' − √n)/lr, without a difference, and without a square that may overflow.
        let sigma = h.inverse_lr * (g.abs() * ratio(g.abs(), n.sqrt() + s.accumulator.sqrt()));
        let z = s.linear + (g + h.shrinkage * w) - sigma * w;
        s.accumulator = n;
        s.linear = z;
        ratio(within(z, -h.l1, h.l1) - z, h.inverse_lr * (n.sqrt() + h.beta) + h.l2)
    }
}
