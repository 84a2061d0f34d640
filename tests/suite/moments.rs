//! States that are no moments of the gradient stay in f32 under every precision.

use libtest_mimic::Failed;
use wgpu_optim::{Device, Extent, Gpu, Optimizer, Precision, Rounding, Settings, States, rules};

use crate::compare::{ensure, same};
use crate::fixture::{gradients_for, parameters};
use crate::tests;

tests!(what_is_no_moment_stays_exact);

/// A rule without moments steps in 8 and in 16 bits as in f32, bit for bit.
fn what_is_no_moment_stays_exact(gpu: &Gpu) -> Result<(), Failed> {
    let start = parameters(1027, 1);
    let mut exact = 0;
    for device in [gpu.into(), Device::Cpu] {
        for (name, rule) in rules::all() {
            let kept = rule.storage().iter().any(|state| state.extent == Extent::Element);
            if !kept || !rule.moments().is_empty() {
                continue;
            }
            let run = |states| -> Result<Vec<Vec<f32>>, Failed> {
                let mut optimizer = Optimizer::new(&device, rule.clone(), Settings::lr(0.01))?;
                let nearest = Rounding::Nearest;
                let precision = Precision { states, rounding: nearest, min_8bit_size: 1, ..Precision::f32() };
                optimizer.set_precision(0, precision)?;
                optimizer.add(0, "w", &start)?;
                for t in 0..3 {
                    optimizer.write_gradient("w", &gradients_for(&rule, 1027, t))?;
                    optimizer.step()?;
                }
                let mut all = vec![optimizer.read_blocking("w")?];
                for state in rule.states() {
                    all.push(optimizer.read_state_blocking("w", state)?);
                }
                Ok(all)
            };
            let wide = run(States::F32)?;
            for states in [States::Block8, States::Bf16] {
                exact += 1;
                for (x, b) in run(states)?.iter().zip(&wide) {
                    same(&format!("{name} in {states:?}"), x, b)?;
                }
            }
        }
    }
    ensure(exact >= 36, format!("{exact} comparisons"))
}
