//! Training on either device: the order of the samples, the loop, what is measured on the way.

use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::{AnyRule, Averaging, ClipNorm, Device, EarlyStopping, Error, Mode, Optimizer, Settings, Verdict};

use crate::cpu::How;
use crate::data::{CLASSES, PIXELS, Samples};
use crate::plot::Outcome;
use crate::{Args, HIDDEN, SHAPES, Weights, cpu, gpu};

/// Steps that a reported loss is the mean of.
const REPORT: usize = 50;

/// What learns.
pub(crate) struct Subject {
    /// As the plot's key has it.
    pub(crate) name: String,
    pub(crate) rule: AnyRule,
    pub(crate) settings: Settings,
    pub(crate) how: How,
}

pub(crate) struct Data {
    pub(crate) train: Samples,
    pub(crate) test: Samples,
    /// What early stopping and the choice of a rate go by.
    pub(crate) held: Option<Samples>,
}

/// How a run went, by epochs.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) lr: f64,
    /// Epochs, and the mean loss of the last steps.
    pub(crate) losses: Vec<(f64, f64)>,
    /// Epochs, and the part of the test images that is right.
    pub(crate) accuracy: Vec<(f64, f64)>,
    /// Of the images held out, at last.
    pub(crate) held: Option<f64>,
    /// Epochs of this run that are complete.
    pub(crate) epochs: usize,
    pub(crate) diverged: bool,
}

impl Curve {
    pub(crate) fn last(&self) -> f64 {
        self.accuracy.last().map_or(0.0, |(_, accuracy)| *accuracy)
    }
}

enum Network {
    Cpu { network: Box<cpu::Network<f32>>, losses: Vec<f32> },
    Gpu(Box<gpu::Network>),
}

/// What an evaluation finds.
struct Found {
    test: f64,
    held: Option<f64>,
    /// Where images are held out: for early stopping.
    weights: Weights,
}

impl Network {
    fn new(args: &Args, subject: &Subject, device: &Device, data: &Data) -> Outcome<Self> {
        let weights = initial(&mut Pcg64Mcg::seed_from_u64(args.seed));
        let Subject { rule, settings, how, .. } = subject;
        let mut optimizer = Optimizer::new(device, rule.clone(), *settings)?;
        optimizer.set_clip_norm(args.clip.map(ClipNorm::torch))?;
        if let Some(decay) = args.ema {
            optimizer.set_averaging(0, Averaging::Ema(decay))?;
        }
        optimizer.set_schedule(0, args.schedule(data)?)?;
        Ok(match device {
            Device::Cpu => {
                Self::Cpu { network: Box::new(cpu::Network::new(optimizer, &weights, *how)?), losses: Vec::new() }
            }
            Device::Gpu(gpu) => {
                let sets: Vec<_> = [&data.test].into_iter().chain(&data.held).collect();
                let how = (usize::from(args.batch), *how);
                Self::Gpu(Box::new(gpu::Network::new(gpu, optimizer, &weights, (&data.train, &sets), how)?))
            }
        })
    }

    fn optimizer(&mut self) -> &mut Optimizer {
        match self {
            Self::Cpu { network, .. } => &mut network.optimizer,
            Self::Gpu(network) => &mut network.optimizer,
        }
    }

    fn start(&mut self, epoch: usize, order: &[u32]) {
        match self {
            Self::Cpu { network, losses } => {
                losses.clear();
                network.step = (epoch as u32) << 16;
            }
            Self::Gpu(network) => network.start(epoch as u32, order),
        }
    }

    fn train(&mut self, samples: &Samples, batch: &[u32]) -> Result<(), Error> {
        match self {
            Self::Cpu { network, losses } => {
                losses.push(network.train(samples, batch)?);
                network.step += 1;
            }
            Self::Gpu(network) => network.train()?,
        }
        Ok(())
    }

    /// The mean of the last losses of the epoch: on a GPU the one read-back, now and then.
    fn loss(&self, steps: usize) -> Result<f64, Error> {
        let losses = match self {
            Self::Cpu { losses, .. } => losses.clone(),
            Self::Gpu(network) => network.losses(steps)?,
        };
        let last = &losses[losses.len().saturating_sub(REPORT)..];
        Ok(last.iter().map(|&loss| f64::from(loss)).sum::<f64>() / last.len() as f64)
    }

    /// The part of each set that is right; `averages` stand in for the weights.
    fn evaluate(&mut self, data: &Data, averages: bool) -> Result<Found, Error> {
        if averages {
            self.swap()?;
        }
        let part = |k: usize, of: &Samples| -> Result<f64, Error> {
            let hits = match &*self {
                Self::Cpu { network, .. } => network.hits(of),
                Self::Gpu(network) => network.hits(k)?,
            };
            Ok(hits as f64 / of.len() as f64)
        };
        let (test, held) = (part(0, &data.test)?, data.held.as_ref().map(|held| part(1, held)).transpose()?);
        let mut weights = Weights::default();
        for ((name, _), weights) in SHAPES.iter().zip(&mut weights).filter(|_| data.held.is_some()) {
            *weights = self.optimizer().read_blocking(*name)?;
        }
        if averages {
            self.swap()?;
        }
        Ok(Found { test, held, weights })
    }

    fn swap(&mut self) -> Result<(), Error> {
        self.optimizer().swap_averages(0)?;
        self.refresh()
    }

    fn refresh(&mut self) -> Result<(), Error> {
        if let Self::Cpu { network, .. } = self { network.refresh() } else { Ok(()) }
    }

    /// Goes on where the file stopped, if there is one; the epochs that it has behind it.
    fn resume(&mut self, args: &Args, steps: usize) -> Outcome<usize> {
        let Some(path) = args.resume.as_ref().filter(|path| path.exists()) else { return Ok(0) };
        self.optimizer().load(path)?;
        self.refresh()?;
        let taken = self.optimizer().steps(SHAPES[0].0)? as usize;
        if !taken.is_multiple_of(steps) {
            let path = path.display();
            return Err(format!("{path}: {taken} steps are no epochs of {steps}: other data or another --batch").into());
        }
        let lr = self.optimizer().settings(0)?.lr;
        println!("{} goes on behind epoch {} with lr {lr}", path.display(), taken / steps);
        Ok(taken / steps)
    }
}

/// Trains one network. Where the loss is no number any more, that is an error, or with `--sweep-lr` the end of its curve.
pub(crate) fn train(args: &Args, subject: &Subject, device: &Device, data: &Data, bar: &ProgressBar) -> Outcome<Curve> {
    let batch = usize::from(args.batch);
    let steps = data.train.len().div_ceil(batch);
    let mut network = Network::new(args, subject, device, data)?;
    let mut stopping = args.early_stop.map(|patience| EarlyStopping::new(Mode::Max, patience, 0.0)).transpose()?;
    let (name, lr) = (subject.name.clone(), subject.settings.lr);
    let mut curve =
        Curve { name, lr, losses: Vec::new(), accuracy: Vec::new(), held: None, epochs: 0, diverged: false };
    let first = network.resume(args, steps)?;
    curve.lr = network.optimizer().settings(0)?.lr;
    bar.inc((first.min(args.epochs) * steps) as u64);
    for epoch in first..args.epochs {
        let order = order(args, epoch, &data.train);
        network.start(epoch, &order);
        for (step, samples) in order.chunks(batch).enumerate() {
            network.train(&data.train, samples)?;
            let done = step + 1;
            if done % REPORT == 0 || done == steps {
                let loss = network.loss(done)?;
                bar.set_message(format!("{}, epoch {}, loss {loss:.4}", subject.name, epoch + 1));
                if !loss.is_finite() {
                    curve.diverged = true;
                    return match args.sweep_lr {
                        Some(_) => Ok(curve),
                        None => Err(format!("{}: the loss is {loss}: try a lower --lr", subject.name).into()),
                    };
                }
                curve.losses.push((epoch as f64 + done as f64 / steps as f64, loss));
            }
            bar.inc(1);
        }
        let found = network.evaluate(data, args.ema.is_some())?;
        curve.accuracy.push(((epoch + 1) as f64, found.test));
        curve.held = found.held;
        curve.epochs += 1;
        if let Some(path) = &args.resume {
            network.optimizer().save(path)?;
        }
        let verdict =
            stopping.as_mut().zip(found.held).map(|(stopping, held)| stopping.observe(held, || found.weights));
        if verdict == Some(Verdict::Stop) {
            break;
        }
    }
    if let Some((_, best)) = stopping.as_ref().and_then(EarlyStopping::best) {
        for ((name, _), weights) in SHAPES.iter().zip(best) {
            network.optimizer().write(*name, weights)?;
        }
        network.refresh()?;
        let found = network.evaluate(data, false)?;
        curve.held = found.held;
        let at = curve.losses.last().map_or(0.0, |(epoch, _)| *epoch);
        curve.accuracy.push((at, found.test));
    }
    if curve.accuracy.is_empty() {
        let found = network.evaluate(data, args.ema.is_some())?;
        curve.accuracy.push((first as f64, found.test));
    }
    Ok(curve)
}

/// The order of an epoch's samples: of the first one, with `--curriculum`, from those near the mean of their class to those that are not.
fn order(args: &Args, epoch: usize, samples: &Samples) -> Vec<u32> {
    if !args.curriculum || epoch > 0 {
        // A resumed run shuffles as the whole one would have.
        return shuffled(&mut Pcg64Mcg::seed_from_u64(args.seed.wrapping_add(1 + epoch as u64)), samples.len());
    }
    let image = |k: usize| &samples.images[k * PIXELS..(k + 1) * PIXELS];
    let label = |k: usize| usize::from(samples.labels[k]);
    let (mut means, mut counts) = (vec![[0f32; PIXELS]; CLASSES], [0f32; CLASSES]);
    for k in 0..samples.len() {
        means[label(k)].iter_mut().zip(image(k)).for_each(|(mean, &x)| *mean += f32::from(x));
        counts[label(k)] += 1.0;
    }
    let distance = |k: usize| -> f32 {
        let (mean, count) = (&means[label(k)], counts[label(k)]);
        image(k).iter().zip(mean).map(|(&x, m)| (f32::from(x) - m / count).powi(2)).sum()
    };
    let distances: Vec<_> = (0..samples.len()).map(distance).collect();
    let mut order: Vec<_> = (0..samples.len() as u32).collect();
    order.sort_by(|&a, &b| distances[a as usize].total_cmp(&distances[b as usize]));
    order
}

/// Uniform within ±√(6 / inputs) for the weights (He et al. 2015), 0 for the biases.
pub(crate) fn initial(rng: &mut Pcg64Mcg) -> Weights {
    let mut layer = |inputs: usize, len: usize| -> Vec<f32> {
        let bound = (6.0 / inputs as f32).sqrt();
        (0..len).map(|_| rng.random_range(-bound..bound)).collect()
    };
    [layer(PIXELS, SHAPES[0].1), vec![0.0; HIDDEN], layer(HIDDEN, SHAPES[2].1), vec![0.0; CLASSES]]
}

pub(crate) fn shuffled(rng: &mut Pcg64Mcg, len: usize) -> Vec<u32> {
    let mut order: Vec<_> = (0..len as u32).collect();
    order.shuffle(rng);
    order
}
