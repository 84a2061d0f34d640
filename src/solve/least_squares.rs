//! Nonlinear least squares on the host: Gauss–Newton, Levenberg, Levenberg–Marquardt.

use super::{Status, Summary, dense};
use crate::error::{Error, Result, require};
use crate::rule::{Real, largest};

/// What is added to JᵀJ before the step δ = −(JᵀJ + …)⁻¹·Jᵀr is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damping {
    /// Nothing: Gauss and Newton's step, halved until it descends. J must have full rank.
    None,
    /// λ·1: [Levenberg, 1944](https://doi.org/10.1090/qam/10666).
    Identity,
    /// λ·diag(JᵀJ), each element the largest so far, as MINPACK scales: [Marquardt, 1963](https://doi.org/10.1137/0111030),
    /// [Moré, 1978](https://doi.org/10.1007/BFb0067700). The units of the unknowns do not matter.
    #[default]
    Diagonal,
}

/// What a residual costs: ½C²·ρ((r/C)²) in place of ½r², as SciPy's `least_squares` has it, with C its `f_scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Loss {
    /// ρ(z) = z.
    #[default]
    Linear,
    /// ρ(z) = z up to 1, beyond it 2√z − 1.
    Huber(f64),
    /// ρ(z) = 2(√(1 + z) − 1).
    SoftL1(f64),
    /// ρ(z) = ln(1 + z).
    Cauchy(f64),
}

/// ρ and ρ′ at z.
type Rho = fn(f64) -> (f64, f64);

impl Loss {
    /// What the residual costs, and the factor √ρ′ of r and of its row of J that makes JᵀJ and Jᵀr those of the parabola which touches
    /// the loss from above: iteratively reweighted least squares, [Holland and Welsch, 1977](https://doi.org/10.1080/03610927708827533).
    /// (ρ″ is never positive here; with it, as SciPy has it, residuals far out would have no curvature at all.)
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

/// A method for least squares, and when it stops. The tolerances are SciPy's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastSquares {
    /// Which of the methods.
    pub damping: Damping,
    /// What a residual costs.
    pub loss: Loss,
    /// The first λ: of [`Damping::Identity`], times the largest element of diag(JᵀJ).
    pub lambda: f64,
    /// Steps that are tried.
    pub max_iter: u64,
    /// Stop where a step lowers the cost by less than this part of it (and the model agrees to a quarter).
    pub ftol: f64,
    /// Stop where ‖δ‖ < xtol·(xtol + ‖x‖).
    pub xtol: f64,
    /// Stop where max|Jᵀr| ≤ gtol, of the unknowns that are not held at a bound.
    pub gtol: f64,
}

impl Default for LeastSquares {
    fn default() -> Self {
        let (damping, loss) = (Damping::default(), Loss::default());
        Self { damping, loss, lambda: 1e-3, max_iter: 200, ftol: 1e-8, xtol: 1e-8, gtol: 1e-8 }
    }
}

impl LeastSquares {
    /// With tolerances that f32 can reach: 1e-6 of cost and step, no gradient's.
    pub fn single() -> Self {
        Self { ftol: 1e-6, xtol: 1e-6, gtol: 0.0, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        require(self.lambda > 0.0 && self.lambda.is_finite(), "lambda", self.lambda, "above 0")?;
        for (name, value) in [("ftol", self.ftol), ("xtol", self.xtol), ("gtol", self.gtol)] {
            require(value >= 0.0, name, value, "0 or more")?;
        }
        match self.loss {
            Loss::Linear => Ok(()),
            Loss::Huber(c) | Loss::SoftL1(c) | Loss::Cauchy(c) => {
                require(c > 0.0 && c.is_finite(), "the loss' scale", c, "above 0")
            }
        }
    }
}

/// λ after a step: [Nielsen, 1999](https://orbit.dtu.dk/en/publications/damping-parameter-in-marquardts-method), as in shaders/fit.wgsl.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nielsen {
    pub(super) lambda: f64,
    nu: f64,
}

impl Nielsen {
    pub(super) fn new(lambda: f64) -> Self {
        Self { lambda, nu: 2.0 }
    }

    /// By the gain ratio, the decrease of the cost over that of the model; cut at a bound, a step may lower the cost where the model rises.
    pub(super) fn accept(&mut self, gain: f64) {
        self.lambda *= (1.0 - (2.0 * gain.max(0.0) - 1.0).powi(3)).max(1.0 / 3.0);
        self.nu = 2.0;
    }

    pub(super) fn reject(&mut self) {
        self.lambda *= self.nu;
        self.nu *= 2.0;
    }
}

/// Bounds of the unknowns: lower ones and upper ones.
pub type Bounds<'a, F> = (&'a [F], &'a [F]);

/// Minimizes ½Σ r²(x) on the host from x on, in f32 or f64 (the equations for a step are solved in f64, by QR of J with the damping
/// below it). `residuals` writes r at a point, and J too where it is asked for (r.len() × x.len(), row by row). However it ends, x is
/// the last point that was accepted; the summary's `value` is the cost, its `gradient` max|Jᵀr|.
///
/// Steps go on from the same point until the cost falls, with λ by the gain ratio (Nielsen's rule). With bounds, unknowns that a
/// step would push beyond theirs are held there ([Kanzow, Yamashita and Fukushima, 2004](https://doi.org/10.1016/j.cam.2004.02.013)).
/// With fewer residuals than unknowns, or a J without full rank, damped steps still lead to a minimum; [`Damping::None`] stops as
/// [`Status::Singular`].
///
/// For one medium-sized problem on the host the levenberg-marquardt crate (MINPACK's `lmder`) does the same; for other direct
/// methods see argmin. On the device, one large problem: [`GpuLeastSquares`](super::GpuLeastSquares); thousands of small ones:
/// [`GpuFits`](super::GpuFits).
///
/// ```
/// use wgpu_optim::{Error, solve};
/// // y = a·exp(−b·t).
/// let data: Vec<(f64, f64)> = (0..20).map(|k| (f64::from(k) / 5.0, 3.0 * (-0.7 * f64::from(k) / 5.0).exp())).collect();
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
/// What `residuals` returns; [`Error::Hyperparameter`]; [`Error::Length`] for bounds of another length.
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
    let (mut scales, mut damping) = (vec![0.0f64; n], None);
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
        scales.iter_mut().zip(&model.squares).for_each(|(scale, &s)| *scale = scale.max(s));
        let most = scales.iter().copied().fold(0.0, f64::max);
        let first = if options.damping == Damping::Identity { options.lambda * most } else { options.lambda };
        let damping = damping.get_or_insert(Nielsen::new(first));
        let (mut part, mut astray) = (1.0, false);
        loop {
            if iterations == options.max_iter {
                return summary(model.gradient, Status::MaxIterations, evaluations, iterations);
            }
            iterations += 1;
            let added = |i: usize| match options.damping {
                Damping::None => 0.0,
                Damping::Identity => damping.lambda.sqrt(),
                // An unknown that has never mattered: as if its column had length 1.
                Damping::Diagonal => (damping.lambda * if scales[i] > 0.0 { scales[i] } else { 1.0 }).sqrt(),
            };
            let Some(delta) = dense::damped(&model.jacobian, &model.r, added, &model.held) else {
                return summary(model.gradient, Status::Singular, evaluations, iterations);
            };
            let next = |(i, (&x, d)): (usize, (&F, &f64))| project(i, F::of(float(x) + part * d));
            let trial: Vec<F> = x.iter().zip(&delta).enumerate().map(next).collect();
            let delta: Vec<_> = trial.iter().zip(&*x).map(|(&a, &b)| float(a) - float(b)).collect();
            let short =
                norm(&delta) < options.xtol * (options.xtol + norm(&x.iter().map(|&x| float(x)).collect::<Vec<_>>()));
            evaluations += 1;
            let there = problem.cost(&mut residuals, &trial, false)?;
            let actual = cost - there;
            // Near the minimum costs differ by rounding alone: what lowers the cost is taken, whatever the model says.
            if actual > 0.0 {
                let gain = actual / model.decrease(&delta);
                let small = actual < options.ftol * cost && gain > 0.25;
                last = (small || short).then_some(Status::ChangeTolerance);
                damping.accept(if gain.is_finite() { gain } else { 1.0 });
                // An error here leaves x where it was.
                cost = problem.cost(&mut residuals, &trial, true)?;
                x.copy_from_slice(&trial);
                break;
            }
            // A step of 0 says nothing new.
            let still = delta.iter().all(|&d| d == 0.0);
            astray = if still { astray } else { !there.is_finite() };
            if short || still {
                let status = if !astray { Status::ChangeTolerance } else { Status::NonFinite };
                return summary(model.gradient, status, evaluations, iterations);
            }
            if options.damping == Damping::None {
                part *= 0.5
            } else {
                damping.reject()
            }
            if part < f64::EPSILON || !damping.lambda.is_finite() {
                let status = if !astray { Status::NoDescent } else { Status::NonFinite };
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
struct Model {
    r: Vec<f64>,
    jacobian: Vec<f64>,
    /// diag(JᵀJ).
    squares: Vec<f64>,
    /// Unknowns at a bound that the cost would fall beyond.
    held: Vec<bool>,
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

    /// `None` where something is not finite.
    fn model(&self, x: &[F], bounds: Option<Bounds<'_, F>>) -> Option<Model> {
        let n = x.len();
        let weights: Vec<_> = self.r.iter().map(|&r| self.loss.weigh(float(r))).collect();
        let r: Vec<_> = self.r.iter().zip(&weights).map(|(&r, weight)| float(r) * weight.1).collect();
        let rows = self.jacobian.chunks(n.max(1)).zip(&weights);
        let jacobian: Vec<_> = rows.flat_map(|(row, weight)| row.iter().map(|&j| float(j) * weight.1)).collect();
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
    /// How much lower the model is at δ: −δᵀJᵀr − ½‖Jδ‖².
    fn decrease(&self, delta: &[f64]) -> f64 {
        let row = |(row, r): (&[f64], &f64)| {
            let step: f64 = row.iter().zip(delta).map(|(j, d)| j * d).sum();
            -step * (r + 0.5 * step)
        };
        self.jacobian.chunks(delta.len().max(1)).zip(&self.r).map(row).sum()
    }
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn float<F: Real>(x: F) -> f64 {
    x.to_f64().unwrap_or(f64::NAN)
}
