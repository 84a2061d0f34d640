//! Random search: try points anywhere, and keep the best.

use super::{Status, Summary};
use crate::error::{Error, Result, require};
use crate::noise::philox;
use crate::rule::Real;

/// Random search, the baseline for methods that use a gradient: samples the box uniformly, and leaves x at the best
/// point, which may be x itself. A seed always gives the same points. In the summary, `value` is the best value,
/// `evaluations` is `samples` + 1, and `gradient` is NaN, since it is not known.
///
/// ```
/// use wgpu_optim::{Error, solve};
/// let bowl = |x: &[f64]| Ok::<_, Error>(x[0] * x[0] + x[1] * x[1]);
/// let mut x = [3.0, 3.0];
/// let summary = solve::random_search(bowl, &mut x, (&[-4.0, -4.0], &[4.0, 4.0]), 1000, 7)?;
/// assert!(summary.value < 1.0 && summary.value == bowl(&x)?);
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// What the objective returns; [`Error::Length`] for a box of the wrong length; [`Error::Hyperparameter`] for one that
/// is empty.
pub fn random_search<F: Real, E: From<Error>>(
    mut objective: impl FnMut(&[F]) -> Result<F, E>,
    x: &mut [F],
    (lower, upper): super::Bounds<'_, F>,
    samples: u64,
    seed: u64,
) -> Result<Summary, E> {
    for (name, bound) in [("lower bounds", lower), ("upper bounds", upper)] {
        if bound.len() != x.len() {
            return Err(Error::Length { name: name.into(), expected: x.len(), found: bound.len() }.into());
        }
    }
    let width = |(lower, upper): (&F, &F)| (*upper - *lower).to_f64().unwrap_or(f64::NAN);
    for width in lower.iter().zip(upper).map(width) {
        require(width >= 0.0 && width.is_finite(), "an upper bound less its lower bound", width, "0 or more")?;
    }
    let mut best = objective(x)?;
    let mut point = x.to_vec();
    for sample in 0..samples {
        for (i, point) in point.iter_mut().enumerate() {
            let words = philox([sample as u32, (sample >> 32) as u32, i as u32, 0], [seed as u32, (seed >> 32) as u32]);
            let fraction = F::of(f64::from(words[0]) / f64::from(u32::MAX));
            *point = lower[i] + fraction * (upper[i] - lower[i]);
        }
        let value = objective(&point)?;
        // NaN is worse than anything.
        if value < best || best.is_nan() && !value.is_nan() {
            best = value;
            x.copy_from_slice(&point);
        }
    }
    let value = best.to_f64().unwrap_or(f64::NAN);
    let status = if value.is_finite() { Status::MaxIterations } else { Status::NonFinite };
    Ok(Summary { value, gradient: f64::NAN, status, iterations: samples, evaluations: samples + 1 })
}
