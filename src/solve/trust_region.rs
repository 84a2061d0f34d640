//! Steps of least squares within a trust region: how far, and with which λ.
//!
//! This is the step control of MINPACK's `lmder` and `lmpar`: [Moré, 1978](https://doi.org/10.1007/BFb0067700).

use faer::{Mat, MatRef};

use super::dense;
use super::least_squares::{Damping, LeastSquares, Model, norm};

/// How far ‖D·δ‖ may be from the radius, as a fraction of it.
const NEAR: f64 = 0.1;
/// Factorizations that may be spent on one λ.
const TRIES: usize = 10;
/// The smallest λ that is tried, as a fraction of the largest that makes sense.
const LEAST: f64 = 1e-3;
/// The radius shrinks if the decrease is at most `POOR` times the predicted one, and grows from `GOOD` times on.
const POOR: f64 = 0.1;
const GOOD: f64 = 0.75;

/// The radius Δ and Marquardt's λ, from step to step.
#[derive(Clone, Copy, Debug)]
struct TrustRegion {
    radius: f64,
    lambda: f64,
    /// No step has been accepted yet.
    first: bool,
}

/// The result of a step.
pub(super) struct Trial {
    /// ‖D·δ‖.
    pub(super) length: f64,
    /// The cost before the step, and after it; not finite where the residuals are not.
    pub(super) before: f64,
    pub(super) after: f64,
    /// How much lower the model is after the step, and its slope along the step at its start.
    pub(super) predicted: f64,
    pub(super) slope: f64,
}

impl TrustRegion {
    /// With the radius factor·‖D·x‖, or factor if that is 0.
    fn new(factor: f64, length: f64) -> Self {
        let radius = factor * if length > 0.0 { length } else { 1.0 };
        Self { radius: if radius.is_finite() { radius } else { f64::MAX }, lambda: 0.0, first: true }
    }

    /// The step q = D·δ that minimizes the model within the radius, to a tenth of it. `None` if it is not finite.
    fn step(&mut self, model: &Scaled) -> Option<Step> {
        let radius = self.radius;
        let (mut low, mut newton) = (0.0, radius);
        if let Some(step) = model.step(0.0) {
            let beyond = step.length - radius;
            if beyond <= NEAR * radius {
                self.lambda = 0.0;
                return Some(step);
            }
            low = step.correction(radius).max(0.0);
            newton = step.length;
        }
        let mut high = model.slope / radius;
        let lambda = self.lambda.max(low).min(high);
        self.lambda = if lambda > 0.0 { lambda } else { model.slope / newton };
        let mut before = f64::INFINITY;
        for tries in 1.. {
            if self.lambda <= 0.0 {
                self.lambda = (LEAST * high).max(f64::MIN_POSITIVE);
            }
            let Some(step) = model.step(self.lambda) else {
                if tries == TRIES {
                    break;
                }
                low = self.lambda;
                self.lambda = (10.0 * self.lambda).max(LEAST * high);
                continue;
            };
            let beyond = step.length - radius;
            let flat = low == 0.0 && beyond <= before && before < 0.0;
            if beyond.abs() <= NEAR * radius || flat || tries == TRIES {
                return Some(step);
            }
            if beyond > 0.0 {
                low = low.max(self.lambda);
            } else {
                high = high.min(self.lambda);
            }
            self.lambda = low.max(self.lambda + step.correction(radius));
            before = beyond;
        }
        None
    }

    /// Sets the radius, and λ with it, by the decrease of the cost over what the model predicted.
    fn adapt(&mut self, trial: &Trial) {
        let Trial { length, before, after, predicted, slope } = *trial;
        if self.first {
            self.radius = self.radius.min(length);
        }
        // A cost that is a hundred times higher, or not finite, says nothing about how far to go back.
        let near = after < 100.0 * before;
        let actual = if near { before - after } else { -before };
        let gain = if predicted > 0.0 { actual / predicted } else { 0.0 };
        if gain <= POOR {
            // The minimum of the parabola through both costs with the slope at the start.
            let factor = if actual >= 0.0 { 0.5 } else { 0.5 * slope / (slope + actual) };
            let factor = if near && factor >= 0.1 { factor.min(0.5) } else { 0.1 };
            self.radius = factor * self.radius.min(10.0 * length);
            self.lambda /= factor;
        } else if self.lambda == 0.0 || gain >= GOOD {
            self.radius = self.radius.max(2.0 * length);
            self.lambda *= 0.5;
        }
    }
}

/// How far a step goes: as far as the trust region allows; for an undamped step, the fraction of it that descends.
pub(super) struct StepControl {
    damping: Damping,
    factor: f64,
    /// The diagonal D.
    d: Vec<f64>,
    region: Option<TrustRegion>,
    fraction: f64,
}

impl StepControl {
    pub(super) fn new(options: &LeastSquares, unknowns: usize) -> Self {
        let diagonal = if options.damping == Damping::Diagonal { 0.0 } else { 1.0 };
        let d = vec![diagonal; unknowns];
        Self { damping: options.damping, factor: options.factor, d, region: None, fraction: 1.0 }
    }

    /// ‖D·δ‖.
    pub(super) fn length(&self, delta: &[f64]) -> f64 {
        norm(&delta.iter().zip(&self.d).map(|(delta, d)| delta * d).collect::<Vec<_>>())
    }

    /// Takes up the model around x. Returns `None` for undamped steps.
    pub(super) fn around(&mut self, model: &Model, x: &[f64]) -> Option<Scaled> {
        if self.damping == Damping::Diagonal {
            for (d, square) in self.d.iter_mut().zip(&model.squares) {
                *d = d.max(square.sqrt());
                // A column that has been 0 so far counts as one of length 1.
                *d = if *d > 0.0 { *d } else { 1.0 };
            }
        }
        if self.damping == Damping::None {
            self.fraction = 1.0;
            return None;
        }
        match &mut self.region {
            Some(region) => region.first = false,
            None => self.region = Some(TrustRegion::new(self.factor, self.length(x))),
        }
        Some(Scaled::new(&model.jacobian, &model.r, &self.d, &model.held))
    }

    /// The next step to try. Returns `None` if the equations for it have no solution.
    pub(super) fn propose(&mut self, model: &Model, scaled: Option<&Scaled>) -> Option<Vec<f64>> {
        match (scaled, &mut self.region) {
            (Some(scaled), Some(region)) => {
                let step = region.step(scaled)?;
                Some(scaled.unscale(&step.q))
            }
            _ => {
                let mut delta = dense::gauss_newton(&model.jacobian, &model.r, &model.held)?;
                delta.iter_mut().for_each(|delta| *delta *= self.fraction);
                Some(delta)
            }
        }
    }

    /// Adapts to the result of a step. Returns `false` if an undamped step has been halved too often to try again.
    pub(super) fn adapt(&mut self, trial: &Trial) -> bool {
        match &mut self.region {
            Some(region) => {
                region.adapt(trial);
                true
            }
            None => {
                self.fraction *= 0.5;
                self.fraction >= f64::EPSILON
            }
        }
    }
}

/// ½‖J·δ + r‖² in the scaled unknowns q = D·δ that are free: R and Qᵀ·(−r) of a QR factorization of J·D⁻¹.
pub(super) struct Scaled {
    /// The n columns of R, then Qᵀ·(−r).
    r: Mat<f64>,
    /// ‖D⁻¹·Jᵀr‖.
    slope: f64,
    free: Vec<usize>,
    d: Vec<f64>,
}

/// A solution of (D⁻¹·JᵀJ·D⁻¹ + λ)·q = −D⁻¹·Jᵀr, and the factor that gave it.
struct Step {
    q: Vec<f64>,
    /// ‖q‖.
    length: f64,
    factor: Mat<f64>,
}

impl Scaled {
    /// From J (row by row) and r, the diagonal D, and which unknowns are held.
    fn new(jacobian: &[f64], r: &[f64], d: &[f64], held: &[bool]) -> Self {
        let free: Vec<_> = (0..d.len()).filter(|&i| !held[i]).collect();
        let (m, n, columns) = (r.len(), free.len(), d.len());
        let element = |i: usize, j: usize| match (i < m, j < n) {
            (false, _) => 0.0,
            (_, true) => jacobian[i * columns + free[j]] / d[free[j]],
            (_, false) => -r[i],
        };
        let slope = |j: usize| (0..m).map(|i| element(i, j) * element(i, n)).sum::<f64>().powi(2);
        let slope = (0..n).map(slope).sum::<f64>().sqrt();
        let factor = Mat::from_fn(m.max(n + 1), n + 1, element).qr();
        Self { r: factor.thin_R().to_owned(), slope, free, d: d.to_vec() }
    }

    /// `None` where there is no solution, or no finite one.
    fn step(&self, lambda: f64) -> Option<Step> {
        let n = self.free.len();
        let factor = if lambda > 0.0 {
            let root = lambda.sqrt();
            let element = |i: usize, j: usize| match i < n {
                true if i <= j => self.r[(i, j)],
                false if i - n == j => root,
                _ => 0.0,
            };
            Mat::from_fn((2 * n).max(n + 1), n + 1, element).qr().thin_R().to_owned()
        } else {
            self.r.clone()
        };
        let largest = (0..n).map(|i| factor[(i, i)].abs()).fold(0.0, f64::max);
        // With λ the rank is full, unless λ is too small to count.
        let least = if lambda > 0.0 { 0.0 } else { f64::EPSILON * largest * n as f64 };
        if (0..n).any(|i| factor[(i, i)].is_nan() || factor[(i, i)].abs() <= least) {
            return None;
        }
        let mut q: Vec<f64> = (0..n).map(|i| factor[(i, n)]).collect();
        back(factor.as_ref(), &mut q);
        let length = norm(&q);
        length.is_finite().then_some(Step { q, length, factor })
    }

    /// D⁻¹·q, 0 where an unknown is held.
    fn unscale(&self, q: &[f64]) -> Vec<f64> {
        let mut delta = vec![0.0; self.d.len()];
        self.free.iter().zip(q).for_each(|(&i, q)| delta[i] = q / self.d[i]);
        delta
    }
}

impl Step {
    /// Newton's correction of λ, by which ‖q‖ comes nearer to the radius: (‖q‖ − Δ)/Δ · ‖q‖²/‖R⁻ᵀq‖².
    fn correction(&self, radius: f64) -> f64 {
        let mut w: Vec<f64> = self.q.iter().map(|q| q / self.length).collect();
        forward(self.factor.as_ref(), &mut w);
        (self.length - radius) / radius / w.iter().map(|w| w * w).sum::<f64>()
    }
}

/// R⁻¹·x, in place.
fn back(r: MatRef<'_, f64>, x: &mut [f64]) {
    for i in (0..x.len()).rev() {
        let known: f64 = (i + 1..x.len()).map(|j| r[(i, j)] * x[j]).sum();
        x[i] = (x[i] - known) / r[(i, i)];
    }
}

/// R⁻ᵀ·x, in place.
fn forward(r: MatRef<'_, f64>, x: &mut [f64]) {
    for i in 0..x.len() {
        let known: f64 = (0..i).map(|j| r[(j, i)] * x[j]).sum();
        x[i] = (x[i] - known) / r[(i, i)];
    }
}
