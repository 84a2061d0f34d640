//! Gradients by finite differences, to check a gradient that was derived by hand.

use crate::error::{Error, Result, require};
use crate::rule::{Real, largest, ratio};

/// Which difference approximates a derivative: see [Nocedal and Wright
/// 2006](https://doi.org/10.1007/978-0-387-40065-5), section 8.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Difference {
    /// `(f(x + h) − f(x)) / h` with h = √ε·max(1, |x|): n + 1 evaluations, about 8 digits.
    Forward,
    /// `(f(x + h) − f(x − h)) / 2h` with h = ∛ε·max(1, |x|): 2n evaluations, about 10 digits.
    #[default]
    Central,
}

impl Difference {
    fn step(self, x: f64) -> f64 {
        let part = match self {
            Self::Forward => f64::EPSILON.sqrt(),
            Self::Central => f64::EPSILON.cbrt(),
        };
        part * x.abs().max(1.0)
    }

    /// The derivative by `x[i]`. `at` is f(x); only a forward difference needs it.
    fn of<E>(self, f: &mut impl FnMut(&[f64]) -> Result<f64, E>, x: &mut [f64], i: usize, at: f64) -> Result<f64, E> {
        let (here, h) = (x[i], self.step(x[i]));
        let mut value = |point: f64| {
            x[i] = point;
            f(x)
        };
        // Divided by what remains of h once x + h is rounded.
        let slope = match self {
            Self::Forward => value(here + h).map(|up| (up - at) / (here + h - here)),
            Self::Central => value(here + h).and_then(|up| Ok((up - value(here - h)?) / ((here + h) - (here - h)))),
        };
        x[i] = here;
        slope
    }
}

/// The gradient of f at x, by differences.
///
/// ```
/// use wgpu_optim::{Difference, Error, numerical_gradient};
/// let product = |x: &[f64]| Ok::<_, Error>(x[0] * x[1]);
/// let gradient = numerical_gradient(product, &[2.0, 3.0], Difference::Central)?;
/// assert!((gradient[0] - 3.0).abs() < 1e-9 && (gradient[1] - 2.0).abs() < 1e-9);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// What f returns.
pub fn numerical_gradient<E>(
    mut f: impl FnMut(&[f64]) -> Result<f64, E>,
    x: &[f64],
    difference: Difference,
) -> Result<Vec<f64>, E> {
    let at = if difference == Difference::Forward { f(x)? } else { f64::NAN };
    let mut x = x.to_vec();
    (0..x.len()).map(|i| difference.of(&mut f, &mut x, i, at)).collect()
}

/// What [`check_gradient`] finds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientReport {
    /// The largest of `|gᵢ − nᵢ| / max(|gᵢ|, |nᵢ|, 10⁻³·max|g|)` with the gradient g and the differences n; NaN if one
    /// of them is NaN. For a right gradient in f64 it is below 1e-6 if f, its third derivative and the gradient have
    /// about the same magnitude. Within h of its kink a ReLU has no derivative to compare.
    pub error: f64,
    /// The part of `error` that the rounding of f alone explains: `ε·|f| / h` on the same scale. A right gradient has
    /// an error of a few times this, however small the step.
    pub noise: f64,
    /// The element with this error.
    pub element: usize,
    /// Its gradient.
    pub analytic: f64,
    /// Its difference.
    pub numerical: f64,
    /// How many elements were compared. If it is 0, nothing is proven.
    pub checked: usize,
}

/// Compares a gradient of f at x with central differences at the given elements: `0..x.len()` for all, a few random
/// ones of many.
///
/// The step is h = ∛ε·max(1, |xᵢ|). For another step, and for functions in f32, see [`check_gradient_with`].
///
/// ```
/// use wgpu_optim::{Error, check_gradient};
/// let f = |x: &[f64]| Ok::<_, Error>(x[0].sin() + x[1] * x[1]);
/// let x = [0.3f64, -2.0];
/// let wrong = check_gradient(f, &x, &[x[0].cos(), x[1]], 0..2)?; // the factor 2 is forgotten
/// assert_eq!((wrong.element, wrong.error > 0.4), (1, true));
/// assert!(check_gradient(f, &x, &[x[0].cos(), 2.0 * x[1]], 0..2)?.error < 1e-6);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// What f returns; [`Error::Length`] for a gradient of another length than x, or an element beyond it.
pub fn check_gradient<E: From<Error>>(
    f: impl FnMut(&[f64]) -> Result<f64, E>,
    x: &[f64],
    gradient: &[f64],
    elements: impl IntoIterator<Item = usize>,
) -> Result<GradientReport, E> {
    compare(f, x, gradient, elements, |x| Difference::Central.step(x))
}

/// [`check_gradient`] in f32 or f64 with a step h of your choice, which is the same for all elements.
///
/// With `None`, h = ∛ε·max(|xᵢ|, s), where ε is that of the number type (1.2e-7 in f32), and s is the root mean square
/// of x, or 1 if that is 0. So small parameters get small steps: weights of 0.01 are moved by 5e-5 in f32. In f32 a
/// difference has two to three digits; the report's [`noise`](GradientReport::noise) says how much of the error the
/// rounding of f explains.
///
/// ```
/// use wgpu_optim::{Error, check_gradient_with};
/// // A loss in f32 of weights that are about as large as a learning rate.
/// let f = |w: &[f32]| Ok::<_, Error>((1e3 * w[0]).sin() + 1e5 * w[1] * w[1]);
/// let w = [1e-3f32, -2e-3];
/// let gradient = [1e3 * (1e3 * w[0]).cos(), 2e5 * w[1]];
/// let report = check_gradient_with(f, &w, &gradient, 0..2, None)?;
/// assert!(report.error < 1e-3 + 4.0 * report.noise, "{report:?}");
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// Like [`check_gradient`]; [`Error::Hyperparameter`] for a step that is not above 0.
pub fn check_gradient_with<F: Real, E: From<Error>>(
    f: impl FnMut(&[F]) -> Result<F, E>,
    x: &[F],
    gradient: &[F],
    elements: impl IntoIterator<Item = usize>,
    step: Option<f64>,
) -> Result<GradientReport, E> {
    if let Some(h) = step {
        require(h > 0.0 && h.is_finite(), "the step of a difference", h, "above 0")?;
    }
    let square = x.iter().map(|&x| float(x).powi(2)).sum::<f64>() / x.len().max(1) as f64;
    let size = if square > 0.0 && square.is_finite() { square.sqrt() } else { 1.0 };
    let root = float(F::epsilon()).cbrt();
    compare(f, x, gradient, elements, |x| step.unwrap_or(root * x.abs().max(size)))
}

fn float<F: Real>(x: F) -> f64 {
    x.to_f64().unwrap_or(f64::NAN)
}

fn compare<F: Real, E: From<Error>>(
    mut f: impl FnMut(&[F]) -> Result<F, E>,
    x: &[F],
    gradient: &[F],
    elements: impl IntoIterator<Item = usize>,
    step: impl Fn(f64) -> f64,
) -> Result<GradientReport, E> {
    let length = |found| Error::Length { name: "x".into(), expected: x.len(), found };
    if gradient.len() != x.len() {
        return Err(length(gradient.len()).into());
    }
    let sizes = gradient.iter().map(|&g| float(g).abs()).filter(|g| g.is_finite());
    let floor = 1e-3 * sizes.fold(0.0, f64::max);
    let (mut point, mut report) = (x.to_vec(), GradientReport::default());
    for i in elements {
        let analytic = float(*gradient.get(i).ok_or_else(|| length(i + 1))?);
        let here = float(x[i]);
        let h = step(here);
        let (above, below) = (F::of(here + h), F::of(here - h));
        let mut value = |x: F| {
            point[i] = x;
            f(&point).map(float)
        };
        let (up, down) = (value(above)?, value(below)?);
        point[i] = x[i];
        // What remains of 2h once both points are rounded.
        let apart = float(above) - float(below);
        let numerical = (up - down) / apart;
        let scale = largest(largest(analytic.abs(), numerical.abs()), floor);
        let error = ratio((analytic - numerical).abs(), scale);
        let noise = ratio(float(F::epsilon()) * up.abs().max(down.abs()) / (0.5 * apart), scale);
        report.checked += 1;
        let worse = error > report.error || error.is_nan() && !report.error.is_nan();
        if report.checked == 1 || worse {
            report = GradientReport { error, noise, element: i, analytic, numerical, ..report };
        }
    }
    Ok(report)
}
