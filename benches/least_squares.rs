//! One large least-squares problem: an iteration of Levenberg–Marquardt (JᵀJ, Jᵀr, Cholesky's factor, the step) on
//! every adapter and on the host. `cargo bench --bench least_squares [-- M,N …]` prints both, in turns; residuals and
//! Jacobian are there already.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::solve::{GpuLeastSquares, LeastSquares, least_squares};
use wgpu_optim::{Error, Gpu};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 5;
/// Iterations of a submission to a GPU.
const EACH: u32 = 10;
const WARM_UP: Duration = Duration::from_millis(400);
const SIZES: [(usize, usize); 4] = [(1_000_000, 10), (100_000, 100), (20_000, 500), (4_000, 2_000)];

/// Seconds that an iteration takes.
type Iteration<'a> = Box<dyn FnMut() -> Outcome<f64> + 'a>;

fn on_device<'a>(gpu: &'a Gpu, r: &[f32], jacobian: &[f32]) -> Outcome<Iteration<'a>> {
    let (m, n) = (r.len(), jacobian.len() / r.len());
    let each = if gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu { 1 } else { EACH };
    let mut solver = GpuLeastSquares::new(gpu, m, n, LeastSquares::single())?;
    for (range, values) in [(solver.residuals(), r), (solver.jacobian(), jacobian)] {
        for (k, piece) in values.chunks(1 << 22).enumerate() {
            let offset = range.offset + (k << 24) as u64;
            gpu.queue().write_buffer(&range.buffer, offset, bytemuck::cast_slice(piece));
            gpu.queue().submit([]);
        }
    }
    Ok(Box::new(move || {
        let start = Instant::now();
        loop {
            let begin = Instant::now();
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            for _ in 0..each {
                // From the start each time: what is behind a rejected step is no whole iteration.
                solver.begin(&mut encoder);
                solver.iterate(&mut encoder);
            }
            gpu.queue().submit([encoder.finish()]);
            let summary = pollster::block_on(solver.summary())?;
            if summary.iterations != 1 {
                return Err(format!("{summary:?}").into());
            }
            // A GPU that has waited for the host runs at its idle clock for a while.
            if start.elapsed() > WARM_UP {
                return Ok(begin.elapsed().as_secs_f64() / f64::from(each));
            }
        }
    }))
}

fn on_host<'a>(r: &'a [f32], jacobian: &'a [f32]) -> Iteration<'a> {
    let n = jacobian.len() / r.len();
    Box::new(move || {
        let linear = |_: &[f32], to: &mut [f32], rows: Option<&mut [f32]>| {
            to.copy_from_slice(r);
            rows.into_iter().for_each(|rows| rows.copy_from_slice(jacobian));
            Ok::<_, Error>(())
        };
        let begin = Instant::now();
        least_squares(
            linear,
            r.len(),
            &mut vec![0.0; n],
            None,
            LeastSquares { max_iter: 1, ..LeastSquares::single() },
        )?;
        Ok(begin.elapsed().as_secs_f64())
    })
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Outcome<()> {
    let size = |arg: String| arg.split_once(',').and_then(|(m, n)| Some((m.parse().ok()?, n.parse().ok()?)));
    let mut sizes: Vec<(usize, usize)> = std::env::args().filter_map(size).collect();
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    let adapters = pollster::block_on(Gpu::adapters()).unwrap_or_default();
    let gpus: Vec<_> =
        adapters.iter().filter_map(|adapter| pollster::block_on(Gpu::from_adapter(adapter)).ok()).collect();
    println!("an iteration, given r and J (m × n); medians of {ROUNDS} turns, each twice; by the wall");
    println!("{:>10} {:>6}  {:40} {:>10} {:>6} {:>9} {:>9}", "m", "n", "", "ms", "A/A", "GFLOP/s", "of host");
    for (m, n) in sizes {
        let mut rng = Pcg64Mcg::seed_from_u64(0);
        let jacobian: Vec<f32> = (0..m * n).map(|_| rng.random_range(-1.0..1.0)).collect();
        let r: Vec<f32> = (0..m).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut iterations = vec![("host, QR in f64".to_owned(), on_host(&r, &jacobian))];
        for gpu in &gpus {
            match on_device(gpu, &r, &jacobian) {
                Ok(iteration) => iterations.push((gpu.name(), iteration)),
                Err(e) => println!("{m:>10} {n:>6}  {}: {e}", gpu.name()),
            }
        }
        let mut seconds = vec![[vec![], vec![]]; iterations.len()];
        for _ in 0..ROUNDS {
            for ((_, iteration), seconds) in iterations.iter_mut().zip(&mut seconds) {
                for seconds in seconds {
                    seconds.push(iteration()?);
                }
            }
        }
        let times: Vec<_> = seconds.into_iter().map(|twice| twice.map(median)).collect();
        // JᵀJ below its diagonal, Jᵀr, the factor: a multiplication and an addition each.
        let (m_, n_) = (m as f64, n as f64);
        let flops = m_ * n_ * (n_ + 3.0) + n_.powi(3) / 3.0;
        for ((name, _), [a, again]) in iterations.iter().zip(&times) {
            let (rate, of_host) = (flops / a / 1e9, times[0][0] / a);
            println!("{m:>10} {n:>6}  {name:40} {:>10.3} {:>6.2} {rate:>9.0} {of_host:>9.2}", a * 1e3, again / a);
        }
    }
    Ok(())
}
