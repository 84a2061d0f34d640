//! Nonlinear least squares on the host: Gauss–Newton, Levenberg, Levenberg–Marquardt.

use super::trust_region::{StepControl, Trial};
use super::{Status, Summary};
use crate::error::{Error, Result, require};
use crate::rule::{Real, largest};

/// What is added to JᵀJ in the equation of a step, (JᵀJ + …)·δ = −Jᵀr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damping {
    /// Nothing: the Gauss–Newton step, halved until it descends. J must have full rank.
    None,
    /// λ·1: [Levenberg, 1944](https://doi.org/10.1090/qam/10666).
    Identity,
    /// λ·diag(JᵀJ), where each element is the largest so far, as in MINPACK: [Marquardt,
    /// 1963](https://doi.org/10.1137/0111030), [Moré, 1978](https://doi.org/10.1007/BFb0067700). The units of the
    /// unknowns do not matter.
    #[default]
    Diagonal,
}

/// The cost of a residual: ½C²·ρ((r/C)²) in place of ½r². The names are those of SciPy's `least_squares`, and C is its
/// `f_scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Loss {
    /// ρ(z) = z.
    #[default]
    Linear,
    /// ρ(z) = z up to 1, and 2√z − 1 above.
    Huber(f64),
    /// ρ(z) = 2(√(1 + z) − 1).
    SoftL1(f64),
    /// ρ(z) = ln(1 + z).
    Cauchy(f64),
}

/// ρ and ρ′ at z.
type Rho = fn(f64) -> (f64, f64);

impl Loss {
    /// The cost of a residual, and the factor √ρ′ of r and of its row of J. With it JᵀJ and Jᵀr are those of a parabola
    /// that touches the loss from above: iteratively reweighted least squares, [Holland and Welsch,
    /// 1977](https://doi.org/10.1080/03610927708827533). (SciPy also uses ρ″. It is never positive here, and residuals
    /// far out would have no curvature at all.)
    pub(crate) fn weigh(self, r: f64) -> (f64, f64) {
        let (c, rho): (f64, Rho) = match self {
            Self::Linear => return (0.5 * r * r, 1.0),
            Self::Huber(c) => (c, |z| if z <= 1.0 { (z, 1.0) } else { (2.0 * z.sqrt() - 1.0, 1.0 / z.sqrt()) }),
            Self::SoftL1(c) => (c, |z| (2.0 * ((1.0 + z).sqrt() - 1.0), 1.0 / (1.0 + z).sqrt())),
            Self::Cauchy(c) => (c, |z| (z.ln_1p(), 1.0 / (1.0 + z))),
        };
        let (rho, slope) = rho((r / c) * (r / c));
        (0.5 * c * c * rho, slope.sqrt())
    }

    /// Its number in shaders/loss.wgsl, and C.
    pub(crate) fn kind(self) -> (u32, f64) {
        match self {
            Self::Linear => (0, 1.0),
            Self::Huber(c) => (1, c),
            Self::SoftL1(c) => (2, c),
            Self::Cauchy(c) => (3, c),
        }
    }
}

/// A method for least squares, and when it stops. D is 1 for [`Damping::Identity`], and for [`Damping::Diagonal`] the
/// largest length so far of each column of J.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastSquares {
    /// What is added to JᵀJ.
    pub damping: Damping,
    /// What a residual costs.
    pub loss: Loss,
    /// The first λ of [`fit`](super::fit()) and of the device; of [`Damping::Identity`], times the largest element of
    /// diag(JᵀJ).
    pub lambda: f64,
    /// The first radius of [`least_squares`] on the host, as a multiple of ‖D·x‖ (of 1 if that is 0): MINPACK's
    /// `factor`, which Moré puts between 0.1 and 100. With a small one the first step is short.
    pub factor: f64,
    /// The most steps that are tried.
    pub max_iter: u64,
    /// Stop when a step lowers the cost by at most this fraction of it, and the model predicted no more.
    pub ftol: f64,
    /// Stop when a step is no longer than this part of x: ‖D·δ‖ ≤ xtol·‖D·x‖ in [`least_squares`], ‖δ‖ < xtol·(xtol +
    /// ‖x‖) in [`fit`](super::fit()) and on the device.
    pub xtol: f64,
    /// Stop when max|Jᵀr| ≤ gtol; unknowns that are held at a bound do not count.
    pub gtol: f64,
}

impl Default for LeastSquares {
    fn default() -> Self {
        let (damping, loss) = (Damping::default(), Loss::default());
        Self { damping, loss, lambda: 1e-3, factor: 0.1, max_iter: 1000, ftol: 1e-14, xtol: 1e-8, gtol: 1e-12 }
    }
}

impl LeastSquares {
    /// With tolerances that f32 can reach: 1e-6 of cost and step, none of the gradient, and at most 200 steps.
    pub fn single() -> Self {
        Self { ftol: 1e-6, xtol: 1e-6, gtol: 0.0, max_iter: 200, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        for (name, value) in [("lambda", self.lambda), ("factor", self.factor)] {
            require(value > 0.0 && value.is_finite(), name, value, "above 0")?;
        }
        for (name, value) in [("ftol", self.ftol), ("xtol", self.xtol), ("gtol", self.gtol)] {
            require(value >= 0.0, name, value, "0 or more")?;
        }
        match self.loss {
            Loss::Linear => Ok(()),
            Loss::Huber(c) | Loss::SoftL1(c) | Loss::Cauchy(c) => {
                require(c > 0.0 && c.is_finite(), "the scale of the loss", c, "above 0")
            }
        }
    }
}

/// Bounds of the unknowns: lower ones and upper ones.
pub type Bounds<'a, F> = (&'a [F], &'a [F]);

/// Minimizes ½Σ r²(x) on the host from x, in f32 or f64. `residuals` writes r at a point, and also J if it is given a
/// place for it (r.len() × x.len(), row by row). Afterwards x is the last accepted point, also if an error is returned;
/// the summary's `value` is the cost, and its `gradient` is max|Jᵀr|.
///
/// A step minimizes the linear model within a trust region, ‖D·δ‖ ≤ Δ, with the radius Δ and λ as in MINPACK's `lmder`
/// ([Moré, 1978](https://doi.org/10.1007/BFb0067700)). Equations are solved in f64 by QR factorizations, so JᵀJ is
/// never formed. From NIST's 54 certified starts the defaults reach six digits or more, in fewer evaluations than
/// SciPy's MINPACK (`wgpu-optim solve --nist`).
///
/// With bounds, a step that would leave them is cut, and unknowns that the cost pushes against a bound are held there
/// ([Kanzow, Yamashita and Fukushima, 2004](https://doi.org/10.1016/j.cam.2004.02.013)). With fewer residuals than
/// unknowns, or a J without full rank, damped steps still lead to a minimum; [`Damping::None`] stops with
/// [`Status::Singular`].
///
/// On the device: [`GpuLeastSquares`](super::GpuLeastSquares) for one large problem, [`GpuFits`](super::GpuFits) for
/// thousands of small ones. Both adapt λ by Nielsen's rule, which needs one factorization a step. It can lose a start
/// from which the trust region finds the minimum: of NIST's, BoxBOD and MGH10 from the first one.
///
/// ```
/// use wgpu_optim::{Error, solve};
/// // y = a·exp(−b·t).
/// let times = (0..20).map(|k| f64::from(k) / 5.0);
/// let data: Vec<(f64, f64)> = times.map(|t| (t, 3.0 * (-0.7 * t).exp())).collect();
/// let residuals = |x: &[f64], r: &mut [f64], jacobian: Option<&mut [f64]>| {
///     for (&(t, y), r) in data.iter().zip(&mut *r) {
///         *r = x[0] * (-x[1] * t).exp() - y;
///     }
///     for ((t, _), row) in data.iter().zip(jacobian.into_iter().flat_map(|j| j.chunks_mut(2))) {
///         row.copy_from_slice(&[(-x[1] * t).exp(), -x[0] * t * (-x[1] * t).exp()]);
///     }
///     Ok::<_, Error>(())
/// };
/// let mut x = [1.0, 1.0];
/// let summary = solve::least_squares(residuals, 20, &mut x, None, solve::LeastSquares::default())?;
/// assert!(summary.status.converged() && (x[0] - 3.0).abs() < 1e-6 && (x[1] - 0.7).abs() < 1e-6);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// What `residuals` returns; [`Error::Hyperparameter`]; [`Error::Length`] for bounds of the wrong length.
pub fn least_squares<F: Real, E: From<Error>>(
    mut residuals: impl FnMut(&[F], &mut [F], Option<&mut [F]>) -> Result<(), E>,
    count: usize,
    x: &mut [F],
    bounds: Option<Bounds<'_, F>>,
    options: LeastSquares,
) -> Result<Summary, E> {
    options.check()?;
    let n = x.len();
    if let Some((lower, upper)) = bounds {
        check_bounds(n, lower, upper)?;
    }
    let project = |i: usize, x: F| match bounds {
        Some((lower, upper)) if !x.is_nan() => x.max(lower[i]).min(upper[i]),
        _ => x,
    };
    let start: Vec<F> = x.iter().enumerate().map(|(i, &x)| project(i, x)).collect();
    let mut problem = Problem { r: vec![F::zero(); count], jacobian: vec![F::zero(); count * n], loss: options.loss };
    let mut cost = problem.cost(&mut residuals, &start, true)?;
    x.copy_from_slice(&start);
    let (mut evaluations, mut iterations, mut last) = (1, 0, None);
    let mut step_control = StepControl::new(&options, n);
    // One model of the cost after the other; within one, steps until there is a lower cost.
    loop {
        let summary = |gradient, status, evaluations, iterations| {
            Ok(Summary { value: cost, gradient, status, iterations, evaluations })
        };
        let Some(model) = problem.model(x, bounds) else {
            return summary(f64::NAN, Status::NonFinite, evaluations, iterations);
        };
        if model.gradient <= options.gtol {
            return summary(model.gradient, Status::GradientTolerance, evaluations, iterations);
        }
        if let Some(status) = last {
            return summary(model.gradient, status, evaluations, iterations);
        }
        let here: Vec<f64> = x.iter().map(|&x| float(x)).collect();
        let at = |delta: &[f64]| -> Vec<F> {
            here.iter().zip(delta).enumerate().map(|(i, (x, d))| project(i, F::of(x + d))).collect()
        };
        let scaled = step_control.around(&model, &here);
        let mut not_finite = false;
        loop {
            if iterations == options.max_iter {
                return summary(model.gradient, Status::MaxIterations, evaluations, iterations);
            }
            iterations += 1;
            let Some(step) = step_control.propose(&model, scaled.as_ref()) else {
                return summary(model.gradient, Status::Singular, evaluations, iterations);
            };
            let trial = at(&step);
            let delta: Vec<_> = trial.iter().zip(&here).map(|(&a, b)| float(a) - b).collect();
            evaluations += 1;
            let there = problem.cost(&mut residuals, &trial, false)?;
            let (predicted, slope) = model.predict(&delta);
            let length = step_control.length(&delta);
            let short = length <= options.xtol * step_control.length(&here);
            let actual = cost - there;
            let worth = step_control.adapt(&Trial { length, before: cost, after: there, predicted, slope });
            let least = options.ftol * cost;
            // Near the minimum costs differ by rounding alone: what lowers the cost is taken, whatever the model says.
            if actual > 0.0 {
                let small = actual <= least && predicted <= least && actual <= 2.0 * predicted;
                last = (small || short).then_some(Status::ChangeTolerance);
                // An error here leaves x where it was.
                cost = problem.cost(&mut residuals, &trial, true)?;
                x.copy_from_slice(&trial);
                break;
            }
            // A step of 0 says nothing new.
            let still = trial.iter().zip(&*x).all(|(a, b)| a == b);
            not_finite = if still { not_finite } else { !there.is_finite() };
            // A model that predicts less than the tolerance cannot lead further. (If it predicts a rise, the step was
            // cut at a bound.)
            let idle = !not_finite && predicted.abs() <= least;
            let status = if short || still || idle { Status::ChangeTolerance } else { Status::NoDescent };
            if status == Status::ChangeTolerance || !worth {
                let status = if not_finite { Status::NonFinite } else { status };
                return summary(model.gradient, status, evaluations, iterations);
            }
        }
    }
}

pub(super) fn check_bounds<F: Real>(n: usize, lower: &[F], upper: &[F]) -> Result<()> {
    for (name, bound) in [("lower bounds", lower), ("upper bounds", upper)] {
        if bound.len() != n {
            return Err(Error::Length { name: name.into(), expected: n, found: bound.len() });
        }
    }
    let wrong = lower.iter().zip(upper).find(|(lower, upper)| lower.is_nan() || upper.is_nan() || lower > upper);
    match wrong {
        Some((_, upper)) => require(false, "an upper bound", float(*upper), "its lower bound or more"),
        None => Ok(()),
    }
}

/// Residuals and Jacobian as the caller has written them.
struct Problem<F> {
    r: Vec<F>,
    jacobian: Vec<F>,
    loss: Loss,
}

/// The cost around a point: r and J as the loss weighs them.
pub(super) struct Model {
    pub(super) r: Vec<f64>,
    pub(super) jacobian: Vec<f64>,
    /// diag(JᵀJ).
    pub(super) squares: Vec<f64>,
    /// Unknowns at a bound beyond which the cost would fall.
    pub(super) held: Vec<bool>,
    /// max|Jᵀr| of the others.
    gradient: f64,
}

impl<F: Real> Problem<F> {
    fn cost<E>(
        &mut self,
        residuals: &mut impl FnMut(&[F], &mut [F], Option<&mut [F]>) -> Result<(), E>,
        x: &[F],
        jacobian: bool,
    ) -> Result<f64, E> {
        residuals(x, &mut self.r, jacobian.then_some(self.jacobian.as_mut_slice()))?;
        Ok(self.r.iter().map(|&r| self.loss.weigh(float(r)).0).sum())
    }

    /// Returns `None` if something is not finite.
    fn model(&self, x: &[F], bounds: Option<Bounds<'_, F>>) -> Option<Model> {
        let n = x.len();
        let weights: Vec<_> = self.r.iter().map(|&r| self.loss.weigh(float(r)).1).collect();
        let r: Vec<_> = self.r.iter().zip(&weights).map(|(&r, weight)| float(r) * weight).collect();
        let rows = self.jacobian.chunks(n.max(1)).zip(&weights);
        let jacobian: Vec<_> = rows.flat_map(|(row, weight)| row.iter().map(move |&j| float(j) * weight)).collect();
        if !jacobian.iter().chain(&r).all(|x| x.is_finite()) {
            return None;
        }
        let (mut g, mut squares) = (vec![0.0; n], vec![0.0; n]);
        for (row, r) in jacobian.chunks(n.max(1)).zip(&r) {
            for ((g, s), j) in g.iter_mut().zip(&mut squares).zip(row) {
                *g += j * r;
                *s += j * j;
            }
        }
        let held = |i: usize| {
            bounds.is_some_and(|(lower, upper)| x[i] == lower[i] && g[i] > 0.0 || x[i] == upper[i] && g[i] < 0.0)
        };
        let held: Vec<_> = (0..n).map(held).collect();
        let gradient = g.iter().zip(&held).filter(|(_, held)| !**held).map(|(g, _)| g.abs()).fold(0.0, largest);
        gradient.is_finite().then_some(Model { r, jacobian, squares, held, gradient })
    }
}

impl Model {
    /// How much lower the model is at δ, −δᵀJᵀr − ½‖Jδ‖², and its slope δᵀJᵀr along δ.
    fn predict(&self, delta: &[f64]) -> (f64, f64) {
        let row = |(row, r): (&[f64], &f64)| (dot(row, delta), *r);
        let rows = self.jacobian.chunks(delta.len().max(1)).zip(&self.r).map(row);
        rows.fold((0.0, 0.0), |(predicted, slope), (step, r)| (predicted - step * (r + 0.5 * step), slope + step * r))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn float<F: Real>(x: F) -> f64 {
    x.to_f64().unwrap_or(f64::NAN)
}
