//! One least-squares problem on the device, against the same on the host.

use libtest_mimic::Failed;
use rand::RngExt;
use wgpu_optim::solve::{self, Damping, GpuLeastSquares, LeastSquares, Loss, Status, Summary};
use wgpu_optim::{BufferRange, Error, Gpu};

use crate::compare::ensure;
use crate::fixture::{Kernel, buffer, device_like, objects, random};

crate::tests!(
    sizes,
    each_damping_and_loss,
    bounds_hold,
    a_cut_step_is_no_solution,
    a_rejected_step_is_undone_to_the_bit,
    what_stops_it,
    the_limits_of_lambda,
    nothing_is_read_back,
    nothing_is_made_after_the_first_points,
    errors_keep_the_last_point,
    bad_input,
);

/// rᵢ = Σⱼ cᵢⱼ·(xⱼ + xⱼ²/10) − yᵢ: rows of c with y behind them.
struct Problem {
    n: usize,
    data: Vec<f32>,
    truth: Vec<f32>,
}

const TEXT: &str = "
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read> data: array<f32>;
    @group(0) @binding(2) var<storage, read_write> r: array<f32>;
    @group(0) @binding(3) var<storage, read_write> jacobian: array<f32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        let n = arrayLength(&x);
        let i = id.x;
        if i >= arrayLength(&r) { return; }
        var sum = -data[i * (n + 1u) + n];
        for (var j = 0u; j < n; j++) {
            let c = data[i * (n + 1u) + j];
            sum += c * (x[j] + 0.1 * x[j] * x[j]);
            jacobian[i * n + j] = c * (1.0 + 0.2 * x[j]);
        }
        r[i] = sum;
    }";

impl Problem {
    /// With every so manieth value far out.
    fn new(m: usize, n: usize, outliers: Option<usize>) -> Self {
        let mut rng = random((m * 31 + n) as u64);
        let truth: Vec<f32> = (0..n).map(|_| rng.random_range(-0.5..0.5)).collect();
        let mut data = Vec::new();
        for i in 0..m {
            let row: Vec<f32> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
            let y: f64 = row.iter().zip(&truth).map(|(&c, &x)| f64::from(c) * f64::from(x + 0.1 * x * x)).sum();
            data.extend(row);
            data.push(y as f32 + if outliers.is_some_and(|each| i % each == 0) { 20.0 } else { 0.0 });
        }
        Self { n, data, truth }
    }

    fn m(&self) -> usize {
        self.data.len() / (self.n + 1)
    }

    fn on_host(
        &self,
        options: LeastSquares,
        bounds: Option<solve::Bounds<'_, f64>>,
    ) -> Result<(Summary, Vec<f64>), Error> {
        let residuals = |x: &[f64], r: &mut [f64], jacobian: Option<&mut [f64]>| {
            for (row, r) in self.data.chunks(self.n + 1).zip(&mut *r) {
                let term = |(&c, &x): (&f32, &f64)| f64::from(c) * (x + 0.1 * x * x);
                *r = row.iter().zip(x).map(term).sum::<f64>() - f64::from(row[self.n]);
            }
            let rows = jacobian.into_iter().flat_map(|j| j.chunks_mut(self.n)).zip(self.data.chunks(self.n + 1));
            for (to, row) in rows {
                to.iter_mut().zip(row).zip(x).for_each(|((j, &c), &x)| *j = f64::from(c) * (1.0 + 0.2 * x));
            }
            Ok::<_, Error>(())
        };
        let mut x = vec![0.0; self.n];
        let summary = solve::least_squares(residuals, self.m(), &mut x, bounds, options)?;
        Ok((summary, x))
    }

    fn kernel(&self, gpu: &Gpu, solver: &GpuLeastSquares) -> Kernel {
        let data = storage(gpu, &self.data);
        let ranges = [solver.x(), &data, solver.residuals(), solver.jacobian()];
        Kernel::of(gpu, TEXT, &ranges, self.m().div_ceil(64) as u32)
    }

    fn solver(&self, gpu: &Gpu, options: LeastSquares) -> Result<(GpuLeastSquares, Kernel), Error> {
        let solver = GpuLeastSquares::new(gpu, self.m(), self.n, options)?;
        let kernel = self.kernel(gpu, &solver);
        Ok((solver, kernel))
    }
}

fn storage(gpu: &Gpu, values: &[f32]) -> BufferRange {
    BufferRange::new(&buffer(gpu, values, wgpu::BufferUsages::STORAGE), 0, values.len())
}

fn apart(x: &[f32], from: impl IntoIterator<Item = f64>) -> f64 {
    x.iter().zip(from).map(|(&x, b)| (f64::from(x) - b).abs()).fold(0.0, f64::max)
}

/// Panels that are full, not full and one column wide; one slice of J and many. What f32 loses: a few hundred ulps, for
/// J's condition (below 10: twice as many rows as columns) and n terms a residual.
const WITHIN: f64 = 500.0 * f32::EPSILON as f64;

fn sizes(gpu: &Gpu) -> Result<(), Failed> {
    for (m, n) in [(5, 1), (64, 31), (100, 32), (100, 33), (200, 64), (300, 97), (33_000, 3)] {
        let problem = Problem::new(m, n, None);
        let (mut solver, kernel) = problem.solver(gpu, LeastSquares::single())?;
        let summary = solver.solve_blocking(|encoder| kernel.record(encoder))?;
        let error = apart(&solver.read_blocking()?, problem.truth.iter().map(|&x| x.into()));
        ensure(summary.status.converged() && error < WITHIN, format!("{m} × {n}: {error:e}, {summary:?}"))?;
    }
    Ok(())
}

/// How far apart two points are whose costs differ by the tolerance, 1e-6, by the least eigenvalue of JᵀJ for random J
/// of −1 to 1 (Marchenko and Pastur's).
fn reach(m: usize, n: usize, cost: f64) -> f64 {
    let curvature = m as f64 / 3.0 * (1.0 - (n as f64 / m as f64).sqrt()).powi(2);
    (2e-6 * cost / curvature).sqrt()
}

/// The minimum is the host's.
fn each_damping_and_loss(gpu: &Gpu) -> Result<(), Failed> {
    let problem = Problem::new(400, 40, Some(50));
    for damping in [Damping::None, Damping::Identity, Damping::Diagonal] {
        for loss in [Loss::Linear, Loss::Huber(0.1), Loss::SoftL1(0.1), Loss::Cauchy(0.1)] {
            let options = LeastSquares { damping, loss, ..LeastSquares::single() };
            let (host, expected) = problem.on_host(options, None)?;
            let (mut solver, kernel) = problem.solver(gpu, options)?;
            let summary = solver.solve_blocking(|encoder| kernel.record(encoder))?;
            let error = apart(&solver.read_blocking()?, expected);
            let label = format!("{damping:?} {loss:?} {error:e} {summary:?} {host:?}");
            ensure(summary.status.converged() && error < reach(400, 40, host.value), &label)?;
            ensure((summary.value - host.value).abs() < 1e-5 * host.value, &label)?;
            // Undamped steps are those of the host; λ goes on by another rule.
            let close = match damping {
                Damping::None => summary.iterations.abs_diff(host.iterations) <= 2 + host.iterations / 4,
                _ => summary.iterations <= 2 * host.iterations + 4,
            };
            ensure(close, &label)?;
            ensure(summary.evaluations == summary.iterations + 1, &label)?;
        }
    }
    Ok(())
}

fn bounds_hold(gpu: &Gpu) -> Result<(), Failed> {
    let problem = Problem::new(200, 40, None);
    let (lower, mut upper) = (vec![f32::NEG_INFINITY; 40], vec![f32::INFINITY; 40]);
    for i in (0..40).step_by(3) {
        upper[i] = problem.truth[i] - 0.1;
    }
    let wide = |bound: &[f32]| bound.iter().map(|&x| x.into()).collect::<Vec<f64>>();
    let (host, expected) = problem.on_host(LeastSquares::default(), Some((&wide(&lower), &wide(&upper))))?;
    let (mut solver, kernel) = problem.solver(gpu, LeastSquares::single())?;
    solver.set_bounds(&lower, &upper)?;
    let summary = solver.solve_blocking(|encoder| kernel.record(encoder))?;
    let x = solver.read_blocking()?;
    ensure(x.iter().zip(&upper).all(|(x, b)| x <= b) && x[0] == upper[0], format!("{x:?}"))?;
    let error = apart(&x, expected);
    ensure(
        summary.status.converged() && error < reach(200, 40, host.value),
        format!("{error:e} {summary:?} {host:?}"),
    )?;
    ensure((summary.value - host.value).abs() < 1e-5 * host.value, format!("{summary:?} {host:?}"))
}

/// Cut at the bound, the first steps raise the model and the cost; the minimum is (0.1, 0.199).
fn a_cut_step_is_no_solution(gpu: &Gpu) -> Result<(), Failed> {
    let text = "
        if i == 0u { r[0] = x[0] - 0.99 * x[1] - 0.1; jacobian[0] = 1.0; jacobian[1] = -0.99; }
        if i == 1u { r[1] = 0.141067 * (x[1] - 10.0); jacobian[2] = 0.0; jacobian[3] = 0.141067; }";
    let mut solver = GpuLeastSquares::new(gpu, 2, 2, LeastSquares::single())?;
    solver.set_bounds(&[f32::NEG_INFINITY; 2], &[0.1, f32::INFINITY])?;
    let kernel = body(gpu, &solver, text);
    let summary = solver.solve_blocking(|encoder| kernel.record(encoder))?;
    let x = solver.read_blocking()?;
    ensure(summary.status.converged() && summary.iterations > 1, format!("{x:?} {summary:?}"))?;
    ensure(apart(&x, [0.1, 0.199]) < 1e-3 && (summary.value - 0.9752).abs() < 1e-4, format!("{x:?} {summary:?}"))
}

/// NaN wherever a first step leads.
const ISLAND: &str = "
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> r: array<f32>;
    @group(0) @binding(2) var<storage, read_write> jacobian: array<f32>;
    @compute @workgroup_size(1)
    fn main() {
        let n = arrayLength(&x);
        for (var i = 0u; i < arrayLength(&r); i++) {
            r[i] = select(bitcast<f32>(0x7fc00000u + (u32(x[0]) & 1u)), 2.0 + f32(i), x[0] == 1.1 && x[1] == -0.3);
            for (var j = 0u; j < n; j++) { jacobian[i * n + j] = f32((i * i + j) % 3u); }
        }
    }";

fn a_rejected_step_is_undone_to_the_bit(gpu: &Gpu) -> Result<(), Failed> {
    for damping in [Damping::None, Damping::Identity, Damping::Diagonal] {
        for max_iter in [1, 3, 1000] {
            let options = LeastSquares { damping, max_iter, ..LeastSquares::single() };
            let mut solver = GpuLeastSquares::new(gpu, 4, 2, options)?;
            let start = [1.1, -0.3];
            solver.write(&start)?;
            let kernel = Kernel::new(gpu, ISLAND, &[solver.x(), solver.residuals(), solver.jacobian()]);
            let summary = solver.solve_blocking(|encoder| kernel.record(encoder))?;
            let x = solver.read_blocking()?;
            ensure(x == start, format!("{x:?} {summary:?}"))?;
            let expected = if max_iter == 1000 { Status::NonFinite } else { Status::MaxIterations };
            ensure(summary.status == expected, format!("{damping:?} {max_iter}: {summary:?}"))?;
            ensure(summary.value == 0.5 * (4.0 + 9.0 + 16.0 + 25.0), format!("{summary:?}"))?;
        }
    }
    Ok(())
}

/// A body that computes r and a row of J of residual i.
fn body(gpu: &Gpu, solver: &GpuLeastSquares, body: &str) -> Kernel {
    let text = ISLAND.replace(
        &ISLAND[ISLAND.find("r[i] = ").unwrap_or_default()..ISLAND.rfind("        }\n    }").unwrap_or_default()],
        body,
    );
    Kernel::new(gpu, &text, &[solver.x(), solver.residuals(), solver.jacobian()])
}

fn what_stops_it(gpu: &Gpu) -> Result<(), Failed> {
    let run = |m, n, options: LeastSquares, text: &str| {
        let mut solver = GpuLeastSquares::new(gpu, m, n, options)?;
        solver.write(&vec![1.0; n])?;
        let kernel = body(gpu, &solver, text);
        let summary = solver.solve_blocking(|encoder| kernel.record(encoder))?;
        Ok::<_, Error>((summary, solver.read_blocking()?))
    };
    let damped = LeastSquares::single();
    let plain = LeastSquares { damping: Damping::None, ..damped };
    // An unknown that nothing depends on: damped methods leave it, Gauss and Newton's has no step.
    let idle = "r[i] = 3.0 * x[0] - 6.0; jacobian[i * n] = 3.0; jacobian[i * n + 1u] = 0.0;";
    for (options, expected) in [(damped, [2.0, 1.0]), (plain, [1.0, 1.0])] {
        let (summary, x) = run(5, 2, options, idle)?;
        ensure(apart(&x, expected) < WITHIN, format!("{x:?} {summary:?}"))?;
        ensure((summary.status == Status::Singular) == (options == plain), format!("{summary:?}"))?;
    }
    // Fewer residuals than unknowns.
    let few = "r[i] = x[0] + x[1] + x[2] - 9.0; for (var j = 0u; j < n; j++) { jacobian[i * n + j] = 1.0; }";
    let (summary, x) = run(1, 3, damped, few)?;
    ensure(summary.status.converged() && summary.value < 1e-8, format!("{x:?} {summary:?}"))?;
    // At the minimum; with a gradient that is tolerable; NaN at the start; NaN in J alone.
    let still = "r[i] = 0.0; for (var j = 0u; j < n; j++) { jacobian[i * n + j] = 1.0; }";
    let (summary, _) = run(3, 2, damped, still)?;
    ensure(summary.status == Status::GradientTolerance && summary.iterations == 0, format!("{summary:?}"))?;
    let (summary, _) = run(5, 2, LeastSquares { gtol: 1e3, ..damped }, idle)?;
    ensure(summary.status == Status::GradientTolerance && summary.gradient == 45.0, format!("{summary:?}"))?;
    let nan = "r[i] = bitcast<f32>(0x7fc00000u + i); for (var j = 0u; j < n; j++) { jacobian[i * n + j] = 1.0; }";
    let steep = "r[i] = 1.0; for (var j = 0u; j < n; j++) { jacobian[i * n + j] = bitcast<f32>(0x7fc00000u + i); }";
    for text in [nan, steep] {
        let (summary, x) = run(3, 2, damped, text)?;
        ensure(summary.status == Status::NonFinite && x == [1.0, 1.0], format!("{x:?} {summary:?}"))?;
        ensure(!summary.gradient.is_finite(), format!("{summary:?}"))?;
    }
    // A J that points away from the minimum; and no step allowed.
    let wrong = "r[i] = x[0]; jacobian[i * n] = -1.0; jacobian[i * n + 1u] = 0.5;";
    for options in [damped, plain] {
        let (summary, x) = run(3, 2, LeastSquares { ftol: 0.0, xtol: 0.0, max_iter: 10_000, ..options }, wrong)?;
        // JᵀJ has rank one: whether there is a factor without damping is up to rounding.
        let stopped = matches!(summary.status, Status::NoDescent | Status::ChangeTolerance)
            || summary.status == Status::Singular && options == plain;
        ensure(stopped && x == [1.0, 1.0], format!("{x:?} {summary:?}"))?;
    }
    let (summary, x) = run(5, 2, LeastSquares { max_iter: 0, ..damped }, idle)?;
    ensure(summary.status == Status::MaxIterations && x == [1.0, 1.0], format!("{summary:?}"))
}

/// λ starts at 10⁻³ and is raised to 10⁻³·2^(k(k + 1)/2), which is beyond its limit of 10³⁷ from k = 16 on; a λ that
/// f32 has as 0 becomes 10⁻³⁰, from which it can grow.
fn the_limits_of_lambda(gpu: &Gpu) -> Result<(), Failed> {
    let never = LeastSquares { ftol: 0.0, xtol: 0.0, ..LeastSquares::single() };
    // A J that points away; its square is so large that from λ = 10⁸ on there is no factor.
    let mut solver = GpuLeastSquares::new(gpu, 1, 1, never)?;
    let backward = body(gpu, &solver, "r[i] = 1e18 + 1e15 * x[0]; jacobian[i * n] = -1e15;");
    let summary = solver.solve_blocking(|encoder| backward.record(encoder))?;
    let x = solver.read_blocking()?;
    let stopped = summary.status == Status::NoDescent && summary.iterations == 16 && x == [0.0];
    ensure(stopped, format!("{x:?} {summary:?}"))?;
    // An unknown that nothing depends on: without λ there is no factor.
    let tiny = LeastSquares { lambda: 1e-50, ..LeastSquares::single() };
    let mut solver = GpuLeastSquares::new(gpu, 5, 2, tiny)?;
    let idle = body(gpu, &solver, "r[i] = 3.0 * x[0] - 6.0; jacobian[i * n] = 3.0; jacobian[i * n + 1u] = 0.0;");
    let summary = solver.solve_blocking(|encoder| idle.record(encoder))?;
    let error = apart(&solver.read_blocking()?, [2.0, 0.0]);
    ensure(summary.status.converged() && error < WITHIN, format!("{error:e} {summary:?}"))
}

/// In an encoder of the caller's, the same as by `solve`; what comes behind the solution changes nothing.
fn nothing_is_read_back(gpu: &Gpu) -> Result<(), Failed> {
    let problem = Problem::new(120, 40, None);
    let (mut solver, kernel) = problem.solver(gpu, LeastSquares::single())?;
    let expected = solver.solve_blocking(|encoder| kernel.record(encoder))?;
    let x = solver.read_blocking()?;
    for points in [2, expected.evaluations, 2 * expected.evaluations] {
        solver.write(&vec![0.0; problem.n])?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        solver.begin(&mut encoder);
        for _ in 0..points {
            kernel.record(&mut encoder)?;
            solver.iterate(&mut encoder);
        }
        solver.finish(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        let summary = pollster::block_on(solver.summary())?;
        let found = solver.read_blocking()?;
        if points >= expected.evaluations {
            ensure(summary == expected && found == x, format!("{points}: {summary:?} {expected:?}"))?;
            continue;
        }
        // The second point is accepted, the third was never judged.
        ensure(summary.status == Status::MaxIterations, format!("{summary:?}"))?;
        let (mut short, kernel) = problem.solver(gpu, LeastSquares { max_iter: 1, ..LeastSquares::single() })?;
        let one = short.solve_blocking(|encoder| kernel.record(encoder))?;
        ensure(summary.value == one.value && found == short.read_blocking()?, format!("{summary:?} {one:?}"))?;
    }
    Ok(())
}

fn nothing_is_made_after_the_first_points(gpu: &Gpu) -> Result<(), Failed> {
    let gpu = &device_like(gpu, |_| {})?;
    let problem = Problem::new(100, 40, None);
    let (mut solver, kernel) = problem.solver(gpu, LeastSquares::single())?;
    let settled = || gpu.device().poll(wgpu::PollType::wait_indefinitely()).map(|_| objects(gpu));
    solver.solve_blocking(|encoder| kernel.record(encoder))?;
    let before = settled()?;
    solver.write(&vec![0.0; problem.n])?;
    let mut recorded = 0;
    let summary = solver.solve_blocking(|encoder| {
        recorded += 1;
        kernel.record(encoder)
    })?;
    ensure(recorded == summary.evaluations, format!("{recorded} {summary:?}"))?;
    let after = settled()?;
    ensure(before == after, format!("{before:?} {after:?}"))
}

fn errors_keep_the_last_point(gpu: &Gpu) -> Result<(), Failed> {
    let problem = Problem::new(100, 40, None);
    let (mut solver, kernel) = problem.solver(gpu, LeastSquares::single())?;
    for calls in [0, 2] {
        solver.write(&vec![0.25; problem.n])?;
        let mut call = 0;
        let failed = solver.solve_blocking(|encoder| {
            kernel.record(encoder)?;
            call += 1;
            if call > calls { Err(Error::DeviceLost) } else { Ok(()) }
        });
        ensure(matches!(failed, Err(Error::DeviceLost)), format!("{failed:?}"))?;
        let x = solver.read_blocking()?;
        // Of two points the second is the one that was accepted; the third is where the caller failed.
        let mut expected = vec![0.25; problem.n];
        if calls == 2 {
            let (mut short, kernel) = problem.solver(gpu, LeastSquares { max_iter: 1, ..LeastSquares::single() })?;
            short.write(&expected)?;
            short.solve_blocking(|encoder| kernel.record(encoder))?;
            expected = short.read_blocking()?;
        }
        ensure(x == expected, format!("{calls}: {x:?}"))?;
    }
    let summary = solver.solve_blocking(|encoder| kernel.record(encoder))?;
    ensure(summary.status.converged(), format!("{summary:?}"))
}

fn bad_input(gpu: &Gpu) -> Result<(), Failed> {
    let options = LeastSquares::single();
    for (m, n) in [(0, 3), (3, 0)] {
        let found = GpuLeastSquares::new(gpu, m, n, options);
        ensure(matches!(found, Err(Error::Hyperparameter { .. })), format!("{found:?}"))?;
    }
    let found = GpuLeastSquares::new(gpu, 3, 2, LeastSquares { lambda: f64::NAN, ..options });
    ensure(matches!(found, Err(Error::Hyperparameter { name: "lambda", .. })), format!("{found:?}"))?;
    let found = GpuLeastSquares::new(gpu, usize::MAX / 2, 100, options);
    ensure(matches!(found, Err(Error::OverLimit { .. })), format!("{found:?}"))?;
    let found = GpuLeastSquares::new(gpu, 1, 70_000, options);
    ensure(matches!(found, Err(Error::OverLimit { .. })), format!("{found:?}"))?;
    let few = device_like(gpu, |limits| limits.max_storage_buffers_per_shader_stage = 7)?;
    let found = GpuLeastSquares::new(&few, 3, 2, options);
    let limit = "max_storage_buffers_per_shader_stage";
    ensure(matches!(&found, Err(Error::OverLimit { limit: l, .. }) if *l == limit), format!("{found:?}"))?;
    let narrow = device_like(gpu, |limits| limits.max_compute_workgroups_per_dimension = 7)?;
    let found = GpuLeastSquares::new(&narrow, 5000, 2, options);
    let limit = "max_compute_workgroups_per_dimension";
    ensure(matches!(&found, Err(Error::OverLimit { limit: l, .. }) if *l == limit), format!("{found:?}"))?;
    let range = |len| storage(gpu, &vec![0.0; len]);
    let found = GpuLeastSquares::with_ranges(gpu, range(2), range(3), range(5), options);
    ensure(matches!(found, Err(Error::Length { expected: 6, found: 5, .. })), format!("{found:?}"))?;
    let whole = range(1024);
    let part = |from: u64, len| BufferRange::new(&whole.buffer, 4 * from, len);
    let found = GpuLeastSquares::with_ranges(gpu, part(0, 2), part(0, 3), range(6), options);
    ensure(matches!(found, Err(Error::Overlap { .. })), format!("{found:?}"))?;
    let found = GpuLeastSquares::with_ranges(gpu, part(1, 2), part(512, 3), range(6), options);
    // An adapter that binds anywhere has nothing against an odd offset.
    let any = gpu.device().limits().min_storage_buffer_offset_alignment <= 4;
    ensure(any || matches!(found, Err(Error::Misaligned { .. })), format!("{found:?}"))?;
    // One buffer for all three.
    let mut solver = GpuLeastSquares::with_ranges(gpu, part(0, 2), part(256, 3), part(512, 6), options)?;
    let found = solver.write(&[1.0; 3]);
    ensure(matches!(found, Err(Error::Length { expected: 2, found: 3, .. })), format!("{found:?}"))?;
    let found = solver.set_bounds(&[0.0; 2], &[1.0; 3]);
    ensure(matches!(found, Err(Error::Length { .. })), format!("{found:?}"))?;
    let found = solver.set_bounds(&[0.0, f32::NAN], &[1.0; 2]);
    ensure(matches!(found, Err(Error::Hyperparameter { .. })), format!("{found:?}"))?;
    let found = solver.read_blocking();
    ensure(matches!(found, Err(Error::MissingUsage { .. })), format!("{found:?}"))
}
