//! What an optimizer is: a rule on one parameter, its gradient and its state.

use std::fmt::Debug;
use std::num::FpCategory;

use crate::error::Result;
use crate::formats::{Extent, Format, Storage};

/// An element: `f32`, or `f64` on the CPU.
pub trait Real:
    sealed::Sealed + num_traits::Float + num_traits::NumAssign + bytemuck::Pod + Default + Debug + Send + Sync
{
    /// The type's name.
    const NAME: &'static str;
    /// Whether steps without extras are compiled separately. Not for f64 and not in a browser, where the size of the
    /// code matters more.
    #[doc(hidden)]
    const APART: bool;
    /// `x` rounded once.
    fn of(x: f64) -> Self;
    /// ∛x for x ≥ 0, in a form that a vector unit takes.
    #[doc(hidden)]
    fn cube_root(self) -> Self;
}

mod sealed {
    /// Closes [`Real`](super::Real): the memory that an optimizer keeps is of these two.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

impl Real for f32 {
    const NAME: &'static str = "f32";
    const APART: bool = cfg!(not(target_family = "wasm"));
    fn of(x: f64) -> Self {
        x as Self
    }
    #[inline(always)]
    fn cube_root(self) -> Self {
        // As shaders/madgrad.wgsl: the third of the exponent, and Newton's method.
        let mut y = Self::from_bits(self.to_bits() / 3 + 0x2a51_19f2);
        for _ in 0..3 {
            y -= (y - self / (y * y)) * (1.0 / 3.0);
        }
        if self == 0.0 || !self.is_finite() { self } else { y }
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";
    const APART: bool = false;
    fn of(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn cube_root(self) -> Self {
        self.cbrt()
    }
}

/// A coefficient, rounded once; 0 where it would be subnormal. Devices may flush that to 0: so all of them get the
/// same.
pub(crate) fn coefficient<F: Real>(x: f64) -> F {
    let rounded = F::of(x);
    if rounded.classify() == FpCategory::Subnormal { F::zero() } else { rounded }
}

/// `a / b`, and 0 where `b` is 0: the twin of the shaders' `ratio`.
///
/// With ε = 0 a denominator is 0 until a gradient's square is above 0; PyTorch makes a NaN or ∞ of it, optax makes it
/// 0.
#[inline]
pub fn ratio<F: Real>(a: F, b: F) -> F {
    if b == F::zero() { F::zero() } else { a / b }
}

/// The larger of the two; NaN and ∞ pass through, as in `torch.maximum`: the twin of the shaders' `largest`.
#[inline]
pub fn largest<F: Real>(a: F, b: F) -> F {
    let kept = if a.is_finite() { a.max(b) } else { a };
    if b.is_finite() { kept } else { b }
}

/// 1, −1, or 0; NaN passes, as in `torch.sign`: the twin of the shaders' `sign_of`.
#[inline]
pub fn sign_of<F: Real>(x: F) -> F {
    let below = if x < F::zero() { -F::one() } else { x };
    if x > F::zero() { F::one() } else { below }
}

/// `x` limited to `low` … `high`; NaN passes: the twin of the shaders' `within`.
#[inline]
pub fn within<F: Real>(x: F, low: F, high: F) -> F {
    let limited = if x > high { high } else { x };
    if x < low { low } else { limited }
}

/// A struct of named numbers: a rule's coefficients, or the state of one element. Made by [`fields!`](crate::fields).
pub trait Fields<F>: Copy + Debug + Send + Sync {
    /// The names, in order.
    const NAMES: &'static [&'static str];
    /// A value whose field `k` is `get(k)`.
    fn load(get: impl FnMut(usize) -> F) -> Self;
    /// Calls `put(k, value)` for each field `k`.
    fn store(&self, put: impl FnMut(usize, F));
}

/// No state.
impl<F> Fields<F> for () {
    const NAMES: &'static [&'static str] = &[];
    fn load(_: impl FnMut(usize) -> F) -> Self {}
    fn store(&self, _: impl FnMut(usize, F)) {}
}

/// Defines a struct of numbers, generic over `f32` and `f64`, whose fields can be walked by index and by name.
///
/// ```
/// wgpu_optim::fields! {
///     /// Coefficients of my rule.
///     pub struct Hyper { lr, eps }
/// }
/// use wgpu_optim::Fields;
/// assert_eq!(<Hyper<f32> as Fields<f32>>::NAMES, ["lr", "eps"]);
/// ```
#[macro_export]
macro_rules! fields {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($field:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        #[allow(missing_docs, reason = "the fields are the symbols of the formula")]
        $vis struct $name<F> { $($vis $field: F),+ }

        impl<F: Copy + ::std::fmt::Debug + Send + Sync> $crate::Fields<F> for $name<F> {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];
            #[inline(always)]
            fn load(mut get: impl FnMut(usize) -> F) -> Self {
                let mut k = 0usize..;
                Self { $($field: get($crate::__next(&mut k))),+ }
            }
            #[inline(always)]
            fn store(&self, mut put: impl FnMut(usize, F)) {
                let mut k = 0usize..;
                $(put($crate::__next(&mut k), self.$field);)+
            }
        }
    };
}

#[doc(hidden)]
#[inline(always)]
pub fn __next(k: &mut std::ops::RangeFrom<usize>) -> usize {
    let now = k.start;
    k.start += 1;
    now
}

/// What a step does, in order. A closed list without expressions. A rule's stages are [`Stage::Map`], with at most one
/// [`Stage::Reduce`] before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// `update`, of each element.
    Map,
    /// Norms of what `measure` returns and, if the rule needs it, of the parameter. `trust` makes a coefficient of
    /// them.
    Reduce(Reduce),
    /// The device decides about the step: whether it is taken, the loss scale, each cohort's coefficients.
    Decide,
}

/// A reduction of a norm-based rule: see [`Stage::Reduce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// Whose norms: of each [`Extent::Tensor`], or of all tensors of the [`Extent::Group`] that take part in the step.
    pub over: Extent,
    /// Whether `measure` or `trust` needs the parameter. Without, its norm is 0, and what `measure` gets as `w` is
    /// anything: the parameter is read only where the gradient has an L2 decay.
    pub parameter: bool,
    /// The states that `measure` reads.
    pub reads: &'static [&'static str],
    /// The name of the number that `trust` keeps for each of them; `None` if it keeps none.
    pub keeps: Option<&'static str>,
    /// The coefficient that becomes what `trust` returns.
    pub into: &'static str,
}

/// What the host knows when a step is recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Number of this step for this parameter, counted from 1.
    pub t: u64,
    /// Learning rate: the group's `lr` times its `lr_factor` times its schedule.
    pub lr: f64,
    /// What the schedule says that the momentum, or β₁, is now; `None` for the rule's own.
    pub momentum: Option<f64>,
    /// λ of [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled), for a rule that [decays](Rule::DECAYS) itself; 0
    /// otherwise.
    pub weight_decay: f64,
    /// The parameters stand at `x + look_ahead · v` (see
    /// [`Optimizer::encode_look_ahead`](crate::Optimizer::encode_look_ahead)); 0 otherwise.
    pub look_ahead: f64,
}

/// Names of states that no rule makes negative.
pub const NOT_BELOW_ZERO: [&str; 14] = [
    "sum",
    "square_avg",
    "acc_delta",
    "exp_inf",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_avg_var",
    "exp_avg_lr",
    "accumulator",
    "grad_sum_sq",
    "grad_norm_sum",
    "step_size",
    "scale",
    "reward",
];

/// Names of states that are no moments of the gradient, but weights, step sizes, old gradients, or sums that the
/// parameter is made of.
pub const NOT_MOMENTS: [&str; 17] = [
    "exp_avg_lr",
    "z",
    "x0",
    "ax",
    "prev",
    "step_size",
    "previous_grad",
    "grad_buffer",
    "hessian",
    "accumulator",
    "linear",
    "grad_sum",
    "grad_sum_sq",
    "grad_norm_sum",
    "scale",
    "reward",
    "d_buffer",
];

/// What one optimizer does to one parameter: in WGSL for the GPU, and the same arithmetic here for the CPU.
///
/// Weight decay, `maximize`, gradient scale and memory are not a rule's concern: they are written once, around it.
/// A rule of your own is a `.wgsl` text and an `impl`; `examples/custom_rule.rs` shows both.
///
/// The shader declares `struct Hyper` (`f32` fields named as [`Rule::Hyper`]), `struct State` (fields of type `Lane`,
/// named as [`Rule::State`]; none for a rule without state), its `override`s, and
///
/// ```text
/// fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane
/// ```
///
/// which returns the new parameter (without `s` for a rule without state). `Lane` is `vec4<f32>` or `f32`.
///
/// A norm-based rule has a [`Stage::Reduce`] before its [`Stage::Map`], sets [`Rule::MEASURES`], and has two functions
/// more. The norm of the
/// parameter, `w`, and that of what `measure` returns, `x`, go to `trust`. What `trust` returns becomes this step's
/// value of the coefficient [`Reduce::into`]. It may keep one number, `s`:
///
/// ```text
/// fn measure(w: Lane, g: Lane, s: State, h: Hyper) -> Lane
/// fn trust(w: f32, x: f32, s: ptr<function, f32>, h: Hyper) -> f32
/// ```
pub trait Rule: Clone + Debug + Send + Sync + 'static {
    /// The coefficients of one step; see [`fields!`](crate::fields).
    type Hyper<F: Real>: Fields<F>;
    /// The state of one element, named as PyTorch's `state_dict` names it; `()` for none.
    type State<F: Real>: Fields<F>;
    /// The rule's name, as users type it.
    const NAME: &'static str;
    /// The rule in WGSL.
    const SHADER: &'static str;
    /// PyTorch's default learning rate.
    const LR: f64;
    /// Whether decoupled weight decay is a part of the formula: then [`Step::weight_decay`] has it, and nothing else is
    /// done about it.
    const DECAYS: bool = false;

    /// Whether [`Rule::stages`] may have a [`Stage::Reduce`]: what measures on the CPU is compiled for such rules
    /// alone.
    const MEASURES: bool = false;

    /// # Errors
    /// [`Error::Hyperparameter`](crate::Error::Hyperparameter) for a value outside its range (see
    /// [`require`](crate::require)).
    fn check(&self) -> Result<()>;
    /// Whether this configuration keeps the state of this name.
    fn uses(&self, _state: &str) -> bool {
        true
    }
    /// What the state of this name starts from.
    fn initial(&self, _state: &str) -> f64 {
        0.0
    }
    /// Whether the state of this name may be below 0, for [`States::Block8`](crate::States::Block8): what is not is
    /// stored by the unsigned map, and never as 0 while it is above. By default states whose names say that they are
    /// second moments, sums of squares or step sizes are not below 0: [`NOT_BELOW_ZERO`].
    fn signed(&self, state: &str) -> bool {
        !NOT_BELOW_ZERO.contains(&state)
    }
    /// Whether the state of this name is an average of gradients, or of their squares, so that the errors of
    /// [`Precision::states`](crate::Precision::states) average out. Others stay in f32: by default those of
    /// [`NOT_MOMENTS`].
    fn is_moment(&self, state: &str) -> bool {
        !NOT_MOMENTS.contains(&state)
    }
    /// Values of the shader's `override` constants.
    fn overrides(&self) -> Vec<(&'static str, bool)> {
        Vec::new()
    }
    /// What a step does, in order: [`Stage::Map`], with at most one [`Stage::Reduce`] before it.
    fn stages(&self) -> &'static [Stage] {
        &[Stage::Map]
    }
    /// The coefficients of a step, all derived ones computed here in f64.
    fn hyper(&self, step: &Step) -> Self::Hyper<f64>;
    /// The twin of the shader's `update`.
    fn update<F: Real>(&self, w: F, g: F, s: &mut Self::State<F>, h: &Self::Hyper<F>) -> F;
    /// The twin of the shader's `measure`; states that are not in [`Reduce::reads`] are 0.
    fn measure<F: Real>(&self, _w: F, g: F, _s: &Self::State<F>, _h: &Self::Hyper<F>) -> F {
        g
    }
    /// The twin of the shader's `trust`.
    fn trust<F: Real>(&self, _w: F, _x: F, _s: &mut F, _h: &Self::Hyper<F>) -> F {
        F::one()
    }
    /// The configuration as a checkpoint keeps it.
    fn save(&self) -> String {
        format!("{self:?}")
    }
    /// The configuration that another run saved; `None` if this rule cannot take it. Unless a rule says how, it takes
    /// just its own.
    fn restore(&self, saved: &str) -> Option<Self> {
        (saved == Rule::save(self)).then(|| self.clone())
    }
    /// For a rule with a state `z`: the `c` of the point `w + c·(w − z)` where the model is evaluated, if that is not
    /// w; see [`Optimizer::evaluate`](crate::Optimizer::evaluate).
    fn evaluation(&self) -> Option<f64> {
        None
    }
    /// For a rule with a state `momentum_buffer`: the `c` of its look-ahead point `x + c·v` before this step.
    fn look_ahead(&self, _step: &Step) -> Option<f64> {
        None
    }
}

/// [`Rule`] without its associated types: what both executors ask.
pub(crate) trait Description: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn shader(&self) -> &'static str;
    fn default_lr(&self) -> f64;
    fn state_names(&self) -> &'static [&'static str];
    fn hyper_names(&self) -> &'static [&'static str];
    fn check(&self) -> Result<()>;
    fn uses(&self, state: &str) -> bool;
    fn initial(&self, state: &str) -> f64;
    fn signed(&self, state: &str) -> bool;
    fn is_moment(&self, state: &str) -> bool;
    fn overrides(&self) -> Vec<(&'static str, bool)>;
    fn stages(&self) -> &'static [Stage];
    fn evaluation(&self) -> Option<f64>;
    fn look_ahead(&self, step: &Step) -> Option<f64>;
    fn save(&self) -> String;
    fn decays(&self) -> bool;
    fn measures(&self) -> bool;
    /// Appends the step's coefficients, rounded.
    fn hyper_f32(&self, step: &Step, words: &mut Vec<u32>);

    /// Its reduction, if it has one.
    fn reduce(&self) -> Option<Reduce> {
        self.stages().iter().find_map(|stage| if let Stage::Reduce(reduce) = stage { Some(*reduce) } else { None })
    }

    /// What this configuration keeps: the states of each element, then the number of its reduction.
    fn storage(&self) -> Vec<Storage> {
        let used = self.state_names().iter().copied().filter(|state| self.uses(state));
        let of_elements = used.map(|name| (name, Extent::Element));
        let kept = self.reduce().and_then(|Reduce { keeps, over, .. }| Some((keeps?, over)));
        let storage = |(name, extent)| Storage { name, extent, format: Format::F32, initial: self.initial(name) };
        of_elements.chain(kept).map(storage).collect()
    }
}

impl<R: Rule> Description for R {
    fn name(&self) -> &'static str {
        R::NAME
    }
    fn shader(&self) -> &'static str {
        R::SHADER
    }
    fn default_lr(&self) -> f64 {
        R::LR
    }
    fn state_names(&self) -> &'static [&'static str] {
        <R::State<f32> as Fields<f32>>::NAMES
    }
    fn hyper_names(&self) -> &'static [&'static str] {
        <R::Hyper<f32> as Fields<f32>>::NAMES
    }
    fn check(&self) -> Result<()> {
        Rule::check(self)
    }
    fn uses(&self, state: &str) -> bool {
        Rule::uses(self, state)
    }
    fn initial(&self, state: &str) -> f64 {
        Rule::initial(self, state)
    }
    fn is_moment(&self, state: &str) -> bool {
        Rule::is_moment(self, state)
    }
    fn signed(&self, state: &str) -> bool {
        Rule::signed(self, state)
    }
    fn overrides(&self) -> Vec<(&'static str, bool)> {
        Rule::overrides(self)
    }
    fn stages(&self) -> &'static [Stage] {
        Rule::stages(self)
    }
    fn evaluation(&self) -> Option<f64> {
        Rule::evaluation(self)
    }
    fn look_ahead(&self, step: &Step) -> Option<f64> {
        Rule::look_ahead(self, step)
    }
    fn save(&self) -> String {
        Rule::save(self)
    }
    fn measures(&self) -> bool {
        R::MEASURES
    }
    fn decays(&self) -> bool {
        R::DECAYS
    }
    fn hyper_f32(&self, step: &Step, words: &mut Vec<u32>) {
        self.hyper(step).store(|_, x| words.push(coefficient::<f32>(x).to_bits()));
    }
}
