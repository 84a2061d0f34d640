//! `wgpu-optim solve`: the methods of [`wgpu_optim::solve`] side by side, on problems whose answers are known.

use std::process::ExitCode;

use comfy_table::CellAlignment;
use serde_json::{Map, Value, json};
use wgpu_optim::internals::philox;
use wgpu_optim::rules::{Adam, Momentum, Sgd};
use wgpu_optim::solve::{self, Damping, Hessian, LeastSquares, Options, Status, Summary};
use wgpu_optim::{AnyRule, Device, Error, Optimizer, largest};

use super::problems::{PROBLEMS, Problem};
use super::{Adapters, Outcome, certified, devices, say, table};

/// How far f may be from a known minimum, as a part of it: f there is published to six digits or more.
const RELATIVE: f64 = 1e-6;
/// How far from a minimum that is 0.
const ABSOLUTE: f64 = 1e-10;
/// Evaluations that a solver may take.
const MOST: u64 = 10_000;
/// The part of the start's cost that the methods of `--convergence` are to reach, and the steps that a rule may take.
const TARGET: f64 = 1e-6;
const STEPS: u64 = 100_000;
/// Points that random search tries.
const SAMPLES: u64 = 10_000;

/// Without a flag: all three.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How robust: 24 problems of Moré, Garbow and Hillstrom, from their standard starts, by seven methods
    ///
    /// Curved valleys, unknowns of very different scale, Jacobians that are singular at the minimum; f = Σr². `ok 23`:
    /// the method ends at the least known minimum, and was there at its 23rd evaluation. `local 23`: at another known
    /// one. `– (1.2e-3)`: elsewhere, with this f. The exit status is a failure if Levenberg–Marquardt, which sees each
    /// residual, misses one.
    #[arg(long)]
    suite: bool,
    /// How fast: a fit by everything from random search to Levenberg–Marquardt, and a regression by one step of
    /// Newton's method
    ///
    /// A sum of two exponentials is fitted to exact points, until ½Σr² is a millionth of what it was. The rate of
    /// gradient descent must suit the largest curvature, and then it creeps where that is small. Momentum and Adam
    /// creep less; L-BFGS learns the curvature from gradients, Levenberg–Marquardt has it from the Jacobian.
    #[arg(long)]
    convergence: bool,
    /// How exact: digits of NIST's certified parameters, on the host in f64 and f32 and on each adapter, from both of
    /// NIST's starts
    ///
    /// Of the worst parameter; 11 are certified. The first start is the farther one. In f32 unknowns, residuals and
    /// Jacobian are rounded: that costs more digits the less the data determine the parameters. An adapter has two
    /// columns: one problem by GpuLeastSquares, and one of many by GpuFits. The evaluations are those of the residuals,
    /// as MINPACK counts them (nfev): the Jacobian is computed at accepted points and not counted. The exit status is a
    /// failure if f64 misses six digits of a set.
    #[arg(long)]
    nist: bool,
    #[command(flatten)]
    adapters: Adapters,
    /// One JSON object a row instead of tables.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let all = !(args.suite || args.convergence || args.nist);
    let sound = if all || args.suite { suite(args.json)? } else { true };
    if all || args.convergence {
        convergence(args.json)?;
    }
    let exact = if all || args.nist { certified::run(args.json, &devices(&args.adapters)?.said())? } else { true };
    for (right, what) in [(sound, "a problem of the suite"), (exact, "six digits of a set of NIST's")] {
        if !right {
            eprintln!("error: Levenberg–Marquardt misses {what}");
        }
    }
    Ok(if sound && exact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A table whose first `text` columns are text, the others numbers; or the rows' objects.
fn print(json: bool, heading: &str, header: &[&str], text: usize, rows: Vec<(Value, Vec<String>)>) {
    if json {
        rows.iter().for_each(|(object, _)| say(None, &object.to_string()));
        return;
    }
    let mut table = table(header, rows.into_iter().map(|(_, cells)| cells));
    for column in text..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    say(None, heading);
    say(None, &table.to_string());
}

#[derive(Clone, Copy, Debug)]
enum Method {
    Squares(Damping),
    Descent(Options),
}

const LM: Method = Method::Squares(Damping::Diagonal);
const LBFGS: Method = Method::Descent(Options::lbfgs());
/// Levenberg–Marquardt first.
const METHODS: [(&str, Method); 7] = [
    ("LM", LM),
    ("Levenberg", Method::Squares(Damping::Identity)),
    ("Gauss–Newton", Method::Squares(Damping::None)),
    ("L-BFGS", LBFGS),
    ("BFGS", Method::Descent(Options::bfgs())),
    ("CG", Method::Descent(Options::conjugate_gradient())),
    ("descent", Method::Descent(Options::gradient_descent())),
];

/// ½Σr² of a problem, and what it has been so far.
struct Objective<'a> {
    problem: &'a Problem,
    r: Vec<f64>,
    jacobian: Vec<f64>,
    /// At each point that was evaluated.
    costs: Vec<f64>,
}

impl<'a> Objective<'a> {
    fn new(problem: &'a Problem) -> Self {
        let (n, m) = (problem.start.len(), problem.residuals);
        Self { problem, r: vec![0.0; m], jacobian: vec![0.0; m * n], costs: Vec::new() }
    }

    /// The cost, and its gradient Jᵀr.
    fn gradient(&mut self, x: &[f64], g: &mut [f64]) -> Result<f64, Error> {
        (self.problem.at)(x, &mut self.r, &mut self.jacobian);
        g.fill(0.0);
        for (row, r) in self.jacobian.chunks(x.len()).zip(&self.r) {
            g.iter_mut().zip(row).for_each(|(g, j)| *g += j * r);
        }
        let cost = half_square(&self.r);
        self.costs.push(cost);
        Ok(cost)
    }

    fn residuals(&mut self, x: &[f64], r: &mut [f64], jacobian: Option<&mut [f64]>) -> Result<(), Error> {
        // Behind the start, J is asked for where r is known already.
        let new = jacobian.is_none() || self.costs.is_empty();
        (self.problem.at)(x, r, jacobian.unwrap_or(&mut self.jacobian));
        if new {
            self.costs.push(half_square(r));
        }
        Ok(())
    }
}

fn half_square(r: &[f64]) -> f64 {
    r.iter().map(|r| 0.5 * r * r).sum()
}

/// From the problem's start as far as the method comes, and the costs on the way.
fn minimize(problem: &Problem, method: Method, max_iter: u64) -> Result<(Summary, Vec<f64>), Error> {
    let mut objective = Objective::new(problem);
    let mut x = problem.start.to_vec();
    let summary = match method {
        Method::Squares(damping) => {
            let residuals = |x: &[f64], r: &mut [f64], j: Option<&mut [f64]>| objective.residuals(x, r, j);
            let options =
                LeastSquares { damping, max_iter, ftol: 1e-15, xtol: 1e-15, gtol: 0.0, ..LeastSquares::default() };
            solve::least_squares(residuals, problem.residuals, &mut x, None, options)?
        }
        Method::Descent(options) => {
            let cost = |x: &[f64], g: &mut [f64]| objective.gradient(x, g);
            let (max_eval, tolerance_grad, tolerance_change) = (Some(MOST), 1e-12, 0.0);
            let options = Options { max_iter, max_eval, tolerance_grad, tolerance_change, ..options };
            solve::minimize(cost, &mut x, options)?
        }
    };
    Ok((summary, objective.costs))
}

/// Whether Levenberg–Marquardt solves all problems.
fn suite(json: bool) -> Result<bool, Error> {
    let near = |f: f64, minimum: f64| (f - minimum).abs() <= if minimum == 0.0 { ABSOLUTE } else { RELATIVE * minimum };
    let (mut rows, mut solved) = (Vec::new(), [0; METHODS.len()]);
    for problem in PROBLEMS {
        let (n, m) = (problem.start.len(), problem.residuals);
        let least = problem.minima.first().copied().unwrap_or(f64::NAN);
        let minimum = if least == 0.0 { "0".to_owned() } else { format!("{least:.4e}") };
        let (mut cells, mut objects) =
            (vec![problem.name.to_owned(), n.to_string(), m.to_string(), minimum], Map::new());
        for ((name, method), solved) in METHODS.into_iter().zip(&mut solved) {
            let (summary, costs) = minimize(problem, method, MOST)?;
            let f = 2.0 * summary.value;
            let end = problem.minima.iter().copied().find(|&minimum| near(f, minimum));
            let at = end.map(|minimum| if minimum == least { "ok" } else { "local" });
            let first = end.and_then(|end| costs.iter().position(|cost| near(2.0 * cost, end))).map(|k| k + 1);
            *solved += usize::from(end.is_some());
            cells.push(match at.zip(first) {
                Some((at, first)) => format!("{at} {first}"),
                None => format!("– ({f:.1e})"),
            });
            let object = json!({
                "f": f, "minimum": at, "evaluations_until_there": first, "evaluations": summary.evaluations,
                "iterations": summary.iterations, "status": summary.status,
            });
            objects.insert(name.to_owned(), object);
        }
        let object = json!({
            "problem": problem.name, "unknowns": n, "residuals": m, "minima": problem.minima, "methods": objects,
        });
        rows.push((object, cells));
    }
    let heading = format!(
        "Moré, Garbow and Hillstrom's problems in f64, from their standard starts: evaluations until f is at a known minimum \
         (ok: the least, local: another); –: not within {MOST}, and the last f"
    );
    let header: Vec<_> =
        ["problem", "n", "m", "minimum"].into_iter().chain(METHODS.iter().map(|(name, _)| *name)).collect();
    print(json, &heading, &header, 1, rows);
    if !json {
        let counts: Vec<_> =
            METHODS.iter().zip(&solved).map(|((name, _), solved)| format!("{name} {solved}")).collect();
        say(None, &format!("At a known minimum, of {}: {}\n", PROBLEMS.len(), counts.join(", ")));
    }
    Ok(solved[0] == PROBLEMS.len())
}

const TRUTH: [f64; 4] = [2.0, 0.5, 1.0, 3.0];
const START: [f64; 4] = [1.0, 1.0, 1.0, 2.0];
const DECAYS: Problem = Problem { name: "two decays", residuals: 40, start: &START, minima: &[0.0], at: decays };
const REGRESSION: Problem =
    Problem { name: "linear regression", residuals: 40, start: &[0.0; 10], minima: &[], at: regression };

/// x₀·exp(−x₁·t) + x₂·exp(−x₃·t), less the same at `TRUTH`, at t = 0, 0.1, …
fn decays(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let y = |x: &[f64], t: f64| x[0] * (-x[1] * t).exp() + x[2] * (-x[3] * t).exp();
    for (k, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(4)).enumerate() {
        let t = k as f64 / 10.0;
        let (e1, e3) = ((-x[1] * t).exp(), (-x[3] * t).exp());
        *r = y(x, t) - y(&TRUTH, t);
        row.copy_from_slice(&[e1, -t * x[0] * e1, e3, -t * x[2] * e3]);
    }
}

/// Data from the weights 1, 2, … and noise.
fn regression(w: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    for (i, (r, row)) in (0..).zip(residuals.iter_mut().zip(jacobian.chunks_exact_mut(w.len()))) {
        *r = -uniform(i, u32::MAX);
        for (j, (a, w)) in (0..).zip(row.iter_mut().zip(w)) {
            *a = uniform(i, j);
            *r += *a * (w - f64::from(j + 1));
        }
    }
}

/// From −1 to 1, always the same.
fn uniform(i: u32, j: u32) -> f64 {
    2.0 * f64::from(philox([i, j, 0, 0], [0, 0])[0]) / f64::from(u32::MAX) - 1.0
}

/// Where a method has come to, and what it took.
struct Reached {
    iterations: u64,
    evaluations: u64,
    cost: f64,
}

/// The best of points between 0 and twice the start: where the lecture notes begin.
fn by_chance() -> Result<Reached, Error> {
    let (mut objective, mut g, mut x) = (Objective::new(&DECAYS), [0.0; START.len()], START);
    let cost = |x: &[f64]| objective.gradient(x, &mut g);
    let (lower, upper) = ([0.0; START.len()], START.map(|x| 2.0 * x));
    let Summary { value: cost, iterations, evaluations, .. } =
        solve::random_search(cost, &mut x, (&lower, &upper), SAMPLES, 0)?;
    Ok(Reached { iterations, evaluations, cost })
}

fn by_rule(rule: impl Into<AnyRule>, lr: f64, target: f64) -> Result<Reached, Error> {
    let mut optimizer = Optimizer::new(&Device::Cpu, rule, lr)?;
    let id = optimizer.add(0, "x", &START)?;
    let (mut objective, mut g, mut x) = (Objective::new(&DECAYS), [0.0; START.len()], START.to_vec());
    let mut iterations = 0;
    loop {
        let cost = objective.gradient(&x, &mut g)?;
        if cost <= target || iterations == STEPS {
            return Ok(Reached { iterations, evaluations: iterations + 1, cost });
        }
        optimizer.write_gradient(id, &g)?;
        optimizer.step()?;
        x = optimizer.read_blocking(id)?;
        iterations += 1;
    }
}

/// From the start again with one more iteration, until they are enough: no tolerance of a solver is this target.
fn by_solver(method: Method, target: f64) -> Result<Reached, Error> {
    let mut most = 1;
    loop {
        let (Summary { value: cost, status, iterations, evaluations, .. }, _) = minimize(&DECAYS, method, most)?;
        if cost <= target || status != Status::MaxIterations {
            return Ok(Reached { iterations, evaluations, cost });
        }
        most += 1;
    }
}

fn convergence(json: bool) -> Result<(), Error> {
    let cost = Objective::new(&DECAYS).gradient(&START, &mut [0.0; START.len()])?;
    let target = TARGET * cost;
    // Of the rates 1, 2 and 5 times a power of ten, those that need the fewest steps here.
    let runs = [
        ("random search", by_chance()?),
        ("gradient descent, lr 0.02", by_rule(Sgd, 0.02, target)?),
        ("momentum 0.9, lr 0.02", by_rule(Momentum::torch(0.9), 0.02, target)?),
        ("Adam, lr 0.2", by_rule(Adam::default(), 0.2, target)?),
        ("L-BFGS", by_solver(LBFGS, target)?),
        ("Levenberg–Marquardt", by_solver(LM, target)?),
    ];
    let row = |(method, Reached { iterations, evaluations, cost }): (&str, Reached)| {
        let reached = cost <= target;
        let object = json!({
            "problem": DECAYS.name, "method": method, "iterations": iterations, "evaluations": evaluations,
            "cost": cost, "target": target, "reached": reached,
        });
        let mut cells = vec![method.to_owned(), iterations.to_string(), evaluations.to_string()];
        cells.extend([format!("{cost:.2e}"), if reached { "yes" } else { "no" }.to_owned()]);
        (object, cells)
    };
    let heading = format!(
        "A fit of 2·exp(−0.5t) + exp(−3t) to {} exact points, until ½Σr² falls from {cost:.2e} to {target:.2e}",
        DECAYS.residuals
    );
    let header = ["method", "iterations", "evaluations", "cost", "reached"];
    print(json, &heading, &header, 1, runs.into_iter().map(row).collect());
    let (Summary { iterations, evaluations, .. }, error) = newton()?;
    let (name, n, m) = (REGRESSION.name, REGRESSION.start.len(), REGRESSION.residuals);
    let said = match json {
        true => json!({
            "problem": name, "method": "Newton", "iterations": iterations, "evaluations": evaluations, "error": error,
        })
        .to_string(),
        false => format!(
            "Newton's method, {name} ({n} unknowns, {m} equations): iterations {iterations}, evaluations {evaluations}, \
             {error:.0e} from the solution of the normal equations\n"
        ),
    };
    say(None, &said);
    Ok(())
}

/// The regression, and the largest difference from the solution of AᵀA·w = Aᵀb.
fn newton() -> Result<(Summary, f64), Error> {
    let mut objective = Objective::new(&REGRESSION);
    let mut w = REGRESSION.start.to_vec();
    let n = w.len();
    // At w = 0 it is −Aᵀb.
    let mut g = vec![0.0; n];
    objective.gradient(&w, &mut g)?;
    let product = |k: usize| objective.jacobian.chunks(n).map(|row| row[k / n] * row[k % n]).sum::<f64>();
    let normal: Vec<_> = (0..n * n).map(product).collect();
    let solution = eliminate(normal.clone(), g.iter().map(|g| -g).collect());
    let mut hessian = |_: &[f64], h: &mut [f64]| -> Result<(), Error> {
        h.copy_from_slice(&normal);
        Ok(())
    };
    let cost = |w: &[f64], g: &mut [f64]| objective.gradient(w, g);
    let summary = solve::minimize_with(cost, Hessian::Matrix(&mut hessian), &mut w, Options::newton())?;
    let error = w.iter().zip(&solution).map(|(w, solution)| (w - solution).abs()).fold(0.0, largest);
    Ok((summary, error))
}

/// a⁻¹·b for a positive definite a, which needs no pivots.
fn eliminate(mut a: Vec<f64>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        for i in k + 1..n {
            let factor = a[i * n + k] / a[k * n + k];
            for j in k..n {
                a[i * n + j] -= factor * a[k * n + j];
            }
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let rest: f64 = (k + 1..n).map(|j| a[k * n + j] * b[j]).sum();
        b[k] = (b[k] - rest) / a[k * n + k];
    }
    b
}
