//! Files that are of another optimizer: all that does not fit is listed, and on request what fits is loaded.

use std::io::Cursor;

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::{AdaGradNorm, Adam, Momentum, Sgd};
use wgpu_optim::{Averaging, Device, Error, LoadOptions, Optimizer, Options, SaveOptions};

use crate::checkpoint::{OnCpu, load, saved, two};
use crate::compare::ensure;
use crate::damage::with_configuration;

pub(crate) fn trials() -> Vec<Trial> {
    let cpu: [(&str, OnCpu); 6] = [
        ("storage_of_another_kind_is_left_out", storage_of_another_kind_is_left_out),
        ("strict_loading_lists_everything", strict_loading_lists_everything),
        ("lenient_loading_takes_what_fits", lenient_loading_takes_what_fits),
        ("a_missing_state_is_left_out_alone", a_missing_state_is_left_out_alone),
        ("a_missing_average_begins_anew", a_missing_average_begins_anew),
        ("a_late_average_goes_on", a_late_average_goes_on),
    ];
    cpu.into_iter().map(|(name, test)| Trial::test(format!("mismatch::{name}"), test)).collect()
}

fn strict_loading_lists_everything() -> Result<(), Failed> {
    let file = saved(&mut two(["kept", "theirs"], [4, 2], Adam::default())?)?;
    let mut optimizer = two(["kept", "ours"], [5, 2], Adam::default())?;
    let before = saved(&mut optimizer)?;
    let Err(Error::Mismatch(mismatch)) = load(&mut optimizer, &file) else { return Err("no mismatch".into()) };
    let of = |name: &str| vec![name.to_owned(), format!("{name}.exp_avg"), format!("{name}.exp_avg_sq")];
    ensure(mismatch.missing == of("ours") && mismatch.unexpected == of("theirs"), format!("{mismatch:?}"))?;
    let differs = |name: &String| name.contains("([4] of F32 in the file, [5] of F32 here)");
    ensure(mismatch.different[0] == "kept (4 elements in the file, 5 here)", format!("{mismatch:?}"))?;
    ensure(mismatch.different.len() == 4 && mismatch.different[1..].iter().all(differs), format!("{mismatch:?}"))?;
    let said = Error::Mismatch(mismatch).to_string();
    ensure(said.contains("3 missing: ours, ours.exp_avg,") && said.contains("3 unexpected: theirs,"), &said)?;
    ensure(saved(&mut optimizer)? == before, "something was loaded")?;
    // Another rule, configuration in words; another number of groups; another averaging.
    let mut other = two(["kept", "theirs"], [4, 2], Momentum::default())?;
    let Err(Error::Mismatch(mismatch)) = load(&mut other, &file) else { return Err("no mismatch".into()) };
    ensure(mismatch.different[0].starts_with("the rule of group 0 (adam {\"beta1\":0.9,"), format!("{mismatch:?}"))?;
    let mut other = two(["kept", "theirs"], [4, 2], Adam::default())?;
    other.add_group(Adam::default(), 0.1)?;
    let Err(Error::Mismatch(mismatch)) = load(&mut other, &file) else { return Err("no mismatch".into()) };
    ensure(mismatch.different == ["the groups (1 in the file, 2 here)"], format!("{mismatch:?}"))?;
    let mut averaged = Optimizer::new(&Device::Cpu, Adam::default(), 0.5)?;
    averaged.set_averaging(0, Averaging::Ema(0.9))?;
    averaged.add_all(0, &[("kept", &[0.0f32; 4][..]), ("theirs", &[0.0; 2])])?;
    let Err(Error::Mismatch(mismatch)) = load(&mut averaged, &file) else { return Err("no mismatch".into()) };
    ensure(mismatch.missing == ["kept.average", "theirs.average"], format!("{mismatch:?}"))
}

fn lenient_loading_takes_what_fits() -> Result<(), Failed> {
    let mut from = two(["kept", "theirs"], [4, 2], Adam { beta1: 0.5, ..Adam::default() })?;
    from.set_lr(0, 0.25)?;
    let file = saved(&mut from)?;
    let mut optimizer = two(["kept", "ours"], [4, 2], Adam::default())?;
    optimizer.step()?;
    let ours = optimizer.read_state_blocking::<f32>("ours", "exp_avg")?;
    let mismatch =
        optimizer.load_from(&mut Cursor::new(&file), LoadOptions { strict: false, ..LoadOptions::default() })?;
    ensure(mismatch.missing.len() == 3 && mismatch.unexpected.len() == 3, format!("{mismatch:?}"))?;
    ensure(mismatch.different.is_empty() && optimizer.lr(0)? == 0.25, "the configuration fits")?;
    ensure((optimizer.steps("kept")?, optimizer.steps("ours")?) == (1, 2), "step counts")?;
    for state in ["exp_avg", "exp_avg_sq"] {
        let [a, b] = [&from, &optimizer].map(|optimizer| optimizer.read_state_blocking::<f32>("kept", state));
        ensure(a? == b?, state)?;
    }
    ensure(from.read_blocking::<f32>("kept")? == optimizer.read_blocking::<f32>("kept")?, "values")?;
    ensure(optimizer.read_state_blocking::<f32>("ours", "exp_avg")? == ours, "what is not in the file has changed")?;
    // More groups in the file than here; a rule whose states have the same names and are others.
    from.add_group(Adam::default(), 0.1)?;
    let more = saved(&mut from)?;
    let lenient = || LoadOptions { strict: false, ..LoadOptions::default() };
    let mut fewer = two(["kept", "theirs"], [4, 2], Adam::default())?;
    let mismatch = fewer.load_from(&mut Cursor::new(&more), lenient())?;
    ensure(mismatch.different == ["the groups (2 in the file, 1 here)"], format!("{mismatch:?}"))?;
    ensure(fewer.lr(0)? == 0.25 && fewer.steps("theirs")? == 1, "the first group fits")?;
    let velocity = saved(&mut two(["kept", "theirs"], [4, 2], Momentum::keras(0.9))?)?;
    let mut nesterov = two(["kept", "theirs"], [4, 2], Momentum::default().nesterov())?;
    nesterov.step()?;
    let before = nesterov.read_state_blocking::<f32>("kept", "momentum_buffer")?;
    nesterov.load_from(&mut Cursor::new(&velocity), lenient())?;
    let after = nesterov.read_state_blocking::<f32>("kept", "momentum_buffer")?;
    ensure(after == before && nesterov.steps("kept")? == 2, "another rule's velocity")?;
    // A rule without states, of another length; a transposed matrix.
    let plain = saved(&mut two(["kept", "theirs"], [4, 2], Sgd)?)?;
    let mut longer = two(["kept", "theirs"], [5, 2], Sgd)?;
    longer.step()?;
    longer.load_from(&mut Cursor::new(&plain), lenient())?;
    ensure((longer.steps("kept")?, longer.steps("theirs")?) == (2, 1), "a step count of another tensor's")?;
    let shaped = |shape| -> Result<Optimizer, Error> {
        let mut optimizer = two(["kept", "theirs"], [6, 2], Sgd)?;
        optimizer.set_options("kept", Options { shape: Some(shape), ..Options::default() })?;
        Ok(optimizer)
    };
    let transposed = load(&mut shaped([2, 3])?, &saved(&mut shaped([3, 2])?)?);
    ensure(matches!(&transposed, Err(Error::Mismatch(m)) if m.different.len() == 1), format!("{transposed:?}"))?;
    // One state of another length: none of that parameter's is taken, nor its count.
    let mut longer = two(["kept", "theirs"], [5, 2], Adam::default())?;
    longer.step()?;
    longer.load_from(&mut Cursor::new(&file), LoadOptions { strict: false, ..LoadOptions::default() })?;
    ensure((longer.steps("kept")?, longer.steps("theirs")?) == (2, 1), "all or nothing of a parameter")
}

/// The file with a tensor under another name.
fn renamed(file: &[u8], name: &str) -> Result<Vec<u8>, Failed> {
    let (size, _) = safetensors::SafeTensors::read_metadata(file)?;
    let header = std::str::from_utf8(&file[8..8 + size])?;
    ensure(header.contains(&format!("\"{name}\":")), format!("no {name}"))?;
    let header = header.replace(&format!("\"{name}\":"), "\"other\":");
    Ok([&(header.len() as u64).to_le_bytes(), header.as_bytes(), &file[8 + size..]].concat())
}

fn a_missing_state_is_left_out_alone() -> Result<(), Failed> {
    let lenient = || LoadOptions { strict: false, ..LoadOptions::default() };
    let file = renamed(&saved(&mut two(["a", "b"], [4, 2], Adam::default())?)?, "a.exp_avg_sq")?;
    let mut optimizer = two(["a", "b"], [4, 2], Adam::default())?;
    let zeros = |optimizer: &mut Optimizer, name: &str| -> Result<(), Error> {
        ["exp_avg", "exp_avg_sq"].iter().try_for_each(|state| {
            let len = optimizer.read_blocking::<f32>(name)?.len();
            optimizer.write_state(name, state, &vec![0.0f32; len])
        })?;
        optimizer.write(name, &vec![9.0f32; optimizer.read_blocking::<f32>(name)?.len()])?;
        optimizer.set_steps(name, 7)
    };
    zeros(&mut optimizer, "a")?;
    zeros(&mut optimizer, "b")?;
    let mismatch = optimizer.load_from(&mut Cursor::new(&file), lenient())?;
    let listed = (mismatch.missing, mismatch.unexpected, mismatch.different);
    ensure(listed == (vec!["a.exp_avg_sq".into()], vec!["other".into()], vec![]), format!("{listed:?}"))?;
    ensure((optimizer.steps("a")?, optimizer.steps("b")?) == (7, 1), "counts")?;
    ensure(optimizer.read_state_blocking::<f32>("a", "exp_avg")? == [0.0; 4], "a state without its other")?;
    ensure(optimizer.read_state_blocking::<f32>("b", "exp_avg")? != [0.0; 2], "what is complete is loaded")?;
    ensure(optimizer.read_blocking::<f32>("a")? != [9.0; 4], "and the value")?;
    // A group's number takes its parameters' counts along.
    let file = renamed(&saved(&mut two(["a", "b"], [4, 2], AdaGradNorm::default())?)?, "group.0.b")?;
    let mut optimizer = two(["a", "b"], [4, 2], AdaGradNorm::default())?;
    optimizer.set_steps("a", 7)?;
    let mismatch = optimizer.load_from(&mut Cursor::new(&file), lenient())?;
    ensure(mismatch.missing == ["group.0.b"] && optimizer.steps("a")? == 7, format!("{mismatch:?}"))
}

/// A file from before there was an average: the states are loaded, and the average begins with the next step.
fn a_missing_average_begins_anew() -> Result<(), Failed> {
    let mut from = two(["a", "b"], [4, 2], Adam::default())?;
    let mut file = saved(&mut from)?;
    for values in [true, false] {
        let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 0.5)?;
        optimizer.set_averaging(0, Averaging::Ema(0.75))?;
        optimizer.add_all(0, &[("a", &[0.0f32; 4][..]), ("b", &[0.0; 2])])?;
        optimizer.write("a", &from.read_blocking::<f32>("a")?)?;
        optimizer.write_state("a", "average", &[9.0f32; 4])?;
        let lenient = LoadOptions { strict: false, ..LoadOptions::default() };
        let mismatch = optimizer.load_from(&mut Cursor::new(&file), lenient)?;
        ensure(mismatch.missing == ["a.average", "b.average"], format!("{mismatch:?}"))?;
        let before = from.steps("a")?;
        for optimizer in [&mut from, &mut optimizer] {
            ensure(optimizer.steps("a")? == before, "steps")?;
            optimizer.write_gradient("a", &[1.0f32; 4])?;
            optimizer.step()?;
        }
        let after = optimizer.read_blocking::<f32>("a")?;
        ensure(after == from.read_blocking::<f32>("a")?, format!("the moments go on, values {values}"))?;
        let average = optimizer.read_state_blocking::<f32>("a", "average")?;
        ensure(average == after, format!("an average of {average:?}, not {after:?}"))?;
        // States alone.
        file.clear();
        let states = SaveOptions { parameters: false, ..SaveOptions::default() };
        pollster::block_on(from.save_to(&mut file, states))?;
    }
    Ok(())
}

/// The step behind which an average began is saved, too.
fn a_late_average_goes_on() -> Result<(), Failed> {
    for kind in [Averaging::EmaDebiased(0.75), Averaging::Swa { from: 1, every: 1 }] {
        let mut through = two(["a", "b"], [4, 2], Adam::default())?;
        through.step()?;
        through.set_averaging(0, kind)?;
        through.step()?;
        // One that somebody wrote counts all steps.
        through.write_state("b", "average", &[0.5f32; 2])?;
        let file = saved(&mut through)?;
        let mut resumed = two(["a", "b"], [4, 2], Adam::default())?;
        resumed.set_averaging(0, kind)?;
        load(&mut resumed, &file)?;
        ensure(saved(&mut resumed)? == file, format!("{kind:?}: another file"))?;
        for optimizer in [&mut through, &mut resumed] {
            for (name, len) in [("a", 4), ("b", 2)] {
                optimizer.write_gradient(name, &vec![0.25f32; len])?;
            }
            optimizer.step()?;
        }
        ensure(saved(&mut resumed)? == saved(&mut through)?, format!("{kind:?} goes on otherwise"))?;
    }
    Ok(())
}

/// A state of another extent or format has numbers that would mean something else: none of its group is loaded.
fn storage_of_another_kind_is_left_out() -> Result<(), Failed> {
    let from = || two(["a", "b"], [4, 2], Adam { beta1: 0.5, ..Adam::default() });
    let of = |key: &'static str, value: &'static str| {
        let changed = saved(&mut from()?)?;
        with_configuration(&changed, |note| note["groups"][0]["storage"][1][key] = value.into())
    };
    let file = of("extent", "row")?;
    let mut optimizer = two(["a", "b"], [4, 2], Adam::default())?;
    let before = saved(&mut optimizer)?;
    let Err(Error::Mismatch(mismatch)) = load(&mut optimizer, &file) else { return Err("no mismatch".into()) };
    let said = "the state exp_avg_sq of group 0 (row in the file, element here)";
    ensure(mismatch.different == [said], format!("{mismatch:?}"))?;
    ensure(saved(&mut optimizer)? == before, "something was loaded")?;
    // Of another format it is converted: see blocks.rs. What the tensor is says the tensor.
    load(&mut two(["a", "b"], [4, 2], Adam::default())?, &of("format", "f64")?)?;
    let mut optimizer = two(["a", "b"], [4, 2], Adam::default())?;
    optimizer.step()?;
    let values = optimizer.read_blocking::<f32>("a")?;
    let states = optimizer.read_state_blocking::<f32>("a", "exp_avg")?;
    let options = LoadOptions { strict: false, ..LoadOptions::default() };
    optimizer.load_from(&mut Cursor::new(&file), options)?;
    ensure(optimizer.read_blocking::<f32>("a")? != values, "values were not loaded")?;
    ensure(optimizer.read_state_blocking::<f32>("a", "exp_avg")? == states, "states were loaded")?;
    ensure(optimizer.steps("a")? == 2, "the step count was loaded")
}
