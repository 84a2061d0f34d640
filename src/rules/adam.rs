use super::prelude::*;

/// Which second moment [`Adam`] remembers the largest of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Amsgrad {
    /// The raw v, corrected after the maximum: PyTorch, Keras.
    Raw,
    /// v / (1 − β₂ᵗ), the maximum of the corrected ones: optax.
    Corrected,
}

/// Adam: [Kingma and Ba, 2015](https://arxiv.org/abs/1412.6980); AMSGrad:
/// [Reddi et al., 2018](https://arxiv.org/abs/1904.09237).
///
/// ```text
/// m ← β₁m + (1 − β₁)g
/// v ← β₂v + (1 − β₂)g²                    amsgrad: v̄ ← max(v̄, v) stands for v below
/// w ← w − lr·m̂ / (√(v̂ + eps_root) + ε)    m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
/// ```
/// States `exp_avg` m, `exp_avg_sq` v, `max_exp_avg_sq` v̄; 28 bytes of traffic an element, 36 with AMSGrad. With
/// [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled) this is `AdamW`. ε stands outside the root, as in the
/// paper and PyTorch; see `eps_hat` and `eps_root` for the others. The corrections are computed in f64 on the host:
/// optax and Keras compute them in f32, where 1 − 0.999ᵗ is 1e-5 off.
///
/// ```
/// use wgpu_optim::{Device, Optimizer, Settings, WeightDecay, rules::Adam};
/// let adamw = Settings { weight_decay: WeightDecay::Decoupled(0.01), ..Settings::lr(1e-3) };
/// let optimizer = Optimizer::new(&Device::Cpu, Adam::default(), adamw)?;
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Adam {
    /// β₁, in 0 ≤ β₁ < 1.
    pub beta1: f64,
    /// β₂, in 0 ≤ β₂ < 1.
    pub beta2: f64,
    /// ε, 0 or more.
    pub eps: f64,
    /// ε̂: ε is added to the uncorrected √v, `w − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ)·m / (√v + ε)`, as Keras and TensorFlow.
    pub eps_hat: bool,
    /// A second ε, inside the root, as optax; 0 or more.
    pub eps_root: f64,
    /// Divide m by 1 − β₁ᵗ.
    pub bias_correction_m: bool,
    /// Divide v by 1 − β₂ᵗ.
    pub bias_correction_v: bool,
    /// Divide by the largest v so far.
    pub amsgrad: Option<Amsgrad>,
}

impl Default for Adam {
    fn default() -> Self {
        Self::torch()
    }
}

impl Adam {
    /// β = (0.9, 0.999), ε = 1e-8 outside the root: the paper, PyTorch.
    pub fn torch() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            eps_hat: false,
            eps_root: 0.0,
            bias_correction_m: true,
            bias_correction_v: true,
            amsgrad: None,
        }
    }
    /// ε̂ = 1e-7.
    pub fn keras() -> Self {
        Self { eps: 1e-7, eps_hat: true, ..Self::torch() }
    }
    /// The same as [`Adam::torch`].
    pub fn optax() -> Self {
        Self::torch()
    }
    /// Without bias correction.
    pub fn uncorrected() -> Self {
        Self { bias_correction_m: false, bias_correction_v: false, ..Self::torch() }
    }
    /// AMSGrad as PyTorch: the maximum over raw v, both corrections.
    pub fn amsgrad() -> Self {
        Self { amsgrad: Some(Amsgrad::Raw), ..Self::torch() }
    }
    /// AMSGrad as Keras: the maximum over raw v, ε̂ = 1e-7.
    pub fn amsgrad_keras() -> Self {
        Self { amsgrad: Some(Amsgrad::Raw), ..Self::keras() }
    }
    /// AMSGrad as optax: the maximum over corrected v.
    pub fn amsgrad_optax() -> Self {
        Self { amsgrad: Some(Amsgrad::Corrected), ..Self::torch() }
    }
    /// AMSGrad as [Reddi et al.](https://arxiv.org/abs/1904.09237) wrote it: no correction at all.
    pub fn amsgrad_reddi() -> Self {
        Self { amsgrad: Some(Amsgrad::Raw), ..Self::uncorrected() }
    }
    /// AMSGrad as the lecture notes: corrected m over the largest raw v.
    pub fn amsgrad_mhat() -> Self {
        Self { bias_correction_m: true, ..Self::amsgrad_reddi() }
    }
}

fields! {
    /// Coefficients of [`Adam`].
    pub struct Hyper {
        beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, max_correction, correction, eps_root, eps,
    }
}
fields! {
    /// State of [`Adam`].
    pub struct State { exp_avg, exp_avg_sq, max_exp_avg_sq }
}

impl Rule for Adam {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "adam";
    const SHADER: &'static str = include_str!("../../shaders/adam.wgsl");
    const LR: f64 = 1e-3;
    stored!();

    fn check(&self) -> Result<()> {
        check_moments(self.beta1, self.beta2, self.eps, self.eps_root)?;
        let exclusive = !self.eps_hat || (self.eps_root == 0.0 && self.amsgrad != Some(Amsgrad::Corrected));
        require(exclusive, "eps_hat", 1.0, "0 with eps_root or Amsgrad::Corrected")
    }

    fn uses(&self, state: &str) -> bool {
        state != "max_exp_avg_sq" || self.amsgrad.is_some()
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("AMSGRAD", self.amsgrad.is_some())]
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let beta1 = step.momentum.unwrap_or(self.beta1);
        let m_hat = if self.bias_correction_m { 1.0 / one_minus_power(beta1, step.t) } else { 1.0 };
        let v_hat = if self.bias_correction_v { 1.0 / one_minus_power(self.beta2, step.t) } else { 1.0 };
        let (step_size, correction) =
            if self.eps_hat { (step.lr * m_hat / v_hat.sqrt(), 1.0) } else { (step.lr * m_hat, v_hat) };
        let max_of_corrected = self.amsgrad == Some(Amsgrad::Corrected);
        Hyper {
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            step_size,
            max_correction: if max_of_corrected { correction } else { 1.0 },
            correction: if max_of_corrected { 1.0 } else { correction },
            eps_root: self.eps_root,
            eps: self.eps,
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let mut v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
        s.exp_avg = m;
        s.exp_avg_sq = v;
        if self.amsgrad.is_some() {
            v = largest(s.max_exp_avg_sq, h.max_correction * v);
            s.max_exp_avg_sq = v;
        }
        w - h.step_size * ratio(m, (h.correction * v + h.eps_root).sqrt() + h.eps)
    }
}
