//! What concerns the step as a whole: overflow, checkpoints, bad input.

use burn::module::{Module, Param};
use burn::nn::LinearConfig;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use libtest_mimic::Failed;
use wgpu_optim::burn::ModuleOptimizer;
use wgpu_optim::rules::{Adam, Momentum};
use wgpu_optim::{AdaptiveClip, Error, LossScaler, Schedule, Settings};

use crate::{Net, On, ensure, values};

pub(crate) const TESTS: &[crate::Test] = &[
    ("an_overflow_skips_the_step", an_overflow_skips_the_step),
    ("a_checkpoint_goes_on_exactly", a_checkpoint_goes_on_exactly),
    ("bad_input_gives_the_module_back", bad_input_gives_the_module_back),
    ("schedules_go_on_together", schedules_go_on_together),
    ("no_gradients_no_step", no_gradients_no_step),
];

fn an_overflow_skips_the_step(on: &On) -> Result<(), Failed> {
    let mut net = Net::new(on);
    let mut optimizer = on.optimizer(Adam::default(), 0.1)?;
    optimizer.set_loss_scaler(LossScaler { init_scale: 1024.0, ..LossScaler::default() })?;
    let mut last = values(&net);
    for step in 0..4 {
        let scale = optimizer.loss_scale()? as f32;
        let factor = if step == 2 { f32::INFINITY } else { scale };
        let loss = net.loss(on, step) * factor;
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(0.01, net, gradients)?;
        let now = values(&net);
        ensure((now == last) == (step == 2), format!("step {step} of which the third overflows"))?;
        last = now;
    }
    let report = optimizer.report();
    ensure(report.skipped_steps == 1 && report.loss_scale == 512.0, format!("{report:?}"))?;
    // Nothing is read between these steps: the scale is that of the step before all the same.
    let mut scales = Vec::new();
    for _ in 0..4 {
        let loss = net.loss(on, 0) * f32::INFINITY;
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(0.01, net, gradients)?;
        scales.push(optimizer.loss_scale()?);
    }
    ensure(scales == [256.0, 128.0, 64.0, 32.0], format!("{scales:?}"))
}

fn a_checkpoint_goes_on_exactly(on: &On) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("states.safetensors");
    let mut net = Net::new(on);
    let mut optimizer = on.optimizer(Adam::default(), 0.1)?;
    optimizer.set_schedule(0, Schedule::cosine(10))?;
    for step in 0..3 {
        let (_, gradients) = net.gradients(on, step);
        net = optimizer.step(0.01, net, gradients)?;
    }
    optimizer.save(&path)?;
    let mut resumed = on.optimizer(Adam { beta1: 0.1, ..Adam::default() }, 0.1)?;
    let mut again = net.clone();
    let unknown = resumed.load(&path);
    ensure(matches!(unknown, Err(Error::Mismatch(_))), format!("{unknown:?}"))?;
    // Another module with the same paths: its ids are others.
    resumed.register(&Net::new(on))?;
    // All but the layer that never had a gradient are in the file; what is registered is all.
    resumed.register(&again)?;
    let strict = resumed.load(&path);
    ensure(matches!(strict, Err(Error::Mismatch(_))), format!("{strict:?}"))?;
    let mismatch = resumed.load_with(&path, false)?;
    ensure(mismatch.missing.iter().all(|name| name.starts_with("unused.")), format!("{mismatch:?}"))?;
    for step in 3..6 {
        let (_, gradients) = net.gradients(on, step);
        net = optimizer.step(0.01, net, gradients)?;
        let (_, gradients) = again.gradients(on, step);
        again = resumed.step(0.01, again, gradients)?;
    }
    ensure(values(&net) == values(&again), "the resumed run is another")?;
    // What is frozen is not the optimizer's: of a module that trains in part nothing is missing.
    let mut part = on.optimizer(Adam::default(), 0.1)?;
    let frozen = Net { unused: net.unused.clone().no_grad(), ..net };
    let (_, gradients) = frozen.gradients(on, 0);
    let frozen = part.step(0.01, frozen, gradients)?;
    part.save(&path)?;
    let mut resumed = on.optimizer(Adam::default(), 0.1)?;
    resumed.register(&frozen)?;
    Ok(resumed.load(&path)?)
}

fn bad_input_gives_the_module_back(on: &On) -> Result<(), Failed> {
    let net = Net::new(on);
    let before = values(&net);
    let mut optimizer = on.optimizer(Momentum::default(), 0.1)?;
    let (_, gradients) = net.gradients(on, 0);
    let Err(refused) = optimizer.step(f64::NAN, net, gradients) else { return Err("a rate of NaN".into()) };
    ensure(matches!(refused.error, Error::Hyperparameter { name: "lr", .. }), format!("{refused:?}"))?;
    ensure(values(&refused.module) == before, "the module has changed")?;
    ensure(optimizer.optimizer().parameters().count() == 0, "a refused step has made parameters known")?;
    let net = refused.module;
    // A gradient of another shape.
    let mut gradients = GradientsParams::new();
    gradients.register(net.layers[0].weight.id, Tensor::<2>::ones([64, 3], &on.burn.clone().without_autodiff()));
    let Err(refused) = optimizer.step(0.1, net, gradients) else { return Err("a gradient of another shape".into()) };
    ensure(matches!(&refused.error, Error::Length { name, .. } if name == "layers.0.weight"), format!("{refused:?}"))?;
    ensure(values(&refused.module) == before, "the module has changed")?;
    if let wgpu_optim::Device::Gpu(gpu) = &on.ours {
        let adapters = pollster::block_on(wgpu_optim::Gpu::adapters())?;
        let other = pollster::block_on(wgpu_optim::Gpu::from_adapter(&adapters[0]))?;
        let own = ModuleOptimizer::new(&other.into(), Momentum::default(), 0.1);
        ensure(matches!(own, Err(Error::Unsupported { .. })), format!("{own:?} beside {}", gpu.name()))?;
    }
    let centralized = Settings { centralize: true, ..Settings::lr(0.1) };
    let clipped = Settings { adaptive_clip: Some(AdaptiveClip::torch(0.1)), ..Settings::lr(0.1) };
    for settings in [centralized, clipped] {
        let shapeless = ModuleOptimizer::new(&on.ours, Momentum::default(), settings);
        ensure(matches!(shapeless, Err(Error::Unsupported { .. })), format!("{shapeless:?}"))?;
        let later = optimizer.set_settings(0, settings);
        ensure(matches!(later, Err(Error::Unsupported { .. })), format!("{later:?}"))?;
    }
    // A module that is elsewhere.
    if on.is_gpu() {
        let elsewhere = LinearConfig::new(2, 2).init(&Device::flex().autodiff());
        let loss = elsewhere.weight.val().sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &elsewhere);
        let Err(refused) = optimizer.step(0.1, elsewhere, gradients) else { return Err("a module elsewhere".into()) };
        ensure(matches!(&refused.error, Error::Unsupported { name, .. } if name == "weight"), format!("{refused:?}"))?;
    }
    // And all is well behind it.
    let (_, gradients) = refused.module.gradients(on, 0);
    let net = optimizer.step(0.1, refused.module, gradients)?;
    ensure(values(&net) != before, "nothing has stepped")?;
    // Another module of the same paths would take this one's states.
    let other = Net::new(on);
    let (_, gradients) = other.gradients(on, 0);
    let Err(refused) = optimizer.step(0.1, other, gradients) else { return Err("another module".into()) };
    ensure(matches!(&refused.error, Error::DuplicateName { name } if name == "conv.weight"), format!("{refused:?}"))?;
    let lens = LinearConfig::new(3, 2).init(&on.burn);
    optimizer.register(&[lens])?;
    let other = optimizer.register(&[LinearConfig::new(3, 3).init(&on.burn)]);
    ensure(matches!(other, Err(Error::Length { expected: 6, found: 9, .. })), format!("{other:?}"))?;
    if on.is_gpu() {
        return Ok(());
    }
    // Numbers of two types.
    let (narrow, wide) = (Tensor::<1>::ones([3], &on.burn), Tensor::<1>::ones([3], (&on.burn, DType::F64)));
    let mixed = [narrow, wide].map(|tensor| Param::from_tensor(tensor.detach()));
    let loss = mixed[0].val().sum() + mixed[1].val().cast(DType::F32).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &mixed);
    let Err(refused) = on.optimizer(Momentum::default(), 0.1)?.step(0.1, mixed, gradients) else {
        return Err("two types".into());
    };
    ensure(matches!(&refused.error, Error::Unsupported { .. }), format!("{refused:?}"))
}

/// All schedules go on with a step, those of groups without gradients, too: a checkpoint means the same on every
/// device.
fn schedules_go_on_together(on: &On) -> Result<(), Failed> {
    let mut net = Net::new(on);
    let mut optimizer =
        on.optimizer(Adam::default(), 0.1)?.with_group(|path| path.starts_with("unused"), Adam::default(), 0.1)?;
    optimizer.register(&net)?;
    for step in 0..3 {
        let (_, gradients) = net.gradients(on, step);
        net = optimizer.step(0.01, net, gradients)?;
    }
    let steps = [0, 1].map(|group| optimizer.optimizer().schedule_step(group));
    ensure(matches!(steps, [Ok(3), Ok(3)]), format!("{steps:?}"))?;
    ensure(optimizer.optimizer().steps("unused.weight")? == 0, "a parameter without a gradient has stepped")
}

fn no_gradients_no_step(on: &On) -> Result<(), Failed> {
    let net = Net::new(on);
    let before = values(&net);
    let mut optimizer = on.optimizer(Adam::default(), 0.1)?;
    let net = optimizer.step(0.1, net, GradientsParams::new())?;
    let frozen = net.no_grad();
    ensure(values(&frozen) == before && optimizer.optimizer().parameters().count() == 0, "something has stepped")
}
