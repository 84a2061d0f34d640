//! Learning-rate schedules: pure functions of the step, in f64.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, require};

/// A factor on the learning rate as a function of k, the number of steps before: k = 0 for the first.
///
/// `lr(k) = Settings::lr · schedule.at(k)`; with `Settings::lr` 1 the schedule's own values are the rate. Times are in steps. `from` and
/// `to` are values at both ends.
///
/// ```
/// use wgpu_optim::Schedule;
/// let schedule = Schedule::cosine(1000).warmup(100);
/// assert!((schedule.at(0) - 0.01).abs() < 1e-15); // (k + 1) / 100
/// assert_eq!((schedule.at(100), schedule.at(1100)), (1.0, 0.0));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// The same at every step.
    Constant(f64),
    /// `gamma^⌊k / every⌋`: PyTorch's `StepLR`.
    Step {
        /// Steps between two decays.
        every: u64,
        /// The decay.
        gamma: f64,
    },
    /// `gamma^n` after n of the milestones: PyTorch's `MultiStepLR`.
    MultiStep {
        /// Steps from which on one more decay holds.
        milestones: Vec<u64>,
        /// The decay.
        gamma: f64,
    },
    /// `gamma^(k / every)`: PyTorch's `ExponentialLR` (`every: 1`), optax' and Keras' exponential decay; in stairs
    /// it is [`Schedule::Step`].
    Exponential {
        /// The decay.
        gamma: f64,
        /// Steps that it takes.
        #[serde(default = "one")]
        every: f64,
    },
    /// `to + (from − to)·(1 − k/steps)^power`, then `to`: a straight line for power 1, PyTorch's `LinearLR` and `PolynomialLR`,
    /// optax' and Keras' polynomial decay. With `cycle` the steps double, treble, … each time that k passes them.
    Polynomial {
        /// Value at k = 0.
        #[serde(default = "one")]
        from: f64,
        /// Value from k = steps on.
        #[serde(default)]
        to: f64,
        /// Steps between them.
        steps: u64,
        /// Exponent of what is left of the way.
        #[serde(default = "one")]
        power: f64,
        /// Stretch the way instead of staying at its end.
        #[serde(default)]
        cycle: bool,
    },
    /// `to + (from − to)·((1 + cos πk/steps) / 2)^exponent`, then `to`. With `periodic` it goes up again, as PyTorch's
    /// `CosineAnnealingLR` beyond `T_max`.
    Cosine {
        /// Value at k = 0.
        #[serde(default = "one")]
        from: f64,
        /// Value at k = steps.
        #[serde(default)]
        to: f64,
        /// Steps between them.
        steps: u64,
        /// Exponent of the cosine: optax' `exponent`.
        #[serde(default = "one")]
        exponent: f64,
        /// Go up again.
        #[serde(default)]
        periodic: bool,
    },
    /// Cosines down to `to`, each `t_mult` times as long and `m_mult` times as high as the one before, the first from 1:
    /// [Loshchilov and Hutter, 2017](https://arxiv.org/abs/1608.03983).
    CosineRestarts {
        /// Value at the end of each cosine.
        #[serde(default)]
        to: f64,
        /// Steps of the first.
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
    /// `1 / (1 + rate·k)`: Robbins–Monro, whose sum diverges while the sum of squares does not; `rate: 1` is 1/t with t = k + 1.
    InverseLinear {
        /// How fast.
        rate: f64,
        /// In stairs of this many steps; `None` for none.
        #[serde(default)]
        every: Option<u64>,
    },
    /// `d_model^−½ · min(t^−½, t·warmup^−1.5)` with t = k + 1: [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762).
    Noam {
        /// Width of the model.
        d_model: u64,
        /// Steps of linear growth, 1 or more.
        warmup: u64,
    },
    /// Ramps from point to point `(k, value)`; the first value before the first point, the last one behind the last.
    Ramps {
        /// The points, in order of k, which need not be whole.
        points: Vec<(f64, f64)>,
        /// Half a cosine from point to point instead of a line.
        #[serde(default)]
        cosine: bool,
        /// What β₁ or the momentum does meanwhile: values at the same points.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        momentum: Vec<f64>,
    },
    /// Up from `low` to 1 and down again, over and over: PyTorch's `CyclicLR`, [Smith, 2017](https://arxiv.org/abs/1506.01186).
    Cyclic {
        /// Lowest value.
        low: f64,
        /// Steps of the way up.
        up: u64,
        /// Steps of the way down.
        down: u64,
        /// The amplitude's factor from cycle to cycle: ½ is `triangular2`.
        #[serde(default = "one")]
        per_cycle: f64,
        /// The amplitude's factor from step to step: `exp_range`'s gamma.
        #[serde(default = "one")]
        per_step: f64,
        /// Lowest and highest momentum, cycled against the rate.
        #[serde(default)]
        momentum: Option<(f64, f64)>,
    },
    /// `values[n]` after n of the boundaries: PyTorch's `ConstantLR`, optax' `piecewise_constant_schedule`, Keras'
    /// `PiecewiseConstantDecay` (whose boundaries are one less).
    Piecewise {
        /// The first step of each piece but the first.
        boundaries: Vec<u64>,
        /// One more than boundaries.
        values: Vec<f64>,
    },
    /// Each schedule for its number of steps, counted from 0 again; the last one goes on.
    Sequence(Vec<(u64, Self)>),
    /// All of them multiplied.
    Product(Vec<Self>),
}

fn one() -> f64 {
    1.0
}

fn one_step() -> u64 {
    1
}

impl Schedule {
    /// From 1 to 0 along half a cosine.
    pub fn cosine(steps: u64) -> Self {
        Self::Cosine { from: 1.0, to: 0.0, steps, exponent: 1.0, periodic: false }
    }

    /// A straight line.
    pub fn linear(from: f64, to: f64, steps: u64) -> Self {
        Self::Polynomial { from, to, steps, power: 1.0, cycle: false }
    }

    /// 1/t, whose rates α/t satisfy Robbins and Monro's conditions.
    pub fn robbins_monro() -> Self {
        Self::InverseLinear { rate: 1.0, every: None }
    }

    /// Up along (k + 1)/steps, then this schedule from its start; with 0 steps this schedule as it is.
    #[must_use]
    pub fn warmup(self, steps: u64) -> Self {
        if steps == 0 {
            return self;
        }
        let first = 1.0 / steps.max(1) as f64;
        Self::Sequence(vec![(steps, Self::linear(first, 1.0 + first, steps)), (0, self)])
    }

    /// Linear up, level, linear down to `to`: warm-up–stable–decay.
    pub fn warmup_stable_decay(warmup: u64, stable: u64, decay: u64, to: f64) -> Self {
        let at = |k: u64| k as f64;
        let (level, end) = (at(warmup) + at(stable), at(warmup) + at(stable) + at(decay));
        let points = vec![(0.0, 0.0), (at(warmup), 1.0), (level, 1.0), (end, to)];
        Self::Ramps { points, cosine: false, momentum: Vec::new() }
    }

    /// PyTorch's `OneCycleLR`, with `max_lr` as 1: up from `1/div`, down to `1/(div·final_div)`; with three phases down as it went up
    /// first. The momentum goes from `high` to `low` and back.
    pub fn one_cycle(
        steps: u64,
        up: f64,
        div: f64,
        final_div: f64,
        cosine: bool,
        three_phase: bool,
        [low, high]: [f64; 2],
    ) -> Self {
        let (start, end, last) = (1.0 / div, 1.0 / (div * final_div), steps as f64 - 1.0);
        let peak = up * steps as f64 - 1.0;
        let (points, momentum) = match three_phase {
            false => (vec![(0.0, start), (peak, 1.0), (last, end)], vec![high, low, high]),
            true => (vec![(0.0, start), (peak, 1.0), (2.0 * peak, start), (last, end)], vec![high, low, high, high]),
        };
        Self::Ramps { points, cosine, momentum }
    }

    /// The value for the step with k steps before it.
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

    /// What the momentum, or β₁, is to be meanwhile, for the schedules that cycle it.
    pub fn momentum(&self, k: u64) -> Option<f64> {
        match self {
            Self::Ramps { points, cosine, momentum } if !momentum.is_empty() => {
                Some(ramps(points.iter().map(|(t, _)| *t).zip(momentum.iter().copied()), *cosine, k as f64))
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

    /// Whether every number is in its range.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] with the name of the first that is not.
    pub fn check(&self) -> Result<()> {
        let at_least_0 = |name, x: f64| require(x >= 0.0 && x.is_finite(), name, x, "0 or more, and finite");
        let some = |name, k: u64| require((1..1 << 53).contains(&k), name, k as f64, "1 to 2^53");
        let rising = |name, mut at: Vec<f64>| -> Result<()> {
            let sorted = at.iter().all(|x| x.is_finite()) && at.windows(2).all(|w| w[0] <= w[1]);
            require(sorted, name, at.pop().unwrap_or(0.0), "in rising order")
        };
        match self {
            Self::Constant(value) => at_least_0("value", *value),
            Self::Step { every, gamma } => some("every", *every).and(at_least_0("gamma", *gamma)),
            Self::MultiStep { milestones, gamma } => {
                rising("milestones", milestones.iter().map(|m| *m as f64).collect()).and(at_least_0("gamma", *gamma))
            }
            Self::Exponential { gamma, every } => {
                require(*every > 0.0 && every.is_finite(), "every", *every, "above 0")?;
                at_least_0("gamma", *gamma)
            }
            Self::Polynomial { from, to, steps, power, .. } => at_least_0("from", *from)
                .and(at_least_0("to", *to))
                .and(some("steps", *steps))
                .and(at_least_0("power", *power)),
            Self::Cosine { from, to, steps, exponent, .. } => at_least_0("from", *from)
                .and(at_least_0("to", *to))
                .and(some("steps", *steps))
                .and(at_least_0("exponent", *exponent)),
            Self::CosineRestarts { to, steps, t_mult, m_mult } => {
                require(*t_mult >= 1.0 && t_mult.is_finite(), "t_mult", *t_mult, "1 or more")?;
                at_least_0("to", *to).and(some("steps", *steps)).and(at_least_0("m_mult", *m_mult))
            }
            Self::InverseSqrt { warmup } => some("warmup", *warmup),
            Self::InverseLinear { rate, every } => at_least_0("rate", *rate).and(some("every", every.unwrap_or(1))),
            Self::Noam { d_model, warmup } => some("d_model", *d_model).and(some("warmup", *warmup)),
            Self::Ramps { points, momentum, .. } => {
                require(!points.is_empty(), "points", 0.0, "one point or more")?;
                let momenta = momentum.is_empty() || momentum.len() == points.len();
                require(momenta, "momentum", momentum.len() as f64, "as many as points, or none")?;
                points.iter().try_for_each(|p| at_least_0("points", p.1))?;
                let below_1 = |x: &f64| require((0.0..1.0).contains(x), "momentum", *x, "0 to below 1");
                momentum.iter().try_for_each(below_1)?;
                rising("points", points.iter().map(|p| p.0).collect())
            }
            Self::Cyclic { low, up, down, per_cycle, per_step, momentum } => {
                let (a, b) = momentum.unwrap_or((0.0, 0.0));
                at_least_0("low", *low).and(some("up", *up)).and(some("down", *down))?;
                at_least_0("per_cycle", *per_cycle).and(at_least_0("per_step", *per_step))?;
                let shrinking = momentum.is_none() || per_cycle.max(*per_step) <= 1.0;
                require(shrinking, "per_cycle", per_cycle.max(*per_step), "at most 1 where the momentum is cycled")?;
                require((0.0..1.0).contains(&a) && (0.0..1.0).contains(&b), "momentum", a.max(b), "0 to below 1")
            }
            Self::Piecewise { boundaries, values } => {
                let one_more = values.len() == boundaries.len() + 1;
                require(one_more, "values", values.len() as f64, "one more than boundaries")?;
                values.iter().try_for_each(|x| at_least_0("values", *x))?;
                rising("boundaries", boundaries.iter().map(|b| *b as f64).collect())
            }
            Self::Sequence(parts) => {
                require(!parts.is_empty(), "sequence", 0.0, "one schedule or more")?;
                parts.iter().try_for_each(|(_, schedule)| schedule.check())
            }
            Self::Product(schedules) => schedules.iter().try_for_each(Self::check),
        }
    }

    /// Reads a schedule as people write it, in [RON](https://docs.rs/ron): `cosine(steps: 1000)`,
    /// `sequence([(100, polynomial(from: 0.1, to: 1.0, steps: 100)), (0, cosine(steps: 900))])`.
    ///
    /// # Errors
    /// [`Error::Schedule`] with the place of the mistake, [`Error::Hyperparameter`] for a value outside its range.
    pub fn parse(text: &str) -> Result<Self> {
        let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        let parsed: Self =
            options.from_str(text).map_err(|e| Error::Schedule { text: text.into(), reason: e.to_string() })?;
        parsed.check()?;
        Ok(parsed)
    }

    /// In a sequence: the schedule of step k, and the steps since its start.
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

/// How much of the way is done, 0 to 1.
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

/// The last of points with one k is where the next ramp starts.
fn ramps(points: impl Iterator<Item = (f64, f64)>, cosine: bool, t: f64) -> f64 {
    let mut before: Option<(f64, f64)> = None;
    for (at, value) in points {
        match before {
            None if t < at => return value,
            Some((start, from)) if t < at => {
                let way = (t - start) / (at - start);
                let way = if cosine { (1.0 - (PI * way).cos()) / 2.0 } else { way };
                return from + (value - from) * way;
            }
            _ => before = Some((at, value)),
        }
    }
    before.map_or(1.0, |(_, value)| value)
}
