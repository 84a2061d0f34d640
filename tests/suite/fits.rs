//! Many small fits: the device against the host in f32 and f64.

use libtest_mimic::{Failed, Trial};
use rand::RngExt;
use wgpu_optim::solve::{Damping, Decay, Fits, Gaussian, GpuFits, LeastSquares, Loss, Model, Polynomial, Status, fit};
use wgpu_optim::{Error, Gpu, Real};

use crate::compare::ensure;
use crate::fixture::random;

crate::tests!(
    device_fits_as_the_host,
    long_problems,
    a_models_own_loops,
    what_stops_a_fit,
    a_wild_problem_spoils_no_other,
    a_callers_model,
    no_fit_hangs_or_lies,
    bad_fits,
);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("fits::exact_data_are_found_again", exact_data_are_found_again),
        Trial::test("fits::outliers", outliers),
    ]
}

const ROWS: usize = 33;

/// Noisy samples of models whose unknowns are within a fifth of `truth`, which is where the fits start.
fn noisy<M: Model>(problems: usize, truth: &[f64], noise: f64, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut rng = random(seed);
    let (mut data, mut start) = (Vec::new(), Vec::new());
    for _ in 0..problems {
        let x: Vec<f64> = truth.iter().map(|x| x * rng.random_range(0.8..1.2)).collect();
        for k in 0..ROWS {
            let t = k as f64 / ROWS as f64 * 3.0;
            let mut row = vec![0.0; x.len()];
            let y = M::residual(&x, &[t, 0.0], &mut row);
            data.extend([t as f32, (y + noise * rng.random_range(-1.0..1.0)) as f32]);
        }
        start.extend(truth.iter().map(|&x| x as f32));
    }
    (data, start)
}

fn on_device<M: Model>(
    gpu: &Gpu,
    data: &[f32],
    start: &[f32],
    options: LeastSquares,
    lanes: usize,
) -> Result<Fits<f32>, Error> {
    let problems = start.len() / M::UNKNOWNS;
    let fits = GpuFits::<M>::with_lanes(gpu, problems, data.len() / problems / M::COLUMNS, options, lanes)?;
    fits.write(data, start)?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    fits.encode(&mut encoder)?;
    gpu.queue().submit([encoder.finish()]);
    fits.read_blocking()
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&x| x.into()).collect()
}

/// The cost that a fit ends with is within a part in 10⁴ of the least, by f64: unknowns that a cost hardly depends on
/// may differ more.
fn agree<M: Model>(gpu: &Gpu, truth: &[f64], options: LeastSquares, lanes: &[usize]) -> Result<(), Failed> {
    let problems = 100;
    let (data, start) = noisy::<M>(problems, truth, 0.05, 7);
    let tight = LeastSquares { ftol: 1e-14, xtol: 1e-14, ..options };
    let exact = fit::<f64, M>(ROWS, &wide(&data), &wide(&start), tight)?;
    let single = fit::<f32, M>(ROWS, &data, &start, options)?;
    let mut all = vec![("host".to_owned(), single)];
    for &lanes in lanes {
        all.push((format!("{lanes} threads a problem,"), on_device::<M>(gpu, &data, &start, options, lanes)?));
    }
    for (which, fits) in &all {
        for k in 0..problems {
            let what =
                || format!("{which} problem {k}: {:?} {:?} {:?}", fits.statuses[k], fits.iterations[k], options.loss);
            ensure(fits.statuses[k].converged(), what())?;
            let (cost, least) = (f64::from(fits.costs[k]), exact.costs[k]);
            ensure((cost - least).abs() <= 1e-4 * least, format!("{} {cost} {least}", what()))?;
            let n = M::UNKNOWNS;
            for (x, b) in fits.x[k * n..][..n].iter().zip(&exact.x[k * n..][..n]) {
                ensure((f64::from(*x) - b).abs() <= 2e-2 * b.abs().max(0.1), format!("{} {x} {b}", what()))?;
            }
        }
    }
    Ok(())
}

fn device_fits_as_the_host(gpu: &Gpu) -> Result<(), Failed> {
    let options = LeastSquares::single();
    agree::<Decay>(gpu, &[2.0, 1.5, 0.3], options, &[1, 4, 64])?;
    agree::<Gaussian>(gpu, &[3.0, 1.4, 0.4, 0.2], options, &[1, 8])?;
    agree::<Polynomial<5>>(gpu, &[1.0, -2.0, 0.5, 0.3, -0.1], options, &[1, 16])?;
    let huber = LeastSquares { loss: Loss::Huber(0.03), damping: Damping::Identity, ..options };
    agree::<Decay>(gpu, &[2.0, 1.5, 0.3], huber, &[1, 2])?;
    // Residuals that are small beside the scale of the loss: the cost is that of squares.
    for loss in [Loss::SoftL1(300.0), Loss::Cauchy(300.0), Loss::Cauchy(0.2), Loss::SoftL1(0.05)] {
        agree::<Decay>(gpu, &[2.0, 1.5, 0.3], LeastSquares { loss, ..options }, &[1])?;
    }
    Ok(())
}

/// Mesa's llvmpipe leaves a thread's loops after 65,535 turns: problems that need more are cut into several dispatches,
/// of points or (the longest) of a part of the rows.
fn long_problems(gpu: &Gpu) -> Result<(), Failed> {
    for (rows, lanes) in [(1_000, 1), (1_000, 8), (20_000, 1)] {
        let (mut data, mut start) = (Vec::new(), Vec::new());
        for p in 0..3u8 {
            let x = [2.0 + f32::from(p), 0.5 + 0.3 * f32::from(p), 0.25];
            for k in 0..rows {
                let t = 6.0 * k as f32 / rows as f32;
                let noise = (k * 7919 % 1000) as f32 / 1000.0 - 0.5;
                data.extend([t, x[0] * (-x[1] * t).exp() + x[2] + 0.01 * noise]);
            }
            start.extend([0.5, 3.0, 0.0]);
        }
        let options = LeastSquares { max_iter: 25, ..LeastSquares::single() };
        let host = fit::<f64, Decay>(rows, &wide(&data), &wide(&start), LeastSquares::default())?;
        let device = on_device::<Decay>(gpu, &data, &start, options, lanes)?;
        for k in 0..3 {
            let (cost, least) = (f64::from(device.costs[k]), host.costs[k]);
            let what = format!("{rows} rows, {lanes} lanes: {:?} {cost} {least}", device.statuses[k]);
            // Sums of so many terms in f32.
            ensure(device.statuses[k].converged() && (cost - least).abs() < 1e-3 * least, what)?;
            let apart = device.x[3 * k..][..3].iter().zip(&host.x[3 * k..]).map(|(&x, b)| (f64::from(x) - b).abs());
            ensure(apart.fold(0.0, f64::max) < 1e-2, format!("{:?} {:?}", device.x, host.x))?;
        }
    }
    Ok(())
}

/// The turns of a model's own loops are unknown: where they are too many for the adapter, the fit is not done, and says
/// so.
fn a_models_own_loops(gpu: &Gpu) -> Result<(), Failed> {
    #[derive(Debug)]
    struct Slow;
    impl Model for Slow {
        const UNKNOWNS: usize = 1;
        const COLUMNS: usize = 2;
        const SHADER: &'static str = "
            fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
                var turns = 0.0;
                for (var k = 0u; k < u32(data[0]); k++) { turns += 1.0; }
                (*jacobian)[0] = turns / data[0];
                return x[0] * turns / data[0] - data[1];
            }";
        fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
            jacobian[0] = F::one();
            x[0] - data[1]
        }
    }
    for turns in [10.0, 5_000.0] {
        let data: Vec<f32> = [turns, 2.0].repeat(ROWS);
        let fits = on_device::<Slow>(gpu, &data, &[1.0], LeastSquares::single(), 1)?;
        let right = fits.statuses[0].converged() && (fits.x[0] - 2.0).abs() < 1e-5;
        let honest = fits.statuses[0] == Status::NotDone && fits.x[0] == 1.0 && turns > 10.0;
        ensure(right || honest, format!("{turns} turns: {fits:?}"))?;
    }
    Ok(())
}

/// Each status; and how often λ is raised until it is beyond its limit: 10⁻³·2^(k(k + 1)/2) > 10³⁰ from k = 15 on.
fn what_stops_a_fit(gpu: &Gpu) -> Result<(), Failed> {
    #[derive(Debug)]
    struct Backward;
    impl Model for Backward {
        const UNKNOWNS: usize = 1;
        const COLUMNS: usize = 1;
        const SHADER: &'static str = "
            fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
                (*jacobian)[0] = -1.0;
                return x[0] + data[0];
            }";
        fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
            jacobian[0] = -F::one();
            x[0] + data[0]
        }
    }
    let never = LeastSquares { ftol: 0.0, xtol: 0.0, gtol: 0.0, ..LeastSquares::single() };
    for damping in [Damping::Diagonal, Damping::Identity] {
        let options = LeastSquares { damping, ..never };
        let host = fit::<f32, Backward>(ROWS, &[1.0; ROWS], &[0.0], options)?;
        // Of the identity, the first λ is 33 times as large.
        let tries = if damping == Damping::Diagonal { 15 } else { 14 };
        for fits in [host, on_device::<Backward>(gpu, &[1.0; ROWS], &[0.0], options, 1)?] {
            let stopped = fits.statuses[0] == Status::NoDescent && fits.iterations[0] == tries && fits.x[0] == 0.0;
            ensure(stopped, format!("{damping:?} {fits:?}"))?;
        }
    }
    let (data, _) = noisy::<Decay>(1, &[2.0, 1.5, 0.3], 0.05, 9);
    let far = [5.0, 0.1, 0.0];
    let stops = [
        (LeastSquares { gtol: 1e6, ..never }, Status::GradientTolerance, Some(0)),
        (LeastSquares { gtol: 1e-2, ..never }, Status::GradientTolerance, None),
        (LeastSquares { ftol: 1e-3, ..never }, Status::ChangeTolerance, None),
        (LeastSquares { xtol: 1e-3, ..never }, Status::ChangeTolerance, None),
        (LeastSquares { max_iter: 2, ..never }, Status::MaxIterations, Some(2)),
        (LeastSquares { max_iter: 0, ..never }, Status::MaxIterations, Some(0)),
    ];
    for (options, status, iterations) in stops {
        let host = fit::<f32, Decay>(ROWS, &data, &far, options)?;
        for fits in [host, on_device::<Decay>(gpu, &data, &far, options, 4)?] {
            ensure(fits.statuses[0] == status, format!("{options:?} {fits:?}"))?;
            ensure(iterations.is_none_or(|n| fits.iterations[0] == n), format!("{options:?} {fits:?}"))?;
            ensure(options.gtol == 0.0 || f64::from(fits.gradients[0]) <= options.gtol, format!("{fits:?}"))?;
        }
    }
    Ok(())
}

/// A Jacobian of NaN with residuals that are finite, at the start or where a step leads; and a λ that f32 has as 0.
fn no_fit_hangs_or_lies(gpu: &Gpu) -> Result<(), Failed> {
    #[derive(Debug)]
    struct Flat;
    impl Model for Flat {
        const UNKNOWNS: usize = 1;
        const COLUMNS: usize = 2;
        const SHADER: &'static str = "
            fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
                (*jacobian)[0] = select(1.0, bitcast<f32>(0x7fc00000u | u32(data[1])), x[0] == data[0] || x[0] < 0.75);
                return x[0];
            }";
        fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
            jacobian[0] = if x[0] == data[0] || x[0] < F::of(0.75) { F::nan() } else { F::one() };
            x[0]
        }
    }
    let data: Vec<f32> = [2.0, 1.0].repeat(2 * ROWS);
    let start = [2.0, 1.0];
    let host = fit::<f32, Flat>(ROWS, &data, &start, LeastSquares::single())?;
    let device = on_device::<Flat>(gpu, &data, &start, LeastSquares::single(), 1)?;
    for fits in [&host, &device] {
        ensure(fits.statuses[0] == Status::NonFinite && fits.x[0] == 2.0, format!("{fits:?}"))?;
        ensure(!fits.costs[1].is_nan() && fits.x[1] >= 0.75, format!("{fits:?}"))?;
    }
    let tiny = LeastSquares { lambda: 1e-50, ..LeastSquares::single() };
    let samples: Vec<f32> = [0.0, 1.0].repeat(ROWS);
    let host = fit::<f32, Polynomial<2>>(ROWS, &samples, &[0.0, 0.0], tiny)?;
    let device = on_device::<Polynomial<2>>(gpu, &samples, &[0.0, 0.0], tiny, 1)?;
    for fits in [&host, &device] {
        ensure(fits.statuses[0].converged() && (fits.x[0] - 1.0).abs() < 1e-5, format!("{fits:?}"))?;
    }
    let many = GpuFits::<Decay>::new(gpu, 1 << 62, 4, tiny);
    ensure(matches!(many, Err(Error::OverLimit { .. } | Error::Length { .. })), format!("{many:?}"))
}

fn a_wild_problem_spoils_no_other(gpu: &Gpu) -> Result<(), Failed> {
    let (mut data, start) = noisy::<Decay>(130, &[2.0, 1.5, 0.3], 0.01, 3);
    data[70 * ROWS * 2 + 5] = f32::NAN;
    data[71 * ROWS * 2 + 7] = f32::INFINITY;
    for lanes in [1, 8] {
        let fits = on_device::<Decay>(gpu, &data, &start, LeastSquares::single(), lanes)?;
        let host = fit::<f32, Decay>(ROWS, &data, &start, LeastSquares::single())?;
        for (k, (device, host)) in fits.statuses.iter().zip(&host.statuses).enumerate() {
            let wild = k == 70 || k == 71;
            let right = |status: &Status| if wild { *status == Status::NonFinite } else { status.converged() };
            ensure(right(device) && right(host), format!("{k}: {device:?} {host:?}"))?;
            ensure(!wild || fits.x[3 * k..][..3] == start[3 * k..][..3], format!("{k}: x has moved"))?;
        }
    }
    Ok(())
}

/// Three columns, sixteen unknowns: as many as there may be.
struct Wide;

impl Model for Wide {
    const UNKNOWNS: usize = 16;
    const COLUMNS: usize = 3;
    const SHADER: &'static str = "
        fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
            var unknowns = x;
            var sum = -data[2];
            for (var i = 0u; i < N; i++) {
                let near = 1.0 / (1.0 + pow(data[0] - f32(i), 2.0));
                (*jacobian)[i] = near * data[1];
                sum += unknowns[i] * near * data[1];
            }
            return sum;
        }";

    fn residual<F: Real>(x: &[F], data: &[F], jacobian: &mut [F]) -> F {
        let mut sum = -data[2];
        for (i, (x, j)) in x.iter().zip(jacobian).enumerate() {
            *j = data[1] / (F::one() + (data[0] - F::of(i as f64)).powi(2));
            sum += *x * *j;
        }
        sum
    }
}

fn a_callers_model(gpu: &Gpu) -> Result<(), Failed> {
    let (problems, mut rng) = (5, random(1));
    let mut data = Vec::new();
    for _ in 0..problems * ROWS {
        data.extend([rng.random_range(0.0..16.0f32), rng.random_range(0.5..1.5), rng.random_range(-1.0..1.0)]);
    }
    let start = vec![0.0; 16 * problems];
    let exact = fit::<f64, Wide>(ROWS, &wide(&data), &wide(&start), LeastSquares::default())?;
    let fits = on_device::<Wide>(gpu, &data, &start, LeastSquares::single(), 16)?;
    ensure(fits.statuses.iter().all(|status| status.converged()), format!("{:?}", fits.statuses))?;
    for (k, (cost, least)) in fits.costs.iter().zip(&exact.costs).enumerate() {
        ensure((f64::from(*cost) - least).abs() <= 1e-4 * least, format!("{k} {cost} {least}"))?;
    }
    Ok(())
}

fn bad_fits(gpu: &Gpu) -> Result<(), Failed> {
    #[derive(Debug)]
    struct Broken;
    impl Model for Broken {
        const UNKNOWNS: usize = 1;
        const COLUMNS: usize = 1;
        const SHADER: &'static str = "fn residual(";
        fn residual<F: Real>(_: &[F], _: &[F], _: &mut [F]) -> F {
            F::zero()
        }
    }
    let options = LeastSquares::single();
    let broken = GpuFits::<Broken>::new(gpu, 3, 3, options);
    ensure(matches!(broken, Err(Error::Shader { .. })), format!("{broken:?}"))?;
    let lanes = GpuFits::<Decay>::with_lanes(gpu, 3, 3, options, 3);
    ensure(matches!(lanes, Err(Error::Hyperparameter { name: "lanes", .. })), "lanes")?;
    let none = LeastSquares { damping: Damping::None, ..options };
    ensure(matches!(GpuFits::<Decay>::new(gpu, 3, 3, none), Err(Error::Unsupported { .. })), "undamped")?;
    let seventeen = fit::<f32, Polynomial<17>>(1, &[0.0; 2], &[0.0; 17], options);
    ensure(matches!(seventeen, Err(Error::Unsupported { .. })), format!("{seventeen:?}"))?;
    let fits = GpuFits::<Decay>::new(gpu, 3, 3, options)?;
    let idle = fits.read_blocking()?;
    ensure(idle.statuses == [Status::NotDone; 3], format!("{idle:?}"))?;
    let short = fits.write(&[0.0; 17], &[0.0; 9]);
    ensure(matches!(short, Err(Error::Length { expected: 18, found: 17, .. })), format!("{short:?}"))?;
    let host = fit::<f32, Decay>(3, &[0.0; 18], &[0.0; 8], options);
    ensure(matches!(host, Err(Error::Length { .. })), format!("{host:?}"))?;
    let most = gpu.device().limits().max_storage_buffer_binding_size as usize;
    let large = GpuFits::<Decay>::new(gpu, most / 8, 3, options);
    ensure(matches!(large, Err(Error::OverLimit { .. })), format!("{large:?}"))
}

fn exact_data_are_found_again() -> Result<(), Failed> {
    let truth = [3.0, 1.4, 0.4, 0.2];
    let (data, start) = noisy::<Gaussian>(40, &truth, 0.0, 11);
    let fits = fit::<f64, Gaussian>(ROWS, &wide(&data), &wide(&start), LeastSquares::default())?;
    for (k, cost) in fits.costs.iter().enumerate() {
        // The samples are rounded to f32.
        ensure(fits.statuses[k].converged() && *cost < 1e-12, format!("{k}: {cost}"))?;
    }
    ensure(fits.x.chunks(4).all(|x| x.iter().zip(truth).all(|(x, b)| (x / b - 1.0).abs() < 0.21)), "unknowns")
}

fn outliers() -> Result<(), Failed> {
    let (mut data, start) = noisy::<Decay>(20, &[2.0, 1.5, 0.3], 0.0, 5);
    let truth = fit::<f64, Decay>(ROWS, &wide(&data), &wide(&start), LeastSquares::default())?;
    data.iter_mut().skip(21).step_by(2 * ROWS).for_each(|y| *y += 5.0);
    let run = |loss| fit::<f64, Decay>(ROWS, &wide(&data), &wide(&start), LeastSquares { loss, ..Default::default() });
    let worst = |fits: &Fits<f64>| fits.x.iter().zip(&truth.x).map(|(x, b)| (x - b).abs()).fold(0.0, f64::max);
    let (plain, cauchy) = (worst(&run(Loss::Linear)?), worst(&run(Loss::Cauchy(0.05))?));
    ensure(cauchy < 0.01 && plain > 0.1, format!("{plain} {cauchy}"))
}
