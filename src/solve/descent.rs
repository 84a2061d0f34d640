//! Gradient descent, nonlinear conjugate gradients, BFGS and L-BFGS: one loop, four directions.

use std::collections::VecDeque;

use super::vectors::{D, FREE_SCALAR, G, G0, Probe, Scale, Vector, Vectors, X};
use super::wolfe::{Point, Search};
use super::{Direction, LineSearch, Options, Status, Summary};

/// The limit of PyTorch: pairs with a smaller y·s are not kept.
const CURVATURE: f64 = 1e-10;

/// A pair of L-BFGS: y = Δg, s = Δx, ρ = 1 / y·s.
#[derive(Clone, Copy, Debug)]
struct Pair {
    y: Vector,
    s: Vector,
    rho: f64,
}

/// What a method has learnt, and keeps from step to step.
#[derive(Debug, Default)]
pub(crate) struct History {
    pairs: VecDeque<Pair>,
    /// Pairs that are no longer used.
    unused: Vec<Pair>,
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

/// The slope along D, if it follows from what is known here. `Err`: the equations for D have no solution.
type Directed = Result<Option<f64>, Status>;

impl History {
    fn scratch<V: Vectors>(&mut self, vectors: &mut V, k: usize) -> Result<Vector, V::Error> {
        while self.scratch.len() <= k {
            self.scratch.push(vectors.new_vector()?);
        }
        Ok(self.scratch[k])
    }

    /// D from what is known at X.
    async fn direct<V: Vectors>(
        &mut self,
        vectors: &mut V,
        direction: Direction,
        here: &Probe,
    ) -> Result<Directed, V::Error> {
        match direction {
            Direction::Newton => return Ok(if vectors.newton().await? { Ok(None) } else { Err(Status::Singular) }),
            Direction::NewtonCg => return self.newton_cg(vectors, here).await,
            Direction::Steepest => {}
            _ if self.iterations == 1 => {}
            Direction::ConjugateGradient => {
                // Restarts from the steepest descent if the direction does not descend.
                let beta = (here.gy / self.gg).max(0.0);
                let beta = if beta.is_finite() && beta * here.slope < here.gg { beta } else { 0.0 };
                vectors.combine(D, -1.0, G, beta, D);
                return Ok(Ok(Some(beta * here.slope - here.gg)));
            }
            Direction::Lbfgs { history_size } => {
                if here.ys > CURVATURE && history_size > 0 {
                    if self.pairs.len() == history_size {
                        self.unused.extend(self.pairs.pop_front());
                    }
                    let Pair { y, s, .. } = match self.unused.pop() {
                        Some(pair) => pair,
                        None => Pair { y: vectors.new_vector()?, s: vectors.new_vector()?, rho: 0.0 },
                    };
                    vectors.combine(y, 1.0, G, -1.0, G0);
                    vectors.combine(s, self.t, D, 0.0, D);
                    self.pairs.push_back(Pair { y, s, rho: 1.0 / here.ys });
                    self.scale = here.ys / here.yy;
                }
                self.two_loops(vectors)?;
                return Ok(Ok(None));
            }
            Direction::Bfgs => {
                // Compared as an angle, so that the size of the unknowns does not matter.
                if here.ys > CURVATURE * here.yy.sqrt() * self.t * here.max_d {
                    let (y, s, h) = (self.scratch(vectors, 1)?, self.scratch(vectors, 2)?, self.scratch(vectors, 3)?);
                    if self.updates == 0 {
                        // Scaled to the curvature of the first pair: Nocedal and Wright (6.20).
                        vectors.identity(here.ys / here.yy)?;
                    }
                    vectors.combine(y, 1.0, G, -1.0, G0);
                    vectors.combine(s, self.t, D, 0.0, D);
                    vectors.multiply(h, 1.0, y);
                    vectors.dot(FREE_SCALAR, false, 1.0, y, h);
                    vectors.rank_two(1.0 / here.ys, FREE_SCALAR, s, h);
                    self.updates += 1;
                }
                if self.updates > 0 {
                    vectors.multiply(D, -1.0, G);
                    return Ok(Ok(None));
                }
            }
        }
        vectors.combine(D, -1.0, G, 0.0, G);
        Ok(Ok(Some(-here.gg)))
    }

    /// Conjugate gradients for ∇²f·d = −g, to ‖r‖ ≤ min(½, √‖g‖)·‖g‖ (Nocedal and Wright, algorithm 7.1), with a
    /// preconditioner. They stop where the curvature is not positive.
    async fn newton_cg<V: Vectors>(&mut self, vectors: &mut V, here: &Probe) -> Result<Directed, V::Error> {
        let [p, q] = vectors.products()?;
        let (r, z) = (self.scratch(vectors, 0)?, self.scratch(vectors, 1)?);
        let norm = here.gg.sqrt();
        let enough = norm.sqrt().min(0.5) * norm;
        vectors.copy(r, G);
        vectors.precondition(z, r);
        vectors.combine(p, -1.0, z, 0.0, z);
        vectors.combine(D, 0.0, G, 0.0, G);
        vectors.dot(FREE_SCALAR, false, 1.0, r, z);
        let [rz, curvature, rr] = [FREE_SCALAR, FREE_SCALAR + 1, FREE_SCALAR + 2];
        let mut before = None;
        for inner in 0..vectors.len() {
            vectors.hessian(p, q);
            vectors.dot(curvature, false, 1.0, p, q);
            let found = vectors.fetch(rr).await?;
            let rz_before = before.unwrap_or(found[rz]);
            if found[curvature].is_nan() || found[curvature] <= 0.0 {
                if inner == 0 {
                    vectors.combine(D, -1.0, z, 0.0, z);
                }
                break;
            }
            let alpha = rz_before / found[curvature];
            vectors.combine(D, alpha, p, 1.0, D);
            vectors.combine(r, alpha, q, 1.0, r);
            vectors.precondition(z, r);
            vectors.dot(rz, false, 1.0, r, z);
            vectors.dot(rr, false, 1.0, r, r);
            let found = vectors.fetch(rr + 1).await?;
            if found[rr].is_nan() || found[rr].sqrt() <= enough {
                break;
            }
            vectors.combine(p, -1.0, z, found[rz] / rz_before, p);
            before = Some(found[rz]);
        }
        Ok(Ok(None))
    }

    /// D ← −H·G by the two-loop recursion (Nocedal and Wright, algorithm 7.4). αᵢ is scalar FREE_SCALAR + i.
    fn two_loops<V: Vectors>(&mut self, vectors: &mut V) -> Result<(), V::Error> {
        let q = self.scratch(vectors, 0)?;
        vectors.combine(q, -1.0, G, 0.0, G);
        for (i, pair) in self.pairs.iter().enumerate().rev() {
            vectors.dot(FREE_SCALAR + i, false, pair.rho, pair.s, q);
            vectors.combine(q, Scale::of(-1.0, FREE_SCALAR + i), pair.y, 1.0, q);
        }
        vectors.combine(D, if self.pairs.is_empty() { 1.0 } else { self.scale }, q, 0.0, q);
        for (i, pair) in self.pairs.iter().enumerate() {
            vectors.dot(FREE_SCALAR + i, true, -pair.rho, pair.y, D);
            vectors.combine(D, Scale::of(1.0, FREE_SCALAR + i), pair.s, 1.0, D);
        }
        Ok(())
    }
}

/// One call of PyTorch's `step`: up to `max_iter` iterations. Leaves X at the best point; with an error, at the last
/// one that was accepted.
pub(crate) async fn step<V: Vectors>(
    vectors: &mut V,
    history: &mut History,
    options: &Options,
) -> Result<Summary, V::Error> {
    let x0 = history.scratch(vectors, 4)?;
    vectors.copy(x0, X);
    let done = iterate(vectors, history, options, x0).await;
    if done.is_err() {
        vectors.copy(X, x0);
        history.forget();
    }
    // Runs the last moves, which are only recorded.
    let moved = vectors.fetch(0).await;
    done.and_then(|summary| moved.map(|_| summary))
}

async fn iterate<V: Vectors>(
    vectors: &mut V,
    history: &mut History,
    options: &Options,
    x0: Vector,
) -> Result<Summary, V::Error> {
    let copies = [history.scratch(vectors, 5)?, history.scratch(vectors, 6)?, history.scratch(vectors, 7)?];
    let mut here = vectors.probe(history.t).await?;
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
        history.iterations += 1;
        vectors.copy(x0, X);
        let slope = match history.direct(vectors, options.direction, &here).await? {
            Ok(slope) => slope,
            Err(status) => return summary(&here, status, iteration, evaluations),
        };
        vectors.copy(G0, G);
        // Like PyTorch, a fixed step leaves its last point to be evaluated at the start of the next step.
        let blind = options.line_search == LineSearch::Fixed && iteration == options.max_iter;
        let slope = match slope {
            Some(slope) => Some(slope),
            None if V::EAGER || blind => {
                vectors.dot(FREE_SCALAR, false, 1.0, G, D);
                vectors.fetch(FREE_SCALAR + 1).await?.get(FREE_SCALAR).copied()
            }
            None => None,
        };
        let flat = |slope: f64| slope > -options.tolerance_change || slope.is_nan();
        let kind = |slope: f64| if slope <= 0.0 { Status::ChangeTolerance } else { Status::NoDescent };
        if let Some(slope) = slope.filter(|slope| flat(*slope)) {
            history.gg = here.gg;
            return summary(&here, kind(slope), iteration, evaluations);
        }
        let t = history.first_length(options, &here, slope);
        if blind {
            vectors.combine(X, t, D, 1.0, x0);
            (history.t, history.gg) = (t, here.gg);
            return summary(&here, Status::MaxIterations, iteration, evaluations);
        }
        let start = Point { t: 0.0, probe: Probe { slope: slope.unwrap_or(f64::NAN), ..here }, g: G0 };
        let most = max_eval.saturating_sub(evaluations);
        let tolerance = options.tolerance_change;
        let mut search = Search { vectors, x0, copies, start, evaluations: 0, finite: false, most, tolerance };
        let found = search.find(options.line_search, t).await?;
        evaluations += search.evaluations;
        let nowhere_finite = !search.finite;
        let slope = slope.unwrap_or(search.start.probe.slope);
        let Some(point) = found.filter(|point| point.probe.is_finite() && !flat(slope)) else {
            vectors.copy(X, x0);
            vectors.copy(G, G0);
            if flat(slope) {
                history.gg = here.gg;
                return summary(&here, kind(slope), iteration, evaluations);
            }
            // The next step starts from the steepest descent.
            history.forget();
            let status = match evaluations >= max_eval {
                _ if nowhere_finite => Status::NonFinite,
                true => Status::MaxEvaluations,
                false => Status::NoDescent,
            };
            return summary(&here, status, iteration, evaluations);
        };
        vectors.combine(X, point.t, D, 1.0, x0);
        if point.g != G {
            vectors.copy(G, point.g);
        }
        let before = here;
        (history.t, history.gg) = (point.t, here.gg);
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

impl History {
    /// Starts again from the steepest descent.
    fn forget(&mut self) {
        self.unused.extend(self.pairs.drain(..));
        (self.iterations, self.updates, self.t) = (0, 0, 0.0);
    }

    /// The first length of a line search. For quasi-Newton methods it is PyTorch's. Without a model of the curvature it
    /// predicts the decrease of the step before (Nocedal and Wright, section 3.5).
    fn first_length(&self, options: &Options, here: &Probe, slope: Option<f64>) -> f64 {
        match (options.direction, options.line_search, slope) {
            (Direction::Newton | Direction::NewtonCg, ..) => options.lr,
            (Direction::Steepest | Direction::ConjugateGradient, LineSearch::Fixed, _) => options.lr,
            // The first step must be long enough to tell the two slopes apart.
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
