//! Newton's method on the device: the factor of the matrix, its shift, and what has no factor.

use libtest_mimic::Failed;
use rand::RngExt;
use wgpu_optim::solve::{self, GpuMinimizer, Hessian, Options, Status};
use wgpu_optim::{Error, Gpu};

use crate::compare::ensure;
use crate::fixture::{Kernel, buffer, random};
use crate::solve::{START, VALLEY, long, objective, rosenbrock};

crate::tests!(
    a_quadratic_takes_one_step,
    indefinite_as_on_the_host,
    a_step_beyond_f32_is_shortened,
    rosenbrock_is_minimized,
    what_has_no_step
);

/// ½xᵀ·A·x − bᵀx, with A in the minimizer's own matrix.
const QUADRATIC: &str = "
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> g: array<f32>;
    @group(0) @binding(2) var<storage, read_write> value: array<f32>;
    @group(0) @binding(3) var<storage, read> a: array<f32>;
    @group(0) @binding(4) var<storage, read> b: array<f32>;
    var<workgroup> sums: array<f32, 64>;
    @compute @workgroup_size(64)
    fn main(@builtin(local_invocation_index) lane: u32) {
        let n = arrayLength(&x);
        var sum = 0.0;
        for (var i = lane; i < n; i += 64u) {
            var slope = -b[i];
            for (var j = 0u; j < n; j++) { slope += a[i * n + j] * x[j]; }
            g[i] = slope;
            sum += 0.5 * x[i] * (slope - b[i]);
        }
        sums[lane] = sum;
        workgroupBarrier();
        if lane == 0u {
            for (var k = 1u; k < 64u; k++) { sum += sums[k]; }
            value[0] = sum;
        }
    }";

/// n × n, symmetric, of −1 to 1, and a diagonal of this much more.
fn matrix(n: usize, diagonal: f32) -> Vec<f32> {
    let mut rng = random(n as u64);
    let mut a = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let element = rng.random_range(-1.0..1.0) + if i == j { diagonal } else { 0.0 };
            (a[i * n + j], a[j * n + i]) = (element, element);
        }
    }
    a
}

struct Quadratic {
    minimizer: GpuMinimizer,
    kernel: Kernel,
    b: Vec<f32>,
}

impl Quadratic {
    fn new(gpu: &Gpu, a: &[f32], n: usize, options: Options) -> Result<Self, Failed> {
        let minimizer = GpuMinimizer::new(gpu, n, options)?;
        let hessian = minimizer.hessian().ok_or("no matrix")?;
        gpu.queue().write_buffer(&hessian.buffer, hessian.offset, bytemuck::cast_slice(a));
        let b: Vec<f32> = (0..n).map(|i| 1.0 + (i % 7) as f32).collect();
        let of_b = wgpu_optim::BufferRange::new(&buffer(gpu, &b, wgpu::BufferUsages::STORAGE), 0, n);
        let ranges = [minimizer.x(), minimizer.gradient(), minimizer.value(), hessian, &of_b];
        let kernel = Kernel::new(gpu, QUADRATIC, &ranges);
        Ok(Self { minimizer, kernel, b })
    }

    fn step(&mut self) -> Result<solve::Summary, Error> {
        let Self { minimizer, kernel, .. } = self;
        pollster::block_on(minimizer.step_with(|encoder| kernel.record(encoder), |_| Ok(())))
    }

    /// The same on the host, from the same start.
    fn on_host(&self, a: &[f32], options: Options) -> Result<(solve::Summary, Vec<f64>), Error> {
        let n = self.b.len();
        let objective = |x: &[f64], g: &mut [f64]| {
            for ((g, row), &b) in g.iter_mut().zip(a.chunks(n)).zip(&self.b) {
                *g = row.iter().zip(x).map(|(&a, x)| f64::from(a) * x).sum::<f64>() - f64::from(b);
            }
            let term = |((x, g), &b): ((&f64, &f64), &f32)| 0.5 * x * (g - f64::from(b));
            Ok::<_, Error>(x.iter().zip(&*g).zip(&self.b).map(term).sum())
        };
        let mut hessian = |_: &[f64], h: &mut [f64]| {
            h.iter_mut().zip(a).for_each(|(h, &a)| *h = a.into());
            Ok(())
        };
        let mut x = vec![0.0; n];
        let summary = solve::minimize_with(objective, Hessian::Matrix(&mut hessian), &mut x, options)?;
        Ok((summary, x))
    }
}

/// ‖a − b‖ / ‖b‖.
fn error(a: &[f32], b: &[f64]) -> f64 {
    let apart: f64 = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (apart / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

/// The matrices' condition is below 10 (their eigenvalues are 3√n to 5√n and a little, Wigner's ±2√(n/3) around 4√n),
/// and a factor loses some ulps a panel: Higham, Accuracy and Stability of Numerical Algorithms, theorem 10.4.
const WITHIN: f64 = 300.0 * f32::EPSILON as f64;

fn a_quadratic_takes_one_step(gpu: &Gpu) -> Result<(), Failed> {
    for n in [1, 31, 32, 33, 96, 131, 300] {
        let a = matrix(n, 4.0 * (n as f32).sqrt());
        let options = Options { max_iter: 1, max_eval: Some(10), tolerance_grad: 1e-3, ..Options::newton() };
        let mut quadratic = Quadratic::new(gpu, &a, n, options)?;
        let summary = quadratic.step()?;
        let (host, expected) = quadratic.on_host(&a, options)?;
        let error = error(&quadratic.minimizer.read_blocking()?, &expected);
        ensure(summary.status == Status::GradientTolerance, format!("{n}: {summary:?} {host:?}"))?;
        ensure(summary.iterations == 1 && summary.evaluations == 2, format!("{n}: {summary:?}"))?;
        ensure(error < WITHIN, format!("{n}: {error:e} {summary:?} {host:?}"))?;
    }
    Ok(())
}

/// One step with the least shift of a row of shifts, here and there.
fn indefinite_as_on_the_host(gpu: &Gpu) -> Result<(), Failed> {
    for (n, diagonal) in [(2, -3.0), (40, -1.0), (70, 2.0), (33, 0.0)] {
        let a = matrix(n, diagonal);
        let options = Options { max_iter: 1, max_eval: Some(30), ..Options::newton() };
        let mut quadratic = Quadratic::new(gpu, &a, n, options)?;
        let summary = quadratic.step()?;
        let (host, expected) = quadratic.on_host(&a, options)?;
        let error = error(&quadratic.minimizer.read_blocking()?, &expected);
        // Shifted by little more than it must be, A is as badly conditioned as it was before by chance: a thousandth of
        // its norm.
        ensure(error < 10.0 * WITHIN, format!("{n} {diagonal}: {error:e} {summary:?} {host:?}"))?;
        ensure(summary.value < 0.0, format!("{summary:?}"))?;
    }
    Ok(())
}

/// Pivots that are sound, and a step of 1e39: as where there is no factor, the matrix is shifted until there is a step.
fn a_step_beyond_f32_is_shortened(gpu: &Gpu) -> Result<(), Failed> {
    let options = Options { max_iter: 1, max_eval: Some(60), ..Options::newton() };
    let mut quadratic = Quadratic::new(gpu, &[1e-37, 0.0, 0.0, 1.0], 2, options)?;
    quadratic.minimizer.write(&[0.0, 1000.0])?;
    let b = vec![100.0, 1.0];
    let of_b = wgpu_optim::BufferRange::new(&buffer(gpu, &b, wgpu::BufferUsages::STORAGE), 0, 2);
    let Quadratic { minimizer, kernel, .. } = &mut quadratic;
    let hessian = minimizer.hessian().ok_or("no matrix")?;
    let ranges = [minimizer.x(), minimizer.gradient(), minimizer.value(), hessian, &of_b];
    *kernel = Kernel::new(gpu, QUADRATIC, &ranges);
    let summary = quadratic.step()?;
    let x = quadratic.minimizer.read_blocking()?;
    ensure(summary.status == Status::MaxIterations && x[0] > 0.0 && x[1] < 1000.0, format!("{x:?} {summary:?}"))
}

fn rosenbrock_is_minimized(gpu: &Gpu) -> Result<(), Failed> {
    let hessian = "
        @group(0) @binding(0) var<storage, read> x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> h: array<f32>;
        @compute @workgroup_size(1)
        fn main() {
            let n = arrayLength(&x);
            for (var i = 0u; i < n; i++) {
                var own = 0.0;
                if i + 1u < n { own += 1200.0 * x[i] * x[i] - 400.0 * x[i + 1u] + 2.0; }
                if i > 0u {
                    own += 200.0;
                    h[i * n + i - 1u] = -400.0 * x[i - 1u];
                    h[(i - 1u) * n + i] = -400.0 * x[i - 1u];
                }
                h[i * n + i] = own;
            }
        }";
    // A value of 4 in f32 shows no descent by less than 5e-7: by a gradient of 2e-2 where the curvature is 500.
    let options = long(Options { max_eval: Some(1000), ..Options::newton() });
    let options = Options { tolerance_grad: 1e-2, ..options };
    let mut minimizer = GpuMinimizer::new(gpu, START.len(), options)?;
    minimizer.write(&START.map(|x| x as f32))?;
    let value = objective(gpu, &minimizer, VALLEY);
    let matrix = Kernel::new(gpu, hessian, &[minimizer.x(), minimizer.hessian().ok_or("no matrix")?]);
    let without = minimizer.step_blocking(|encoder| value.record(encoder));
    ensure(matches!(without, Err(Error::Unsupported { .. })), format!("{without:?}"))?;
    let summary =
        pollster::block_on(minimizer.step_with(|encoder| value.record(encoder), |encoder| matrix.record(encoder)))?;
    let mut exact = START;
    let mut matrix = |x: &[f64], h: &mut [f64]| {
        let n = x.len();
        h.fill(0.0);
        for i in 0..n - 1 {
            h[i * n + i] += 1200.0 * x[i] * x[i] - 400.0 * x[i + 1] + 2.0;
            h[(i + 1) * n + i + 1] += 200.0;
            (h[(i + 1) * n + i], h[i * n + i + 1]) = (-400.0 * x[i], -400.0 * x[i]);
        }
        Ok(())
    };
    let host = solve::minimize_with(rosenbrock, Hessian::Matrix(&mut matrix), &mut exact, options)?;
    let label = format!("{summary:?} {host:?}");
    ensure(summary.status == Status::GradientTolerance && host.status == summary.status, &label)?;
    ensure((summary.value - host.value).abs() < 1e-4, &label)?;
    ensure(summary.iterations.abs_diff(host.iterations) <= 3, &label)
}

fn what_has_no_step(gpu: &Gpu) -> Result<(), Failed> {
    let n = 40;
    for odd in [f32::NAN, f32::INFINITY] {
        let mut a = matrix(n, 50.0);
        let options = Options { max_iter: 3, ..Options::newton() };
        let mut quadratic = Quadratic::new(gpu, &a, n, options)?;
        let start = vec![0.5; n];
        quadratic.minimizer.write(&start)?;
        a[37 * n + 3] = odd;
        // What the objective makes of A is finite: its matrix is another one.
        let copy = buffer(gpu, &a, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
        let Quadratic { minimizer, kernel, .. } = &mut quadratic;
        let hessian = minimizer.hessian().ok_or("no matrix")?.clone();
        let failed =
            pollster::block_on(minimizer.step_with(|encoder| kernel.record(encoder), |_| Err(Error::DeviceLost)));
        ensure(matches!(failed, Err(Error::DeviceLost)), format!("{failed:?}"))?;
        let summary = pollster::block_on(minimizer.step_with(
            |encoder| kernel.record(encoder),
            |encoder| {
                encoder.copy_buffer_to_buffer(&copy, 0, &hessian.buffer, 0, hessian.size());
                Ok::<_, Error>(())
            },
        ))?;
        ensure(summary.status == Status::Singular, format!("{summary:?}"))?;
        ensure(minimizer.read_blocking()? == start, "x has moved")?;
    }
    let large = GpuMinimizer::new(gpu, 1 << 20, Options::newton());
    ensure(matches!(large, Err(Error::OverLimit { .. })), format!("{large:?}"))
}
