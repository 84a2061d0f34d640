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

mod accsgd;
mod acprop;
mod adabelief;
mod adabound;
mod adadelta;
mod adagrad;
mod adagrad_norm;
mod adam;
mod adamax;
mod adamod;
mod adan;
mod adapnm;
mod ademamix;
mod adopt;
mod aggmo;
mod asgd;
mod cocob;
mod diffgrad;
mod fromage;
mod ftrl;
mod lamb;
mod laprop;
mod lars;
mod lion;
mod madgrad;
mod momentum;
mod nadam;
mod novograd;
mod optimistic_gradient_descent;
mod pid;
mod pnm;
mod qhadam;
mod qhm;
mod radam;
mod rmsprop;
mod rprop;
mod schedule_free;
mod sgd;
mod signum;
mod sophia;
mod yogi;

pub use accsgd::AccSgd;
pub use acprop::AcProp;
pub use adabelief::AdaBelief;
pub use adabound::AdaBound;
pub use adadelta::AdaDelta;
pub use adagrad::AdaGrad;
pub use adagrad_norm::AdaGradNorm;
pub use adam::{Adam, Amsgrad};
pub use adamax::AdaMax;
pub use adamod::AdaMod;
pub use adan::Adan;
pub use adapnm::AdaPnm;
pub use ademamix::AdEmaMix;
pub use adopt::Adopt;
pub use aggmo::AggMo;
pub use asgd::Asgd;
pub use cocob::Cocob;
pub use diffgrad::DiffGrad;
pub use fromage::Fromage;
pub use ftrl::Ftrl;
pub use lamb::Lamb;
pub use laprop::LaProp;
pub use lars::Lars;
pub use lion::Lion;
pub use madgrad::Madgrad;
pub use momentum::{Momentum, MomentumForm};
pub use nadam::NAdam;
pub use novograd::NovoGrad;
pub use optimistic_gradient_descent::OptimisticGradientDescent;
pub use pid::Pid;
pub use pnm::Pnm;
pub use qhadam::QhAdam;
pub use qhm::Qhm;
pub use radam::RAdam;
pub use rmsprop::RmsProp;
pub use rprop::Rprop;
pub use schedule_free::ScheduleFree;
pub use sgd::Sgd;
pub use signum::Signum;
pub use sophia::Sophia;
pub use yogi::Yogi;

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
        ("signum", Signum::default().into()),
        ("sign-sgd", Signum::sign_sgd().into()),
        ("radam", RAdam::torch().into()),
        ("radam-optax", RAdam::optax().into()),
        ("schedule-free-sgd", ScheduleFree::sgd().into()),
        ("schedule-free-adamw", ScheduleFree::adamw().into()),
        ("adabelief", AdaBelief::default().into()),
        ("adabelief-rectified", AdaBelief { rectify: true, ..AdaBelief::default() }.into()),
        ("rprop", Rprop::default().into()),
        ("rprop-lagged", Rprop::optax().into()),
        ("asgd", Asgd::default().into()),
        ("adopt", Adopt::optax().into()),
        ("adan", Adan::default().into()),
        ("yogi", Yogi::default().into()),
        ("laprop", LaProp::default().into()),
        ("laprop-centered", LaProp { centered: true, ..LaProp::default() }.into()),
        ("ftrl", Ftrl::default().into()),
        ("sophia", Sophia::default().into()),
        ("madgrad", Madgrad::default().into()),
        ("cocob", Cocob::default().into()),
        ("optimistic-gradient-descent", OptimisticGradientDescent::default().into()),
        ("adabound", AdaBound::default().into()),
        ("amsbound", AdaBound { amsbound: true, ..AdaBound::default() }.into()),
        ("adamod", AdaMod::default().into()),
        ("diffgrad", DiffGrad::default().into()),
        ("acprop", AcProp::default().into()),
        ("pnm", Pnm::default().into()),
        ("adapnm", AdaPnm::default().into()),
        ("aggmo", AggMo::default().into()),
        ("qhm", Qhm::default().into()),
        ("qhadam", QhAdam::default().into()),
        ("accsgd", AccSgd::default().into()),
        ("pid", Pid::default().into()),
        ("adagrad-norm", AdaGradNorm::default().into()),
        ("adagrad-norm-tensor", AdaGradNorm { over: Extent::Tensor, ..AdaGradNorm::default() }.into()),
        ("lamb", Lamb::optax().into()),
        ("lamb-keras", Lamb::keras().into()),
        ("lamb-pytorch-optimizer", Lamb::pytorch_optimizer().into()),
        ("fromage", Fromage::default().into()),
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
    pub(super) use crate::rule::{Real, Reduce, Rule, Stage, Step, largest, ratio, sign_of, within};

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

    /// 1 at the first step, where a state begins as something that is known only then.
    pub(super) fn first_step(t: u64) -> f64 {
        f64::from(t == 1)
    }

    /// RAdam's r, by which the variance of the adaptive step is corrected; `None` while that variance has no bound.
    /// [Liu et al., 2020](https://arxiv.org/abs/1908.03265), with ρ > 5 as PyTorch, where the paper has 4.
    pub(super) fn rectification(beta2: f64, t: u64) -> Option<f64> {
        let most = 2.0 / (1.0 - beta2) - 1.0;
        let rho = most - 2.0 * t as f64 * beta2.powf(t as f64) / one_minus_power(beta2, t);
        (rho > 5.0).then(|| ((rho - 4.0) * (rho - 2.0) * most / ((most - 4.0) * (most - 2.0) * rho)).sqrt())
    }

    /// 1ˢ + 2ˢ + … + nˢ for 0 ≤ s ≤ 8: term by term at first, and then by the Euler–Maclaurin formula. The first term
    /// that is left out is below 1e-11 of the sum.
    pub(super) fn power_sum(s: f64, n: u64) -> f64 {
        const TERMS: u64 = 64;
        let first: f64 = (1..=n.min(TERMS)).map(|i| (i as f64).powf(s)).sum();
        let rest = |n: u64| {
            let x = n as f64;
            let power = |k: f64| x.powf(s - k);
            power(-1.0) / (s + 1.0) + power(0.0) / 2.0 + s * power(1.0) / 12.0
                - s * (s - 1.0) * (s - 2.0) * power(3.0) / 720.0
        };
        if n <= TERMS { first } else { first + rest(n) - rest(TERMS) }
    }
}
