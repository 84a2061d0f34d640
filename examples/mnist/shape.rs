//! The network's layers and parameters.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use wgpu_optim::{AnyRule, Averaging, Device, Error, Optimizer, Precision, Settings, rules::Sgd};

use crate::data::{CLASSES, PIXELS};

/// What the network is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Of the hidden layers.
    pub(crate) hidden: Vec<usize>,
    /// The multiclass SVM's loss instead of cross-entropy.
    pub(crate) hinge: bool,
    /// The part of the hidden units that a training step drops; the others count for as much more.
    pub(crate) dropout: f32,
    /// Each hidden unit as its batch has it with mean 0 and variance 1, scaled and shifted by what is learnt.
    pub(crate) batch_norm: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { hidden: vec![128], hinge: false, dropout: 0.0, batch_norm: false }
    }
}

/// The values of each tensor, as [`Shape::tensors`] lists them.
pub(crate) type Weights = Vec<Vec<f32>>;

/// Something that the network reads.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) len: usize,
    /// What the first values are: uniform within this, or where it is 0, `start`.
    bound: f32,
    start: f32,
    /// Not so are the running statistics, which inference reads.
    pub(crate) learnt: bool,
}

impl Shape {
    /// Inputs and outputs of each layer.
    pub(crate) fn layers(&self) -> Vec<(usize, usize)> {
        let outputs = self.hidden.iter().copied().chain([CLASSES]);
        [PIXELS].into_iter().chain(self.hidden.iter().copied()).zip(outputs).collect()
    }

    /// Whether this layer is normalized.
    pub(crate) fn normalizes(&self, layer: usize) -> bool {
        self.batch_norm && layer < self.hidden.len()
    }

    /// Where a layer's tensors begin: weights (inputs × outputs), biases; of a normalized layer then scales, running
    /// means, running variances.
    pub(crate) fn first(&self, layer: usize) -> usize {
        layer * if self.batch_norm { 5 } else { 2 }
    }

    /// Weights are uniform within ±√(6 / inputs) at first (He et al. 2015).
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = Vec::new();
        for (k, (inputs, outputs)) in self.layers().into_iter().enumerate() {
            let mut add = |name: &str, len, bound, start, learnt| {
                tensors.push(Tensor { name: format!("{name}{}", k + 1), len, bound, start, learnt });
            };
            add("w", inputs * outputs, (6.0 / inputs as f32).sqrt(), 0.0, true);
            add("b", outputs, 0.0, 0.0, true);
            if self.normalizes(k) {
                add("scale", outputs, 0.0, 1.0, true);
                add("mean", outputs, 0.0, 0.0, false);
                add("variance", outputs, 0.0, 1.0, false);
            }
        }
        tensors
    }

    pub(crate) fn initial(&self, rng: &mut Pcg64Mcg) -> Weights {
        let mut values = |tensor: &Tensor| match tensor.bound {
            0.0 => vec![tensor.start; tensor.len],
            bound => (0..tensor.len).map(|_| rng.random_range(-bound..bound)).collect(),
        };
        self.tensors().iter().map(&mut values).collect()
    }

    /// An optimizer for the tensors: statistics are in a group of their own, which does not move them, so that
    /// checkpoints have them.
    pub(crate) fn optimizer(
        &self,
        device: &Device,
        rule: &AnyRule,
        (settings, precision): (Settings, Precision),
        average: Option<f64>,
    ) -> Result<Optimizer, Error> {
        let mut optimizer = Optimizer::new(device, rule.clone(), settings)?;
        optimizer.set_precision(0, precision)?;
        if self.batch_norm {
            optimizer.add_group(Sgd, Settings::lr(0.0))?;
        }
        if let Some(decay) = average {
            for group in 0..self.groups() {
                optimizer.set_averaging(group, Averaging::Ema(decay))?;
            }
        }
        Ok(optimizer)
    }

    /// Of the optimizer.
    pub(crate) fn groups(&self) -> usize {
        1 + usize::from(self.batch_norm)
    }

    pub(crate) fn add<F: wgpu_optim::Real>(&self, optimizer: &mut Optimizer, weights: &[Vec<F>]) -> Result<(), Error> {
        let tensors = self.tensors();
        for (group, learnt) in [(0, true), (1, false)] {
            let of = tensors.iter().zip(weights).filter(|(tensor, _)| tensor.learnt == learnt);
            let of: Vec<_> = of.map(|(tensor, values)| (tensor.name.as_str(), values.as_slice())).collect();
            if !of.is_empty() {
                optimizer.add_all(group, &of)?;
            }
        }
        Ok(())
    }
}
