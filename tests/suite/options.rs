//! Parameters set apart from their group: frozen, with a rate of their own, without decay.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum, Sgd};
use wgpu_optim::{AnyRule, Device, Error, Extent, Gpu, Gradient, Optimizer, Options, Settings, WeightDecay, rules};

use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::{everything, gradients, gradients_for, parameters};
use crate::tests;

tests!(
    options_equal_groups_of_their_own,
    frozen_stays_bit_for_bit,
    like_options_share_a_dispatch,
    look_ahead_scales_too
);

const LEN: usize = 131;
const DECAYED: Settings = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(0.01) };

/// Four parameters in one group with options, against four groups with settings.
fn options_equal_groups_of_their_own(gpu: &Gpu) -> Result<(), Failed> {
    let plain = Options::default();
    let variants = [
        ("a", plain, DECAYED),
        ("b", Options { lr_scale: 0.5, ..plain }, Settings { lr: 0.005, ..DECAYED }),
        ("c", Options { weight_decay: false, ..plain }, Settings::lr(0.01)),
        ("d", Options { lr_scale: 4.0, weight_decay: false, ..plain }, Settings::lr(0.04)),
    ];
    for device in [gpu.into(), Device::Cpu] {
        // A group's own norm is not that of four groups.
        let elementwise = |rule: &AnyRule| rule.reduce().map(|reduce| reduce.over) != Some(Extent::Group);
        for (rule_name, rule) in rules::all().into_iter().filter(|(_, rule)| elementwise(rule)) {
            let mut one = Optimizer::new(&device, rule.clone(), DECAYED)?;
            let mut four = Optimizer::new(&device, rule.clone(), DECAYED)?;
            for (k, (name, options, settings)) in variants.into_iter().enumerate() {
                let group = four.add_group(rule.clone(), settings)?;
                one.add(0, name, &parameters(LEN, k as u64))?;
                one.set_options(name, options)?;
                four.add(group, name, &parameters(LEN, k as u64))?;
            }
            for t in 0..3 {
                for (name, ..) in variants {
                    one.write_gradient(name, &gradients_for(&rule, LEN, t))?;
                    four.write_gradient(name, &gradients_for(&rule, LEN, t))?;
                }
                one.step()?;
                four.step()?;
            }
            for (name, ..) in variants {
                let what = format!("{rule_name} {name} on {}", device.name());
                same(&what, &one.read_blocking(name)?, &four.read_blocking(name)?)?;
            }
            let moved = |name| -> Result<Vec<f32>, Failed> { Ok(one.read_blocking(name)?) };
            ensure(moved("a")? != moved("b")?, "no effect")?;
        }
    }
    Ok(())
}

fn frozen_stays_bit_for_bit(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Adam::amsgrad(), DECAYED)?;
        for name in ["encoder.0", "encoder.1", "head"] {
            optimizer.add(0, name, &parameters(LEN, 1))?;
            optimizer.write_gradient(name, &gradients(LEN, 2))?;
        }
        optimizer.step()?;
        let frozen = Options { frozen: true, ..Options::default() };
        ensure(optimizer.set_options_where(|name| name.starts_with("encoder"), frozen)? == 2, "two encoders")?;
        let before = everything::<f32>(&optimizer)?;
        optimizer.step()?;
        for ((name, before), (_, after)) in before.iter().zip(&everything::<f32>(&optimizer)?) {
            let stayed = same(name, after, before).is_ok();
            ensure(stayed == name.starts_with("encoder"), format!("{name} stayed: {stayed}"))?;
        }
        optimizer.set_options("encoder.0", Options::default())?;
        optimizer.step()?;
        let steps = ["encoder.0", "encoder.1", "head"].map(|name| optimizer.steps(name).unwrap_or_default());
        ensure(steps == [2, 1, 3], format!("{steps:?}"))?;
        let refused = optimizer.set_options("head", Options { lr_scale: f64::NAN, ..Options::default() });
        ensure(matches!(refused, Err(Error::Hyperparameter { name: "lr_scale", .. })), format!("{refused:?}"))?;
        ensure(optimizer.options("head")? == Options::default(), "a refused option was kept")?;
    }
    Ok(())
}

fn like_options_share_a_dispatch(gpu: &Gpu) -> Result<(), Failed> {
    let names: Vec<_> = (0..20).map(|k| if k < 10 { format!("w{k}") } else { format!("bias{k}") }).collect();
    let values = parameters(70, 1);
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), values.as_slice())).collect();
    let mut optimizer = Optimizer::new(&gpu.into(), Sgd, DECAYED)?;
    let ids = optimizer.add_all(0, &tensors)?;
    ids.iter().try_for_each(|&id| optimizer.set_gradient(id, Gradient::Own))?;
    optimizer.step()?;
    ensure(optimizer.dispatches() == 1, format!("{} dispatches", optimizer.dispatches()))?;
    let plain = Options { weight_decay: false, ..Options::default() };
    optimizer.set_options_where(|name| name.starts_with("bias"), plain)?;
    optimizer.step()?;
    ensure(optimizer.dispatches() == 2, format!("{} dispatches", optimizer.dispatches()))
}

fn look_ahead_scales_too(gpu: &Gpu) -> Result<(), Failed> {
    for device in [gpu.into(), Device::Cpu] {
        let mut optimizer = Optimizer::new(&device, Momentum::torch(0.9), 0.1)?;
        for (name, lr_scale) in [("a", 1.0), ("b", 0.5)] {
            optimizer.add(0, name, &[1.0f32; 5])?;
            optimizer.write_gradient(name, &[1.0f32; 5])?;
            optimizer.set_options(name, Options { lr_scale, ..Options::default() })?;
        }
        optimizer.step()?;
        optimizer.look_ahead()?;
        close("a", &optimizer.read_blocking("a")?, &[0.9 - 0.09; 5], &[1.0; 5], TOLERANCE)?;
        close("b", &optimizer.read_blocking("b")?, &[0.95 - 0.045; 5], &[1.0; 5], TOLERANCE)?;
    }
    Ok(())
}
