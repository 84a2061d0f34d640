//! Files of bitsandbytes 0.50.2, which `tests/torch/make.py` wrote on the CPU with `examples/torch_optimizer.py`: we go
//! on from them, code for code, and write them back.

use std::io::Cursor;

use libtest_mimic::{Failed, Trial};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use wgpu_optim::{
    AnyRule, Device, Error, Gpu, Optimizer, Precision, Result, Rounding, Settings, States, WeightDecay, rules,
};

use crate::compare::{TOLERANCE, close, ensure};
use crate::tests;

tests!(bitsandbytes_is_loaded);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("bitsandbytes::bitsandbytes_is_continued", bitsandbytes_is_continued),
        Trial::test("bitsandbytes::an_export_is_what_it_writes", an_export_is_what_it_writes),
        Trial::test("bitsandbytes::another_map_is_decoded", another_map_is_decoded),
        Trial::test("bitsandbytes::what_it_has_not_is_refused", what_it_has_not_is_refused),
        Trial::test("bitsandbytes::groups_and_formats_come_back", groups_and_formats_come_back),
        Trial::test("bitsandbytes::damaged_shapes_are_refused", damaged_shapes_are_refused),
    ]
}

/// Each file's rule, and the states in it: ours, theirs, the row of theirs.
type Case = (&'static str, AnyRule, &'static [(&'static str, &'static str, usize)]);

fn cases() -> [Case; 3] {
    [
        ("adam8bit", rules::Adam::default().into(), &[("exp_avg", "1", 0), ("exp_avg_sq", "2", 0)]),
        (
            "ademamix8bit",
            rules::AdEmaMix::default().into(),
            &[("exp_avg", "1", 0), ("exp_avg_slow", "1", 1), ("exp_avg_sq", "2", 0)],
        ),
        ("rmsprop8bit", rules::RmsProp::torch().into(), &[("square_avg", "1", 0)]),
    ]
}

const LENS: [(&str, usize); 2] = [("large.weight", 4160), ("large.bias", 65)];

fn file(name: &str) -> Result<Vec<u8>, Failed> {
    Ok(std::fs::read(format!("{}/tests/torch/{name}.safetensors", env!("CARGO_MANIFEST_DIR")))?)
}

fn optimizer(device: &Device, rule: &AnyRule, states: States) -> Result<Optimizer> {
    let mut optimizer = Optimizer::new(device, rule.clone(), 1.0)?;
    optimizer.set_precision(0, Precision { states, rounding: Rounding::Nearest, ..Precision::f32() })?;
    for (name, len) in LENS {
        optimizer.add(0, name, &vec![0f32; len])?;
    }
    Ok(optimizer)
}

/// The gradients of `make.py`.
fn train(optimizer: &mut Optimizer, steps: std::ops::Range<usize>) -> Result<()> {
    for t in steps {
        for (name, len) in LENS {
            let gradient: Vec<_> = (0..len).map(|i| ((7 * i + 3 * t) % 11) as f32 / 8.0 - 0.625).collect();
            optimizer.write_gradient(name, &gradient)?;
        }
        optimizer.step()?;
    }
    Ok(())
}

fn saved(optimizer: &mut Optimizer) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    pollster::block_on(optimizer.save_to(&mut file, Default::default()))?;
    Ok(file)
}

fn f32s(tensor: &TensorView<'_>, row: usize, len: usize) -> Vec<f32> {
    bytemuck::pod_collect_to_vec::<_, f32>(&tensor.data()[4 * row * len..4 * (row + 1) * len])
}

/// Codes, largest magnitudes and numbers against a file of theirs: so many codes may differ, by one each.
fn compare(ours: &mut Optimizer, case: &Case, theirs: &[u8], codes: usize) -> Result<(), Failed> {
    let bytes = saved(ours)?;
    let (mine, theirs) = (SafeTensors::deserialize(&bytes)?, SafeTensors::deserialize(theirs)?);
    for (name, len) in LENS {
        let expected = f32s(&theirs.tensor(name)?, 0, len);
        close(name, &f32s(&mine.tensor(name)?, 0, len), &expected, &vec![1.0; len], TOLERANCE)?;
        for &(state, number, row) in case.2 {
            let theirs_of = |of: &str| theirs.tensor(&format!("{name}.{of}{number}"));
            let (found, expected) = (mine.tensor(&format!("{name}.{state}"))?, theirs_of("state")?);
            if name == LENS[1].0 {
                let expected = f32s(&expected, row, len);
                close(state, &f32s(&found, 0, len), &expected, &vec![0.625; len], TOLERANCE)?;
                continue;
            }
            let expected = &expected.data()[row * len..(row + 1) * len];
            let differ = found.data().iter().zip(expected).filter(|(a, b)| a != b).count();
            let one = found.data().iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 1);
            ensure(differ <= codes && one, format!("{}: {differ} codes of {state} differ", case.0))?;
            let (blocks, absmax) = (len.div_ceil(256), mine.tensor(&format!("{name}.{state}_absmax"))?);
            let expected = f32s(&theirs_of("absmax")?, row, blocks);
            close("absmax", &f32s(&absmax, 0, blocks), &expected, &vec![0.0; blocks], TOLERANCE)?;
        }
    }
    Ok(())
}

/// By its own rounding: what it would have done. Codes at the edge of a bin may differ.
fn bitsandbytes_is_continued() -> Result<(), Failed> {
    for case in cases() {
        let mut ours = optimizer(&Device::Cpu, &case.1, States::BitsandbytesCpu)?;
        let before = file(&format!("{}.5", case.0))?;
        ours.load_torch_from(&mut Cursor::new(&before))?;
        ensure(LENS.iter().all(|(name, _)| ours.steps(*name).is_ok_and(|steps| steps == 5)), "five steps")?;
        ensure(ours.lr(0)? == 0.01, "its learning rate")?;
        compare(&mut ours, &case, &before, 0)?;
        train(&mut ours, 5..8)?;
        compare(&mut ours, &case, &file(&format!("{}.8", case.0))?, 4)?;
    }
    Ok(())
}

/// On a GPU, and with our rounding.
fn bitsandbytes_is_loaded(gpu: &Gpu) -> Result<(), Failed> {
    for case in cases() {
        let theirs = file(&format!("{}.5", case.0))?;
        let mut ours = optimizer(&gpu.into(), &case.1, States::BitsandbytesCpu)?;
        ours.load_torch_from(&mut Cursor::new(&theirs))?;
        compare(&mut ours, &case, &theirs, 0)?;
        // In f32, and in a format of another map: decoded.
        let mut exact = optimizer(&gpu.into(), &case.1, States::F32)?;
        exact.load_torch_from(&mut Cursor::new(&theirs))?;
        for (state, ..) in case.2 {
            for (name, _) in LENS {
                let [a, b] = [&ours, &exact].map(|optimizer| optimizer.read_state_blocking::<f32>(name, state));
                ensure(a? == b?, format!("{state} of {name} in f32"))?;
            }
        }
        // Code for code where the map is ours; what bitsandbytes has in its signed one is rounded to the nearest.
        let mut block8 = optimizer(&gpu.into(), &case.1, States::Block8)?;
        block8.load_torch_from(&mut Cursor::new(&theirs))?;
        if case.0 != "rmsprop8bit" {
            compare(&mut block8, &case, &theirs, 0)?;
        }
        for (state, ..) in case.2 {
            let [a, b] = [&block8, &exact].map(|o| o.read_state_blocking::<f32>("large.weight", state));
            let (a, b) = (a?, b?);
            let most = b.iter().fold(0f32, |most, x| most.max(x.abs()));
            close(state, &a, &b, &vec![most; b.len()], 1.0 / 256.0)?;
        }
        train(&mut block8, 5..8)?;
        let after = file(&format!("{}.8", case.0))?;
        let expected = f32s(&SafeTensors::deserialize(&after)?.tensor("large.weight")?, 0, 4160);
        // Its own rounding of states: within a tenth of the three steps.
        close("large.weight", &block8.read_blocking("large.weight")?, &expected, &vec![0.03; 4160], 0.1)?;
    }
    Ok(())
}

/// Tensor by tensor what it wrote: also maps, which are at most two units in the last place off. `make.py FILE NAME`
/// goes on from the file where `$WGPU_OPTIM_EXPORTS` is a folder.
fn an_export_is_what_it_writes() -> Result<(), Failed> {
    for case in cases() {
        let before = file(&format!("{}.5", case.0))?;
        let mut ours = optimizer(&Device::Cpu, &case.1, States::BitsandbytesCpu)?;
        ours.load_torch_from(&mut Cursor::new(&before))?;
        let mut bytes = Vec::new();
        pollster::block_on(ours.save_bitsandbytes_to(&mut bytes))?;
        if let Some(directory) = std::env::var_os("WGPU_OPTIM_EXPORTS") {
            std::fs::write(std::path::Path::new(&directory).join(format!("{}.5", case.0)), &bytes)?;
        }
        let (mine, theirs) = (SafeTensors::deserialize(&bytes)?, SafeTensors::deserialize(&before)?);
        for (name, tensor) in theirs.tensors() {
            let found = match mine.tensor(&format!("{name}_slow")) {
                // Both averages of AdEMAMix.
                Ok(slow) => [mine.tensor(&name)?.data(), slow.data()].concat(),
                Err(_) => mine.tensor(&name)?.data().to_vec(),
            };
            if name.contains("qmap") {
                let words = |bytes: &[u8]| bytemuck::pod_collect_to_vec::<_, u32>(bytes);
                let near = words(&found).iter().zip(words(tensor.data())).all(|(a, b)| a.abs_diff(b) <= 2);
                ensure(near && found.len() == 1024, format!("{}: {name}", case.0))?;
            } else if !name.ends_with("step") {
                ensure(found == tensor.data(), format!("{}: {name}", case.0))?;
            }
        }
        ensure(mine.names().iter().all(|name| theirs.tensor(name.trim_end_matches("_slow")).is_ok()), "nothing else")?;
        // And comes back.
        let mut again = optimizer(&Device::Cpu, &case.1, States::BitsandbytesCpu)?;
        again.load_torch_from(&mut Cursor::new(&bytes))?;
        ensure(saved(&mut again)? == saved(&mut ours)?, format!("{} comes back", case.0))?;
    }
    Ok(())
}

/// A file with a map of its own: its numbers, not ours. One that is no map is refused.
fn another_map_is_decoded() -> Result<(), Failed> {
    let theirs = file("rmsprop8bit.5")?;
    let at = {
        let parsed = SafeTensors::deserialize(&theirs)?;
        let map = parsed.tensor("large.weight.qmap1")?.data().as_ptr() as usize;
        map - theirs.as_ptr() as usize
    };
    let mut changed = theirs.clone();
    for k in 0..256 {
        changed[at + 4 * k..at + 4 * k + 4].copy_from_slice(&(k as f32 / 255.0).to_le_bytes());
    }
    let rule = rules::RmsProp::torch().into();
    for states in [States::BitsandbytesCpu, States::F32] {
        let mut ours = optimizer(&Device::Cpu, &rule, states)?;
        ours.load_torch_from(&mut Cursor::new(&changed))?;
        let parsed = SafeTensors::deserialize(&theirs)?;
        let codes = parsed.tensor("large.weight.state1")?.data();
        let absmax = f32s(&parsed.tensor("large.weight.absmax1")?, 0, 17);
        let expected: Vec<f32> =
            codes.iter().enumerate().map(|(i, code)| f32::from(*code) / 255.0 * absmax[i / 256]).collect();
        let found = ours.read_state_blocking::<f32>("large.weight", "square_avg")?;
        // The distance of two places of the signed map is at most 1/64.
        let tolerance = if states == States::F32 { 1e-6 } else { 1.0 / 64.0 };
        let scale: Vec<f32> = (0..codes.len()).map(|i| absmax[i / 256]).collect();
        close("square_avg", &found, &expected, &scale, tolerance)?;
    }
    changed[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut ours = optimizer(&Device::Cpu, &rule, States::Block8)?;
    let refused = ours.load_torch_from(&mut Cursor::new(&changed));
    ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))?;
    ensure(ours.read_blocking::<f32>("large.bias")? == [0.0; 65], "a refused file changes nothing")
}

fn what_it_has_not_is_refused() -> Result<(), Failed> {
    let coupled = Settings { weight_decay: WeightDecay::L2(0.1), ..Settings::lr(0.1) };
    for (rule, settings) in [
        (rules::by_name("amsgrad")?, Settings::lr(0.1)),
        (rules::by_name("lamb")?, Settings::lr(0.1)),
        (rules::by_name("sgd")?, Settings::lr(0.1)),
        (rules::by_name("adam")?, coupled),
    ] {
        let mut ours = Optimizer::new(&Device::Cpu, rule, settings)?;
        ours.add(0, "w", &[0f32; 2])?;
        let refused = pollster::block_on(ours.save_bitsandbytes_to(&mut Vec::new()));
        ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    }
    let mut wide = Optimizer::new(&Device::Cpu, rules::Adam::default(), 0.1)?;
    wide.add(0, "w", &[0f64; 2])?;
    let refused = pollster::block_on(wide.save_bitsandbytes_to(&mut Vec::new()));
    ensure(matches!(refused, Err(Error::ElementType { .. })), format!("{refused:?}"))?;
    // Another rule: nothing of the file.
    let mut ours = optimizer(&Device::Cpu, &rules::Lion::default().into(), States::Block8)?;
    let refused = ours.load_torch_from(&mut Cursor::new(file("adam8bit.5")?));
    ensure(matches!(refused, Err(Error::Mismatch(_))), format!("{refused:?}"))?;
    ensure(ours.read_blocking::<f32>("large.bias")? == [0.0; 65] && ours.steps("large.bias")? == 0, "nothing changed")
}

/// Decayed weights and biases that are not, and states in other formats: what comes back is what was.
fn groups_and_formats_come_back() -> Result<(), Failed> {
    for states in [States::F32, States::Bf16, States::Block8, States::Relative8] {
        let make = || -> Result<Optimizer> {
            let decay = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(0.01) };
            let mut adam = Optimizer::new(&Device::Cpu, rules::Adam::default(), decay)?;
            let plain = adam.add_group(rules::Adam::default(), 0.01)?;
            for (group, (name, len)) in [0, plain].into_iter().zip(LENS) {
                adam.set_precision(group, Precision { states, ..Precision::f32() })?;
                adam.add(group, name, &vec![0.5f32; len])?;
            }
            Ok(adam)
        };
        let mut adam = make()?;
        train(&mut adam, 0..3)?;
        let mut bytes = Vec::new();
        pollster::block_on(adam.save_bitsandbytes_to(&mut bytes))?;
        let mut again = make()?;
        again.load_torch_from(&mut Cursor::new(&bytes))?;
        ensure(again.settings(0)?.weight_decay == WeightDecay::Decoupled(0.1), "decay")?;
        for (name, _) in LENS {
            for state in ["exp_avg", "exp_avg_sq"] {
                let [a, b] = [&adam, &again].map(|o| o.read_state_blocking::<f32>(name, state));
                ensure(a? == b?, format!("{state} of {name} in {states:?}"))?;
            }
        }
    }
    Ok(())
}

/// A first state with more rows than AdEMAMix has, or so many that their product overflows.
fn damaged_shapes_are_refused() -> Result<(), Failed> {
    let theirs = file("ademamix8bit.5")?;
    let text =
        String::from_utf8_lossy(&theirs[8..8 + u64::from_le_bytes(theirs[..8].try_into()?) as usize]).into_owned();
    for (was, now) in [("[2,65,64]", "[65,2,64]"), ("[2,17]", "[17,2]"), ("[2,65]", "[1,130]")] {
        ensure(text.contains(was), format!("{was} in {text}"))?;
        let changed = text.replace(was, now);
        let bytes = [&(changed.len() as u64).to_le_bytes(), changed.as_bytes(), &theirs[8 + text.len()..]].concat();
        let mut ours = optimizer(&Device::Cpu, &rules::AdEmaMix::default().into(), States::BitsandbytesCpu)?;
        let refused = ours.load_torch_from(&mut Cursor::new(&bytes));
        ensure(matches!(refused, Err(Error::Mismatch(_))), format!("{now}: {refused:?}"))?;
        ensure(ours.read_blocking::<f32>("large.bias")? == [0.0; 65], "a refused file changes nothing")?;
    }
    Ok(())
}
