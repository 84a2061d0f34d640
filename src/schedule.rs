//! Learning-rate schedules: pure functions of the step, in f64.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod check;
mod text;

/// A factor on the learning rate, as a function of the number of steps already taken, k. The first step has k = 0.
///
/// `lr(k) = Settings::lr · schedule.at(k)`. With `Settings::lr` 1 the schedule's values are the learning rate. Times
/// are in steps.
///
/// ```
/// use wgpu_optim::Schedule;
/// let schedule = Schedule::cosine(1000).warmup(100);
/// assert!((schedule.at(0) - 0.01).abs() < 1e-15); // (k + 1) / 100
/// assert_eq!((schedule.at(100), schedule.at(1100)), (1.0, 0.0));
/// assert_eq!(Schedule::parse("cosine(1000).warmup(100)")?, schedule); // as text
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
///
/// Every variant is also a word of [`Schedule::parse`]. [`Schedule::check`] finds values outside their range;
/// [`Schedule::at`] never panics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// One value for every step.
    Constant(f64),
    /// `gamma^⌊k / every⌋`: PyTorch's `StepLR`.
    Step {
        /// Steps from one decay to the next.
        every: u64,
        /// The factor of one decay.
        gamma: f64,
    },
    /// `gamma^n` after n of the milestones: PyTorch's `MultiStepLR`.
    MultiStep {
        /// The first step of each further decay.
        milestones: Vec<u64>,
        /// The factor of one decay.
        gamma: f64,
    },
    /// `gamma^(k / every)`: PyTorch's `ExponentialLR` (`every: 1`), and the exponential decay of optax and Keras.
    /// [`Schedule::Step`] decays in stairs.
    Exponential {
        /// The factor of one decay.
        gamma: f64,
        /// Steps that one decay takes.
        #[serde(default = "one")]
        every: f64,
    },
    /// `to + (from − to)·(1 − k/steps)^power`, then `to`: PyTorch's `LinearLR` and `PolynomialLR`, and the polynomial
    /// decay of optax and Keras. With power 1 it is a straight line. With `cycle`, `steps` stands for its smallest
    /// multiple that is k or more.
    Polynomial {
        /// Value at k = 0.
        #[serde(default = "one")]
        from: f64,
        /// Value from k = steps on.
        #[serde(default)]
        to: f64,
        /// Steps from one value to the other.
        steps: u64,
        /// Exponent of the part of the steps that is left.
        #[serde(default = "one")]
        power: f64,
        /// Jump up again at each multiple of `steps`, instead of staying at `to`.
        #[serde(default)]
        cycle: bool,
    },
    /// `to + (from − to)·((1 + cos πk/steps) / 2)^exponent`, then `to`. With `periodic` it rises again after `steps`,
    /// as PyTorch's `CosineAnnealingLR` does beyond `T_max`.
    Cosine {
        /// Value at k = 0.
        #[serde(default = "one")]
        from: f64,
        /// Value at k = steps.
        #[serde(default)]
        to: f64,
        /// Steps from one value to the other.
        steps: u64,
        /// Exponent of the cosine: `exponent` in optax.
        #[serde(default = "one")]
        exponent: f64,
        /// Rise again after `steps`.
        #[serde(default)]
        periodic: bool,
    },
    /// Cosines from a height down to `to`. The first starts at 1; each further one is `t_mult` times as long and
    /// `m_mult` times as high: [Loshchilov and Hutter, 2017](https://arxiv.org/abs/1608.03983).
    CosineRestarts {
        /// Value at the end of each cosine.
        #[serde(default)]
        to: f64,
        /// Steps of the first cosine.
        steps: u64,
        /// Growth of the length, 1 or more.
        #[serde(default = "one")]
        t_mult: f64,
        /// Growth of the height.
        #[serde(default = "one")]
        m_mult: f64,
    },
    /// `min((k+1)/warmup, √(warmup/(k+1)))`; `warmup: 1` is `1/√(k+1)`.
    InverseSqrt {
        /// Steps of linear growth, 1 or more.
        #[serde(default = "one_step")]
        warmup: u64,
    },
    /// `1 / (1 + rate·k)`. `rate: 1` is 1/t with t = k + 1: the sum of all values diverges, and the sum of their
    /// squares does not, as Robbins and Monro require.
    InverseLinear {
        /// How fast it falls.
        rate: f64,
        /// Steps of a stair; `None` for no stairs.
        #[serde(default)]
        every: Option<u64>,
    },
    /// `d_model^−½ · min(t^−½, t·warmup^−1.5)` with t = k + 1: [Vaswani et al.,
    /// 2017](https://arxiv.org/abs/1706.03762).
    Noam {
        /// Width of the model.
        d_model: u64,
        /// Steps of linear growth, 1 or more.
        warmup: u64,
    },
    /// Lines from point to point `(k, value)`. Before the first point and after the last one the value stays.
    Ramps {
        /// The points, in order of k. k need not be a whole number.
        points: Vec<(f64, f64)>,
        /// Half a cosine from point to point instead of a line.
        #[serde(default)]
        cosine: bool,
        /// The momentum, or β₁, at the same points; empty to leave it alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        momentum: Vec<f64>,
    },
    /// Up to 1 in the part `up` of the steps, then down: PyTorch's `OneCycleLR` with `max_lr` 1, [Smith and Topin,
    /// 2018](https://arxiv.org/abs/1708.07120). The defaults are PyTorch's. After `steps` the last value stays.
    OneCycle {
        /// All steps: `total_steps`.
        steps: u64,
        /// The part of the steps in which the rate rises, 0 to 1: `pct_start`. If `up·steps` is below 1, the rate falls
        /// from the start.
        #[serde(default = "torch_up")]
        up: f64,
        /// The first value is `1/div`.
        #[serde(default = "torch_div")]
        div: f64,
        /// The last value is `1/(div·final_div)`.
        #[serde(default = "torch_final_div")]
        final_div: f64,
        /// Half a cosine for each phase instead of a line.
        #[serde(default = "yes")]
        cosine: bool,
        /// Fall to `1/div` in as many steps as the rise takes, then to the last value.
        #[serde(default)]
        three_phase: bool,
        /// Lowest and highest momentum, which falls while the rate rises. `None` leaves the momentum alone.
        #[serde(default = "torch_momentum")]
        momentum: Option<(f64, f64)>,
    },
    /// Up from `low` to 1 and down again, in cycles: PyTorch's `CyclicLR`, [Smith,
    /// 2017](https://arxiv.org/abs/1506.01186).
    Cyclic {
        /// Lowest value.
        low: f64,
        /// Steps of the rise.
        up: u64,
        /// Steps of the fall.
        down: u64,
        /// Factor on the amplitude for each cycle: ½ is PyTorch's `triangular2`.
        #[serde(default = "one")]
        per_cycle: f64,
        /// Factor on the amplitude for each step: `gamma` of PyTorch's `exp_range`.
        #[serde(default = "one")]
        per_step: f64,
        /// Lowest and highest momentum, which falls while the rate rises. `None` leaves the momentum alone.
        #[serde(default)]
        momentum: Option<(f64, f64)>,
    },
    /// `values[n]` after n of the boundaries: PyTorch's `ConstantLR`, `piecewise_constant_schedule` of optax,
    /// `PiecewiseConstantDecay` of Keras (whose boundaries are one less).
    Piecewise {
        /// The first step of each further piece.
        boundaries: Vec<u64>,
        /// The value of each piece: one more than boundaries.
        values: Vec<f64>,
    },
    /// One schedule after the other, each for its number of steps. Each counts its steps from 0. The last one has no
    /// end; its number of steps means nothing.
    Sequence(Vec<(u64, Self)>),
    /// The product of all.
    Product(Vec<Self>),
}

fn one() -> f64 {
    1.0
}

fn one_step() -> u64 {
    1
}

fn yes() -> bool {
    true
}

fn torch_up() -> f64 {
    0.3
}

fn torch_div() -> f64 {
    25.0
}

fn torch_final_div() -> f64 {
    1e4
}

fn torch_momentum() -> Option<(f64, f64)> {
    Some((0.85, 0.95))
}

impl Schedule {
    /// From 1 to 0 along half a cosine, then 0.
    pub fn cosine(steps: u64) -> Self {
        Self::Cosine { from: 1.0, to: 0.0, steps, exponent: 1.0, periodic: false }
    }

    /// A straight line, then `to`.
    pub fn linear(from: f64, to: f64, steps: u64) -> Self {
        Self::Polynomial { from, to, steps, power: 1.0, cycle: false }
    }

    /// 1/t with t = k + 1, which satisfies Robbins and Monro's conditions.
    pub fn robbins_monro() -> Self {
        Self::InverseLinear { rate: 1.0, every: None }
    }

    /// Rises as (k + 1)/steps, then this schedule starts. With 0 steps it is this schedule alone.
    #[must_use]
    pub fn warmup(self, steps: u64) -> Self {
        if steps == 0 {
            return self;
        }
        let first = 1.0 / steps as f64;
        Self::Sequence(vec![(steps, Self::linear(first, 1.0 + first, steps)), (0, self)])
    }

    /// Warm-up, stable, decay: a line from 0 to 1, then 1, then a line to `to`.
    pub fn warmup_stable_decay(warmup: u64, stable: u64, decay: u64, to: f64) -> Self {
        let at = |k: u64| k as f64;
        let (level, end) = (at(warmup) + at(stable), at(warmup) + at(stable) + at(decay));
        let points = vec![(0.0, 0.0), (at(warmup), 1.0), (level, 1.0), (end, to)];
        Self::Ramps { points, cosine: false, momentum: Vec::new() }
    }

    /// PyTorch's `OneCycleLR` with `max_lr` 1: [`Schedule::OneCycle`].
    ///
    /// ```
    /// use wgpu_optim::Schedule;
    /// let torch = Schedule::one_cycle(1000, 0.3, 25.0, 1e4, true, false, [0.85, 0.95]);
    /// assert_eq!(Schedule::parse("one_cycle(1000)")?, torch); // PyTorch's defaults
    /// assert_eq!((torch.at(0), torch.at(299)), (0.04, 1.0));
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    pub fn one_cycle(
        steps: u64,
        up: f64,
        div: f64,
        final_div: f64,
        cosine: bool,
        three_phase: bool,
        [low, high]: [f64; 2],
    ) -> Self {
        Self::OneCycle { steps, up, div, final_div, cosine, three_phase, momentum: Some((low, high)) }
    }

    /// The value for the step that has k steps before it.
    pub fn at(&self, k: u64) -> f64 {
        let t = k as f64;
        match self {
            Self::Constant(value) => *value,
            Self::Step { every, gamma } => power(*gamma, k / every.max(&1)),
            Self::MultiStep { milestones, gamma } => {
                power(*gamma, milestones.iter().filter(|m| **m <= k).count() as u64)
            }
            Self::Exponential { gamma, every } => gamma.powf(t / every),
            Self::Polynomial { from, to, steps, power, cycle } => {
                let stretch = if *cycle { k.div_ceil((*steps).max(1)).max(1) as f64 } else { 1.0 };
                let left = 1.0 - way(t / stretch, *steps);
                (from - to) * left.powf(*power) + to
            }
            Self::Cosine { from, to, steps, exponent, periodic } => {
                let way = if *periodic { t / (*steps).max(1) as f64 } else { way(t, *steps) };
                to + (from - to) * ((1.0 + (PI * way).cos()) / 2.0).powf(*exponent)
            }
            Self::CosineRestarts { to, steps, t_mult, m_mult } => {
                let (first, growth) = ((*steps).max(1) as f64, t_mult.max(1.0));
                // Restarts so far, in closed form; at its edges the logarithm may be one off.
                let passed =
                    |n: f64| if growth > 1.0 { first * (growth.powf(n) - 1.0) / (growth - 1.0) } else { first * n };
                let about =
                    if growth > 1.0 { (1.0 + t * (growth - 1.0) / first).ln() / growth.ln() } else { t / first };
                let guess = about.floor().max(1.0) - 1.0;
                let n = [guess + 2.0, guess + 1.0].into_iter().find(|n| passed(*n) <= t).unwrap_or(guess);
                let way = ((t - passed(n)) / (first * growth.powf(n))).clamp(0.0, 1.0);
                to + (1.0 - to) * m_mult.powf(n) * (1.0 + (PI * way).cos()) / 2.0
            }
            Self::InverseSqrt { warmup } => {
                let (t, warmup) = (t + 1.0, *warmup as f64);
                (t / warmup).min((warmup / t).sqrt())
            }
            Self::InverseLinear { rate, every: None } => 1.0 / (1.0 + rate * t),
            Self::InverseLinear { rate, every: Some(every) } => {
                1.0 / (1.0 + rate * (k / (*every).max(1) * every) as f64)
            }
            Self::Noam { d_model, warmup } => {
                let (t, warmup) = (t + 1.0, *warmup as f64);
                (*d_model as f64).powf(-0.5) * t.powf(-0.5).min(t * warmup.powf(-1.5))
            }
            Self::Ramps { points, cosine, .. } => ramps(points.iter().copied(), *cosine, t),
            Self::OneCycle { steps, up, div, final_div, cosine, three_phase, .. } => {
                one_cycle(k, (*steps, *up), (*cosine, *three_phase), [1.0 / div, 1.0, 1.0 / (div * final_div)])
            }
            Self::Cyclic { low, up, down, per_cycle, per_step, .. } => {
                low + (1.0 - low)
                    * triangle(k, *up, *down)
                    * power(*per_cycle, k / period(*up, *down))
                    * power(*per_step, k)
            }
            Self::Piecewise { boundaries, values } => {
                values.get(boundaries.iter().filter(|b| k >= **b).count()).copied().unwrap_or(0.0)
            }
            Self::Sequence(_) => self.current(k).map_or(1.0, |(schedule, k)| schedule.at(k)),
            Self::Product(schedules) => schedules.iter().map(|schedule| schedule.at(k)).product(),
        }
    }

    /// The momentum, or β₁, for the step that has k steps before it; `None` if the schedule leaves it alone.
    pub fn momentum(&self, k: u64) -> Option<f64> {
        match self {
            Self::Ramps { points, cosine, momentum } if !momentum.is_empty() => {
                Some(ramps(points.iter().map(|(t, _)| *t).zip(momentum.iter().copied()), *cosine, k as f64))
            }
            Self::OneCycle { steps, up, cosine, three_phase, momentum: Some((low, high)), .. } => {
                Some(one_cycle(k, (*steps, *up), (*cosine, *three_phase), [*high, *low, *high]))
            }
            Self::Cyclic { up, down, per_cycle, per_step, momentum: Some((low, high)), .. } => {
                let scale = power(*per_cycle, k / period(*up, *down)) * power(*per_step, k);
                Some(high - (high - low) * triangle(k, *up, *down) * scale)
            }
            Self::Sequence(_) => self.current(k).and_then(|(schedule, k)| schedule.momentum(k)),
            Self::Product(schedules) => schedules.iter().find_map(|schedule| schedule.momentum(k)),
            _ => None,
        }
    }

    /// Reads a schedule from text: the name of a variant or constructor with its arguments, by position or by name. A
    /// schedule that serde writes as [RON](https://docs.rs/ron) reads back.
    ///
    /// ```
    /// use wgpu_optim::Schedule;
    /// assert_eq!(Schedule::parse("cosine(1000)")?, Schedule::cosine(1000));
    /// assert_eq!(Schedule::parse("linear(1, 0.1, 500).warmup(50)")?, Schedule::linear(1.0, 0.1, 500).warmup(50));
    /// assert_eq!(Schedule::parse("step(every: 30, gamma: 0.1)")?, Schedule::Step { every: 30, gamma: 0.1 });
    /// let then = Schedule::Sequence(vec![(100, Schedule::Constant(1.0)), (0, Schedule::cosine(900))]);
    /// assert_eq!(Schedule::parse("sequence([(100, constant(1)), (0, cosine(900))])")?, then);
    /// let unknown = Schedule::parse("cosin(1000)").unwrap_err().to_string();
    /// assert!(unknown.contains("there are constant, step, multi_step"));
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Schedule`] with line, column and an example; for an unknown word it lists the words.
    /// [`Error::Hyperparameter`] for a value outside its range.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text::parse(text).map_err(|reason| Error::Schedule { text: text.into(), reason })?;
        parsed.check()?;
        Ok(parsed)
    }

    /// In a sequence: the schedule that holds at k, and the steps since its start.
    fn current(&self, mut k: u64) -> Option<(&Self, u64)> {
        let Self::Sequence(parts) = self else { return None };
        for (steps, schedule) in &parts[..parts.len().saturating_sub(1)] {
            if k < *steps {
                return Some((schedule, k));
            }
            k -= steps;
        }
        parts.last().map(|(_, schedule)| (schedule, k))
    }
}

/// The part of the steps that is done, 0 to 1.
fn way(t: f64, steps: u64) -> f64 {
    (t / steps.max(1) as f64).min(1.0)
}

/// xⁿ; `powi` takes no n above 2³¹.
fn power(x: f64, n: u64) -> f64 {
    x.powf(n as f64)
}

/// 0 → 1 in `up` steps, 1 → 0 in `down`.
fn triangle(k: u64, up: u64, down: u64) -> f64 {
    let k = k % period(up, down);
    if k <= up { k as f64 / up.max(1) as f64 } else { (period(up, down) - k) as f64 / down.max(1) as f64 }
}

/// Steps of a cycle.
fn period(up: u64, down: u64) -> u64 {
    up.saturating_add(down).max(1)
}

/// If points share a k, the last of them is where the next line starts.
fn ramps(points: impl Iterator<Item = (f64, f64)>, cosine: bool, t: f64) -> f64 {
    let mut before: Option<(f64, f64)> = None;
    for (at, value) in points {
        match before {
            None if t < at => return value,
            Some(from) if t < at => return between(from, (at, value), cosine, t),
            _ => before = Some((at, value)),
        }
    }
    before.map_or(1.0, |(_, value)| value)
}

/// The value at t between two points, along a line or half a cosine.
fn between((start, from): (f64, f64), (end, to): (f64, f64), cosine: bool, t: f64) -> f64 {
    let way = (t - start) / (end - start);
    let way = if cosine { (1.0 - (PI * way).cos()) / 2.0 } else { way };
    from + (to - from) * way
}

/// The value at k of the first phase that has not ended, as PyTorch computes it. A phase may end before step 0 or
/// behind the last step.
fn one_cycle(
    k: u64,
    (steps, up): (u64, f64),
    (cosine, three_phase): (bool, bool),
    [start, peak, end]: [f64; 3],
) -> f64 {
    let last = steps as f64 - 1.0;
    let (t, top) = ((k as f64).min(last), up * steps as f64 - 1.0);
    let mut from = (0.0, start);
    let phases = [Some((top, peak)), three_phase.then_some((2.0 * top, start)), Some((last, end))];
    for to in phases.into_iter().flatten() {
        if t <= to.0 {
            // A rise of no length, for which PyTorch divides by 0.
            return if to.0 == from.0 { to.1 } else { between(from, to, cosine, t) };
        }
        from = to;
    }
    from.1
}
