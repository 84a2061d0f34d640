//! Golden `objective_trajectory`, `minimize`, `least_squares` and `nist_strd` files: PyTorch's L-BFGS, Nesterov's
//! method, SciPy's solvers, NIST's certified parameters.

use crate::rules::Momentum;
use crate::solve::{self, Hessian, LeastSquares, LineSearch, Minimizer, Options};
use crate::{Device, Error, Optimizer, Real};
use serde_json::Value;

use super::comparison::{Engine, F32_FILE, F64, Verdict, Worst, keep_worse, scaled};
use super::golden::numbers_of;
use super::nist;

/// SciPy's solvers stop at max|g| ≤ 1e-8, and the least curvature at a minimum of Rosenbrock's function is above 0.2:
/// each of two solvers is within 5e-8 of the minimum.
const MINIMUM: f64 = 1e-7;
/// Digits of NIST's certified parameters that are asked for in f64.
const CERTIFIED: f64 = 1e-6;
/// L-BFGS amplifies rounding: how far runs are from ours whose start is one unit in the last place away is how far a
/// run may be that sums in another order; with a margin of ten.
const SPREAD: f64 = 10.0;
/// Beyond this tolerance, relative to the unknowns, iterates say nothing about each other.
const CHAOTIC: f64 = 1e-2;

type Run = Result<Worst, Error>;

/// Compares a file's results with ours, on each engine that the comparison is made for.
pub(crate) async fn verdict(file: &Value, engines: &[Engine]) -> Result<Verdict, String> {
    let start = match file["kind"].as_str() {
        Some("nist_strd") => Vec::new(),
        _ => numbers_of(&file["params0"])?,
    };
    let optimizer = file["optimizer"].as_str().unwrap_or_default();
    let mut worst: Option<(Worst, String)> = None;
    for engine in engines {
        let run = match (file["kind"].as_str().unwrap_or_default(), optimizer) {
            ("objective_trajectory", "Nesterov") => nesterov(file, engine, &start).await?,
            ("objective_trajectory", "LBFGS") if matches!(engine.device, Device::Cpu) => {
                match (engine.f64, file["dtype"] == "f64") {
                    (true, true) => lbfgs::<f64>(file, &start)?,
                    (false, false) => lbfgs::<f32>(file, &start)?,
                    _ => continue,
                }
            }
            ("minimize", _) if engine.f64 => minimize(file, optimizer, &start)?,
            ("least_squares", _) if engine.f64 => least_squares(file, &start)?,
            ("nist_strd", _) if engine.f64 => certified(file)?,
            _ => continue,
        };
        let found = run.unwrap_or_else(|e| Worst::failed(e.to_string()));
        keep_worse(&mut worst, found, engine);
    }
    Ok(Verdict::of(worst))
}

/// Σ 100(xᵢ₊₁ − xᵢ²)² + (1 − xᵢ)², and its gradient.
fn rosenbrock<F: Real>(x: &[F], g: &mut [F]) -> Result<F, Error> {
    let [one, two, hundred] = [1.0, 2.0, 100.0].map(F::of);
    g.fill(F::zero());
    let mut value = F::zero();
    for i in 0..x.len().saturating_sub(1) {
        let (a, b) = (one - x[i], x[i + 1] - x[i] * x[i]);
        value += hundred * b * b + a * a;
        g[i] += -two * two * hundred * x[i] * b - two * a;
        g[i + 1] += two * hundred * b;
    }
    Ok(value)
}

/// Its matrix of second derivatives.
fn curvature(x: &[f64], h: &mut [f64]) {
    let n = x.len();
    h.fill(0.0);
    for i in 0..n.saturating_sub(1) {
        h[i * n + i] += 1200.0 * x[i] * x[i] - 400.0 * x[i + 1] + 2.0;
        h[(i + 1) * n + i + 1] += 200.0;
        h[i * n + i + 1] -= 400.0 * x[i];
        h[(i + 1) * n + i] -= 400.0 * x[i];
    }
}

/// Compares iterates and counts of PyTorch's L-BFGS with a run in the file's precision. In f32 the path may be chaotic:
/// once runs from neighbouring starts are far apart, the objective is compared instead of the iterates, and counts only
/// if neighbours agree on them.
fn lbfgs<F: Real>(file: &Value, start: &[f64]) -> Result<Run, String> {
    let hyper = &file["hyper"];
    let number = |key: &str| hyper[key].as_f64().ok_or_else(|| format!("`{key}` is not a number"));
    let options = Options {
        direction: solve::Direction::Lbfgs { history_size: number("history_size")? as usize },
        line_search: if hyper["line_search_fn"].is_null() { LineSearch::Fixed } else { LineSearch::STRONG_WOLFE },
        lr: number("lr")?,
        max_iter: number("max_iter")? as u64,
        max_eval: Some(number("max_eval")? as u64),
        tolerance_grad: number("tolerance_grad")?,
        tolerance_change: number("tolerance_change")?,
    };
    let cast = |v: &[f64]| v.iter().map(|&x| F::of(x)).collect::<Vec<F>>();
    let (a, b) = match file["A"].is_null() {
        true => (Vec::new(), Vec::new()),
        false => (cast(&numbers_of(&file["A"])?), cast(&numbers_of(&file["b"])?)),
    };
    // ½‖A·x − b‖².
    let squares = |x: &[F], g: &mut [F]| {
        g.fill(F::zero());
        let mut value = F::zero();
        for (row, &b) in a.chunks(x.len()).zip(&b) {
            let r = row.iter().zip(x).fold(F::zero(), |sum, (&a, &x)| sum + a * x) - b;
            g.iter_mut().zip(row).for_each(|(g, &a)| *g += a * r);
            value += F::of(0.5) * r * r;
        }
        Ok::<_, Error>(value)
    };
    let objective = |x: &[F], g: &mut [F]| if a.is_empty() { rosenbrock(x, g) } else { squares(x, g) };
    let steps = file["steps"].as_u64().ok_or("no `steps`")?;
    let counts = |key: &str| numbers_of(&file[key]);
    let (iterations, evaluations) = (counts("n_iter")?, counts("func_evals")?);
    let mut golden = Vec::new();
    for t in 1..=steps {
        golden.push(numbers_of(&file["iterates"][t.to_string()])?);
    }
    if golden.iter().any(|x| x.len() != start.len()) || iterations.len() < golden.len() {
        return Err("`iterates` and `n_iter` do not fit".into());
    }
    let wide = |x: &[F]| x.iter().map(|x| x.to_f64().unwrap_or(f64::NAN)).collect::<Vec<f64>>();
    let value = |x: &[F]| -> Result<f64, Error> {
        Ok(objective(x, &mut vec![F::zero(); x.len()])?.to_f64().unwrap_or(f64::NAN))
    };
    // Ours from a start: x and the objective behind each step, with the counts until there.
    let run = |start: Vec<F>| -> Result<Vec<Step>, Error> {
        let (mut x, mut taken, mut evaluated) = (start, 0, 0);
        let mut minimizer = Minimizer::new(x.len(), options)?;
        let step = |_| {
            let summary = minimizer.step(objective, &mut x)?;
            (taken, evaluated) = (taken + summary.iterations, evaluated + summary.evaluations);
            Ok(Step { x: wide(&x), value: value(&x)?, counts: [taken, evaluated] })
        };
        (0..steps).map(step).collect()
    };
    let single = file["dtype"] != "f64";
    let exact = if single { F32_FILE } else { F64 };
    let compare = || -> Run {
        let ours = run(cast(start))?;
        let mut others = Vec::new();
        for k in 1..=8 {
            // By a unit in the last place.
            let ulp = |x: F| F::epsilon() * x.abs().max(F::one());
            let nudged = |(i, x): (usize, F)| if (k >> (i % 4)) & 1 == 1 { x + ulp(x) } else { x };
            others.push(run(cast(start).into_iter().enumerate().map(nudged).collect())?);
        }
        let (mut worst, mut scale, mut chaotic) = (Worst::none(), vec![0.0f64; start.len()], false);
        for (t, step) in ours.iter().enumerate() {
            let at = t + 1;
            for (scale, (start, b)) in scale.iter_mut().zip(start.iter().zip(&golden[t])) {
                *scale = scale.max(start.abs()).max(b.abs());
            }
            let others = || others.iter().map(|other| &other[t]);
            let spread = |i: usize| others().map(|o| scaled(o.x[i], step.x[i], scale[i])).fold(0.0, f64::max);
            let spreads: Vec<_> = (0..start.len()).map(spread).collect();
            chaotic |= single && spreads.iter().any(|&s| SPREAD * s > CHAOTIC);
            if chaotic {
                let theirs = value(&cast(&golden[t]))?;
                let spread = others().map(|other| (other.value - step.value).abs()).fold(0.0, f64::max);
                let tolerance = (exact * theirs.abs()).max(SPREAD * spread);
                let what = || format!("the objective at step {at}, behind a chaotic path");
                worst.note((step.value - theirs).abs(), tolerance, what);
                continue;
            }
            for (ours, theirs, what) in
                [(step.counts[0], iterations[t], "iterations"), (step.counts[1], evaluations[t], "evaluations")]
            {
                worst.note((ours as f64 - theirs).abs(), 0.5, || format!("{ours} {what}, step {at}"));
            }
            for (i, (&x, &b)) in step.x.iter().zip(&golden[t]).enumerate() {
                worst.note(scaled(x, b, scale[i]), exact.max(SPREAD * spreads[i]), || format!("x[{i}] at step {at}"));
            }
        }
        Ok(worst)
    };
    Ok(compare())
}

/// Where a run is after a step.
struct Step {
    x: Vec<f64>,
    value: f64,
    /// Iterations and evaluations so far.
    counts: [u64; 2],
}

/// Nesterov's two-point form: gradients at the point ahead, ρ constant or (tₖ₋₁ − 1)/tₖ.
async fn nesterov(file: &Value, engine: &Engine, start: &[f64]) -> Result<Run, String> {
    let hyper = &file["hyper"];
    let d = numbers_of(&hyper["d"])?;
    let number = |key: &str| hyper[key].as_f64().ok_or_else(|| format!("`{key}` is not a number"));
    let (lr, rho) = (number("lr")?, number("rho")?);
    let changing = file["variant"].as_str().unwrap_or_default().contains("nesterov1983");
    let steps = file["steps"].as_u64().ok_or("no `steps`")?;
    let mut golden = vec![start.to_vec()];
    for t in 1..=steps {
        golden.push(numbers_of(&file["iterates"][t.to_string()])?);
    }
    if golden.iter().any(|x| x.len() != d.len()) {
        return Err("`iterates` and `d` do not fit".into());
    }
    let rhos: Vec<_> = (0..steps)
        .scan(1.0f64, |t, k| {
            let next = 0.5 * (1.0 + (1.0 + 4.0 * *t * *t).sqrt());
            let rho = if !changing {
                rho
            } else if k == 0 {
                0.0
            } else {
                (*t - 1.0) / next
            };
            if k > 0 {
                *t = next;
            }
            Some(rho)
        })
        .collect();
    let tolerance = if engine.f64 { F64 } else { 5e-6 };
    Ok(match engine.f64 {
        true => accelerated::<f64>(&engine.device, lr, &rhos, &d, &golden, tolerance).await,
        false => accelerated::<f32>(&engine.device, lr, &rhos, &d, &golden, tolerance).await,
    })
}

async fn accelerated<F: Real>(
    device: &Device,
    lr: f64,
    rhos: &[f64],
    d: &[f64],
    golden: &[Vec<f64>],
    tolerance: f64,
) -> Run {
    let cast = |v: &[f64]| v.iter().map(|&x| F::of(x)).collect::<Vec<F>>();
    let mut optimizer = Optimizer::new(device, Momentum::keras(0.0), lr)?;
    optimizer.add(0, "x", &cast(&golden[0]))?;
    let (mut worst, mut scale) = (Worst::none(), vec![0.0f64; d.len()]);
    for (t, rho) in rhos.iter().enumerate() {
        optimizer.set_rule(0, Momentum::keras(*rho))?;
        optimizer.look_ahead()?;
        let ahead: Vec<F> = optimizer.read("x").await?;
        let gradient: Vec<F> = ahead.iter().zip(d).map(|(&x, &d)| F::of(d) * x).collect();
        optimizer.write_gradient("x", &gradient)?;
        optimizer.step()?;
        let x: Vec<F> = optimizer.read("x").await?;
        for (i, (x, &b)) in x.iter().zip(&golden[t + 1]).enumerate() {
            scale[i] = scale[i].max(b.abs()).max(golden[0][i].abs());
            let x = x.to_f64().unwrap_or(f64::NAN);
            worst.note(scaled(x, b, scale[i]), tolerance, || format!("x[{i}] at step {}", t + 1));
        }
    }
    Ok(worst)
}

/// The method that stands for SciPy's. Its path is its own; it ends at the same minimum, or at (1, …, 1).
fn minimize(file: &Value, optimizer: &str, start: &[f64]) -> Result<Run, String> {
    let options = match optimizer {
        "BFGS" => Options::bfgs(),
        "CG" => Options::conjugate_gradient(),
        "L-BFGS-B" => Options::lbfgs(),
        "Newton-CG" | "trust-ncg" => Options::newton_cg(),
        "trust-exact" => Options::newton(),
        _ => return Ok(Ok(Worst::failed(format!("`{optimizer}` is not known")))),
    };
    let options = Options { max_iter: 2000, tolerance_grad: 1e-8, tolerance_change: 0.0, ..options };
    let theirs = numbers_of(&file["result"]["x"])?;
    if theirs.len() != start.len() {
        return Err("`result` and `params0` do not fit".into());
    }
    let mut x = start.to_vec();
    let n = x.len();
    let mut matrix = |x: &[f64], h: &mut [f64]| -> Result<(), Error> {
        curvature(x, h);
        Ok(())
    };
    let mut product = |x: &[f64], p: &[f64], out: &mut [f64]| -> Result<(), Error> {
        let mut h = vec![0.0; n * n];
        curvature(x, &mut h);
        for (row, out) in h.chunks(n).zip(out) {
            *out = row.iter().zip(p).map(|(h, p)| h * p).sum();
        }
        Ok(())
    };
    let done = match optimizer {
        "trust-exact" => solve::minimize_with(rosenbrock, Hessian::Matrix(&mut matrix), &mut x, options),
        "Newton-CG" | "trust-ncg" => {
            solve::minimize_with(rosenbrock, Hessian::Product(&mut product, None), &mut x, options)
        }
        _ => solve::minimize(rosenbrock, &mut x, options),
    };
    Ok(done.map(|summary| {
        let apart = |other: &[f64]| x.iter().zip(other).map(|(x, b)| (x - b).abs()).fold(0.0, f64::max);
        let error = apart(&theirs).min(apart(&vec![1.0; n]));
        let mut worst = Worst::none();
        let how = format!("{}, {} iterations", summary.status, summary.iterations);
        worst.note(error, MINIMUM, || format!("x ({how})"));
        worst
    }))
}

/// Rosenbrock's function as residuals 10(xᵢ₊₁ − xᵢ²) and 1 − xᵢ.
fn least_squares(file: &Value, start: &[f64]) -> Result<Run, String> {
    let (theirs, n) = (numbers_of(&file["result"]["x"])?, start.len());
    if theirs.len() != n || n < 2 {
        return Err("`result` and `params0` do not fit".into());
    }
    let residuals = |x: &[f64], r: &mut [f64], jacobian: Option<&mut [f64]>| {
        for i in 0..n - 1 {
            (r[i], r[n - 1 + i]) = (10.0 * (x[i + 1] - x[i] * x[i]), 1.0 - x[i]);
        }
        if let Some(jacobian) = jacobian {
            jacobian.fill(0.0);
            for i in 0..n - 1 {
                (jacobian[i * n + i], jacobian[i * n + i + 1]) = (-20.0 * x[i], 10.0);
                jacobian[(n - 1 + i) * n + i] = -1.0;
            }
        }
        Ok::<_, Error>(())
    };
    let mut x = start.to_vec();
    let options = LeastSquares { ftol: 1e-14, xtol: 1e-14, gtol: 1e-14, ..LeastSquares::default() };
    Ok(solve::least_squares(residuals, 2 * (n - 1), &mut x, None, options).map(|summary| {
        let mut worst = Worst::none();
        for (i, (x, b)) in x.iter().zip(&theirs).enumerate() {
            worst.note((x - b).abs(), F64, || format!("x[{i}] ({} iterations)", summary.iterations));
        }
        worst
    }))
}

/// A set of NIST's.
#[derive(Debug)]
pub struct Set<'a> {
    pub name: &'a str,
    /// Of each sample the predictors and the response.
    pub data: Vec<f64>,
    pub starts: Vec<Vec<f64>>,
    pub certified: Vec<f64>,
    /// Evaluations of SciPy's MINPACK from each start.
    pub minpack: Vec<u64>,
}

impl<'a> Set<'a> {
    pub fn read(file: &'a Value) -> Result<Self, String> {
        let predictors: Vec<_> =
            file["x"].as_array().ok_or("no `x`")?.iter().map(numbers_of).collect::<Result<_, _>>()?;
        let (y, certified) = (numbers_of(&file["y"])?, numbers_of(&file["certified"])?);
        if predictors.len() != y.len() {
            return Err("`x` and `y` do not fit together".into());
        }
        let starts = file["starts"].as_array().ok_or("no `starts`")?.iter().map(numbers_of);
        let starts = starts.collect::<Result<Vec<_>, _>>()?;
        if starts.iter().any(|start| start.len() != certified.len()) {
            return Err("`starts` and `certified` do not fit together".into());
        }
        let data = predictors.into_iter().zip(y).flat_map(|(x, y)| x.into_iter().chain([y])).collect();
        let solutions = file["solutions"].as_array().into_iter().flatten();
        let minpack = solutions.filter_map(|solution| solution["nfev"].as_u64()).collect();
        Ok(Self { name: file["variant"].as_str().unwrap_or_default(), data, starts, certified, minpack })
    }

    /// Does something with the set's model.
    pub fn with<W: nist::WithModel>(&self, what: W) -> Result<W::Out, String> {
        nist::with_model(self.name, what).ok_or_else(|| format!("the model of {:?} is not known", self.name))
    }
}

/// NIST's certified parameters, from both starts.
fn certified(file: &Value) -> Result<Run, String> {
    let set = Set::read(file)?;
    let mut fits = Vec::new();
    for start in &set.starts {
        fits.push(set.with(Fit { data: &set.data, start })?);
    }
    let run = || -> Run {
        let mut worst = Worst::none();
        for (which, fit) in (1..).zip(fits) {
            let (x, summary) = fit?;
            for (i, (x, b)) in x.iter().zip(&set.certified).enumerate() {
                let how = format!("{}, {} iterations", summary.status, summary.iterations);
                worst.note(scaled(*x, *b, b.abs()), CERTIFIED, || format!("b{} from start {which} ({how})", i + 1));
            }
        }
        Ok(worst)
    };
    Ok(run())
}

/// Levenberg–Marquardt on data of a model, in the precision of the start.
#[derive(Debug)]
pub struct Fit<'a, F> {
    pub data: &'a [f64],
    pub start: &'a [F],
}

impl<F: Real> nist::WithModel for Fit<'_, F> {
    type Out = Result<(Vec<F>, solve::Summary), Error>;

    fn with<M: solve::Model>(self) -> Self::Out {
        let n = self.start.len();
        // The model is computed in f64; unknowns, residuals and Jacobian are rounded.
        let residuals = |b: &[F], r: &mut [F], mut jacobian: Option<&mut [F]>| {
            let b: Vec<f64> = b.iter().map(|b| b.to_f64().unwrap_or(f64::NAN)).collect();
            let mut row = vec![0.0; n];
            for (i, (sample, r)) in self.data.chunks_exact(M::COLUMNS).zip(r).enumerate() {
                *r = F::of(M::residual(&b, sample, &mut row));
                if let Some(jacobian) = &mut jacobian {
                    jacobian[i * n..][..n].iter_mut().zip(&row).for_each(|(j, &x)| *j = F::of(x));
                }
            }
            Ok::<_, Error>(())
        };
        let mut x = self.start.to_vec();
        // The tolerances of the files' MINPACK.
        let options = LeastSquares { max_iter: 2000, ftol: 1e-15, xtol: 1e-15, gtol: 0.0, ..LeastSquares::default() };
        let summary = solve::least_squares(residuals, self.data.len() / M::COLUMNS, &mut x, None, options)?;
        Ok((x, summary))
    }
}
