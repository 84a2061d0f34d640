//! The rules, one file each beside `shaders/` of the same name, and the one list of them.

/// A configuration that a checkpoint keeps as JSON, and restores.
macro_rules! stored {
    () => {
        fn save(&self) -> String {
            serde_json::to_string(self).unwrap_or_default()
        }
        fn restore(&self, saved: &str) -> Option<Self> {
            crate::json::read(saved).ok()
        }
    };
}

mod adadelta;
mod adagrad;
mod adagrad_norm;
mod adam;
mod adamax;
mod ademamix;
mod lamb;
mod lars;
mod lion;
mod momentum;
mod nadam;
mod novograd;
mod rmsprop;
mod sgd;

pub use adadelta::AdaDelta;
pub use adagrad::AdaGrad;
pub use adagrad_norm::AdaGradNorm;
pub use adam::{Adam, Amsgrad};
pub use adamax::AdaMax;
pub use ademamix::AdEmaMix;
pub use lamb::Lamb;
pub use lars::Lars;
pub use lion::Lion;
pub use momentum::{Momentum, MomentumForm};
pub use nadam::NAdam;
pub use novograd::NovoGrad;
pub use rmsprop::RmsProp;
pub use sgd::Sgd;

use crate::any_rule::AnyRule;
use crate::error::{Error, Result};
use crate::formats::Extent;

/// Every rule with every variant, by the name that users type. Tests, `bench`, `check` and `shader` run over this list.
pub fn all() -> Vec<(&'static str, AnyRule)> {
    let momentum = Momentum::default();
    let centered = RmsProp { centered: true, ..RmsProp::torch() };
    vec![
        ("sgd", Sgd.into()),
        ("momentum", momentum.into()),
        ("momentum-dampened", Momentum { dampening: 0.1, ..momentum }.into()),
        ("momentum-lr-inside", Momentum::keras(0.9).into()),
        ("momentum-ema", Momentum::ema(0.9).into()),
        ("nesterov", momentum.nesterov().into()),
        ("nesterov-lr-inside", Momentum::keras(0.9).nesterov().into()),
        ("nesterov-ema", Momentum::ema(0.9).nesterov().into()),
        ("adagrad", AdaGrad::torch().into()),
        ("adagrad-lr-decay", AdaGrad { lr_decay: 0.01, ..AdaGrad::torch() }.into()),
        ("adagrad-keras", AdaGrad::keras().into()),
        ("rmsprop", RmsProp::torch().into()),
        ("rmsprop-keras", RmsProp::keras().into()),
        ("rmsprop-initial", RmsProp { initial: 1.0, ..RmsProp::optax() }.into()),
        ("rmsprop-momentum", RmsProp { momentum: 0.9, ..RmsProp::torch() }.into()),
        ("rmsprop-momentum-keras", RmsProp { momentum: 0.9, ..RmsProp::keras() }.into()),
        ("rmsprop-centered", centered.into()),
        ("rmsprop-centered-momentum", RmsProp { momentum: 0.9, ..centered }.into()),
        ("rmsprop-graves", RmsProp::graves().into()),
        ("adadelta", AdaDelta::torch().into()),
        ("adam", Adam::torch().into()),
        ("adam-keras", Adam::keras().into()),
        ("adam-eps-root", Adam { eps_root: 1e-6, ..Adam::optax() }.into()),
        ("adam-uncorrected", Adam::uncorrected().into()),
        ("amsgrad", Adam::amsgrad().into()),
        ("amsgrad-keras", Adam::amsgrad_keras().into()),
        ("amsgrad-optax", Adam::amsgrad_optax().into()),
        ("amsgrad-optax-uncorrected", Adam { bias_correction_v: false, ..Adam::amsgrad_optax() }.into()),
        ("amsgrad-reddi", Adam::amsgrad_reddi().into()),
        ("amsgrad-mhat", Adam::amsgrad_mhat().into()),
        ("adamax", AdaMax::torch().into()),
        ("adamax-keras", AdaMax::keras().into()),
        ("adamax-paper", AdaMax::paper().into()),
        ("nadam", NAdam::torch().into()),
        ("nadam-keras", NAdam::keras().into()),
        ("nadam-optax", NAdam::optax().into()),
        ("nadam-eps-root", NAdam { eps_root: 1e-6, ..NAdam::optax() }.into()),
        ("ademamix", AdEmaMix::default().into()),
        ("lion", Lion::default().into()),
        ("adagrad-norm", AdaGradNorm::default().into()),
        ("adagrad-norm-tensor", AdaGradNorm { over: Extent::Tensor, ..AdaGradNorm::default() }.into()),
        ("lamb", Lamb::optax().into()),
        ("lamb-keras", Lamb::keras().into()),
        ("lars", Lars::default().into()),
        ("lars-nesterov", Lars { nesterov: true, ..Lars::default() }.into()),
        ("novograd", NovoGrad::optax().into()),
        ("novograd-averaged", NovoGrad { grad_averaging: true, ..NovoGrad::paper() }.into()),
    ]
}

/// The rule of this name in [`all`].
///
/// # Errors
/// [`Error::UnknownRule`] with all names.
///
/// # Examples
/// ```
/// let adam = wgpu_optim::rules::by_name("adam")?;
/// assert_eq!(adam.states(), ["exp_avg", "exp_avg_sq"]);
/// assert_eq!(adam.bytes_per_parameter(), 28);
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
pub fn by_name(name: &str) -> Result<AnyRule> {
    let mut rules = all();
    match rules.iter().position(|(known, _)| *known == name) {
        Some(at) => Ok(rules.swap_remove(at).1),
        None => {
            let known: Vec<_> = rules.iter().map(|(known, _)| *known).collect();
            Err(Error::UnknownRule { name: name.into(), known: known.join(", ") })
        }
    }
}

/// What each rule's file needs.
mod prelude {
    pub(super) use serde::{Deserialize, Serialize};

    pub(super) use crate::error::{Error, Result, at_least_0 as at_least_zero, in_f32, require};
    pub(super) use crate::fields;
    pub(super) use crate::formats::Extent;
    pub(super) use crate::rule::{Real, Reduce, Rule, Stage, Step, largest, ratio, sign_of};

    pub(super) fn below_one(name: &'static str, x: f64) -> Result<()> {
        require((0.0..1.0).contains(&x), name, x, "0 to below 1")
    }
    pub(super) fn above_zero(name: &'static str, x: f64) -> Result<()> {
        require(x > 0.0 && in_f32(x), name, x, "1.2e-38 to 3.4e38")
    }

    /// β₁ and β₂ below 1, ε outside and inside the root at least 0.
    pub(super) fn check_moments(beta1: f64, beta2: f64, eps: f64, eps_root: f64) -> Result<()> {
        below_one("beta1", beta1)?;
        below_one("beta2", beta2)?;
        at_least_zero("eps", eps)?;
        at_least_zero("eps_root", eps_root)
    }

    /// `(eps, 0)` or `(0, eps)`.
    pub(super) fn inside_outside(eps: f64, inside: bool) -> (f64, f64) {
        if inside { (eps, 0.0) } else { (0.0, eps) }
    }

    /// 1 − βᵗ.
    pub(super) fn one_minus_power(beta: f64, t: u64) -> f64 {
        1.0 - beta.powf(t as f64)
    }
}
