//! The network in plain Rust: what runs with `--device cpu`, and in f64 the check of the gradients.

use rayon::prelude::*;
use wgpu_optim::{Error, Optimizer, Real};

use crate::data::{CLASSES, PIXELS, Samples};
use crate::shape::{Shape, Weights};

/// Added to a variance, and the part of the batch in a running statistic: PyTorch's.
const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// What learns, and a copy of its weights, as [`Shape::tensors`] lists them.
pub(crate) struct Network<F> {
    pub(crate) weights: Vec<Vec<F>>,
    pub(crate) optimizer: Optimizer,
    shape: Shape,
    /// Which units are dropped follows from it.
    pub(crate) step: u32,
}

/// What a layer has computed of a batch; matrices have a row a sample.
struct Layer<F> {
    input: Vec<F>,
    /// Behind the activation; of the last layer, the logits.
    output: Vec<F>,
    /// Where the layer is normalized, and the statistics that it was normalized by.
    normalized: Vec<F>,
    mean: Vec<F>,
    variance: Vec<F>,
}

/// The loss of a batch and the gradients of its layers, and the layers.
struct Pass<F> {
    loss: F,
    gradients: Vec<Vec<F>>,
    layers: Vec<Layer<F>>,
}

/// As in network.wgsl: whether a step keeps this unit of this image.
fn keeps(dropout: f32, step: u32, image: u32, unit: u32) -> bool {
    let hash = pcg(pcg(pcg(step) ^ image) ^ unit);
    (hash >> 8) as f32 / 16_777_216.0 >= dropout
}

/// Jarzynski and Olano 2020, section 4.
fn pcg(x: u32) -> u32 {
    let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

impl<F: Real + std::iter::Sum> Network<F> {
    pub(crate) fn new(mut optimizer: Optimizer, weights: &Weights, shape: &Shape) -> Result<Self, Error> {
        let wide = |values: &Vec<f32>| values.iter().map(|&x| F::of(f64::from(x))).collect::<Vec<F>>();
        let weights: Vec<_> = weights.iter().map(wide).collect();
        shape.add(&mut optimizer, &weights)?;
        Ok(Self { weights, optimizer, shape: shape.clone(), step: 0 })
    }

    /// Trains on one batch and returns its mean loss.
    pub(crate) fn train(&mut self, samples: &Samples, batch: &[u32]) -> Result<F, Error> {
        let Pass { loss, gradients, layers } = self.pass(samples, batch);
        for (tensor, gradient) in self.shape.tensors().iter().zip(&gradients).filter(|(tensor, _)| tensor.learnt) {
            self.optimizer.write_gradient(tensor.name.as_str(), gradient)?;
        }
        let n = batch.len() as f64;
        let unbiased = F::of(n / (n - 1.0).max(1.0));
        for (k, layer) in layers.iter().enumerate().filter(|(k, _)| self.shape.normalizes(*k)) {
            let variance: Vec<_> = layer.variance.iter().map(|&v| v * unbiased).collect();
            for (name, at, of) in [("mean", 3, &layer.mean), ("variance", 4, &variance)] {
                let running = &mut self.weights[self.shape.first(k) + at];
                running.iter_mut().zip(of).for_each(|(running, &x)| *running += F::of(MOMENTUM) * (x - *running));
                self.optimizer.write(format!("{name}{}", k + 1).as_str(), running)?;
            }
        }
        self.optimizer.step()?;
        self.refresh()?;
        Ok(loss)
    }

    /// Takes the weights from the optimizer.
    pub(crate) fn refresh(&mut self) -> Result<(), Error> {
        for (tensor, weights) in self.shape.tensors().iter().zip(&mut self.weights) {
            *weights = self.optimizer.read_blocking(tensor.name.as_str())?;
        }
        Ok(())
    }

    /// The mean loss of a batch, and the gradient of each tensor; of running statistics it is empty.
    pub(crate) fn gradients(&self, samples: &Samples, batch: &[u32]) -> (F, Vec<Vec<F>>) {
        let pass = self.pass(samples, batch);
        (pass.loss, pass.gradients)
    }

    /// How many of the samples the network gets right.
    pub(crate) fn hits(&self, samples: &Samples) -> usize {
        let all: Vec<_> = (0..samples.len() as u32).collect();
        let right = |(logits, &k): (&[F], &u32)| {
            let best = logits.iter().copied().fold(F::neg_infinity(), F::max);
            logits.iter().position(|&z| z == best) == Some(usize::from(samples.labels[k as usize]))
        };
        let hits = |some: &[u32]| {
            let layers = self.forward(samples, some, None);
            layers[layers.len() - 1].output.chunks(CLASSES).zip(some).filter(|pair| right(*pair)).count()
        };
        all.chunks(1024).map(hits).sum()
    }

    /// Drops units and takes the batch's statistics in a training step, and not without one.
    fn forward(&self, samples: &Samples, batch: &[u32], step: Option<u32>) -> Vec<Layer<F>> {
        let pixels = |&k: &u32| &samples.images[k as usize * PIXELS..(k as usize + 1) * PIXELS];
        let mut input: Vec<_> = batch.iter().flat_map(pixels).map(|&x| F::of(f64::from(x)) / F::of(255.0)).collect();
        let mut layers = Vec::new();
        for (l, (inputs, outputs)) in self.shape.layers().into_iter().enumerate() {
            let of = &self.weights[self.shape.first(l)..];
            let (w, b) = (&of[0], &of[1]);
            let mut output = vec![F::zero(); batch.len() * outputs];
            output.par_chunks_mut(outputs).zip(input.par_chunks(inputs)).for_each(|(z, x)| {
                if !self.shape.normalizes(l) {
                    z.copy_from_slice(b);
                }
                for (row, &x) in w.chunks(outputs).zip(x).filter(|(_, x)| **x != F::zero()) {
                    z.iter_mut().zip(row).for_each(|(z, &w)| *z += x * w);
                }
            });
            let (mut mean, mut variance, mut normalized) = Default::default();
            if self.shape.normalizes(l) {
                (mean, variance) = match step {
                    Some(_) => statistics(&output, outputs),
                    None => (of[3].clone(), of[4].clone()),
                };
                for (i, z) in output.iter_mut().enumerate() {
                    let j = i % outputs;
                    *z = (*z - mean[j]) / (variance[j] + F::of(EPS)).sqrt();
                }
                normalized = output.clone();
                output.iter_mut().enumerate().for_each(|(i, y)| *y = of[2][i % outputs] * *y + b[i % outputs]);
            }
            if l < self.shape.hidden.len() {
                // Not max(), which would make a NaN 0.
                output.iter_mut().filter(|y| **y < F::zero()).for_each(|y| *y = F::zero());
                for (s, y) in output.chunks_mut(outputs).enumerate() {
                    self.drop(l, step, batch[s], y);
                }
            }
            layers.push(Layer { input, output: output.clone(), normalized, mean, variance });
            input = output;
        }
        layers
    }

    fn drop(&self, layer: usize, step: Option<u32>, image: u32, units: &mut [F]) {
        let Some(step) = step.filter(|_| self.shape.dropout > 0.0) else { return };
        let (first, scale) = ((layer as u32) << 16, self.kept());
        for (unit, y) in (first..).zip(units) {
            *y = if keeps(self.shape.dropout, step, image, unit) { *y * scale } else { F::zero() };
        }
    }

    /// What a unit that is kept counts for.
    fn kept(&self) -> F {
        F::of((1.0 / (1.0 - self.shape.dropout)).into())
    }

    fn pass(&self, samples: &Samples, batch: &[u32]) -> Pass<F> {
        let layers = self.forward(samples, batch, Some(self.step));
        let n = F::of(batch.len() as f64);
        let mut gradients = vec![Vec::new(); self.weights.len()];
        let mut d = layers[layers.len() - 1].output.clone();
        let losses = d.chunks_mut(CLASSES).zip(batch).map(|(z, &k)| {
            let loss = self.loss(z, usize::from(samples.labels[k as usize]));
            z.iter_mut().for_each(|d| *d /= n);
            loss
        });
        let loss = losses.sum::<F>() / n;
        for (l, (inputs, outputs)) in self.shape.layers().into_iter().enumerate().rev() {
            let (first, layer) = (self.shape.first(l), &layers[l]);
            let (w, input) = (&self.weights[first], &layer.input);
            let mut sum = vec![F::zero(); outputs];
            d.chunks(outputs).for_each(|d| sum.iter_mut().zip(d).for_each(|(sum, &d)| *sum += d));
            if self.shape.normalizes(l) {
                let mut scale = vec![F::zero(); outputs];
                d.iter().zip(&layer.normalized).enumerate().for_each(|(i, (&d, &x))| scale[i % outputs] += d * x);
                for (i, (d, &x)) in d.iter_mut().zip(&layer.normalized).enumerate() {
                    let j = i % outputs;
                    let factor = self.weights[first + 2][j] / (layer.variance[j] + F::of(EPS)).sqrt();
                    *d = factor * (*d - (sum[j] + x * scale[j]) / n);
                }
                gradients[first + 2] = scale;
            }
            let mut g = vec![F::zero(); inputs * outputs];
            g.par_chunks_mut(outputs).enumerate().for_each(|(k, row)| {
                for (d, x) in d.chunks(outputs).zip(input.chunks(inputs)).filter(|(_, x)| x[k] != F::zero()) {
                    row.iter_mut().zip(d).for_each(|(g, &d)| *g += d * x[k]);
                }
            });
            (gradients[first], gradients[first + 1]) = (g, sum);
            if l > 0 {
                // Through the dropout and the ReLU of the layer before.
                let kept = if self.shape.dropout > 0.0 { self.kept() } else { F::one() };
                let back = |(i, &x): (usize, &F)| {
                    let (s, k) = (i / inputs, i % inputs);
                    let row = w[k * outputs..][..outputs].iter().zip(&d[s * outputs..][..outputs]);
                    if x > F::zero() { row.map(|(&w, &d)| w * d).sum::<F>() * kept } else { F::zero() }
                };
                d = input.par_iter().enumerate().map(back).collect();
            }
        }
        Pass { loss, gradients, layers }
    }

    /// A sample's loss; its gradient takes the place of the logits.
    fn loss(&self, logits: &mut [F], label: usize) -> F {
        let (one, none, own) = (F::one(), F::zero(), logits[label]);
        if self.shape.hinge {
            // Σ max(0, 1 + z − z of the label), of the others.
            logits[label] = F::neg_infinity();
            let margin = |&z: &F| if z - own + one <= none { none } else { z - own + one };
            let margins: Vec<_> = logits.iter().map(margin).collect();
            logits.iter_mut().zip(&margins).for_each(|(d, &margin)| *d = if margin == none { none } else { one });
            logits[label] = -logits.iter().copied().sum::<F>();
            return margins.into_iter().sum();
        }
        let largest = logits.iter().copied().fold(F::neg_infinity(), F::max);
        let total: F = logits.iter().map(|&z| (z - largest).exp()).sum();
        logits.iter_mut().for_each(|z| *z = (*z - largest).exp() / total);
        logits[label] -= one;
        total.ln() + largest - own
    }
}

/// Mean and (biased) variance of each column.
fn statistics<F: Real>(z: &[F], columns: usize) -> (Vec<F>, Vec<F>) {
    let n = F::of((z.len() / columns) as f64);
    let mut mean = vec![F::zero(); columns];
    z.iter().enumerate().for_each(|(i, &z)| mean[i % columns] += z);
    mean.iter_mut().for_each(|sum| *sum /= n);
    let mut variance = vec![F::zero(); columns];
    z.iter().enumerate().for_each(|(i, &z)| variance[i % columns] += (z - mean[i % columns]).powi(2));
    variance.iter_mut().for_each(|sum| *sum /= n);
    (mean, variance)
}
