//! The same numbers as Burn's own optimizers, and as ours without Burn.

use burn::lr_scheduler::constant::ConstantLr;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::ParamGroup;
use burn::optim::{AdamConfig, AdamWConfig, SgdConfig, momentum::MomentumConfig};
use libtest_mimic::Failed;
use wgpu_optim::burn::ModuleOptimizer;
use wgpu_optim::rules::{self, Adam, Momentum};
use wgpu_optim::{ClipNorm, Device, Error, Extent, Optimizer, Options, Settings, WeightDecay};

use crate::{Named, Net, On, close, ensure, read, values};

pub(crate) const TESTS: &[crate::Test] = &[
    ("burns_adam_reaches_the_same_losses", burns_adam_reaches_the_same_losses),
    ("every_rule_is_a_drop_in", every_rule_is_a_drop_in),
    ("groups_rates_and_clipping", groups_rates_and_clipping),
];

/// What f32 rounds off in ten steps of a net this small.
const TOLERANCE: f32 = 2e-5;

fn burns_adam_reaches_the_same_losses(on: &On) -> Result<(), Failed> {
    let decayed = |lambda| Settings { weight_decay: WeightDecay::Decoupled(lambda), ..Settings::lr(0.0) };
    let momentum = MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov: true };
    let mut pairs = [
        ("Adam", AdamConfig::new().with_epsilon(1e-8).init(), on.optimizer(Adam::default(), 0.0)?, 1e-2),
        (
            "AdamW",
            AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.1).init(),
            on.optimizer(Adam::default(), decayed(0.1))?,
            1e-2,
        ),
        (
            "SGD",
            SgdConfig::new().with_momentum(Some(momentum)).init(),
            on.optimizer(Momentum::default().nesterov(), 0.0)?,
            5e-2,
        ),
    ];
    for (name, burns, ours, lr) in &mut pairs {
        let net = Net::new(on);
        let (mut theirs, mut net) = (net.clone(), net);
        let first = net.loss(on, 0).into_scalar::<f32>();
        for step in 0..10 {
            let (their_loss, gradients) = theirs.gradients(on, 0);
            theirs = burns.step(*lr, theirs, gradients);
            let (loss, gradients) = net.gradients(on, 0);
            net = ours.step(*lr, net, gradients)?;
            let apart = (loss - their_loss).abs() / their_loss;
            ensure(apart < 1e-4, format!("{name}, step {step}: loss {loss}, Burn's {their_loss}"))?;
        }
        close(name, &values(&net), &values(&theirs), TOLERANCE)?;
        let last = net.loss(on, 0).into_scalar::<f32>();
        ensure(last < 0.7 * first, format!("{name}: the loss goes from {first} to {last}"))?;
    }
    Ok(())
}

/// The optimizer without Burn, on the CPU, with the gradients that Burn computes.
struct Oracle {
    optimizer: Optimizer,
}

impl Oracle {
    fn new(optimizer: Optimizer, start: &Named, group: impl Fn(&str) -> usize) -> Result<Self, Failed> {
        let mut oracle = Self { optimizer };
        for (name, values) in start {
            oracle.optimizer.add(group(name), name, values)?;
        }
        Ok(oracle)
    }

    fn step(&mut self, gradients: &Named) -> Result<(), Failed> {
        let names: Vec<_> = self.optimizer.parameters().map(|(_, name)| name.to_owned()).collect();
        for name in names {
            let gradient = gradients.get(&name);
            let kind = if gradient.is_some() { wgpu_optim::Gradient::Own } else { wgpu_optim::Gradient::Missing };
            self.optimizer.set_gradient(name.as_str(), kind)?;
            if let Some(gradient) = gradient {
                self.optimizer.write_gradient(name.as_str(), gradient)?;
            }
        }
        Ok(self.optimizer.step()?)
    }

    fn values(&self) -> Result<Named, Failed> {
        let read = |(id, name): (_, &str)| Ok((name.to_owned(), self.optimizer.read_blocking(id)?));
        self.optimizer.parameters().map(read).collect()
    }
}

fn every_rule_is_a_drop_in(on: &On) -> Result<(), Failed> {
    for (name, rule) in rules::all() {
        if rule.name() == "schedule_free" {
            // A module has no way to where its model is evaluated.
            let refused = ModuleOptimizer::new(&Device::Cpu, rule, 0.1).map(drop);
            ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
            continue;
        }
        let mut net = Net::new(on);
        let mut oracle = Oracle::new(Optimizer::new(&Device::Cpu, rule.clone(), 0.01)?, &values(&net), |_| 0)?;
        let mut optimizer = on.optimizer(rule.clone(), 1.0)?;
        for step in 0..3 {
            let (_, gradients) = net.gradients(on, step);
            let named = read(&net, Some(&gradients));
            ensure(named.contains_key("layers.1.bias") && !named.contains_key("unused.weight"), "gradients")?;
            net = optimizer.step(0.01, net, gradients)?;
            oracle.step(&named)?;
        }
        // A norm of the whole group is summed in another order.
        let tolerance = if rule.reduce().map(|reduce| reduce.over) == Some(Extent::Group) { 1e-4 } else { TOLERANCE };
        close(name, &values(&net), &oracle.values()?, tolerance)?;
        ensure(optimizer.optimizer().steps("conv.weight")? == 3, "steps, by path")?;
    }
    Ok(())
}

fn groups_rates_and_clipping(on: &On) -> Result<(), Failed> {
    let decayed = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(1.0) };
    let plain = Settings { lr_factor: 0.5, ..Settings::lr(1.0) };
    let mut net = Net::new(on);
    let mut optimizer = on
        .optimizer(Adam::default(), decayed)?
        .with_group(|path| path.ends_with("bias"), Momentum::default(), plain)?
        .with_group(|path| path == "head.bias", Adam::amsgrad(), plain)?;
    optimizer.set_clip_norm(ClipNorm::torch(0.01))?;
    let mut ours = Optimizer::new(&Device::Cpu, Adam::default(), Settings { lr: 0.02, ..decayed })?;
    ours.add_group(Momentum::default(), Settings { lr: 0.02, ..plain })?;
    ours.add_group(Adam::amsgrad(), Settings { lr: 0.02, ..plain })?;
    ours.set_clip_norm(ClipNorm::torch(0.01))?;
    let group = |name: &str| if name == "head.bias" { 2 } else { usize::from(name.ends_with("bias")) };
    let mut oracle = Oracle::new(ours, &values(&net), group)?;
    // Burn's own rates by parameter: half of the base for the first layer.
    let first = Options { lr_scale: 0.5, ..Options::default() };
    oracle.optimizer.set_options_where(|name| name.starts_with("layers.0"), first)?;
    let mut scheduler = ModuleLrScheduler::new(ConstantLr::from(0.02))
        .with_group(ParamGroup::from_predicate("layers.0"), ConstantLr::from(0.01));
    for step in 0..4 {
        let (_, gradients) = net.gradients(on, step);
        let named = read(&net, Some(&gradients));
        let rates: ModuleLearningRate = scheduler.step();
        net = optimizer.step(rates, net, gradients)?;
        oracle.step(&named)?;
        let norm = named.values().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if let Device::Gpu(gpu) = &on.ours {
            gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        }
        let found = optimizer.report().grad_norm;
        ensure((found - norm).abs() < 1e-4 * norm && norm > 0.01, format!("norm {found}, by hand {norm}"))?;
    }
    close("groups", &values(&net), &oracle.values()?, TOLERANCE)?;
    // A base rate of 0 freezes all but the parameters with a rate of their own.
    let mut scheduler = ModuleLrScheduler::new(ConstantLr::from(0.0))
        .with_group(ParamGroup::from_predicate("layers.0"), ConstantLr::from(0.01));
    let before = values(&net);
    let (_, gradients) = net.gradients(on, 9);
    let net = on.optimizer(Adam::default(), 1.0)?.step(scheduler.step(), net, gradients)?;
    for (name, after) in values(&net) {
        ensure((after != before[&name]) == name.starts_with("layers.0"), name)?;
    }
    Ok(())
}
