//! In place where the memory is the parameter's alone, and never where something else has it.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Sgd};

use crate::{Net, On, ensure, values};

pub(crate) const TESTS: &[crate::Test] = &[
    ("what_is_shared_is_not_written", what_is_shared_is_not_written),
    ("memory_does_not_grow", memory_does_not_grow),
    ("another_thread_steps", another_thread_steps),
    ("gradient_of_a_view", gradient_of_a_view),
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
    let mut net = Net::new(on);
    let mut optimizer = on.optimizer(Adam::default(), 0.1)?;
    let mut used = Vec::new();
    let mut kept = Vec::new();
    for step in 0..60 {
        let (_, gradients) = net.gradients(on, step);
        net = optimizer.step(0.001, net, gradients)?;
        on.burn.sync().map_err(|e| format!("{e:?}"))?;
        if step % 20 == 19 {
            used.push(on.burn.memory_pool_usage().map(|usage| usage.bytes_in_use));
            kept.push(
                optimizer
                    .optimizer()
                    .parameter("layers.0.weight")
                    .ok()
                    .map(|range| (range.buffer.clone(), range.offset)),
            );
        }
    }
    ensure(used[1] == used[2], format!("bytes in use after 20, 40, 60 steps: {used:?}"))?;
    ensure(kept[0] == kept[2] && kept[0].is_some() == on.is_gpu(), "the parameter has moved")
}

fn another_thread_steps(on: &On) -> Result<(), Failed> {
    let mut net = Net::new(on);
    let mut here = net.clone();
    let (mut a, mut b) = (on.optimizer(Adam::default(), 0.1)?, on.optimizer(Adam::default(), 0.1)?);
    for step in 0..3 {
        let (_, gradients) = here.gradients(on, step);
        here = a.step(0.01, here, gradients)?;
        let (_, gradients) = net.gradients(on, step);
        let there = std::thread::scope(|scope| scope.spawn(|| b.step(0.01, net, gradients)).join());
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
    let _: Device = on.burn.clone();
    Ok(())
}
