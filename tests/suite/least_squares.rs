//! Least squares on the host: each damping, bounds, losses, bad input.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::Error;
use wgpu_optim::solve::{self, Damping, LeastSquares, Loss, Status};

use crate::compare::ensure;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("least_squares::each_damping", least_squares_by_each_damping),
        Trial::test("least_squares::what_stops_it", what_stops_it),
        Trial::test("least_squares::the_first_radius", the_first_radius),
        Trial::test("least_squares::units_do_not_matter", units_do_not_matter),
        Trial::test("least_squares::bounds_hold", bounds_hold),
        Trial::test("least_squares::losses_resist_outliers", losses_resist_outliers),
        Trial::test("least_squares::bad_input", bad_least_squares),
    ]
}

/// y = a·exp(−b·t) + c at 40 points, and what an outlier or two do to it.
fn decay(outliers: usize) -> impl Fn(&[f64], &mut [f64], Option<&mut [f64]>) -> Done {
    move |x, r, jacobian| {
        let t = |k: usize| k as f64 / 10.0;
        for (k, r) in r.iter_mut().enumerate() {
            let y = 3.0 * (-0.7 * t(k)).exp() + 0.5 + if k % 20 < outliers { 8.0 } else { 0.0 };
            *r = x[0] * (-x[1] * t(k)).exp() + x[2] - y;
        }
        for (k, row) in jacobian.into_iter().flat_map(|j| j.chunks_mut(3)).enumerate() {
            let e = (-x[1] * t(k)).exp();
            row.copy_from_slice(&[e, -x[0] * t(k) * e, 1.0]);
        }
        Ok(())
    }
}

type Done = Result<(), Error>;

const TRUE: [f64; 3] = [3.0, 0.7, 0.5];

fn apart(x: &[f64]) -> f64 {
    x.iter().zip(TRUE).map(|(x, b)| (x - b).abs()).fold(0.0, f64::max)
}

fn least_squares_by_each_damping() -> Result<(), Failed> {
    for damping in [Damping::None, Damping::Identity, Damping::Diagonal] {
        let mut x = [1.0, 1.0, 0.0];
        let options = LeastSquares { damping, ..LeastSquares::default() };
        let summary = solve::least_squares(decay(0), 40, &mut x, None, options)?;
        ensure(summary.status.converged() && apart(&x) < 1e-6, format!("{damping:?} {summary:?} {x:?}"))?;
    }
    // An unknown that nothing depends on: damped methods leave it, Gauss and Newton's has no step.
    let idle = |x: &[f64], r: &mut [f64], jacobian: Option<&mut [f64]>| {
        r.copy_from_slice(&[x[0] - 2.0, 3.0 * (x[0] - 2.0)]);
        jacobian.into_iter().for_each(|j| j.copy_from_slice(&[1.0, 0.0, 3.0, 0.0]));
        Ok::<_, Error>(())
    };
    for damping in [Damping::None, Damping::Identity, Damping::Diagonal] {
        let mut x = [0.0, 7.0];
        let options = LeastSquares { damping, ..LeastSquares::default() };
        let summary = solve::least_squares(idle, 2, &mut x, None, options)?;
        let expected = if damping == Damping::None { [0.0, 7.0] } else { [2.0, 7.0] };
        ensure(x.iter().zip(expected).all(|(x, b)| (x - b).abs() < 1e-6), format!("{damping:?} {summary:?} {x:?}"))?;
        ensure((summary.status == Status::Singular) == (damping == Damping::None), format!("{summary:?}"))?;
    }
    Ok(())
}

/// Each status, and each tolerance by itself.
fn what_stops_it() -> Result<(), Failed> {
    let never = LeastSquares { ftol: 0.0, xtol: 0.0, gtol: 0.0, ..LeastSquares::default() };
    let run = |options: LeastSquares| {
        let mut x = [1.0, 1.0, 0.0];
        // With an outlier the cost of the minimum is not 0, so that the last steps are many.
        solve::least_squares(decay(1), 40, &mut x, None, options)
    };
    for (loose, tight, status) in [
        (LeastSquares { ftol: 1e-2, ..never }, LeastSquares { ftol: 1e-13, ..never }, Status::ChangeTolerance),
        (LeastSquares { xtol: 1e-1, ..never }, LeastSquares { xtol: 1e-9, ..never }, Status::ChangeTolerance),
        (LeastSquares { gtol: 1.0, ..never }, LeastSquares { gtol: 1e-6, ..never }, Status::GradientTolerance),
    ] {
        let (first, last) = (run(loose)?, run(tight)?);
        ensure(first.status == status && last.status == status, format!("{first:?} {last:?}"))?;
        ensure(first.iterations < last.iterations && first.gradient > last.gradient, format!("{first:?} {last:?}"))?;
        ensure(tight.gtol == 0.0 || last.gradient <= tight.gtol, format!("{last:?}"))?;
    }
    let few = run(LeastSquares { max_iter: 2, ..never })?;
    ensure(few.status == Status::MaxIterations && few.iterations == 2 && few.evaluations == 3, format!("{few:?}"))?;
    // Without tolerances it ends where rounding does.
    let all = run(never)?;
    ensure(all.status == Status::ChangeTolerance && all.iterations < 60, format!("{all:?}"))?;
    // A J that points away from the minimum.
    let backward = |x: &[f64], r: &mut [f64], jacobian: Option<&mut [f64]>| {
        r[0] = x[0];
        jacobian.into_iter().for_each(|j| j[0] = -1.0);
        Ok::<_, Error>(())
    };
    for (damping, status) in [(Damping::None, Status::NoDescent), (Damping::Diagonal, Status::ChangeTolerance)] {
        let mut x = [1.0];
        let summary = solve::least_squares(backward, 1, &mut x, None, LeastSquares { damping, ..never })?;
        ensure(summary.status == status && x == [1.0], format!("{damping:?} {summary:?} {x:?}"))?;
    }
    Ok(())
}

/// ‖D·δ‖ of the first step is the radius, to a tenth of it.
fn the_first_radius() -> Result<(), Failed> {
    let start = [1.0, 1.0, 0.5];
    let (mut r, mut jacobian) = (vec![0.0; 40], vec![0.0; 120]);
    decay(0)(&start, &mut r, Some(&mut jacobian))?;
    let d: Vec<f64> = (0..3).map(|k| jacobian.iter().skip(k).step_by(3).map(|j| j * j).sum::<f64>().sqrt()).collect();
    let length = |x: &[f64]| x.iter().zip(&d).map(|(x, d)| (x * d).powi(2)).sum::<f64>().sqrt();
    for factor in [1e-3, 1e-2, 0.1] {
        let mut points = Vec::new();
        let residuals = |x: &[f64], r: &mut [f64], j: Option<&mut [f64]>| {
            points.push(x.to_vec());
            decay(0)(x, r, j)
        };
        let options = LeastSquares { factor, max_iter: 1, ..LeastSquares::default() };
        solve::least_squares(residuals, 40, &mut start.clone(), None, options)?;
        let step: Vec<f64> = points[1].iter().zip(start).map(|(x, b)| x - b).collect();
        let part = length(&step) / (factor * length(&start));
        ensure((part - 1.0).abs() < 0.1 + 1e-9, format!("{factor}: {part}"))?;
    }
    Ok(())
}

/// In units that are powers of two apart, the same steps to the bit.
fn units_do_not_matter() -> Result<(), Failed> {
    let run = |units: [f64; 3]| {
        let residuals = |x: &[f64], r: &mut [f64], mut jacobian: Option<&mut [f64]>| {
            let plain: Vec<_> = x.iter().zip(units).map(|(x, unit)| x * unit).collect();
            decay(1)(&plain, r, jacobian.as_deref_mut())?;
            let rows = jacobian.into_iter().flat_map(|j| j.chunks_mut(3));
            rows.for_each(|row| row.iter_mut().zip(units).for_each(|(j, unit)| *j *= unit));
            Ok::<_, Error>(())
        };
        let mut x = [1.0 / units[0], 1.0 / units[1], 0.0];
        let options = LeastSquares { gtol: 0.0, ..LeastSquares::default() };
        let summary = solve::least_squares(residuals, 40, &mut x, None, options)?;
        Ok::<_, Error>((summary.evaluations, summary.value, [0, 1, 2].map(|k| x[k] * units[k])))
    };
    let (plain, other) = (run([1.0; 3])?, run([1048576.0, 1.0 / 65536.0, 256.0])?);
    ensure(plain == other, format!("{plain:?} {other:?}"))
}

fn bounds_hold() -> Result<(), Failed> {
    let mut x = [1.0, 1.0, 0.0];
    let (lower, upper) = ([0.0, 0.0, -1.0], [10.0, 0.5, 10.0]);
    let inside = |x: &[f64]| x.iter().zip(lower.iter().zip(&upper)).all(|(x, (lo, hi))| lo <= x && x <= hi);
    let residuals = |x: &[f64], r: &mut [f64], j: Option<&mut [f64]>| {
        if inside(x) { decay(0)(x, r, j) } else { Err(Error::DeviceLost) }
    };
    let options = LeastSquares::default();
    let summary = solve::least_squares(residuals, 40, &mut x, Some((&lower, &upper)), options)?;
    ensure(summary.status.converged() && x[1] == 0.5, format!("{summary:?} {x:?}"))?;
    // Of the other two, no direction descends.
    let (mut r, mut j) = (vec![0.0; 40], vec![0.0; 120]);
    decay(0)(&x, &mut r, Some(&mut j))?;
    let slope = |k: usize| j.chunks(3).zip(&r).map(|(row, r)| row[k] * r).sum::<f64>();
    ensure(slope(0).abs() < 1e-6 && slope(2).abs() < 1e-6 && slope(1) < 0.0, format!("{} {}", slope(0), slope(1)))?;
    let crossed = solve::least_squares(decay(0), 40, &mut x, Some((&upper, &lower)), options);
    ensure(matches!(crossed, Err(Error::Hyperparameter { .. })), format!("{crossed:?}"))?;
    let short = solve::least_squares(decay(0), 40, &mut x, Some((&lower[..2], &upper)), options);
    ensure(matches!(short, Err(Error::Length { expected: 3, found: 2, .. })), format!("{short:?}"))
}

fn losses_resist_outliers() -> Result<(), Failed> {
    let fit = |loss| {
        let mut x = [1.0, 1.0, 0.0];
        solve::least_squares(decay(1), 40, &mut x, None, LeastSquares { loss, ..LeastSquares::default() })
            .map(|summary| (summary, x))
    };
    let plain = apart(&fit(Loss::Linear)?.1);
    for (loss, within) in [(Loss::Huber(0.1), 0.3), (Loss::SoftL1(0.1), 0.3), (Loss::Cauchy(0.1), 0.01)] {
        let (summary, x) = fit(loss)?;
        let error = apart(&x);
        ensure(
            summary.status.converged() && error < within && error < 0.5 * plain,
            format!("{loss:?} {summary:?} {x:?}"),
        )?;
    }
    Ok(())
}

fn bad_least_squares() -> Result<(), Failed> {
    // An error at the first point, which bounds would move: x stays. NaN within bounds is NaN.
    let failing = |_: &[f64], _: &mut [f64], _: Option<&mut [f64]>| Err(Error::DeviceLost);
    let (mut x, bounds) = ([5.0, 5.0, 5.0], Some((&[0.0; 3][..], &[1.0; 3][..])));
    let found = solve::least_squares(failing, 4, &mut x, bounds, LeastSquares::default());
    ensure(matches!(found, Err(Error::DeviceLost)) && x == [5.0; 3], format!("{found:?} {x:?}"))?;
    let summary = solve::least_squares(decay(0), 40, &mut [f64::NAN; 3], bounds, LeastSquares::default())?;
    ensure(summary.status == Status::NonFinite, format!("{summary:?}"))?;
    // NaN wherever a step leads: not converged.
    let island = |x: &[f64], r: &mut [f64], jacobian: Option<&mut [f64]>| {
        r.fill(if x[0] == 1.0 { 2.0 } else { f64::NAN });
        jacobian.into_iter().for_each(|j| j.fill(1.0));
        Ok::<_, Error>(())
    };
    let mut x = [1.0];
    let summary = solve::least_squares(island, 2, &mut x, None, LeastSquares::default())?;
    ensure(summary.status == Status::NonFinite && x == [1.0], format!("{summary:?}"))?;
    let nan = |_: &[f64], r: &mut [f64], _: Option<&mut [f64]>| {
        r.fill(f64::NAN);
        Ok::<_, Error>(())
    };
    let mut x = [1.0, 1.0, 0.0];
    let summary = solve::least_squares(nan, 4, &mut x, None, LeastSquares::default())?;
    ensure(summary.status == Status::NonFinite && x == [1.0, 1.0, 0.0], format!("{summary:?}"))?;
    // Fewer residuals than unknowns: a minimum all the same, but for Gauss and Newton.
    for damping in [Damping::None, Damping::Diagonal] {
        let mut x = [1.0, 1.0, 0.0];
        let options = LeastSquares { damping, ..LeastSquares::default() };
        let summary = solve::least_squares(decay(0), 2, &mut x, None, options)?;
        ensure((summary.status == Status::Singular) == (damping == Damping::None), format!("{summary:?}"))?;
        ensure(damping == Damping::None || summary.value < 1e-12, format!("{summary:?}"))?;
    }
    let wrong = LeastSquares { ftol: f64::NAN, ..LeastSquares::default() };
    let found = solve::least_squares(decay(0), 40, &mut x, None, wrong);
    ensure(matches!(found, Err(Error::Hyperparameter { name: "ftol", .. })), format!("{found:?}"))?;
    let wrong = LeastSquares { loss: Loss::Huber(0.0), ..LeastSquares::default() };
    let found = solve::least_squares(decay(0), 40, &mut x, None, wrong);
    ensure(matches!(found, Err(Error::Hyperparameter { .. })), format!("{found:?}"))
}
