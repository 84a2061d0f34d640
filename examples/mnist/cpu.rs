//! The network in plain Rust: what runs with `--device cpu`, and in f64 the check of the gradients.

use rayon::prelude::*;
use wgpu_optim::{AnyRule, Device, Error, Optimizer, ParameterId, Real, Settings, Slices};

use crate::Weights;
use crate::data::{CLASSES, PIXELS, Samples};

/// Weights, as `crate::SHAPES` names them, and what they learn with.
pub(crate) struct Network<F> {
    pub(crate) weights: [Vec<F>; 4],
    optimizer: Optimizer,
    ids: [ParameterId; 4],
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
    pub(crate) fn new(weights: &Weights, rule: &AnyRule, settings: Settings) -> Result<Self, Error> {
        let mut optimizer = Optimizer::new(&Device::Cpu, rule.clone(), settings)?;
        let mut ids = Vec::new();
        for ((name, _), values) in crate::SHAPES.iter().zip(weights) {
            ids.push(optimizer.add_slice::<F>(0, name, values.len())?);
        }
        let cast = |values: &Vec<f32>| values.iter().map(|&x| F::of(f64::from(x))).collect();
        Ok(Self { weights: weights.each_ref().map(cast), optimizer, ids: [ids[0], ids[1], ids[2], ids[3]] })
    }

    /// Trains on one batch and returns its mean loss.
    pub(crate) fn train(&mut self, samples: &Samples, batch: &[u32]) -> Result<F, Error> {
        let (loss, gradients) = self.gradients(samples, batch);
        let mut slices = Vec::new();
        for ((&id, parameter), gradient) in self.ids.iter().zip(&mut self.weights).zip(&gradients) {
            slices.push(Slices { id, parameter, gradient: Some(gradient) });
        }
        self.optimizer.step_slices(&mut slices)?;
        Ok(loss)
    }

    /// The mean loss of a batch, and its gradient.
    pub(crate) fn gradients(&self, samples: &Samples, batch: &[u32]) -> (F, [Vec<F>; 4]) {
        let hidden = self.weights[1].len();
        let passes: Vec<_> = batch.par_iter().map(|&k| self.pass(samples, k as usize)).collect();
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
        (0..samples.len()).into_par_iter().filter(|&k| self.pass(samples, k).right).count()
    }

    fn pass(&self, samples: &Samples, k: usize) -> Pass<F> {
        let [w1, b1, w2, b2] = &self.weights;
        let pixels = &samples.images[k * PIXELS..(k + 1) * PIXELS];
        let image: Vec<F> = pixels.iter().map(|&x| F::of(f64::from(x)) / F::of(255.0)).collect();
        let mut hidden = b1.clone();
        for (row, &x) in w1.chunks(b1.len()).zip(&image).filter(|(_, x)| **x != F::zero()) {
            hidden.iter_mut().zip(row).for_each(|(h, &w)| *h += x * w);
        }
        hidden.iter_mut().for_each(|h| *h = h.max(F::zero()));
        let mut logits = b2.clone();
        for (row, &h) in w2.chunks(CLASSES).zip(&hidden) {
            logits.iter_mut().zip(row).for_each(|(z, &w)| *z += h * w);
        }
        let label = usize::from(samples.labels[k]);
        let largest = logits.iter().copied().fold(F::neg_infinity(), F::max);
        let total: F = logits.iter().map(|&z| (z - largest).exp()).sum();
        let d_logit =
            |(c, &z): (usize, &F)| (z - largest).exp() / total - if c == label { F::one() } else { F::zero() };
        let d_logits: Vec<F> = logits.iter().enumerate().map(d_logit).collect();
        let back = |(row, &h): (&[F], &F)| {
            let sum = row.iter().zip(&d_logits).map(|(&w, &d)| w * d).sum();
            if h > F::zero() { sum } else { F::zero() }
        };
        let d_hidden = w2.chunks(CLASSES).zip(&hidden).map(back).collect();
        let right = logits.iter().position(|&z| z == largest) == Some(label);
        Pass { image, hidden, loss: total.ln() + largest - logits[label], right, d_logits, d_hidden }
    }
}
