//! Full-batch and second-order methods: gradient descent with a line search, conjugate gradients, BFGS, L-BFGS, Newton,
//! Gauss–Newton, Levenberg, Levenberg–Marquardt.
//!
//! The objective must be deterministic: compute it on the whole batch, or on one fixed sample.
//!
//! | problem | on the host, in f32 or f64 | on the device, in f32 |
//! | --- | --- | --- |
//! | minimize a function with its gradient | [`minimize`], [`Minimizer`] | [`GpuMinimizer`] |
//! | with second derivatives | [`minimize_with`] | [`GpuMinimizer`] |
//! | one least-squares problem | [`least_squares()`] | [`GpuLeastSquares`] |
//! | thousands of small ones with one model | [`fit()`] | [`GpuFits`] |
//!
//! `wgpu-optim solve` compares the methods on problems with known answers, among them NIST's certified data sets.

mod cholesky;
mod dense;
mod descent;
pub(crate) mod device;
mod dispatcher;
mod fit;
mod fit_device;
mod gpu_least_squares;
mod gpu_minimizer;
mod least_squares;
mod newton;
mod replay;
mod search;
mod trust_region;
mod vectors;
mod wolfe;

use std::fmt;

use crate::error::{Error, Result, require};
use crate::rule::Real;
pub use fit::{Decay, Fits, Gaussian, Model, Polynomial, fit};
pub use fit_device::GpuFits;
pub use gpu_least_squares::GpuLeastSquares;
pub use gpu_minimizer::GpuMinimizer;
pub use least_squares::{Bounds, Damping, LeastSquares, Loss, least_squares};
pub use search::random_search;
pub use vectors::{Hessian, Matrix, Product};
pub use wolfe::LineSearch;

/// The direction d of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Direction {
    /// d = −g.
    Steepest,
    /// d = −g + β·d, β = max(0, g·(g − g₋) / g₋·g₋): [Polak and Ribière,
    /// 1969](http://www.numdam.org/item/M2AN_1969__3_1_35_0/).
    ConjugateGradient,
    /// d = −H·g, with a dense n × n matrix for the inverse Hessian: [Nocedal and Wright
    /// 2006](https://doi.org/10.1007/978-0-387-40065-5), (6.17), first scaled by y·s / y·y (6.20). For up to about
    /// 2,000 unknowns.
    Bfgs,
    /// d = −H·g from the last `history_size` pairs (s, y), by the two-loop recursion: [Liu and Nocedal,
    /// 1989](https://doi.org/10.1007/BF01589116). This is PyTorch's `LBFGS`; like it, it keeps pairs with y·s > 1e-10.
    Lbfgs {
        /// Pairs that are kept; PyTorch's default is 100.
        history_size: usize,
    },
    /// Newton's method: d = −(∇²f + τ·1)⁻¹·g from the matrix, with τ > 0 if the matrix is not positive definite
    /// (algorithm 3.3). For up to about 2,000 unknowns.
    Newton,
    /// Newton's method by conjugate gradients, from products ∇²f·p (algorithm 7.1).
    NewtonCg,
}

/// A method and its stopping rules. Names and defaults are those of PyTorch's `LBFGS`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The direction d of a step.
    pub direction: Direction,
    /// The length of a step.
    pub line_search: LineSearch,
    /// The length of a [`Fixed`](LineSearch::Fixed) step, or the first length that a line search tries. In the first
    /// iteration it is multiplied by min(1, 1/Σ|g|), except for Newton's methods and for fixed steps of descent and
    /// conjugate gradients. Searches of descent and conjugate gradients begin with a length that follows from the step
    /// before.
    pub lr: f64,
    /// The most iterations of a call.
    pub max_iter: u64,
    /// The most evaluations of a call; `None` is PyTorch's 5/4 of `max_iter`. Give a number if `max_iter` is small. A
    /// [`Sampled`](LineSearch::Sampled) search that has begun takes all of its evaluations.
    pub max_eval: Option<u64>,
    /// Stop when max|g| is at most this.
    pub tolerance_grad: f64,
    /// Stop when the value changes by less than this, or no unknown changes by more.
    pub tolerance_change: f64,
}

impl Options {
    const TORCH: Self = Self {
        direction: Direction::Lbfgs { history_size: 100 },
        line_search: LineSearch::STRONG_WOLFE,
        lr: 1.0,
        max_iter: 20,
        max_eval: None,
        tolerance_grad: 1e-7,
        tolerance_change: 1e-9,
    };

    /// PyTorch's `LBFGS` with `line_search_fn="strong_wolfe"`. For PyTorch's default set `line_search` to
    /// [`LineSearch::Fixed`].
    pub const fn lbfgs() -> Self {
        Self::TORCH
    }

    /// BFGS with the same line search.
    pub const fn bfgs() -> Self {
        Self { direction: Direction::Bfgs, ..Self::TORCH }
    }

    /// Nonlinear conjugate gradients, with the closer line search (c₂ = 0.1) that they need.
    pub const fn conjugate_gradient() -> Self {
        let line_search = LineSearch::StrongWolfe { c1: 1e-4, c2: 0.1 };
        Self { direction: Direction::ConjugateGradient, line_search, ..Self::TORCH }
    }

    /// Gradient descent with backtracking.
    pub const fn gradient_descent() -> Self {
        Self { direction: Direction::Steepest, line_search: LineSearch::BACKTRACKING, ..Self::TORCH }
    }

    /// Newton's method with backtracking, for [`minimize_with`].
    pub const fn newton() -> Self {
        Self { direction: Direction::Newton, line_search: LineSearch::BACKTRACKING, ..Self::TORCH }
    }

    /// Newton's method by conjugate gradients, with backtracking, for [`minimize_with`].
    pub const fn newton_cg() -> Self {
        Self { direction: Direction::NewtonCg, ..Self::newton() }
    }

    fn check(&self) -> Result<()> {
        require(self.lr > 0.0 && self.lr.is_finite(), "lr", self.lr, "above 0")?;
        require(self.tolerance_grad >= 0.0, "tolerance_grad", self.tolerance_grad, "0 or more")?;
        require(self.tolerance_change >= 0.0, "tolerance_change", self.tolerance_change, "0 or more")?;
        let fraction = |x: f64| x > 0.0 && x < 1.0;
        match self.line_search {
            LineSearch::Fixed | LineSearch::Exact => Ok(()),
            LineSearch::Backtracking { c1, shrink } => {
                require(fraction(c1), "c1", c1, "0 to 1")?;
                require(fraction(shrink), "shrink", shrink, "0 to 1")
            }
            LineSearch::StrongWolfe { c1, c2 } => {
                require(fraction(c1), "c1", c1, "0 to 1")?;
                require(fraction(c2) && c2 > c1, "c2", c2, "c1 to 1")
            }
            LineSearch::Sampled { lo, hi, count } => {
                require(lo > 0.0 && lo.is_finite(), "lo", lo, "above 0")?;
                require(hi >= lo && hi.is_finite(), "hi", hi, "lo or more")?;
                require(count > 0, "count", count.into(), "1 or more")
            }
        }
    }
}

/// Why a solver stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// max|g| is within its tolerance.
    GradientTolerance,
    /// The step, or the change of the value, is within its tolerance.
    ChangeTolerance,
    /// As many iterations as were allowed.
    MaxIterations,
    /// As many evaluations as were allowed.
    MaxEvaluations,
    /// No lower value was found along the direction: the gradient is wrong, or as small as rounding lets it be.
    NoDescent,
    /// The value or the gradient is NaN or ∞: at the start, or at every point that was tried.
    NonFinite,
    /// The equations for the step have no solution.
    Singular,
    /// The device has not run this fit to its end. Mesa's llvmpipe leaves the loops of a thread after 65,535 turns;
    /// [`GpuFits`] notices that, and x keeps the last point before. It can happen if the model's own loops are long.
    NotDone,
}

impl Status {
    /// Whether a tolerance was reached.
    pub fn converged(self) -> bool {
        matches!(self, Self::GradientTolerance | Self::ChangeTolerance)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::GradientTolerance => "gradient within tolerance",
            Self::ChangeTolerance => "change within tolerance",
            Self::MaxIterations => "all iterations",
            Self::MaxEvaluations => "all evaluations",
            Self::NoDescent => "no descent",
            Self::NonFinite => "not finite",
            Self::Singular => "singular",
            Self::NotDone => "not done",
        })
    }
}

/// The result of a solver, beside the unknowns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The objective at the unknowns. After the last [`Fixed`](LineSearch::Fixed) step it is the value before that
    /// step: PyTorch does not evaluate the last point.
    pub value: f64,
    /// max|g| at that point.
    pub gradient: f64,
    /// Why the solver stopped.
    pub status: Status,
    /// Iterations of this call.
    pub iterations: u64,
    /// Evaluations of this call. For least squares: points at which the residuals were computed, as MINPACK's `nfev`.
    /// The Jacobian is computed at accepted points, with the residuals once more; that is not counted.
    pub evaluations: u64,
}

/// Minimizes on the host, in f32 or f64. It keeps what it has learnt (pairs, matrix) from call to call.
#[derive(Debug)]
pub struct Minimizer<F> {
    options: Options,
    memory: vectors::HostMemory<F>,
    history: descent::History,
}

impl<F: Real> Minimizer<F> {
    /// For `len` unknowns.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`].
    pub fn new(len: usize, options: Options) -> Result<Self> {
        options.check()?;
        Ok(Self { options, memory: vectors::HostMemory::new(len), history: descent::History::default() })
    }

    /// Does up to `max_iter` iterations from x, like PyTorch's `step(closure)`. The objective returns the value at a
    /// point and writes its gradient. Afterwards x is the last accepted point, also if an error is returned.
    ///
    /// # Errors
    /// What the objective returns; [`Error::Length`]; [`Error::Unsupported`] for Newton's methods, which need second
    /// derivatives.
    pub fn step<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&[F], &mut [F]) -> Result<F, E>,
        x: &mut [F],
    ) -> Result<Summary, E> {
        self.run(objective, None, x)
    }

    /// [`Minimizer::step`] with second derivatives.
    ///
    /// # Errors
    /// Like [`Minimizer::step`], and what the Hessian returns.
    pub fn step_with<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&[F], &mut [F]) -> Result<F, E>,
        hessian: Hessian<'_, F, E>,
        x: &mut [F],
    ) -> Result<Summary, E> {
        self.run(objective, Some(hessian), x)
    }

    fn run<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&[F], &mut [F]) -> Result<F, E>,
        hessian: Option<Hessian<'_, F, E>>,
        x: &mut [F],
    ) -> Result<Summary, E> {
        let expected = self.memory.x().len();
        let length = |name: &str, found| Error::Length { name: name.into(), expected, found };
        if x.len() != expected {
            return Err(length("x", x.len()).into());
        }
        if let Some(Hessian::Product(_, Some(diagonal))) = &hessian
            && diagonal.len() != expected
        {
            return Err(length("the Hessian's diagonal", diagonal.len()).into());
        }
        self.options.direction.check(hessian.as_ref())?;
        self.memory.x().copy_from_slice(x);
        let mut vectors = vectors::HostVectors { memory: &mut self.memory, objective, hessian, failed: None };
        let done = ready(descent::step(&mut vectors, &mut self.history, &self.options));
        x.copy_from_slice(self.memory.x());
        done
    }
}

impl Direction {
    fn check<F, E>(self, hessian: Option<&Hessian<'_, F, E>>) -> Result<()> {
        let reason = match (self, hessian) {
            (Self::Newton, None | Some(Hessian::Product(..))) => "it needs the matrix of second derivatives",
            (Self::NewtonCg, None | Some(Hessian::Matrix(_))) => "it needs products with the Hessian",
            _ => return Ok(()),
        };
        Err(Error::Unsupported { operation: "Newton's method", name: "the objective".into(), reason })
    }
}

/// The WGSL of all passes: name, entry point, text.
pub(crate) fn shaders() -> Vec<(&'static str, &'static str, String)> {
    let mut shaders: Vec<_> =
        device::SHADERS.iter().map(|&(name, entry, text)| (name, entry, text.to_owned())).collect();
    let factor = ["load", "panel", "trail", "back"].map(|entry| ("cholesky", entry, cholesky::text()));
    let normal = ["cost", "normal", "gather"].map(|entry| ("normal", entry, gpu_least_squares::normal_text()));
    let method = ["begin", "decide", "assess", "advance", "predict", "finish"];
    let method = method.map(|entry| ("least squares", entry, gpu_least_squares::text()));
    shaders.extend(factor.into_iter().chain(normal).chain(method));
    shaders.push(("shift", "shift", newton::SHADER.into()));
    shaders.extend([
        ("fit decay", "fit", fit_device::text::<Decay>(1).0),
        ("fit gaussian", "fit", fit_device::text::<Gaussian>(8).0),
        ("fit polynomial", "fit", fit_device::text::<Polynomial<16>>(64).0),
    ]);
    shaders
}

/// The result of a future that is ready at once, as the host's are.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// Minimizes on the host, in f32 or f64, from x. Afterwards x is the last accepted point, also if an error is returned.
///
/// ```
/// use wgpu_optim::{Error, solve};
/// // Rosenbrock's function, and its gradient.
/// let rosenbrock = |x: &[f64], g: &mut [f64]| {
///     let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
///     g.copy_from_slice(&[-2.0 * a - 400.0 * x[0] * b, 200.0 * b]);
///     Ok::<_, Error>(a * a + 100.0 * b * b)
/// };
/// let mut x = [-1.2, 1.0];
/// let options = solve::Options { max_iter: 100, tolerance_change: 0.0, ..solve::Options::lbfgs() };
/// let summary = solve::minimize(rosenbrock, &mut x, options)?;
/// assert!(summary.status.converged() && (x[0] - 1.0).abs() < 1e-6, "{summary:?}");
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// What the objective returns; [`Error::Hyperparameter`].
pub fn minimize<F: Real, E: From<Error>>(
    objective: impl FnMut(&[F], &mut [F]) -> Result<F, E>,
    x: &mut [F],
    options: Options,
) -> Result<Summary, E> {
    Minimizer::new(x.len(), options)?.step(objective, x)
}

/// Minimizes on the host with second derivatives, by [`Options::newton`] or [`Options::newton_cg`].
///
/// ```
/// use wgpu_optim::{Error, solve};
/// // Linear regression, ½‖A·x − b‖² with AᵀA = [[2, 1], [1, 3]], Aᵀb = [1, 2]: one step.
/// let f = |x: &[f64], g: &mut [f64]| {
///     g.copy_from_slice(&[2.0 * x[0] + x[1] - 1.0, x[0] + 3.0 * x[1] - 2.0]);
///     Ok::<_, Error>(x[0] * x[0] + x[0] * x[1] + 1.5 * x[1] * x[1] - x[0] - 2.0 * x[1])
/// };
/// let mut hessian = |_: &[f64], h: &mut [f64]| Ok(h.copy_from_slice(&[2.0, 1.0, 1.0, 3.0]));
/// let mut x = [7.0, -5.0];
/// let summary = solve::minimize_with(f, solve::Hessian::Matrix(&mut hessian), &mut x, solve::Options::newton())?;
/// assert!(summary.iterations == 1 && (x[0] - 0.2).abs() < 1e-12 && (x[1] - 0.6).abs() < 1e-12);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// Like [`minimize`]; [`Error::Unsupported`] if the method needs the other kind of [`Hessian`].
pub fn minimize_with<F: Real, E: From<Error>>(
    objective: impl FnMut(&[F], &mut [F]) -> Result<F, E>,
    hessian: Hessian<'_, F, E>,
    x: &mut [F],
    options: Options,
) -> Result<Summary, E> {
    Minimizer::new(x.len(), options)?.step_with(objective, hessian, x)
}
