//! The network in plain Rust: what runs with `--device cpu`, and in f64 the check of the gradients.

use rayon::prelude::*;
use wgpu_optim::{Error, Optimizer, Real};

use crate::data::{CLASSES, PIXELS, Samples};
use crate::{SHAPES, Weights};

/// What learns, and a copy of its weights, as `crate::SHAPES` names them.
pub(crate) struct Network<F> {
    pub(crate) weights: [Vec<F>; 4],
    pub(crate) optimizer: Optimizer,
    how: How,
    /// Which units are dropped follows from it.
    pub(crate) step: u32,
}

/// What the network is, beside its weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// The multiclass SVM's loss instead of cross-entropy.
    pub(crate) hinge: bool,
    /// The part of the hidden units that a training step drops; the others count for as much more.
    pub(crate) dropout: f32,
}

impl How {
    /// As in network.wgsl: whether a step keeps this unit of this image.
    fn keeps(self, step: u32, image: u32, unit: u32) -> bool {
        let hash = pcg(pcg(pcg(step) ^ image) ^ unit);
        (hash >> 8) as f32 / 16_777_216.0 >= self.dropout
    }
}

/// Jarzynski and Olano 2020, section 4.
fn pcg(x: u32) -> u32 {
    let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// One sample's way through the network.
struct Pass<F> {
    image: Vec<F>,
    hidden: Vec<F>,
    loss: F,
    right: bool,
    d_logits: Vec<F>,
    d_hidden: Vec<F>,
}

impl<F: Real + std::iter::Sum> Network<F> {
    pub(crate) fn new(mut optimizer: Optimizer, weights: &Weights, how: How) -> Result<Self, Error> {
        let weights = weights.each_ref().map(|values| values.iter().map(|&x| F::of(f64::from(x))).collect::<Vec<F>>());
        let tensors: Vec<_> =
            SHAPES.iter().zip(&weights).map(|(&(name, _), values)| (name, values.as_slice())).collect();
        optimizer.add_all(0, &tensors)?;
        Ok(Self { weights, optimizer, how, step: 0 })
    }

    /// Trains on one batch and returns its mean loss.
    pub(crate) fn train(&mut self, samples: &Samples, batch: &[u32]) -> Result<F, Error> {
        let (loss, gradients) = self.gradients(samples, batch);
        for ((name, _), gradient) in SHAPES.iter().zip(&gradients) {
            self.optimizer.write_gradient(*name, gradient)?;
        }
        self.optimizer.step()?;
        self.refresh()?;
        Ok(loss)
    }

    /// Takes the weights from the optimizer.
    pub(crate) fn refresh(&mut self) -> Result<(), Error> {
        for ((name, _), weights) in SHAPES.iter().zip(&mut self.weights) {
            *weights = self.optimizer.read_blocking(*name)?;
        }
        Ok(())
    }

    /// The mean loss of a batch, and its gradient.
    pub(crate) fn gradients(&self, samples: &Samples, batch: &[u32]) -> (F, [Vec<F>; 4]) {
        let hidden = self.weights[1].len();
        let passes: Vec<_> = batch.par_iter().map(|&k| self.pass(samples, k as usize, Some(self.step))).collect();
        let share = F::one() / F::of(batch.len() as f64);
        let mut g_w1 = vec![F::zero(); PIXELS * hidden];
        g_w1.par_chunks_mut(hidden).enumerate().for_each(|(k, row)| {
            for pass in passes.iter().filter(|pass| pass.image[k] != F::zero()) {
                row.iter_mut().zip(&pass.d_hidden).for_each(|(g, &d)| *g += d * share * pass.image[k]);
            }
        });
        let sum = |of: &dyn Fn(&Pass<F>) -> F| passes.iter().map(of).sum::<F>() * share;
        let g_b1 = (0..hidden).map(|j| sum(&|pass| pass.d_hidden[j])).collect();
        let g_w2 =
            (0..hidden * CLASSES).map(|i| sum(&|pass| pass.hidden[i / CLASSES] * pass.d_logits[i % CLASSES])).collect();
        let g_b2 = (0..CLASSES).map(|c| sum(&|pass| pass.d_logits[c])).collect();
        (sum(&|pass| pass.loss), [g_w1, g_b1, g_w2, g_b2])
    }

    /// How many of the samples the network gets right.
    pub(crate) fn hits(&self, samples: &Samples) -> usize {
        (0..samples.len()).into_par_iter().filter(|&k| self.pass(samples, k, None).right).count()
    }

    /// Drops units in a training step, and none without one.
    fn pass(&self, samples: &Samples, k: usize, step: Option<u32>) -> Pass<F> {
        let [w1, b1, w2, b2] = &self.weights;
        let pixels = &samples.images[k * PIXELS..(k + 1) * PIXELS];
        let image: Vec<F> = pixels.iter().map(|&x| F::of(f64::from(x)) / F::of(255.0)).collect();
        let mut hidden = b1.clone();
        for (row, &x) in w1.chunks(b1.len()).zip(&image).filter(|(_, x)| **x != F::zero()) {
            hidden.iter_mut().zip(row).for_each(|(h, &w)| *h += x * w);
        }
        hidden.iter_mut().for_each(|h| *h = h.max(F::zero()));
        let mut scale = F::one();
        if let Some(step) = step.filter(|_| self.how.dropout > 0.0) {
            scale = F::of((1.0 / (1.0 - self.how.dropout)).into());
            for (unit, h) in (0..).zip(&mut hidden) {
                *h = if self.how.keeps(step, k as u32, unit) { *h * scale } else { F::zero() };
            }
        }
        let mut logits = b2.clone();
        for (row, &h) in w2.chunks(CLASSES).zip(&hidden) {
            logits.iter_mut().zip(row).for_each(|(z, &w)| *z += h * w);
        }
        let label = usize::from(samples.labels[k]);
        let largest = logits.iter().copied().fold(F::neg_infinity(), F::max);
        let total: F = logits.iter().map(|&z| (z - largest).exp()).sum();
        let (one, none, own) = (F::one(), F::zero(), logits[label]);
        let margin = |(c, &z): (usize, &F)| if c == label { none } else { (z - own + one).max(none) };
        let beyond = F::of(logits.iter().enumerate().filter(|pair| margin(*pair) > none).count() as f64);
        let d_logit = |(c, &z): (usize, &F)| match self.how.hinge {
            true if c == label => -beyond,
            true => {
                if margin((c, &z)) > none {
                    one
                } else {
                    none
                }
            }
            false => (z - largest).exp() / total - if c == label { one } else { none },
        };
        let d_logits: Vec<F> = logits.iter().enumerate().map(d_logit).collect();
        let loss = match self.how.hinge {
            true => logits.iter().enumerate().map(margin).sum(),
            false => total.ln() + largest - own,
        };
        let back = |(row, &h): (&[F], &F)| {
            let sum: F = row.iter().zip(&d_logits).map(|(&w, &d)| w * d).sum();
            if h > F::zero() { sum * scale } else { F::zero() }
        };
        let d_hidden = w2.chunks(CLASSES).zip(&hidden).map(back).collect();
        let right = logits.iter().position(|&z| z == largest) == Some(label);
        Pass { image, hidden, loss, right, d_logits, d_hidden }
    }
}
