//! Line searches.

use super::vectors::{D, G, Probe, Vector, Vectors, X};

/// How the length t of a step along the direction d is found, from the first length that the method proposes. φ(t) =
/// f(x + t·d).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LineSearch {
    /// The proposed length: one evaluation, and no test whether it descends.
    Fixed,
    /// Shorter by `shrink` until φ(t) ≤ φ(0) + c₁·t·φ′(0) ([Armijo, 1966](https://doi.org/10.2140/pjm.1966.16.1)).
    Backtracking {
        /// The least slope by which φ must fall, as a fraction of φ′(0): 1e-4.
        c1: f64,
        /// The factor of a shorter step: 0.5.
        shrink: f64,
    },
    /// φ(t) ≤ φ(0) + c₁·t·φ′(0) and |φ′(t)| ≤ c₂·|φ′(0)|, by cubic interpolation within a bracket: [Nocedal and Wright
    /// 2006](https://doi.org/10.1007/978-0-387-40065-5), algorithm 3.5. This is PyTorch's `strong_wolfe`, with c₁ =
    /// 1e-4 and c₂ = 0.9; conjugate gradients need c₂ = 0.1. A step to where φ is not finite is halved.
    StrongWolfe {
        /// The least slope by which φ must fall, as a fraction of φ′(0).
        c1: f64,
        /// The largest slope that may remain, as a fraction of φ′(0).
        c2: f64,
    },
    /// The minimum of the parabola with the slopes φ′(0) and φ′(t): exact if f is quadratic. Two evaluations.
    Exact,
    /// The best of `count` lengths from `lo` to `hi`, evenly spaced in their logarithm: gradient descent with the
    /// optimal learning rate.
    Sampled {
        /// The shortest length.
        lo: f64,
        /// The longest length.
        hi: f64,
        /// How many lengths.
        count: u32,
    },
}

impl LineSearch {
    /// PyTorch's: c₁ = 1e-4, c₂ = 0.9.
    pub const STRONG_WOLFE: Self = Self::StrongWolfe { c1: 1e-4, c2: 0.9 };
    /// c₁ = 1e-4, half the step each time.
    pub const BACKTRACKING: Self = Self::Backtracking { c1: 1e-4, shrink: 0.5 };
}

/// A length t, what is known of the point, and the vector that holds its gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) t: f64,
    pub(crate) probe: Probe,
    pub(crate) g: Vector,
}

/// A search from x₀ along d.
pub(crate) struct Search<'a, V> {
    pub(crate) vectors: &'a mut V,
    pub(crate) x0: Vector,
    /// Copies of gradients.
    pub(crate) copies: [Vector; 3],
    /// The point at t = 0, with its slope along d if that is known.
    pub(crate) start: Point,
    pub(crate) evaluations: u64,
    /// Whether any point was finite.
    pub(crate) finite: bool,
    /// Evaluations that may follow the first one.
    pub(crate) most: u64,
    /// A bracket is not divided once its length times max|d| is below this.
    pub(crate) tolerance: f64,
}

impl<V: Vectors> Search<'_, V> {
    async fn probe(&mut self, t: f64) -> Result<Probe, V::Error> {
        self.vectors.combine(X, t, D, 1.0, self.x0);
        self.evaluations += 1;
        let probe = self.vectors.probe(t).await?;
        self.start.probe.slope = probe.slope_before;
        self.finite |= probe.is_finite();
        Ok(probe)
    }

    /// Evaluates a point, and keeps its gradient in a copy that none of the others uses.
    async fn point(&mut self, t: f64, others: &[Point]) -> Result<Point, V::Error> {
        let probe = self.probe(t).await?;
        let free = self.copies.iter().find(|copy| others.iter().all(|other| other.g != **copy));
        let g = free.copied().unwrap_or(self.copies[0]);
        self.vectors.copy(g, G);
        Ok(Point { t, probe, g })
    }

    /// [`Self::point`]; while φ is not finite, goes half of the way back to `from`.
    async fn nearer(&mut self, t: f64, from: f64, others: &[Point]) -> Result<Point, V::Error> {
        let mut point = self.point(t, others).await?;
        while !point.probe.is_finite() && self.evaluations <= self.most {
            point = self.point(0.5 * (from + point.t), others).await?;
        }
        Ok(point)
    }

    fn descends(&self, point: &Point, c1: f64) -> bool {
        let start = &self.start.probe;
        point.probe.value <= start.value + c1 * point.t * start.slope
    }

    /// The point to go to, if there is one. X and G are at the last point that was probed.
    pub(crate) async fn find(&mut self, line_search: LineSearch, t: f64) -> Result<Option<Point>, V::Error> {
        match line_search {
            LineSearch::Fixed => {
                let probe = self.probe(t).await?;
                Ok(Some(Point { t, probe, g: G }))
            }
            LineSearch::Backtracking { c1, shrink } => {
                let (first, mut t) = (t, t);
                while t > 1e-18 * first && self.evaluations <= self.most {
                    let point = Point { t, probe: self.probe(t).await?, g: G };
                    // A step that is too short to change the value does not count.
                    let lower = point.probe.value < self.start.probe.value;
                    if point.probe.is_finite() && lower && self.descends(&point, c1) {
                        return Ok(Some(point));
                    }
                    t *= shrink;
                }
                Ok(None)
            }
            LineSearch::Exact => {
                let probe = self.probe(t).await?;
                let (before, after) = (self.start.probe.slope, probe.slope);
                if after.is_nan() || after <= before {
                    return Ok(None);
                }
                let t = t * before / (before - after);
                let probe = self.probe(t).await?;
                Ok((probe.value <= self.start.probe.value).then_some(Point { t, probe, g: G }))
            }
            LineSearch::Sampled { lo, hi, count } => {
                let mut best: Option<Point> = None;
                for k in 0..count {
                    let t = lo * (hi / lo).powf(f64::from(k) / f64::from((count - 1).max(1)));
                    let point = self.point(t, best.as_slice()).await?;
                    let to_beat = best.map_or(self.start.probe.value, |best| best.probe.value);
                    if point.probe.is_finite() && point.probe.value < to_beat {
                        best = Some(point);
                    }
                }
                Ok(best)
            }
            LineSearch::StrongWolfe { c1, c2 } => self.strong_wolfe(t, c1, c2).await,
        }
    }

    /// Follows torch/optim/lbfgs.py line for line, except for steps to where φ is not finite.
    async fn strong_wolfe(&mut self, t: f64, c1: f64, c2: f64) -> Result<Option<Point>, V::Error> {
        let (mut new, mut tries) = (self.nearer(t, 0.0, &[]).await?, 0);
        let slope = self.start.probe.slope;
        if !new.probe.is_finite() {
            return Ok(None);
        }
        let mut previous = Point { probe: Probe { slope, ..self.start.probe }, ..self.start };
        let start = previous;
        let (mut bracket, mut done) = (None, false);
        while tries < self.most {
            let (value, new_slope) = (new.probe.value, new.probe.slope);
            if !self.descends(&new, c1) || tries > 1 && value >= previous.probe.value {
                bracket = Some([previous, new]);
                break;
            }
            if new_slope.abs() <= -c2 * slope {
                (bracket, done) = (Some([new, new]), true);
                break;
            }
            if new_slope >= 0.0 {
                bracket = Some([previous, new]);
                break;
            }
            let bounds = (new.t + 0.01 * (new.t - previous.t), new.t * 10.0);
            let further = cubic(&previous, &new, Some(bounds));
            previous = new;
            new = self.nearer(further, previous.t, &[previous]).await?;
            tries += 1;
        }
        if tries == self.most {
            bracket = Some([start, new]);
        }
        let mut bracket = bracket.unwrap_or([start, new]);
        let value = |point: &Point| if point.probe.is_finite() { point.probe.value } else { f64::INFINITY };
        let order = |bracket: &[Point; 2]| if value(&bracket[0]) <= value(&bracket[1]) { (0, 1) } else { (1, 0) };
        let (mut low, mut high) = order(&bracket);
        let mut insufficient = false;
        while !done && tries < self.most {
            let (from, to) = (bracket[0].t.min(bracket[1].t), bracket[0].t.max(bracket[1].t));
            if (to - from) * new.probe.max_d < self.tolerance {
                break;
            }
            let mut t = cubic(&bracket[0], &bracket[1], None);
            // If t is too near an end for the second time, or at it, it moves a tenth of the bracket away from it.
            let margin = 0.1 * (to - from);
            if (to - t).min(t - from) < margin {
                if insufficient || t >= to || t <= from {
                    t = if (t - to).abs() < (t - from).abs() { to - margin } else { from + margin };
                    insufficient = false;
                } else {
                    insufficient = true;
                }
            } else {
                insufficient = false;
            }
            new = self.point(t, &bracket).await?;
            tries += 1;
            if !self.descends(&new, c1) || new.probe.value >= bracket[low].probe.value {
                bracket[high] = new;
                (low, high) = order(&bracket);
            } else {
                if new.probe.slope.abs() <= -c2 * slope {
                    done = true;
                } else if new.probe.slope * (bracket[high].t - bracket[low].t) >= 0.0 {
                    bracket[high] = bracket[low];
                }
                bracket[low] = new;
            }
        }
        Ok(Some(bracket[low]))
    }
}

/// The minimum of the cubic with the values and slopes of two points, within bounds.
fn cubic(a: &Point, b: &Point, bounds: Option<(f64, f64)>) -> f64 {
    let (x1, x2) = (a.t, b.t);
    let (lo, hi) = bounds.unwrap_or((x1.min(x2), x1.max(x2)));
    let (f1, g1, f2, g2) = (a.probe.value, a.probe.slope, b.probe.value, b.probe.slope);
    let d1 = g1 + g2 - 3.0 * (f1 - f2) / (x1 - x2);
    let square = d1 * d1 - g1 * g2;
    if square.is_nan() || square < 0.0 {
        return 0.5 * (lo + hi);
    }
    let d2 = square.sqrt();
    let least = if x1 <= x2 {
        x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2.0 * d2))
    } else {
        x1 - (x1 - x2) * ((g1 + d2 - d1) / (g1 - g2 + 2.0 * d2))
    };
    least.max(lo).min(hi)
}
