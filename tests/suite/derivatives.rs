//! Finite differences against gradients by hand.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::{Difference, Error, check_gradient, check_gradient_with, numerical_gradient};

use crate::compare::ensure;

/// Rosenbrock's valley in n dimensions, and its gradient.
fn rosenbrock(x: &[f64]) -> Result<f64, Error> {
    Ok(x.windows(2).map(|p| 100.0 * (p[1] - p[0] * p[0]).powi(2) + (1.0 - p[0]).powi(2)).sum())
}

fn gradient(x: &[f64]) -> Vec<f64> {
    let mut g = vec![0.0; x.len()];
    for (k, p) in x.windows(2).enumerate() {
        let valley = p[1] - p[0] * p[0];
        g[k] -= 400.0 * p[0] * valley + 2.0 * (1.0 - p[0]);
        g[k + 1] += 200.0 * valley;
    }
    g
}

const X: [f64; 5] = [-1.2, 1.0, 300.0, 1e-9, 0.0];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("derivatives::digits", digits),
        Trial::test("derivatives::what_is_wrong_is_found", what_is_wrong_is_found),
        Trial::test("derivatives::small_parameters_in_f32", small_parameters_in_f32),
        Trial::test("derivatives::a_step_of_ones_own", a_step_of_ones_own),
        Trial::test("derivatives::nan_and_errors", nan_and_errors),
    ]
}

/// √ε and ∛ε² times what the second and third derivatives are here (of the large element by itself: f is 10¹² there).
fn digits() -> Result<(), Failed> {
    for (difference, evaluations) in [(Difference::Forward, 6), (Difference::Central, 10)] {
        let mut calls = 0;
        let counted = |x: &[f64]| {
            calls += 1;
            rosenbrock(x)
        };
        numerical_gradient(counted, &X, difference)?;
        ensure(calls == evaluations, format!("{difference:?}: {calls} evaluations"))?;
    }
    let (x, mut errors) = ([-1.2, 1.0, 0.3, 1e-9], Vec::new());
    for difference in [Difference::Forward, Difference::Central] {
        let numerical = numerical_gradient(rosenbrock, &x, difference)?;
        let apart = numerical.iter().zip(gradient(&x)).map(|(n, g)| (n - g).abs()).fold(0.0, f64::max);
        errors.push(apart);
    }
    ensure(errors[0] < 1e-4 && errors[1] < 1e-6 && errors[1] < errors[0] / 10.0, format!("{errors:?}"))
}

fn what_is_wrong_is_found() -> Result<(), Failed> {
    let right = check_gradient(rosenbrock, &X, &gradient(&X), 0..X.len())?;
    ensure(right.error < 1e-6 && right.checked == X.len(), format!("{right:?}"))?;
    for (wrong, factor) in [(0, 1.01), (2, -1.0), (1, 1.001)] {
        let mut g = gradient(&X[..3]);
        g[wrong] *= factor;
        let found = check_gradient(rosenbrock, &X[..3], &g, [2, 0, 1])?;
        let named = found.element == wrong && found.analytic == g[wrong];
        ensure(named && found.error > 0.9 * (factor - 1.0f64).abs().min(1.0), format!("{found:?}"))?;
    }
    // Where all is flat nothing is wrong.
    let flat = check_gradient(|_: &[f64]| Ok::<_, Error>(3.0), &X, &[0.0; 5], [4])?;
    ensure((flat.error, flat.checked, flat.element) == (0.0, 1, 4), format!("{flat:?}"))
}

/// Σ sin(wᵢ/s) in f32 with weights of about s: the answer is the same for each s, and a factor that is wrong by a tenth
/// is found.
fn small_parameters_in_f32() -> Result<(), Failed> {
    for size in [1e-4f32, 1e-2, 1.0, 1e3] {
        let w = [0.3, -1.1, 0.7, 0.0].map(|w| w * size);
        let f = |w: &[f32]| Ok::<_, Error>(w.iter().map(|w| (w / size).sin()).sum::<f32>());
        let mut g = w.map(|w| (w / size).cos() / size);
        let right = check_gradient_with(f, &w, &g, 0..4, None)?;
        ensure(right.error < 1e-3 && right.noise < 1e-4, format!("{size}: {right:?}"))?;
        g[2] *= 1.1;
        let wrong = check_gradient_with(f, &w, &g, 0..4, None)?;
        ensure(wrong.element == 2 && wrong.error > 0.08, format!("{size}: {wrong:?}"))?;
    }
    // Of a large value f32 has no digits left for the difference: the report says so.
    let g = [1.0f32];
    let high = check_gradient_with(|w: &[f32]| Ok::<_, Error>(1e5 + w[0]), &[1.0], &g, [0], None)?;
    ensure(high.noise > 0.1 && high.error < 4.0 * high.noise, format!("{high:?}"))
}

fn a_step_of_ones_own() -> Result<(), Failed> {
    // A kink at 0, which a long step reaches over and a short one does not.
    let relu = |x: &[f64]| Ok::<_, Error>(x[0].max(0.0));
    for (h, numerical) in [(1e-6, 1.0), (1e-2, 0.55)] {
        let found = check_gradient_with(relu, &[1e-3], &[1.0], [0], Some(h))?;
        ensure((found.numerical - numerical).abs() < 1e-9, format!("{h}: {found:?}"))?;
    }
    for h in [0.0, -1e-3, f64::NAN, f64::INFINITY] {
        let found = check_gradient_with(relu, &[1.0], &[1.0], [0], Some(h));
        ensure(matches!(found, Err(Error::Hyperparameter { .. })), format!("{h}: {found:?}"))?;
    }
    Ok(())
}

fn nan_and_errors() -> Result<(), Failed> {
    let mut g = gradient(&X);
    g[1] = f64::NAN;
    let found = check_gradient(rosenbrock, &X, &g, 0..X.len())?;
    ensure(found.error.is_nan() && found.element == 1, format!("{found:?}"))?;
    let root = |x: &[f64]| Ok::<_, Error>((x[0] - 1.0).sqrt());
    let found = check_gradient(root, &[1.0], &[0.0], [0])?;
    ensure(found.error.is_nan() && found.numerical.is_nan(), format!("{found:?}"))?;
    let short = check_gradient(rosenbrock, &X, &g[..4], 0..4);
    ensure(matches!(short, Err(Error::Length { expected: 5, found: 4, .. })), format!("{short:?}"))?;
    let beyond = check_gradient(rosenbrock, &X, &g, [5]);
    ensure(matches!(beyond, Err(Error::Length { expected: 5, found: 6, .. })), format!("{beyond:?}"))?;
    let mut calls = 0;
    let failing = |_: &[f64]| {
        calls += 1;
        if calls > 3 { Err(Error::DeviceLost) } else { Ok(0.0) }
    };
    let lost = numerical_gradient(failing, &X, Difference::Central);
    ensure(matches!(lost, Err(Error::DeviceLost)) && calls == 4, format!("{lost:?} after {calls}"))
}
