//! What watches a metric: a learning rate that falls on a plateau, and early stopping.

use serde::{Deserialize, Serialize};

use crate::error::{Result, require};

/// Whether a metric should fall or rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// A loss.
    #[default]
    Min,
    /// An accuracy.
    Max,
}

/// By how much a metric must beat the best one so far to count as better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Threshold {
    /// By this part of the best metric's magnitude.
    Relative(f64),
    /// By this amount.
    Absolute(f64),
}

impl Mode {
    /// Whether `metric` beats `best`. What is not finite beats nothing.
    fn beats(self, metric: f64, best: Option<f64>, threshold: Threshold) -> bool {
        let Some(best) = best else { return metric.is_finite() };
        // PyTorch takes `best·(1 − part)` for negative metrics too, so that a relative threshold demands less than
        // nothing of them: https://github.com/pytorch/pytorch/issues/47513. Here the margin is `part·|best|`; positive
        // metrics round as PyTorch's.
        let signed = |part: f64| part * best.signum();
        let better = match (self, threshold) {
            (Self::Min, Threshold::Relative(part)) => metric < best * (1.0 - signed(part)),
            (Self::Min, Threshold::Absolute(much)) => metric < best - much,
            (Self::Max, Threshold::Relative(part)) => metric > best * (1.0 + signed(part)),
            (Self::Max, Threshold::Absolute(much)) => metric > best + much,
        };
        better && metric.is_finite()
    }
}

/// Lowers the learning rate when a metric has stopped getting better: PyTorch's `ReduceLROnPlateau`, with its defaults.
///
/// A relative threshold is a part of the best metric's magnitude: the next metric must be below `best −
/// |best|·threshold`, or above `best + |best|·threshold` for [`Mode::Max`]. PyTorch leaves the magnitude out, and never
/// lowers the rate of a negative metric ([pytorch#47513](https://github.com/pytorch/pytorch/issues/47513)). Save it
/// with serde to go on later.
///
/// ```
/// use wgpu_optim::ReduceOnPlateau;
/// let mut plateau = ReduceOnPlateau { patience: 1, ..ReduceOnPlateau::new(0.1) };
/// let rates: Vec<_> = [3.0, 2.0, 2.0, 2.0].into_iter().map(|loss| plateau.observe(loss)).collect();
/// assert_eq!(rates, [0.1, 0.1, 0.1, 0.1 * 0.1]); // the second one without improvement exceeds the patience
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceOnPlateau {
    /// Whether the metric should fall or rise.
    pub mode: Mode,
    /// Factor on the rate at each plateau.
    pub factor: f64,
    /// Observations without improvement before the rate falls: it falls at the next one.
    pub patience: u64,
    /// By how much the metric must be better.
    pub threshold: Threshold,
    /// Observations after a reduction that do not count as bad.
    pub cooldown: u64,
    /// The lowest rate.
    pub min_lr: f64,
    /// The rate stays if it would fall by this or less.
    pub eps: f64,
    /// The rate now.
    pub lr: f64,
    /// The best metric so far.
    pub best: Option<f64>,
    /// Observations without improvement since the best one, or since the last reduction.
    pub bad: u64,
    /// Observations that are left of the cool-down.
    pub cooling: u64,
}

impl ReduceOnPlateau {
    /// Starts at this rate, with PyTorch's defaults: mode min, factor 0.1, patience 10, threshold 1e-4 relative, no
    /// cool-down, eps 1e-8.
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

    /// Takes a metric and returns the rate from now on. NaN and ±∞ count as no improvement.
    pub fn observe(&mut self, metric: f64) -> f64 {
        if self.mode.beats(metric, self.best, self.threshold) {
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
    /// The metric is the best so far, and its snapshot is kept.
    Best,
    /// The metric is no better; training goes on.
    Wait,
    /// The patience is used up: restore [`EarlyStopping::best`] and stop.
    Stop,
}

/// Stops training when a metric has not got better for a while, and keeps a snapshot of the best state.
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
///
/// Save it with serde beside a checkpoint, and go on with its counters:
///
/// ```
/// # use wgpu_optim::{EarlyStopping, Mode, Verdict};
/// # let mut stopping = EarlyStopping::new(Mode::Min, 1, 0.0)?;
/// stopping.observe(0.5, || "epoch-1.safetensors".to_owned());
/// stopping.observe(0.6, || "epoch-2.safetensors".to_owned());
/// let text = serde_json::to_string(&stopping)?;
/// let mut resumed: EarlyStopping<String> = serde_json::from_str(&text)?;
/// assert_eq!(resumed.observe(0.7, String::new), Verdict::Stop);
/// assert_eq!(resumed.best(), Some((0.5, &"epoch-1.safetensors".to_owned())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping<T> {
    mode: Mode,
    patience: u64,
    min_delta: f64,
    best: Option<(f64, T)>,
    bad: u64,
}

impl<T> EarlyStopping<T> {
    /// Stops when more than `patience` observations in a row did not beat the best one by more than `min_delta`.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`](crate::Error::Hyperparameter) for a `min_delta` below 0 or not finite.
    pub fn new(mode: Mode, patience: u64, min_delta: f64) -> Result<Self> {
        require(min_delta >= 0.0 && min_delta.is_finite(), "min_delta", min_delta, "0 or more, and finite")?;
        Ok(Self { mode, patience, min_delta, best: None, bad: 0 })
    }

    /// Takes a metric, and calls `snapshot` if it is the best so far. NaN and ±∞ are never the best.
    pub fn observe(&mut self, metric: f64, snapshot: impl FnOnce() -> T) -> Verdict {
        let best = self.best.as_ref().map(|(best, _)| *best);
        if self.mode.beats(metric, best, Threshold::Absolute(self.min_delta)) {
            self.best = Some((metric, snapshot()));
            self.bad = 0;
            return Verdict::Best;
        }
        self.bad += 1;
        if self.bad > self.patience { Verdict::Stop } else { Verdict::Wait }
    }

    /// The best metric so far, and its snapshot.
    pub fn best(&self) -> Option<(f64, &T)> {
        self.best.as_ref().map(|(metric, snapshot)| (*metric, snapshot))
    }
}
