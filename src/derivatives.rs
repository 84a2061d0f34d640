//! Gradients by finite differences, and what they say about one that was derived by hand.

use crate::error::{Error, Result};
use crate::rule::{largest, ratio};

/// Which difference stands for a derivative: see [Nocedal and Wright 2006](https://doi.org/10.1007/978-0-387-40065-5), section 8.1.
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

    /// The derivative by `x[i]`; `at` is f(x), which only a forward difference needs.
    fn of<E>(self, f: &mut impl FnMut(&[f64]) -> Result<f64, E>, x: &mut [f64], i: usize, at: f64) -> Result<f64, E> {
        let (here, h) = (x[i], self.step(x[i]));
        let mut value = |point: f64| {
            x[i] = point;
            f(x)
        };
        // Over the distance that remains of h once it is rounded.
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
    /// The largest of `|gᵢ − nᵢ| / max(|gᵢ|, |nᵢ|, 10⁻³·max|g|)`, g the gradient and n the differences; NaN if one of them is. A right
    /// gradient is below 1e-6 where f, its third derivative and the gradient are of one magnitude: f's own rounding adds about ε·|f|/h, and
    /// a ReLU within h of its kink has no derivative to compare.
    pub error: f64,
    /// The element with this error.
    pub element: usize,
    /// Its gradient.
    pub analytic: f64,
    /// Its difference.
    pub numerical: f64,
    /// Elements compared: of none nothing is proven.
    pub checked: usize,
}

/// Compares a gradient of f at x with central differences, at these elements: `0..x.len()` for all, a few random ones of many.
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
    mut f: impl FnMut(&[f64]) -> Result<f64, E>,
    x: &[f64],
    gradient: &[f64],
    elements: impl IntoIterator<Item = usize>,
) -> Result<GradientReport, E> {
    let length = |found| Error::Length { name: "x".into(), expected: x.len(), found };
    if gradient.len() != x.len() {
        return Err(length(gradient.len()).into());
    }
    let sizes = gradient.iter().map(|g| g.abs()).filter(|g| g.is_finite());
    let floor = 1e-3 * sizes.fold(0.0, f64::max);
    let (mut point, mut report) = (x.to_vec(), GradientReport::default());
    for i in elements {
        let analytic = *gradient.get(i).ok_or_else(|| length(i + 1))?;
        let numerical = Difference::Central.of(&mut f, &mut point, i, f64::NAN)?;
        let scale = largest(largest(analytic.abs(), numerical.abs()), floor);
        let error = ratio((analytic - numerical).abs(), scale);
        report.checked += 1;
        let worse = error > report.error || error.is_nan() && !report.error.is_nan();
        if report.checked == 1 || worse {
            report = GradientReport { error, element: i, analytic, numerical, ..report };
        }
    }
    Ok(report)
}
