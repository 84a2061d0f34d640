//! Thousands of small least-squares problems with one model: the trait of a model, and the fits on the host.

use super::Status;
use super::least_squares::{Damping, LeastSquares, Loss};
use crate::error::{Error, Result};
use crate::rule::Real;

/// A model to fit: a residual and its derivatives, in Rust and in WGSL.
///
/// The WGSL is `fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) ->
/// f32`. The constants N and COLUMNS are [`UNKNOWNS`](Self::UNKNOWNS) and [`COLUMNS`](Self::COLUMNS). To index `x` by a
/// variable, copy it to a `var` first. On Mesa's llvmpipe, keep loops short: see [`Status::NotDone`].
///
/// ```
/// use wgpu_optim::{Real, solve::Model};
/// /// A line through the origin: data (t, y).
/// struct Line;
/// impl Model for Line {
///     const UNKNOWNS: usize = 1;
///     const COLUMNS: usize = 2;
///     const SHADER: &'static str = "
///         fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
///             (*jacobian)[0] = data[0];
///             return x[0] * data[0] - data[1];
///         }";
///     fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
///         jacobian[0] = data[0];
///         x[0] * data[0] - data[1]
///     }
/// }
/// let fits = wgpu_optim::solve::fit::<f32, Line>(2, &[1.0, 2.0, 2.0, 4.0], &[0.0], Default::default())?;
/// assert_eq!(fits.x, [2.0]);
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
pub trait Model {
    /// How many unknowns: 1 to 16.
    const UNKNOWNS: usize;
    /// Numbers of a sample.
    const COLUMNS: usize;
    /// The residual and its derivatives in WGSL.
    const SHADER: &'static str;
    /// The residual of a sample; writes its derivatives by the unknowns.
    fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F;
}

/// `y = a·exp(−b·t) + c`; unknowns a, b, c, samples (t, y).
#[derive(Clone, Copy, Debug)]
pub struct Decay;

impl Model for Decay {
    const UNKNOWNS: usize = 3;
    const COLUMNS: usize = 2;
    const SHADER: &'static str = include_str!("../../shaders/decay.wgsl");

    fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
        let fallen = (-x[1] * data[0]).exp();
        jacobian.copy_from_slice(&[fallen, -x[0] * data[0] * fallen, F::one()]);
        x[0] * fallen + x[2] - data[1]
    }
}

/// `y = a·exp(−½((t − μ)/σ)²) + c`; unknowns a, μ, σ, c, samples (t, y).
#[derive(Clone, Copy, Debug)]
pub struct Gaussian;

impl Model for Gaussian {
    const UNKNOWNS: usize = 4;
    const COLUMNS: usize = 2;
    const SHADER: &'static str = include_str!("../../shaders/gaussian.wgsl");

    fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
        let z = (data[0] - x[1]) / x[2];
        let bell = (F::of(-0.5) * z * z).exp();
        jacobian.copy_from_slice(&[bell, x[0] * bell * z / x[2], x[0] * bell * z * z / x[2], F::one()]);
        x[0] * bell + x[3] - data[1]
    }
}

/// `y = Σ xᵢ·tⁱ`, i < N; samples (t, y).
#[derive(Clone, Copy, Debug)]
pub struct Polynomial<const N: usize>;

impl<const N: usize> Model for Polynomial<N> {
    const UNKNOWNS: usize = N;
    const COLUMNS: usize = 2;
    const SHADER: &'static str = include_str!("../../shaders/polynomial.wgsl");

    fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
        let (mut power, mut sum) = (F::one(), -data[1]);
        for (x, j) in x.iter().zip(jacobian) {
            *j = power;
            sum += *x * power;
            power *= data[0];
        }
        sum
    }
}

/// The results of many fits, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Fits<F> {
    /// Unknowns, those of a problem one after the other.
    pub x: Vec<F>,
    /// ½Σ r², or the sum of the losses.
    pub costs: Vec<F>,
    /// max|Jᵀr|.
    pub gradients: Vec<F>,
    /// Why each stopped.
    pub statuses: Vec<Status>,
    /// How many steps each tried.
    pub iterations: Vec<u32>,
}

/// Checks the arguments, on the host and on a device alike. Returns the number of problems.
pub(super) fn check<M: Model>(rows: usize, data: usize, start: usize, options: &LeastSquares) -> Result<usize> {
    options.check()?;
    if options.damping == Damping::None {
        let reason = "of many problems some have no full rank: Damping::Identity or Diagonal";
        return Err(Error::Unsupported { operation: "an undamped step", name: "fits".into(), reason });
    }
    if !(1..=16).contains(&M::UNKNOWNS) || M::COLUMNS == 0 || rows == 0 {
        let reason = "a model has 1 to 16 unknowns, and samples of at least one number";
        return Err(Error::Unsupported { operation: "a fit", name: "the model".into(), reason });
    }
    let problems = start / M::UNKNOWNS;
    let length = |name: &str, expected, found| Err(Error::Length { name: name.into(), expected, found });
    if start != problems * M::UNKNOWNS {
        return length("start", problems * M::UNKNOWNS, start);
    }
    let expected = problems.saturating_mul(rows).saturating_mul(M::COLUMNS);
    if data != expected { length("data", expected, data) } else { Ok(problems) }
}

/// JᵀJ (its lower triangle by rows), Jᵀr, and the cost.
#[derive(Clone)]
struct Normal<F> {
    a: Vec<F>,
    g: Vec<F>,
    cost: F,
}

fn linearize<F: Real, M: Model>(x: &[F], data: &[F], loss: Loss) -> Normal<F> {
    let n = x.len();
    let (mut a, mut g, mut cost) = (vec![F::zero(); n * (n + 1) / 2], vec![F::zero(); n], F::zero());
    let mut row = vec![F::zero(); n];
    for sample in data.chunks_exact(M::COLUMNS) {
        let mut r = M::residual(x, sample, &mut row);
        if loss == Loss::Linear {
            cost += F::of(0.5) * r * r;
        } else {
            let (loss_of_r, weight) = loss.weigh(r.to_f64().unwrap_or(f64::NAN));
            cost += F::of(loss_of_r);
            row.iter_mut().chain([&mut r]).for_each(|x| *x *= F::of(weight));
        }
        let mut e = 0;
        for i in 0..n {
            for j in 0..=i {
                a[e] += row[i] * row[j];
                e += 1;
            }
            g[i] += row[i] * r;
        }
    }
    Normal { a, g, cost }
}

/// δ with (A + the damping)·δ = −g, by Cholesky's factor. CPU twin of `solve` in shaders/fit.wgsl.
fn cholesky<F: Real>(normal: &Normal<F>, damping: impl Fn(usize) -> F) -> Option<Vec<F>> {
    let n = normal.g.len();
    let at = |i: usize, j: usize| i * (i + 1) / 2 + j;
    let (mut l, mut delta) = (normal.a.clone(), vec![F::zero(); n]);
    for i in 0..n {
        let mut sum = -normal.g[i];
        for j in 0..=i {
            let mut element = l[at(i, j)];
            for k in 0..j {
                element -= l[at(i, k)] * l[at(j, k)];
            }
            if j < i {
                l[at(i, j)] = element / l[at(j, j)];
                sum -= l[at(i, j)] * delta[j];
            } else {
                element += damping(i);
                if !element.is_finite() || element <= F::zero() {
                    return None;
                }
                l[at(i, i)] = element.sqrt();
            }
        }
        delta[i] = sum / l[at(i, i)];
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            delta[i] = delta[i] - l[at(k, i)] * delta[k];
        }
        delta[i] /= l[at(i, i)];
    }
    delta.iter().all(|d| d.is_finite()).then_some(delta)
}

/// The result of one fit.
struct Fit<F> {
    cost: F,
    gradient: F,
    status: Status,
    iterations: u32,
}

/// Fits one problem from x. CPU twin of shaders/fit.wgsl.
fn one<F: Real, M: Model>(x: &mut [F], data: &[F], options: &LeastSquares) -> Fit<F> {
    let n = x.len();
    let [ftol, xtol, gtol, third] = [options.ftol, options.xtol, options.gtol, 1.0 / 3.0].map(F::of);
    let identity = options.damping == Damping::Identity;
    let largest = |v: &[F]| v.iter().fold(F::zero(), |most, x| most.max(x.abs()));
    let mut here = linearize::<F, M>(x, data, options.loss);
    let mut scale = vec![F::zero(); n];
    let widen = |scale: &mut Vec<F>, here: &Normal<F>| {
        scale.iter_mut().enumerate().for_each(|(i, s)| *s = s.max(here.a[i * (i + 3) / 2]));
    };
    widen(&mut scale, &here);
    let fit =
        |here: &Normal<F>, status, iterations| Fit { cost: here.cost, gradient: largest(&here.g), status, iterations };
    let not_finite = |v: &[F]| !v.iter().all(|x| x.is_finite());
    if !here.cost.is_finite() || not_finite(&here.a) || not_finite(&here.g) {
        return fit(&here, Status::NonFinite, 0);
    }
    if largest(&here.g) <= gtol {
        return fit(&here, Status::GradientTolerance, 0);
    }
    // λ stays a number that can grow again.
    let (least, greatest) = (F::of(1e-30), F::of(1e30));
    let mut lambda = (F::of(options.lambda) * if identity { largest(&scale) } else { F::one() }).max(least);
    let mut nu = F::of(2.0);
    let most = u32::try_from(options.max_iter).unwrap_or(u32::MAX);
    for iteration in 1..=most {
        let damping = |i: usize| match identity || scale[i] <= F::zero() {
            true => lambda,
            false => lambda * scale[i],
        };
        let Some(delta) = cholesky(&here, damping) else {
            (lambda, nu) = (lambda * nu, nu * F::of(2.0));
            if lambda > greatest {
                return fit(&here, Status::NoDescent, iteration);
            }
            continue;
        };
        let norm = |v: &[F]| v.iter().fold(F::zero(), |sum, &x| sum + x * x).sqrt();
        let decrease =
            (0..n).fold(F::zero(), |sum, i| sum + F::of(0.5) * delta[i] * (damping(i) * delta[i] - here.g[i]));
        let short = norm(&delta) < xtol * (xtol + norm(x));
        let trial: Vec<F> = x.iter().zip(&delta).map(|(&x, &d)| x + d).collect();
        let there = linearize::<F, M>(&trial, data, options.loss);
        let (before, actual) = (here.cost, here.cost - there.cost);
        let finite = there.cost.is_finite() && !not_finite(&there.a) && !not_finite(&there.g);
        if finite && actual > F::zero() {
            let gain = actual / decrease;
            let bent = F::of(2.0) * gain - F::one();
            (lambda, nu) = ((lambda * third.max(F::one() - bent * bent * bent)).max(least), F::of(2.0));
            x.copy_from_slice(&trial);
            here = there;
            widen(&mut scale, &here);
            if largest(&here.g) <= gtol {
                return fit(&here, Status::GradientTolerance, iteration);
            }
            if short || actual < ftol * before && gain > F::of(0.25) {
                return fit(&here, Status::ChangeTolerance, iteration);
            }
            continue;
        }
        // A model that predicts less than the tolerance cannot lead further.
        if short || decrease < ftol * before && finite {
            let status = if finite { Status::ChangeTolerance } else { Status::NonFinite };
            return fit(&here, status, iteration);
        }
        (lambda, nu) = (lambda * nu, nu * F::of(2.0));
        if lambda > greatest {
            return fit(&here, Status::NoDescent, iteration);
        }
    }
    fit(&here, Status::MaxIterations, most)
}

/// Fits a model to many problems of `rows` samples each, on all cores, in f32 or f64: Levenberg–Marquardt by the normal
/// equations, with λ by the gain ratio ([Nielsen,
/// 1999](https://orbit.dtu.dk/en/publications/damping-parameter-in-marquardts-method)). `data` holds the samples
/// problem by problem, `start` the unknowns. [`GpuFits`](super::GpuFits) does the same on a device, with this as its
/// reference. For a single difficult problem use [`least_squares()`](super::least_squares()).
///
/// ```
/// use wgpu_optim::solve::{self, Decay};
/// let times = (0..30).map(|k| k as f32 / 10.0);
/// let data: Vec<f32> = times.flat_map(|t| [t, 2.0 * (-1.5 * t).exp() + 0.25]).collect();
/// let fits = solve::fit::<f32, Decay>(30, &data, &[1.0, 1.0, 0.0], solve::LeastSquares::single())?;
/// assert!(fits.statuses[0].converged() && (fits.x[1] - 1.5).abs() < 1e-4);
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
///
/// # Errors
/// [`Error::Hyperparameter`]; [`Error::Length`]; [`Error::Unsupported`] for [`Damping::None`], and for a model without
/// unknowns or with more than 16.
pub fn fit<F: Real, M: Model>(rows: usize, data: &[F], start: &[F], options: LeastSquares) -> Result<Fits<F>> {
    let problems = check::<M>(rows, data.len(), start.len(), &options)?;
    let mut x = start.to_vec();
    let chunks: Vec<_> = x.chunks_mut(64 * M::UNKNOWNS).zip(data.chunks(64 * rows * M::COLUMNS)).collect();
    let fit_chunk = |(x, data): (&mut [F], &[F])| {
        let each = x.chunks_mut(M::UNKNOWNS).zip(data.chunks(rows * M::COLUMNS));
        each.map(|(x, data)| one::<F, M>(x, data, &options)).collect::<Vec<_>>()
    };
    let done: Vec<_> = crate::cpu::map(chunks, fit_chunk).into_iter().flatten().collect();
    debug_assert_eq!(done.len(), problems);
    Ok(Fits {
        x,
        costs: done.iter().map(|fit| fit.cost).collect(),
        gradients: done.iter().map(|fit| fit.gradient).collect(),
        statuses: done.iter().map(|fit| fit.status).collect(),
        iterations: done.iter().map(|fit| fit.iterations).collect(),
    })
}
