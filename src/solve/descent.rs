//! Gradient descent, nonlinear conjugate gradients, BFGS and L-BFGS: one loop, four directions.

use std::collections::VecDeque;

use super::space::{D, FREE_SCALAR, G, G0, Probe, Scale, Space, Vector, X};
use super::wolfe::{Point, Search};
use super::{Direction, LineSearch, Options, Status, Summary};

/// Pairs with y·s below this are not kept: PyTorch's.
const CURVATURE: f64 = 1e-10;

/// A pair of L-BFGS: y = Δg, s = Δx, ρ = 1 / y·s.
#[derive(Clone, Copy, Debug)]
struct Pair {
    y: Vector,
    s: Vector,
    rho: f64,
}

/// What a method has learnt, which goes on from step to step.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pairs: VecDeque<Pair>,
    /// Pairs that are no longer used.
    free: Vec<Pair>,
    /// Vectors beside the four fixed ones, made when they are first needed.
    scratch: Vec<Vector>,
    /// y·s / y·y of the newest pair.
    scale: f64,
    /// Updates of the matrix of BFGS.
    updates: u64,
    iterations: u64,
    /// The last step along D.
    t: f64,
    /// G·G at the point before.
    gg: f64,
}

/// Along D, the slope where it follows from what is known here. `Err`: the equations for D have no solution.
type Directed = Result<Option<f64>, Status>;

impl Memory {
    fn scratch<S: Space>(&mut self, space: &mut S, k: usize) -> Result<Vector, S::Error> {
        while self.scratch.len() <= k {
            self.scratch.push(space.vector()?);
        }
        Ok(self.scratch[k])
    }

    /// D from what is known at X.
    async fn direct<S: Space>(
        &mut self,
        space: &mut S,
        direction: Direction,
        here: &Probe,
    ) -> Result<Directed, S::Error> {
        match direction {
            Direction::Newton => return Ok(if space.newton().await? { Ok(None) } else { Err(Status::Singular) }),
            Direction::NewtonCg => return self.newton_cg(space, here).await,
            Direction::Steepest => {}
            _ if self.iterations == 1 => {}
            Direction::ConjugateGradient => {
                // From the start again where that does not descend.
                let beta = (here.gy / self.gg).max(0.0);
                let beta = if beta.is_finite() && beta * here.slope < here.gg { beta } else { 0.0 };
                space.combine(D, -1.0, G, beta, D);
                return Ok(Ok(Some(beta * here.slope - here.gg)));
            }
            Direction::Lbfgs { history_size } => {
                if here.ys > CURVATURE && history_size > 0 {
                    if self.pairs.len() == history_size {
                        self.free.extend(self.pairs.pop_front());
                    }
                    let Pair { y, s, .. } = match self.free.pop() {
                        Some(pair) => pair,
                        None => Pair { y: space.vector()?, s: space.vector()?, rho: 0.0 },
                    };
                    space.combine(y, 1.0, G, -1.0, G0);
                    space.combine(s, self.t, D, 0.0, D);
                    self.pairs.push_back(Pair { y, s, rho: 1.0 / here.ys });
                    self.scale = here.ys / here.yy;
                }
                self.two_loops(space)?;
                return Ok(Ok(None));
            }
            Direction::Bfgs => {
                // As an angle: unknowns may be of any size.
                if here.ys > CURVATURE * here.yy.sqrt() * self.t * here.max_d {
                    let (y, s, h) = (self.scratch(space, 1)?, self.scratch(space, 2)?, self.scratch(space, 3)?);
                    if self.updates == 0 {
                        // As large as the curvature that is seen: Nocedal and Wright (6.20).
                        space.identity(here.ys / here.yy)?;
                    }
                    space.combine(y, 1.0, G, -1.0, G0);
                    space.combine(s, self.t, D, 0.0, D);
                    space.multiply(h, 1.0, y);
                    space.dot(FREE_SCALAR, false, 1.0, y, h);
                    space.rank_two(1.0 / here.ys, FREE_SCALAR, s, h);
                    self.updates += 1;
                }
                if self.updates > 0 {
                    space.multiply(D, -1.0, G);
                    return Ok(Ok(None));
                }
            }
        }
        space.combine(D, -1.0, G, 0.0, G);
        Ok(Ok(Some(-here.gg)))
    }

    /// Conjugate gradients for ∇²f·d = −g, to ‖r‖ ≤ min(½, √‖g‖)·‖g‖ (Nocedal and Wright, algorithm 7.1), with a
    /// preconditioner; where the curvature is not positive, as far as they have come.
    async fn newton_cg<S: Space>(&mut self, space: &mut S, here: &Probe) -> Result<Directed, S::Error> {
        let [p, q] = space.products()?;
        let (r, z) = (self.scratch(space, 0)?, self.scratch(space, 1)?);
        let norm = here.gg.sqrt();
        let enough = norm.sqrt().min(0.5) * norm;
        space.copy(r, G);
        space.precondition(z, r);
        space.combine(p, -1.0, z, 0.0, z);
        space.combine(D, 0.0, G, 0.0, G);
        space.dot(FREE_SCALAR, false, 1.0, r, z);
        let [rz, curvature, rr] = [FREE_SCALAR, FREE_SCALAR + 1, FREE_SCALAR + 2];
        let mut before = None;
        for inner in 0..space.len() {
            space.hessian(p, q);
            space.dot(curvature, false, 1.0, p, q);
            let found = space.fetch(rr).await?;
            let rz_before = before.unwrap_or(found[rz]);
            if found[curvature].is_nan() || found[curvature] <= 0.0 {
                if inner == 0 {
                    space.combine(D, -1.0, z, 0.0, z);
                }
                break;
            }
            let alpha = rz_before / found[curvature];
            space.combine(D, alpha, p, 1.0, D);
            space.combine(r, alpha, q, 1.0, r);
            space.precondition(z, r);
            space.dot(rz, false, 1.0, r, z);
            space.dot(rr, false, 1.0, r, r);
            let found = space.fetch(rr + 1).await?;
            if found[rr].is_nan() || found[rr].sqrt() <= enough {
                break;
            }
            space.combine(p, -1.0, z, found[rz] / rz_before, p);
            before = Some(found[rz]);
        }
        Ok(Ok(None))
    }

    /// D ← −H·G by the two-loop recursion (Nocedal and Wright, algorithm 7.4). αᵢ is scalar FREE_SCALAR + i.
    fn two_loops<S: Space>(&mut self, space: &mut S) -> Result<(), S::Error> {
        let q = self.scratch(space, 0)?;
        space.combine(q, -1.0, G, 0.0, G);
        for (i, pair) in self.pairs.iter().enumerate().rev() {
            space.dot(FREE_SCALAR + i, false, pair.rho, pair.s, q);
            space.combine(q, Scale::of(-1.0, FREE_SCALAR + i), pair.y, 1.0, q);
        }
        space.combine(D, if self.pairs.is_empty() { 1.0 } else { self.scale }, q, 0.0, q);
        for (i, pair) in self.pairs.iter().enumerate() {
            space.dot(FREE_SCALAR + i, true, -pair.rho, pair.y, D);
            space.combine(D, Scale::of(1.0, FREE_SCALAR + i), pair.s, 1.0, D);
        }
        Ok(())
    }
}

/// One call of PyTorch's `step`: up to `max_iter` iterations. Leaves X at the best point; with an error, at the last
/// one that was accepted.
pub(crate) async fn step<S: Space>(space: &mut S, memory: &mut Memory, options: &Options) -> Result<Summary, S::Error> {
    let x0 = memory.scratch(space, 4)?;
    space.copy(x0, X);
    let done = iterate(space, memory, options, x0).await;
    if done.is_err() {
        space.copy(X, x0);
        memory.forget();
    }
    // Moves that are recorded and not yet made.
    let moved = space.fetch(0).await;
    done.and_then(|summary| moved.map(|_| summary))
}

async fn iterate<S: Space>(
    space: &mut S,
    memory: &mut Memory,
    options: &Options,
    x0: Vector,
) -> Result<Summary, S::Error> {
    let copies = [memory.scratch(space, 5)?, memory.scratch(space, 6)?, memory.scratch(space, 7)?];
    let mut here = space.probe(memory.t).await?;
    let mut evaluations = 1;
    let summary = |here: &Probe, status, iterations, evaluations| {
        Ok(Summary { value: here.value, gradient: here.max_g, status, iterations, evaluations })
    };
    if !here.is_finite() {
        return summary(&here, Status::NonFinite, 0, evaluations);
    }
    if here.max_g <= options.tolerance_grad {
        return summary(&here, Status::GradientTolerance, 0, evaluations);
    }
    let max_eval = options.max_eval.unwrap_or(options.max_iter.saturating_mul(5) / 4);
    for iteration in 1..=options.max_iter {
        memory.iterations += 1;
        space.copy(x0, X);
        let slope = match memory.direct(space, options.direction, &here).await? {
            Ok(slope) => slope,
            Err(status) => return summary(&here, status, iteration, evaluations),
        };
        space.copy(G0, G);
        // As PyTorch: the last point is not evaluated any more, but at the start of the next step.
        let blind = options.line_search == LineSearch::Fixed && iteration == options.max_iter;
        let slope = match slope {
            Some(slope) => Some(slope),
            None if S::EAGER || blind => {
                space.dot(FREE_SCALAR, false, 1.0, G, D);
                space.fetch(FREE_SCALAR + 1).await?.get(FREE_SCALAR).copied()
            }
            None => None,
        };
        let flat = |slope: f64| slope > -options.tolerance_change || slope.is_nan();
        let kind = |slope: f64| if slope <= 0.0 { Status::ChangeTolerance } else { Status::NoDescent };
        if let Some(slope) = slope.filter(|slope| flat(*slope)) {
            memory.gg = here.gg;
            return summary(&here, kind(slope), iteration, evaluations);
        }
        let t = memory.first_length(options, &here, slope);
        if blind {
            space.combine(X, t, D, 1.0, x0);
            (memory.t, memory.gg) = (t, here.gg);
            return summary(&here, Status::MaxIterations, iteration, evaluations);
        }
        let start = Point { t: 0.0, probe: Probe { slope: slope.unwrap_or(f64::NAN), ..here }, g: G0 };
        let most = max_eval.saturating_sub(evaluations);
        let tolerance = options.tolerance_change;
        let mut search = Search { space, x0, copies, start, evaluations: 0, finite: false, most, tolerance };
        let found = search.find(options.line_search, t).await?;
        evaluations += search.evaluations;
        let nowhere_finite = !search.finite;
        let slope = slope.unwrap_or(search.start.probe.slope);
        let Some(point) = found.filter(|point| point.probe.is_finite() && !flat(slope)) else {
            space.copy(X, x0);
            space.copy(G, G0);
            if flat(slope) {
                memory.gg = here.gg;
                return summary(&here, kind(slope), iteration, evaluations);
            }
            // The next step starts from the steepest descent.
            memory.forget();
            let status = match evaluations >= max_eval {
                _ if nowhere_finite => Status::NonFinite,
                true => Status::MaxEvaluations,
                false => Status::NoDescent,
            };
            return summary(&here, status, iteration, evaluations);
        };
        space.combine(X, point.t, D, 1.0, x0);
        if point.g != G {
            space.copy(G, point.g);
        }
        let before = here;
        (memory.t, memory.gg) = (point.t, here.gg);
        here = point.probe;
        let last = iteration == options.max_iter;
        let status = if here.max_g <= options.tolerance_grad {
            Some(Status::GradientTolerance)
        } else if last && point.t != 0.0 {
            Some(Status::MaxIterations)
        } else if evaluations >= max_eval {
            Some(Status::MaxEvaluations)
        } else if point.t == 0.0 {
            Some(Status::NoDescent)
        } else if here.max_d * point.t <= options.tolerance_change
            || (here.value - before.value).abs() < options.tolerance_change
        {
            Some(Status::ChangeTolerance)
        } else {
            None
        };
        if let Some(status) = status {
            return summary(&here, status, iteration, evaluations);
        }
    }
    summary(&here, Status::MaxIterations, options.max_iter, evaluations)
}

impl Memory {
    /// Starts again from the steepest descent.
    fn forget(&mut self) {
        self.free.extend(self.pairs.drain(..));
        (self.iterations, self.updates, self.t) = (0, 0, 0.0);
    }

    /// PyTorch's for quasi-Newton methods. Without a model of the curvature, what promises the same decrease as the
    /// step before (Nocedal and Wright, section 3.5).
    fn first_length(&self, options: &Options, here: &Probe, slope: Option<f64>) -> f64 {
        match (options.direction, options.line_search, slope) {
            (Direction::Newton | Direction::NewtonCg, ..) => options.lr,
            (Direction::Steepest | Direction::ConjugateGradient, LineSearch::Fixed, _) => options.lr,
            // Slopes are told apart over a step that counts.
            (_, LineSearch::Exact, _) if self.iterations == 1 => options.lr * (1.0 / here.max_g).min(1.0),
            (Direction::Steepest | Direction::ConjugateGradient, _, Some(slope)) if self.t > 0.0 => {
                let same = self.t * here.slope_before / slope;
                if same > 0.0 { same.min(10.0 * self.t) } else { self.t }
            }
            (Direction::Lbfgs { .. } | Direction::Bfgs, ..) if self.iterations > 1 => options.lr,
            _ => options.lr * (1.0 / here.sum_g).min(1.0),
        }
    }
}
