//! Solvers on the device against the same methods on the host.

use libtest_mimic::{Failed, Trial};
use wgpu_optim::solve::{self, Direction, GpuMinimizer, Hessian, LineSearch, Minimizer, Options, Status, Summary};
use wgpu_optim::{BufferRange, Error, Gpu};

use crate::compare::ensure;
use crate::fixture::Kernel;

crate::tests!(
    methods_agree_with_the_host,
    many_unknowns,
    newton_by_products,
    nothing_is_made_after_the_first_steps,
    x_is_where_the_value_is,
    bad_device_input,
    a_nan_is_the_largest,
    nothing_is_lost_on_the_device,
);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("solve::newton_solves_regression_in_one_step", newton_solves_regression_in_one_step),
        Trial::test("solve::line_searches", line_searches),
        Trial::test("solve::what_stops_a_minimizer", what_stops_a_minimizer),
    ]
}

/// Σ 100(xᵢ₊₁ − xᵢ²)² + (1 − xᵢ)².
pub(crate) fn rosenbrock(x: &[f64], g: &mut [f64]) -> Result<f64, Error> {
    g.fill(0.0);
    let mut value = 0.0;
    for i in 0..x.len() - 1 {
        let (a, b) = (1.0 - x[i], x[i + 1] - x[i] * x[i]);
        value += 100.0 * b * b + a * a;
        g[i] += -400.0 * x[i] * b - 2.0 * a;
        g[i + 1] += 200.0 * b;
    }
    Ok(value)
}

/// The same on the device, by one workgroup, and ½Σ dᵢ(xᵢ − 1)² with dᵢ = 1 + i mod 100; and products of its Hessian.
const OBJECTIVE: &str = "
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> g: array<f32>;
    @group(0) @binding(2) var<storage, read_write> value: array<f32>;
    var<workgroup> sums: array<f32, 64>;
    fn curvature(i: u32) -> f32 { return 1.0 + f32(i % 100u); }
    @compute @workgroup_size(64)
    fn main(@builtin(local_invocation_index) lane: u32) {
        let n = arrayLength(&x);
        var sum = 0.0;
        for (var i = lane; i < n; i += 64u) {
            VALLEY
        }
        sums[lane] = sum;
        workgroupBarrier();
        if lane == 0u {
            for (var k = 1u; k < 64u; k++) { sum += sums[k]; }
            value[0] = sum;
        }
    }";
pub(crate) const VALLEY: &str = "
    var slope = 0.0;
    if i + 1u < n {
        let a = 1.0 - x[i];
        let b = x[i + 1u] - x[i] * x[i];
        sum += 100.0 * b * b + a * a;
        slope += -400.0 * x[i] * b - 2.0 * a;
    }
    if i > 0u { slope += 200.0 * (x[i] - x[i - 1u] * x[i - 1u]); }
    g[i] = slope;";
pub(crate) const BOWL: &str = "
    let apart = x[i] - 1.0;
    sum += 0.5 * curvature(i) * apart * apart;
    g[i] = curvature(i) * apart;";

/// The kernel of an objective, between its minimizer's buffers.
pub(crate) fn objective(gpu: &Gpu, minimizer: &GpuMinimizer, body: &str) -> Kernel {
    let ranges = [minimizer.x(), minimizer.gradient(), minimizer.value()];
    Kernel::new(gpu, &OBJECTIVE.replace("VALLEY", body), &ranges)
}

pub(crate) const START: [f64; 10] = [-1.2, 1.0, -1.2, 1.0, -1.2, 1.0, -1.2, 1.0, -1.2, 1.0];

pub(crate) fn long(options: Options) -> Options {
    Options { max_iter: 400, tolerance_grad: 1e-3, tolerance_change: 0.0, ..options }
}

/// f32 ends where f64 ends: at a minimum, whose value f32 knows to 1e-6 of the terms that it sums.
fn methods_agree_with_the_host(gpu: &Gpu) -> Result<(), Failed> {
    for options in [Options::lbfgs(), Options::bfgs(), Options::conjugate_gradient()].map(long) {
        let mut exact = START;
        let host = solve::minimize(rosenbrock, &mut exact, options)?;
        let mut minimizer = GpuMinimizer::new(gpu, START.len(), options)?;
        minimizer.write(&START.map(|x| x as f32))?;
        let kernel = objective(gpu, &minimizer, VALLEY);
        let device = minimizer.step_blocking(|encoder| kernel.record(encoder))?;
        let x = minimizer.read_blocking()?;
        let mut single = START.map(|x| x as f32);
        let in_f32 = solve::minimize(single_rosenbrock, &mut single, options)?;
        for summary in [&device, &in_f32, &host] {
            // One of the two minima.
            let at =
                [0.0, 3.986_579_112_347_138].map(|b: f64| (summary.value - b).abs()).into_iter().fold(1.0, f64::min);
            ensure(summary.status.converged() && at < 1e-5, format!("{:?} {summary:?} {x:?}", options.direction))?;
        }
        ensure(device.evaluations >= device.iterations, format!("{device:?}"))?;
    }
    Ok(())
}

fn single_rosenbrock(x: &[f32], g: &mut [f32]) -> Result<f32, Error> {
    let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let mut slopes = vec![0.0; x.len()];
    let value = rosenbrock(&wide, &mut slopes)?;
    g.iter_mut().zip(&slopes).for_each(|(g, s)| *g = *s as f32);
    Ok(value as f32)
}

/// More than one workgroup and more than one element a thread: the reductions. L-BFGS on a quadratic of condition 100.
fn many_unknowns(gpu: &Gpu) -> Result<(), Failed> {
    let n = 20_001;
    let long = Options { max_iter: 100, max_eval: Some(300), ..Options::lbfgs() };
    let options = Options { tolerance_grad: 1e-3, tolerance_change: 0.0, ..long };
    for direction in [Direction::Lbfgs { history_size: 5 }, Direction::ConjugateGradient, Direction::Steepest] {
        let line_search = if direction == Direction::Steepest { LineSearch::Exact } else { options.line_search };
        let mut minimizer = GpuMinimizer::new(gpu, n, Options { direction, line_search, ..options })?;
        let kernel = objective(gpu, &minimizer, BOWL);
        let summary = minimizer.step_blocking(|encoder| kernel.record(encoder))?;
        let x = minimizer.read_blocking()?;
        let worst = x.iter().map(|x| (x - 1.0).abs()).fold(0.0, f32::max);
        // Steepest descent contracts by 99/101 a step, in the worst case.
        let within = if direction == Direction::Steepest { 0.2 } else { 1e-2 };
        ensure(worst <= within, format!("{direction:?}: {worst} {summary:?}"))?;
    }
    Ok(())
}

fn newton_by_products(gpu: &Gpu) -> Result<(), Failed> {
    let n = 1000;
    let mut minimizer = GpuMinimizer::new(gpu, n, long(Options::newton_cg()))?;
    let kernel = objective(gpu, &minimizer, BOWL);
    let product = "
        @group(0) @binding(0) var<storage, read> p: array<f32>;
        @group(0) @binding(1) var<storage, read_write> q: array<f32>;
        @compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) lane: u32) {
            for (var i = lane; i < arrayLength(&p); i += 64u) { q[i] = (1.0 + f32(i % 100u)) * p[i]; }
        }";
    let ranges = minimizer.product().ok_or("no products")?.map(|range| range.clone());
    let products = Kernel::new(gpu, product, &[&ranges[0], &ranges[1]]);
    let without = minimizer.step_blocking(|encoder| kernel.record(encoder));
    ensure(matches!(without, Err(Error::Unsupported { .. })), format!("{without:?}"))?;
    let run = |minimizer: &mut GpuMinimizer| {
        minimizer.write(&vec![3.0; n])?;
        pollster::block_on(minimizer.step_with(|encoder| kernel.record(encoder), |encoder| products.record(encoder)))
    };
    let plain = run(&mut minimizer)?;
    ensure(plain.status == Status::GradientTolerance, format!("{plain:?}"))?;
    // With the Hessian itself as preconditioner, conjugate gradients take one step.
    let diagonal: Vec<f32> = (0..n).map(|i| 1.0 + (i % 100) as f32).collect();
    let other = GpuMinimizer::new(gpu, n, Options::lbfgs())?;
    other.write(&diagonal)?;
    minimizer.set_preconditioner(other.x().clone())?;
    let mut calls = 0;
    minimizer.write(&vec![3.0; n])?;
    let preconditioned = pollster::block_on(minimizer.step_with(
        |encoder| kernel.record(encoder),
        |encoder| {
            calls += 1;
            products.record(encoder)
        },
    ))?;
    ensure(preconditioned.iterations == calls && calls <= 2, format!("{calls} products, {preconditioned:?}"))?;
    let x = minimizer.read_blocking()?;
    ensure(x.iter().all(|x| (x - 1.0).abs() < 1e-4), format!("{:?}", &x[..5]))?;
    let odd = minimizer.set_preconditioner(BufferRange::new(&other.x().buffer, 4, n - 1));
    ensure(matches!(odd, Err(Error::Length { .. })), format!("{odd:?}"))
}

/// What is read back is the point that was accepted, also where it is not the last one that was tried, or was not
/// evaluated; and what is written in between is where the next step starts.
fn x_is_where_the_value_is(gpu: &Gpu) -> Result<(), Failed> {
    let fixed = Options { line_search: LineSearch::Fixed, max_iter: 1, lr: 0.1, ..Options::lbfgs() };
    let sampled = LineSearch::Sampled { lo: 1e-4, hi: 1.0, count: 9 };
    let sampled = Options { line_search: sampled, max_iter: 3, max_eval: Some(100), ..Options::gradient_descent() };
    for (options, evaluated) in [(fixed, false), (sampled, true), (long(Options::lbfgs()), true)] {
        let mut minimizer = GpuMinimizer::new(gpu, START.len(), options)?;
        let kernel = objective(gpu, &minimizer, VALLEY);
        let mut host = Minimizer::<f32>::new(START.len(), options)?;
        for start in [1.0, 0.5] {
            let mut x = START.map(|x| x as f32 * start);
            minimizer.write(&x)?;
            let device = minimizer.step_blocking(|encoder| kernel.record(encoder))?;
            host.step(single_rosenbrock, &mut x)?;
            let read = minimizer.read_blocking()?;
            let value = f64::from(single_rosenbrock(&read, &mut [0.0; 10])?);
            ensure(!evaluated || (value - device.value).abs() <= 1e-4 * value.max(0.1), format!("{value} {device:?}"))?;
            let apart = x.iter().zip(&read).map(|(x, b)| (x - b).abs()).fold(0.0, f32::max);
            // Few steps are the same in f32, here and there; many end at one of two minima.
            ensure(options.max_iter > 3 || apart < 1e-3, format!("{options:?} {apart} {read:?} {x:?}"))?;
            ensure(
                read.iter().zip(START).any(|(x, b)| (x - b as f32 * start).abs() > 1e-5),
                format!("{options:?} {start} {device:?} {read:?}"),
            )?;
        }
    }
    Ok(())
}

/// No buffer, bind group or pipeline; and the objective is recorded as often as it is said to be.
fn nothing_is_made_after_the_first_steps(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &crate::fixture::device_like(gpu, |_| {})?;
    let options = Options { max_iter: 4, tolerance_grad: 0.0, tolerance_change: 0.0, ..Options::lbfgs() };
    let options = Options { direction: Direction::Lbfgs { history_size: 2 }, max_eval: Some(100), ..options };
    let mut minimizer = GpuMinimizer::new(gpu, START.len(), options)?;
    minimizer.write(&START.map(|x| x as f32))?;
    let kernel = objective(gpu, &minimizer, VALLEY);
    for _ in 0..10 {
        minimizer.step_blocking(|encoder| kernel.record(encoder))?;
    }
    // What wgpu stages writes in is freed with the submission.
    let settled = || gpu.device().poll(wgpu::PollType::wait_indefinitely()).map(|_| crate::fixture::objects(gpu));
    let before = settled()?;
    let mut recorded = 0;
    let summary = minimizer.step_blocking(|encoder| {
        recorded += 1;
        kernel.record(encoder)
    })?;
    ensure(recorded == summary.evaluations, format!("{recorded} {summary:?}"))?;
    let after = settled()?;
    ensure(after == before, format!("{before:?} {after:?}"))
}

fn bad_device_input(gpu: &Gpu) -> Result<(), Failed> {
    let wrong = Options { lr: f64::NAN, ..Options::lbfgs() };
    ensure(matches!(GpuMinimizer::new(gpu, 4, wrong), Err(Error::Hyperparameter { name: "lr", .. })), "NaN")?;
    let most = gpu.device().limits().max_storage_buffer_binding_size;
    let large = GpuMinimizer::new(gpu, most as usize / 4 + 1, Options::lbfgs());
    ensure(matches!(large, Err(Error::OverLimit { .. })), "over the limit")?;
    let minimizer = GpuMinimizer::new(gpu, 128, Options::lbfgs())?;
    let (x, g, value) = (minimizer.x().clone(), minimizer.gradient().clone(), minimizer.value().clone());
    let make = |x, g, value| GpuMinimizer::with_ranges(gpu, x, g, value, Options::lbfgs()).map(|_| ());
    let part = |range: &BufferRange, offset, len| BufferRange::new(&range.buffer, offset, len);
    let cases = [
        (make(x.clone(), part(&g, 0, 4), value.clone()), "holds 128 elements but 4"),
        (make(x.clone(), part(&g, 256, 128), value.clone()), "ends at byte 768"),
        (make(part(&x, 4, 64), part(&g, 0, 64), value.clone()), "multiple of"),
        (make(x.clone(), x.clone(), value), "overlap"),
    ];
    for (found, words) in cases {
        let said = found.err().map(|e| e.to_string()).unwrap_or_default();
        // An adapter that binds anywhere has nothing against an odd offset.
        let any = words == "multiple of" && gpu.device().limits().min_storage_buffer_offset_alignment <= 4;
        ensure(any || said.contains(words), format!("{words}: {said}"))?;
    }
    Ok(())
}

/// A closure's error, NaN at the start, and NaN behind every step: x is the last good point.
fn nothing_is_lost_on_the_device(gpu: &Gpu) -> Result<(), Failed> {
    let mut minimizer = GpuMinimizer::new(gpu, START.len(), long(Options::lbfgs()))?;
    let start = START.map(|x| x as f32);
    minimizer.write(&start)?;
    let kernel = objective(gpu, &minimizer, VALLEY);
    let mut calls = 0;
    let failed = minimizer.step_blocking(|encoder| {
        calls += 1;
        if calls == 3 { Err(Error::DeviceLost) } else { kernel.record(encoder) }
    });
    ensure(matches!(failed, Err(Error::DeviceLost)), format!("{failed:?}"))?;
    // As on the host: the last point that was accepted.
    let (mut x, mut calls) = (start, 0);
    let on_host = solve::minimize(
        |x: &[f32], g: &mut [f32]| {
            calls += 1;
            if calls == 3 { Err(Error::DeviceLost) } else { single_rosenbrock(x, g) }
        },
        &mut x,
        long(Options::lbfgs()),
    );
    let read = minimizer.read_blocking()?;
    let apart = x.iter().zip(&read).map(|(x, b)| (x - b).abs()).fold(0.0, f32::max);
    ensure(on_host.is_err() && x != start && apart < 1e-4, format!("{apart} {x:?}"))?;
    minimizer.write(&start)?;
    let nan = objective(gpu, &minimizer, "g[i] = bitcast<f32>(0x7fc00000u + u32(x[i] == 77.0)); sum += g[i];");
    let summary = minimizer.step_blocking(|encoder| nan.record(encoder))?;
    ensure(summary.status == Status::NonFinite, format!("{summary:?}"))?;
    ensure(minimizer.read_blocking()? == start, "x has moved")
}

/// Of one element that is NaN beside larger ones, wherever it is: max|g| is NaN, and nothing has converged.
fn a_nan_is_the_largest(gpu: &Gpu) -> Result<(), Failed> {
    for at in [0, 511, 999] {
        let mut minimizer = GpuMinimizer::new(gpu, 1000, Options::lbfgs())?;
        let text = format!("g[i] = select(f32(i), bitcast<f32>(0x7fc00000u + u32(x[i] == 77.0)), i == {at}u);");
        let kernel = objective(gpu, &minimizer, &text);
        let device = minimizer.step_blocking(|encoder| kernel.record(encoder))?;
        let gradient = |_: &[f64], g: &mut [f64]| {
            g.iter_mut().enumerate().for_each(|(i, g)| *g = if i == at { f64::NAN } else { i as f64 });
            Ok::<_, Error>(0.0)
        };
        let host = solve::minimize(gradient, &mut [0.0; 1000], Options::lbfgs())?;
        for summary in [host, device] {
            let right = summary.gradient.is_nan() && summary.status == Status::NonFinite;
            ensure(right, format!("{at}: {summary:?}"))?;
        }
    }
    Ok(())
}

fn newton_solves_regression_in_one_step() -> Result<(), Failed> {
    let a = [[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.5, -1.0, 1.0], [1.0, 1.0, 1.0]];
    let b = [1.0, -2.0, 0.5, 3.0];
    let r = |x: &[f64]| -> Vec<f64> {
        a.iter().zip(b).map(|(row, b)| row.iter().zip(x).map(|(a, x)| a * x).sum::<f64>() - b).collect()
    };
    let objective = |x: &[f64], g: &mut [f64]| {
        let r = r(x);
        for (j, g) in g.iter_mut().enumerate() {
            *g = a.iter().zip(&r).map(|(row, r)| row[j] * r).sum();
        }
        Ok::<_, Error>(0.5 * r.iter().map(|r| r * r).sum::<f64>())
    };
    let mut hessian = |_: &[f64], h: &mut [f64]| {
        for (k, h) in h.iter_mut().enumerate() {
            *h = a.iter().map(|row| row[k / 3] * row[k % 3]).sum();
        }
        Ok(())
    };
    let mut x = [9.0, -9.0, 5.0];
    let options = Options { tolerance_grad: 1e-12, ..Options::newton() };
    let summary = solve::minimize_with(objective, Hessian::Matrix(&mut hessian), &mut x, options)?;
    ensure(summary.iterations == 1 && summary.status == Status::GradientTolerance, format!("{summary:?}"))?;
    // An indefinite matrix still leads downwards; one that is not finite is said to be.
    let saddle = |x: &[f64], g: &mut [f64]| {
        g.copy_from_slice(&[2.0 * x[0], 4.0 * x[1].powi(3) - 4.0 * x[1]]);
        Ok::<_, Error>(x[0] * x[0] + x[1].powi(4) - 2.0 * x[1] * x[1])
    };
    let mut curvature = |x: &[f64], h: &mut [f64]| {
        h.copy_from_slice(&[2.0, 0.0, 0.0, 12.0 * x[1] * x[1] - 4.0]);
        Ok(())
    };
    let mut x = [1.0, 0.1];
    let options = Options { max_iter: 50, ..Options::newton() };
    let summary = solve::minimize_with(saddle, Hessian::Matrix(&mut curvature), &mut x, options)?;
    ensure(summary.status.converged() && (x[1].abs() - 1.0).abs() < 1e-6, format!("{summary:?} {x:?}"))?;
    let mut nan = |_: &[f64], h: &mut [f64]| {
        h.fill(f64::NAN);
        Ok(())
    };
    let mut x = [1.0, 0.1];
    let summary = solve::minimize_with(saddle, Hessian::Matrix(&mut nan), &mut x, Options::newton())?;
    ensure(summary.status == Status::Singular && x == [1.0, 0.1], format!("{summary:?} {x:?}"))?;
    let wrong = solve::minimize(saddle, &mut x, Options::newton());
    ensure(matches!(wrong, Err(Error::Unsupported { .. })), format!("{wrong:?}"))
}

/// On ½Σ dᵢxᵢ²: each search finds a lower point, the exact one the lowest of the line.
fn line_searches() -> Result<(), Failed> {
    let d = [1.0, 4.0, 9.0];
    let bowl = |x: &[f64], g: &mut [f64]| {
        g.iter_mut().zip(x).zip(d).for_each(|((g, x), d)| *g = d * x);
        Ok::<_, Error>(0.5 * x.iter().zip(d).map(|(x, d)| d * x * x).sum::<f64>())
    };
    let sampled = LineSearch::Sampled { lo: 1e-3, hi: 1.0, count: 61 };
    let fixed = Options { lr: 0.1, line_search: LineSearch::Fixed, ..Options::gradient_descent() };
    let mut values = Vec::new();
    for line_search in [LineSearch::BACKTRACKING, LineSearch::STRONG_WOLFE, sampled, LineSearch::Exact] {
        let mut x = [1.0, 1.0, 1.0];
        let options = Options { line_search, max_iter: 1, max_eval: Some(100), ..Options::gradient_descent() };
        let summary = solve::minimize(bowl, &mut x, options)?;
        ensure(summary.value < 7.0 && summary.iterations == 1, format!("{line_search:?} {summary:?}"))?;
        let mut g = [0.0; 3];
        ensure(bowl(&x, &mut g)? == summary.value, format!("{line_search:?}: x is another point"))?;
        values.push(summary.value);
    }
    // gᵀg / gᵀDg.
    let t = d.map(|d| d * d).iter().sum::<f64>() / d.map(|d| d * d * d).iter().sum::<f64>();
    let least = 0.5 * d.map(|d| d * (1.0 - t * d).powi(2)).iter().sum::<f64>();
    ensure((values[3] - least).abs() < 1e-14 && (values[2] - least).abs() < 0.02, format!("{values:?} {least}"))?;
    // Gradient descent at a fixed rate, as the formula has it.
    let mut x = [1.0, 1.0, 1.0];
    solve::minimize(bowl, &mut x, Options { max_iter: 10, max_eval: Some(100), ..fixed })?;
    for (x, d) in x.iter().zip(d) {
        ensure((x - (1.0f64 - 0.1 * d).powi(10)).abs() < 1e-15, format!("{x}"))?;
    }
    for (name, line_search) in [
        ("shrink", LineSearch::Backtracking { c1: 1e-4, shrink: 1.0 }),
        ("c2", LineSearch::StrongWolfe { c1: 0.5, c2: 0.1 }),
        ("hi", LineSearch::Sampled { lo: 1.0, hi: 0.5, count: 3 }),
        ("count", LineSearch::Sampled { lo: 1.0, hi: 2.0, count: 0 }),
    ] {
        let found = solve::minimize(bowl, &mut x, Options { line_search, ..fixed });
        ensure(matches!(found, Err(Error::Hyperparameter { name: n, .. }) if n == name), format!("{name} {found:?}"))?;
    }
    Ok(())
}

fn what_stops_a_minimizer() -> Result<(), Failed> {
    let run = |options: Options, x: &mut [f64]| solve::minimize(rosenbrock, x, options);
    let expect = |summary: &Summary, status| ensure(summary.status == status, format!("{summary:?} for {status}"));
    expect(
        &run(Options { max_iter: 3, max_eval: Some(100), ..Options::lbfgs() }, &mut START.clone())?,
        Status::MaxIterations,
    )?;
    let few = Options { max_iter: 100, max_eval: Some(7), ..Options::lbfgs() };
    expect(&run(few, &mut START.clone())?, Status::MaxEvaluations)?;
    expect(&run(Options::lbfgs(), &mut [1.0; 10])?, Status::GradientTolerance)?;
    let loose = Options { max_iter: 100, tolerance_change: 1.0, ..Options::lbfgs() };
    expect(&run(loose, &mut START.clone())?, Status::ChangeTolerance)?;
    expect(&run(Options::lbfgs(), &mut [f64::NAN; 3])?, Status::NonFinite)?;
    // A gradient of the wrong sign: nowhere to go, and x stays.
    let wrong = |x: &[f64], g: &mut [f64]| {
        let value = rosenbrock(x, g)?;
        g.iter_mut().for_each(|g| *g = -*g);
        Ok::<_, Error>(value)
    };
    let mut x = START;
    let options = Options { max_eval: Some(200), ..Options::gradient_descent() };
    expect(&solve::minimize(wrong, &mut x, options)?, Status::NoDescent)?;
    ensure(x == START, format!("{x:?}"))?;
    // A wall: where the first step leads to NaN, it is halved until it does not.
    let wall = |x: &[f64], g: &mut [f64]| {
        g[0] = -1.0 / x[0] + 1.0;
        Ok::<_, Error>(if x[0] > 0.0 { x[0] - x[0].ln() } else { f64::NAN })
    };
    for options in [Options::lbfgs(), Options::gradient_descent()] {
        let mut x = [20.0];
        let options = Options { lr: 40.0, max_iter: 60, ..options };
        let summary = solve::minimize(wall, &mut x, options)?;
        ensure(summary.status.converged() && (x[0] - 1.0).abs() < 1e-3, format!("{summary:?} {x:?}"))?;
    }
    // The objective's own error, and the last good point with it.
    let mut calls = 0;
    let failing = |x: &[f64], g: &mut [f64]| {
        calls += 1;
        if calls == 9 { Err(Error::DeviceLost) } else { rosenbrock(x, g) }
    };
    let mut x = START;
    let found = solve::minimize(failing, &mut x, long(Options::lbfgs()));
    let mut g = [0.0; 10];
    ensure(matches!(found, Err(Error::DeviceLost)), format!("{found:?}"))?;
    ensure(x != START && rosenbrock(&x, &mut g)? < rosenbrock(&START, &mut g)?, format!("{x:?}"))?;
    // A Hessian that fails the second time: the first iteration stays.
    let bowl = |x: &[f64], g: &mut [f64]| {
        g[0] = 4.0 * x[0].powi(3);
        Ok::<_, Error>(x[0].powi(4))
    };
    let mut calls = 0;
    let mut second = |x: &[f64], h: &mut [f64]| {
        calls += 1;
        h[0] = 12.0 * x[0] * x[0];
        if calls == 2 { Err(Error::DeviceLost) } else { Ok(()) }
    };
    let mut x = [3.0];
    let found = solve::minimize_with(bowl, Hessian::Matrix(&mut second), &mut x, Options::newton());
    ensure(matches!(found, Err(Error::DeviceLost)) && (x[0] - 2.0).abs() < 1e-12, format!("{found:?} {x:?}"))?;
    // Conjugate gradients go on after an error in their first search.
    let mut minimizer = Minimizer::<f64>::new(10, long(Options::conjugate_gradient()))?;
    let (mut x, mut calls) = (START, 0);
    let mut failing = |x: &[f64], g: &mut [f64]| {
        calls += 1;
        if calls == 2 { Err(Error::DeviceLost) } else { rosenbrock(x, g) }
    };
    ensure(minimizer.step(&mut failing, &mut x).is_err() && x == START, format!("{x:?}"))?;
    let summary = minimizer.step(&mut failing, &mut x)?;
    ensure(summary.status == Status::GradientTolerance, format!("{summary:?}"))?;
    let mut minimizer = Minimizer::<f64>::new(3, Options::lbfgs())?;
    let length = minimizer.step(rosenbrock, &mut [0.0; 4]);
    ensure(matches!(length, Err(Error::Length { expected: 3, found: 4, .. })), format!("{length:?}"))
}
