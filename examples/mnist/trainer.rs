//! Training on either device: the order of the samples, the loop, what is measured on the way.

use indicatif::ProgressBar;
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use wgpu_optim::{AnyRule, ClipNorm, Device, EarlyStopping, Error, Mode, Optimizer, Precision, Settings, Verdict};

use crate::data::{CLASSES, PIXELS, Samples};
use crate::plot::Outcome;
use crate::shape::{Shape, Weights};
use crate::{Args, cpu, gpu};

/// Steps that a reported loss is the mean of.
const REPORT: usize = 50;

/// What learns.
pub(crate) struct Subject {
    /// As the plot's key has it.
    pub(crate) name: String,
    pub(crate) rule: AnyRule,
    pub(crate) settings: Settings,
    pub(crate) precision: Precision,
    pub(crate) shape: Shape,
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
        let Subject { rule, settings, precision, shape, .. } = subject;
        let weights = shape.initial(&mut Pcg64Mcg::seed_from_u64(args.seed));
        let mut optimizer = shape.optimizer(device, rule, (*settings, *precision), args.ema)?;
        optimizer.set_clip_norm(args.clip.map(ClipNorm::torch))?;
        optimizer.set_schedule(0, args.schedule(data)?)?;
        Ok(match device {
            Device::Cpu => {
                Self::Cpu { network: Box::new(cpu::Network::new(optimizer, &weights, shape)?), losses: Vec::new() }
            }
            Device::Gpu(gpu) => {
                let sets: Vec<_> = [&data.test].into_iter().chain(&data.held).collect();
                let of = (usize::from(args.batch), shape);
                Self::Gpu(Box::new(gpu::Network::new(gpu, optimizer, &weights, (&data.train, &sets), of)?))
            }
        })
    }

    fn optimizer(&mut self) -> &mut Optimizer {
        match self {
            Self::Cpu { network, .. } => &mut network.optimizer,
            Self::Gpu(network) => &mut network.optimizer,
        }
    }

    fn names(&mut self) -> Vec<String> {
        self.optimizer().parameters().map(|(_, name)| name.to_owned()).collect()
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

    /// The part of each set that is right; in so many groups, averages stand in for the weights.
    fn evaluate(&mut self, data: &Data, averaged: usize) -> Result<Found, Error> {
        self.swap(averaged)?;
        let part = |k: usize, of: &Samples| -> Result<f64, Error> {
            let hits = match &*self {
                Self::Cpu { network, .. } => network.hits(of),
                Self::Gpu(network) => network.hits(k)?,
            };
            Ok(hits as f64 / of.len() as f64)
        };
        let (test, held) = (part(0, &data.test)?, data.held.as_ref().map(|held| part(1, held)).transpose()?);
        let mut weights = Weights::new();
        for name in self.names().iter().filter(|_| data.held.is_some()) {
            weights.push(self.optimizer().read_blocking(name.as_str())?);
        }
        self.swap(averaged)?;
        Ok(Found { test, held, weights })
    }

    fn swap(&mut self, groups: usize) -> Result<(), Error> {
        for group in 0..groups {
            self.optimizer().swap_averages(group)?;
        }
        if groups == 0 { Ok(()) } else { self.refresh() }
    }

    fn refresh(&mut self) -> Result<(), Error> {
        if let Self::Cpu { network, .. } = self { network.refresh() } else { Ok(()) }
    }

    /// Goes on where the file stopped, if there is one; the epochs that it has behind it.
    fn resume(&mut self, args: &Args, steps: usize) -> Outcome<usize> {
        let Some(path) = args.resume.as_ref().filter(|path| path.exists()) else { return Ok(0) };
        self.optimizer().load(path)?;
        self.refresh()?;
        let taken = self.optimizer().steps("w1")? as usize;
        if !taken.is_multiple_of(steps) {
            let path = path.display();
            return Err(format!("{path}: {taken} steps are no epochs of {steps}: other data or another --batch").into());
        }
        let lr = self.optimizer().settings(0)?.lr;
        println!("{} goes on behind epoch {} with lr {lr}", path.display(), taken / steps);
        Ok(taken / steps)
    }
}

/// Trains one network. Where the loss is no number any more, that is an error, or with others the end of its curve.
pub(crate) fn train(args: &Args, subject: &Subject, device: &Device, data: &Data, bar: &ProgressBar) -> Outcome<Curve> {
    let batch = usize::from(args.batch);
    let steps = data.train.len().div_ceil(batch);
    let mut network = Network::new(args, subject, device, data)?;
    let averaged = if args.ema.is_some() { subject.shape.groups() } else { 0 };
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
                    return match args.several() {
                        true => Ok(curve),
                        false => Err(format!("{}: the loss is {loss}: try a lower --lr", subject.name).into()),
                    };
                }
                curve.losses.push((epoch as f64 + done as f64 / steps as f64, loss));
            }
            bar.inc(1);
        }
        let found = network.evaluate(data, averaged)?;
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
        for (name, weights) in network.names().iter().zip(best) {
            network.optimizer().write(name.as_str(), weights)?;
        }
        network.refresh()?;
        let found = network.evaluate(data, 0)?;
        curve.held = found.held;
        let at = curve.losses.last().map_or(0.0, |(epoch, _)| *epoch);
        curve.accuracy.push((at, found.test));
    }
    if curve.accuracy.is_empty() {
        let found = network.evaluate(data, averaged)?;
        curve.accuracy.push((first as f64, found.test));
    }
    Ok(curve)
}

/// The order of an epoch's samples: of the first one, with `--curriculum`, from those near the mean of their class to
/// those that are not.
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

pub(crate) fn shuffled(rng: &mut Pcg64Mcg, len: usize) -> Vec<u32> {
    let mut order: Vec<_> = (0..len as u32).collect();
    order.shuffle(rng);
    order
}
