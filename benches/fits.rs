//! 100,000 exponential fits, y = a·exp(−b·t) + c at 32 noisy points each: on every adapter, on all cores, and one by
//! one by the levenberg-marquardt crate. `cargo bench --bench fits [-- PROBLEMS]` prints problems a second, in turns,
//! and how far the unknowns are from those of our fits in f64.

use std::time::Instant;

use levenberg_marquardt::{LeastSquaresProblem, LevenbergMarquardt};
use nalgebra::{Dyn, Matrix, OMatrix, OVector, U3, VecStorage, Vector3};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::Gpu;
use wgpu_optim::solve::{Decay, GpuFits, LeastSquares, fit};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROWS: usize = 32;
const ROUNDS: usize = 5;

/// One problem of the crate that is compared with.
struct One<'a> {
    x: Vector3<f32>,
    data: &'a [f32],
}

impl LeastSquaresProblem<f32, Dyn, U3> for One<'_> {
    type ParameterStorage = nalgebra::ArrayStorage<f32, 3, 1>;
    type ResidualStorage = VecStorage<f32, Dyn, nalgebra::U1>;
    type JacobianStorage = VecStorage<f32, Dyn, U3>;

    fn set_params(&mut self, x: &Vector3<f32>) {
        self.x = *x;
    }

    fn params(&self) -> Vector3<f32> {
        self.x
    }

    fn residuals(&self) -> Option<OVector<f32, Dyn>> {
        let residual = |row: &[f32]| self.x[0] * (-self.x[1] * row[0]).exp() + self.x[2] - row[1];
        Some(OVector::<f32, Dyn>::from_iterator(ROWS, self.data.chunks(2).map(residual)))
    }

    fn jacobian(&self) -> Option<Matrix<f32, Dyn, U3, Self::JacobianStorage>> {
        Some(OMatrix::<f32, Dyn, U3>::from_fn(ROWS, |k, i| {
            let (t, fallen) = (self.data[2 * k], (-self.x[1] * self.data[2 * k]).exp());
            [fallen, -self.x[0] * t * fallen, 1.0][i]
        }))
    }
}

/// Who fits, and the unknowns that come of it.
type Fitter<'a> = Box<dyn FnMut() -> Outcome<Vec<f32>> + 'a>;

fn main() -> Outcome<()> {
    let problems = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(100_000);
    let mut rng = Pcg64Mcg::seed_from_u64(0);
    let mut data = Vec::new();
    for _ in 0..problems {
        let x = [rng.random_range(1.0..3.0f32), rng.random_range(0.5..2.0), rng.random_range(-0.5..0.5)];
        for k in 0..ROWS {
            let t = k as f32 / 8.0;
            data.extend([t, x[0] * (-x[1] * t).exp() + x[2] + rng.random_range(-0.02..0.02)]);
        }
    }
    let start = [1.0f32, 1.0, 0.0].repeat(problems);
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let exact = fit::<f64, Decay>(ROWS, &wide(&data), &wide(&start), LeastSquares::default())?;
    let options = LeastSquares::single();
    let adapters = pollster::block_on(Gpu::adapters()).unwrap_or_default();
    let gpus: Vec<_> =
        adapters.iter().filter_map(|adapter| pollster::block_on(Gpu::from_adapter(adapter)).ok()).collect();
    let cores = format!("ours, {} threads", rayon::current_num_threads());
    let mut fitters: Vec<(String, Fitter<'_>)> = Vec::new();
    fitters.push((cores.clone(), Box::new(|| Ok(fit::<f32, Decay>(ROWS, &data, &start, options)?.x))));
    fitters.push((format!("{cores}, again"), Box::new(|| Ok(fit::<f32, Decay>(ROWS, &data, &start, options)?.x))));
    for gpu in &gpus {
        for lanes in [1, 8, 32] {
            let fits = GpuFits::<Decay>::with_lanes(gpu, problems, ROWS, options, lanes)?;
            let (data, start) = (&data, &start);
            let run = move || {
                fits.write(data, start)?;
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                fits.encode(&mut encoder)?;
                gpu.queue().submit([encoder.finish()]);
                Ok(fits.read_blocking()?.x)
            };
            fitters.push((format!("{}, {lanes} threads a problem", gpu.name()), Box::new(run)));
        }
    }
    let alone = || {
        let method = LevenbergMarquardt::new();
        let each = start.chunks(3).zip(data.chunks(2 * ROWS)).flat_map(|(start, data)| {
            let (one, _) = method.minimize(One { x: Vector3::from_column_slice(start), data });
            [one.x[0], one.x[1], one.x[2]]
        });
        Ok(each.collect())
    };
    fitters.push(("levenberg-marquardt 0.15, one thread".into(), Box::new(alone)));
    let mut seconds = vec![Vec::new(); fitters.len()];
    let mut apart = vec![0.0f64; fitters.len()];
    for _ in 0..ROUNDS {
        for (k, (_, fitter)) in fitters.iter_mut().enumerate() {
            let begin = Instant::now();
            let x = fitter()?;
            seconds[k].push(begin.elapsed().as_secs_f64());
            let errors = x.iter().zip(&exact.x).map(|(&x, b)| (f64::from(x) - b).abs());
            apart[k] = errors.fold(0.0, f64::max);
        }
    }
    println!(
        "{problems} fits of 3 unknowns to {ROWS} points, writes and read-back included; medians of {ROUNDS} turns"
    );
    println!("{:60} {:>12} {:>10} {:>14}", "", "fits/s", "of ours", "worst error");
    let median = |seconds: &[f64]| {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let ours = median(&seconds[0]);
    for ((name, _), (seconds, apart)) in fitters.iter().zip(seconds.iter().zip(&apart)) {
        let time = median(seconds);
        println!("{name:60} {:>12.0} {:>10.2} {apart:>14.1e}", problems as f64 / time, ours / time);
    }
    Ok(())
}
