//! In place where the memory is the parameter's alone, and never where something else has it.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use libtest_mimic::Failed;
use wgpu_optim::Settings;
use wgpu_optim::rules::{Adam, Sgd};

use crate::{Net, On, ensure, values};

pub(crate) const TESTS: &[crate::Test] = &[
    ("what_is_shared_is_not_written", what_is_shared_is_not_written),
    ("memory_does_not_grow", memory_does_not_grow),
    ("another_thread_steps", another_thread_steps),
    ("gradient_of_a_view", gradient_of_a_view),
    ("a_step_copies_nothing", a_step_copies_nothing),
    ("shared_gradients_are_not_written", shared_gradients_are_not_written),
];

fn what_is_shared_is_not_written(on: &On) -> Result<(), Failed> {
    let mut net = Net::new(on);
    let mut optimizer = on.optimizer(Adam::default(), 0.1)?;
    for step in 0..3 {
        let (clone, valid) = (net.clone(), net.valid());
        let view = net.layers[0].weight.val().inner().transpose();
        let graph = net.loss(on, 9);
        let before = (values(&clone), view.to_data().try_to_vec::<f32>()?);
        let (_, gradients) = net.gradients(on, step);
        net = optimizer.step(0.1, net, gradients)?;
        ensure(values(&clone) == before.0, format!("step {step}: a clone has changed"))?;
        ensure(values(&valid) == before.0, format!("step {step}: valid() has changed"))?;
        ensure(view.to_data().try_to_vec::<f32>()? == before.1, format!("step {step}: a view has changed"))?;
        ensure(values(&net)["layers.0.weight"] != before.0["layers.0.weight"], "nothing has stepped")?;
        // A graph from before the step has gradients with the old values.
        let old = GradientsParams::from_grads(graph.backward(), &clone);
        let fresh = GradientsParams::from_grads(clone.loss(on, 9).backward(), &clone);
        let (old, fresh) = (crate::read(&clone, Some(&old)), crate::read(&clone, Some(&fresh)));
        crate::close("a graph from before", &old, &fresh, 1e-6)?;
    }
    Ok(())
}

fn memory_does_not_grow(on: &On) -> Result<(), Failed> {
    let mut optimizer = on.optimizer(Adam::default(), 0.1)?;
    let mut net = Some(Net::new(on));
    let mut run = |steps: std::ops::Range<usize>| -> Result<_, Failed> {
        for step in steps {
            let Some(before) = net.take() else { return Err("the net is lost".into()) };
            let (_, gradients) = before.gradients(on, step);
            net = Some(optimizer.step(0.001, before, gradients)?);
            on.burn.sync().map_err(|e| format!("{e:?}"))?;
        }
        let weights = optimizer.optimizer().parameter("layers.0.weight").ok();
        let place = weights.map(|range| (range.buffer.clone(), range.offset));
        Ok((place, on.burn.memory_pool_usage().map(|usage| usage.bytes_in_use)))
    };
    let first = run(0..20)?;
    ensure(first.0.is_some() == on.is_gpu() && first.1.is_some() == on.is_gpu(), format!("{first:?}"))?;
    // Two in a row: a copy each time would go to and fro between two places.
    ensure(run(20..21)? == first && run(21..40)? == first, format!("{first:?} no longer"))?;
    let mut last = Ok(());
    let heap = allocation_counter::measure(|| last = run(40..60).map(drop));
    last?;
    // A copy of the net each step were a million. What other threads free counts as taken: on a GPU all, on the CPU the
    // lists of states of the halves of a step that they take, some hundred bytes each.
    ensure(on.is_gpu() || heap.bytes_current.abs() < 100_000, format!("{} bytes of the heap more", heap.bytes_current))
}

fn another_thread_steps(on: &On) -> Result<(), Failed> {
    let mut net = Net::new(on);
    let mut here = net.clone();
    let (mut a, mut b) = (on.optimizer(Adam::default(), 0.1)?, on.optimizer(Adam::default(), 0.1)?);
    for step in 0..3 {
        let (_, gradients) = here.gradients(on, step);
        here = a.step(0.01, here, gradients)?;
        let (_, gradients) = net.gradients(on, step);
        let there =
            std::thread::scope(|scope| scope.spawn(|| b.step(0.01, net, gradients).map_err(|e| e.error)).join());
        net = there.map_err(|_| "the thread has panicked")??;
    }
    crate::close("another thread", &values(&net), &values(&here), 1e-6)
}

/// The gradient of a sum is one number, expanded.
fn gradient_of_a_view(on: &On) -> Result<(), Failed> {
    let net = burn::nn::LinearConfig::new(3, 5).init(&on.burn);
    let before = values(&net);
    let mut optimizer = on.optimizer(Sgd, 1.0)?;
    let loss: Tensor<1> =
        net.weight.val().transpose().sum() + net.bias.as_ref().map_or(net.weight.val().sum(), |bias| bias.val().sum());
    let gradients = GradientsParams::from_grads(loss.backward(), &net);
    let net = optimizer.step(0.5, net, gradients)?;
    for (name, after) in values(&net) {
        let moved = after.iter().zip(&before[&name]).all(|(after, before)| (before - 0.5 - after).abs() < 1e-6);
        ensure(moved, name)?;
    }
    Ok(())
}

/// Of 4 MiB of weights a step on Flex copies nothing; on a GPU it reads nothing back.
fn a_step_copies_nothing(on: &On) -> Result<(), Failed> {
    let mut net = burn::nn::LinearConfig::new(1024, 1024).init(&on.burn);
    let mut optimizer = on.optimizer(Adam::default(), 1.0)?;
    for step in 0..3 {
        let x = Tensor::<2>::ones([2, 1024], &on.burn);
        let gradients = GradientsParams::from_grads(net.forward(x).sum().backward(), &net);
        let mut stepped = Ok(net);
        let used = allocation_counter::measure(|| {
            if let Ok(net) = std::mem::replace(&mut stepped, Err("stepping".to_owned())) {
                stepped = optimizer.step(0.01, net, gradients).map_err(|e| e.to_string());
            }
        });
        net = stepped?;
        ensure(step == 0 || used.bytes_max < 1 << 20, format!("{} bytes in step {step}", used.bytes_max))?;
    }
    Ok(())
}

/// A gradient that the step writes to, and that somebody keeps; one gradient of two parameters.
fn shared_gradients_are_not_written(on: &On) -> Result<(), Failed> {
    let (a, b) = (burn::nn::LinearConfig::new(3, 5).init(&on.burn), burn::nn::LinearConfig::new(3, 5).init(&on.burn));
    let net = vec![a, b];
    let settings = Settings { zero_grad: true, ..Settings::lr(1.0) };
    let mut optimizer = on.optimizer(Sgd, settings)?;
    let loss = (net[0].weight.val() + net[1].weight.val()).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &net);
    let kept = gradients.get::<2>(net[0].weight.id).ok_or("no gradient")?;
    let before = values(&net);
    let net = optimizer.step(0.5, net, gradients)?;
    for (name, after) in values(&net).iter().filter(|(name, _)| name.ends_with("weight")) {
        let moved = after.iter().zip(&before[name]).all(|(after, before)| (before - 0.5 - after).abs() < 1e-6);
        ensure(moved, name.clone())?;
    }
    ensure(kept.into_data().try_to_vec::<f32>()? == vec![1.0; 15], "a kept gradient has changed")
}
