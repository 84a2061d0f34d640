//! What watches a metric: a rate that falls on a plateau, and early stopping.

use serde::{Deserialize, Serialize};

use crate::error::{Result, require};

/// Whether a metric is to fall or to rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// A loss.
    #[default]
    Min,
    /// An accuracy.
    Max,
}

/// By how much a metric must be better to count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Threshold {
    /// By this part of the best so far.
    Relative(f64),
    /// By this much.
    Absolute(f64),
}

impl Mode {
    /// Whether `metric` beats `best`. NaN beats nothing.
    fn beats(self, metric: f64, best: f64, threshold: Threshold) -> bool {
        match (self, threshold) {
            (Self::Min, Threshold::Relative(part)) => metric < best * (1.0 - part),
            (Self::Min, Threshold::Absolute(much)) => metric < best - much,
            (Self::Max, Threshold::Relative(part)) => metric > best * (1.0 + part),
            (Self::Max, Threshold::Absolute(much)) => metric > best + much,
        }
    }

    fn worst(self) -> f64 {
        match self {
            Self::Min => f64::INFINITY,
            Self::Max => f64::NEG_INFINITY,
        }
    }
}

/// Lowers the rate once a metric has stopped getting better: PyTorch's `ReduceLROnPlateau`, with its defaults.
///
/// ```
/// use wgpu_optim::ReduceOnPlateau;
/// let mut plateau = ReduceOnPlateau { patience: 1, ..ReduceOnPlateau::new(0.1) };
/// let rates: Vec<_> = [3.0, 2.0, 2.0, 2.0].into_iter().map(|loss| plateau.observe(loss)).collect();
/// assert_eq!(rates, [0.1, 0.1, 0.1, 0.1 * 0.1]); // the second one without improvement exceeds the patience
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceOnPlateau {
    /// Whether the metric is to fall or to rise.
    pub mode: Mode,
    /// The rate's factor at each plateau.
    pub factor: f64,
    /// Observations without improvement that are borne.
    pub patience: u64,
    /// By how much the metric must be better.
    pub threshold: Threshold,
    /// Observations after a reduction that do not count.
    pub cooldown: u64,
    /// The lowest rate.
    pub min_lr: f64,
    /// A reduction by no more than this is left out.
    pub eps: f64,
    /// The rate.
    pub lr: f64,
    /// The best metric so far.
    pub best: Option<f64>,
    /// Observations since then, or since the last reduction.
    pub bad: u64,
    /// Observations that will not count.
    pub cooling: u64,
}

impl ReduceOnPlateau {
    /// From this rate, with PyTorch's defaults: mode min, factor 0.1, patience 10, threshold 1e-4 relative, no cool-down, eps 1e-8.
    pub fn new(lr: f64) -> Self {
        Self {
            mode: Mode::Min,
            factor: 0.1,
            patience: 10,
            threshold: Threshold::Relative(1e-4),
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
            lr,
            best: None,
            bad: 0,
            cooling: 0,
        }
    }

    /// Takes a metric and returns the rate from now on. NaN counts as no improvement.
    pub fn observe(&mut self, metric: f64) -> f64 {
        let best = self.best.unwrap_or(self.mode.worst());
        if self.mode.beats(metric, best, self.threshold) {
            self.best = Some(metric);
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad > self.patience {
            let lower = (self.lr * self.factor).max(self.min_lr);
            if self.lr - lower > self.eps {
                self.lr = lower;
            }
            self.cooling = self.cooldown;
            self.bad = 0;
        }
        self.lr
    }
}

/// What [`EarlyStopping::observe`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The best so far; its snapshot is kept.
    Best,
    /// No better, but within the patience.
    Wait,
    /// Out of patience: restore [`EarlyStopping::best`] and stop.
    Stop,
}

/// Stops training once a metric has not got better for a while, and keeps what was best.
///
/// `T` is what you would restore: parameters read back, a file name, an epoch.
///
/// ```
/// use wgpu_optim::{EarlyStopping, Mode, Verdict};
/// let mut stopping = EarlyStopping::new(Mode::Min, 1, 0.0)?;
/// let losses = [0.9, 0.5, 0.6, 0.7];
/// let verdicts: Vec<_> = losses.iter().zip(1..).map(|(&loss, epoch)| stopping.observe(loss, || epoch)).collect();
/// assert_eq!(verdicts, [Verdict::Best, Verdict::Best, Verdict::Wait, Verdict::Stop]);
/// assert_eq!(stopping.best(), Some((0.5, &2)));
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EarlyStopping<T> {
    mode: Mode,
    patience: u64,
    min_delta: f64,
    best: Option<(f64, T)>,
    bad: u64,
}

impl<T> EarlyStopping<T> {
    /// Stops at the observation after `patience` ones that did not beat the best by more than `min_delta`.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`](crate::Error::Hyperparameter) for a `min_delta` below 0 or not finite.
    pub fn new(mode: Mode, patience: u64, min_delta: f64) -> Result<Self> {
        require(min_delta >= 0.0 && min_delta.is_finite(), "min_delta", min_delta, "0 or more, and finite")?;
        Ok(Self { mode, patience, min_delta, best: None, bad: 0 })
    }

    /// Takes a metric; `snapshot` is called if it is the best so far. NaN is never the best.
    pub fn observe(&mut self, metric: f64, snapshot: impl FnOnce() -> T) -> Verdict {
        let best = self.best.as_ref().map_or(self.mode.worst(), |(best, _)| *best);
        if self.mode.beats(metric, best, Threshold::Absolute(self.min_delta)) {
            self.best = Some((metric, snapshot()));
            self.bad = 0;
            return Verdict::Best;
        }
        self.bad += 1;
        if self.bad > self.patience { Verdict::Stop } else { Verdict::Wait }
    }

    /// The best metric, and its snapshot.
    pub fn best(&self) -> Option<(f64, &T)> {
        self.best.as_ref().map(|(metric, snapshot)| (*metric, snapshot))
    }
}
