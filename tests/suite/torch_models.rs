//! Files of ordinary models of PyTorch 2.15: a part of a model, wrapped models, 16-bit ones. `tests/torch/make.py`
//! wrote them with `examples/torch_optimizer.py`.

use std::io::Cursor;

use libtest_mimic::{Failed, Trial};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use wgpu_optim::rules::{Adam, Momentum, NAdam};
use wgpu_optim::{
    AnyRule, Averaging, Device, Error, Gpu, Mismatch, Optimizer, Options, Real, Settings, TorchOptions, WeightDecay,
};

use crate::checkpoint::saved;
use crate::compare::{TOLERANCE, close, ensure};
use crate::tests;
use crate::torch::{note, values};

tests!(an_average_begins, models_are_continued,);

type OnCpu = fn() -> Result<(), Failed>;

pub(crate) fn trials() -> Vec<Trial> {
    let cpu: [(&str, OnCpu); 10] = [
        ("models_are_continued_on_the_cpu", || continue_models(&Device::Cpu)),
        ("an_average_begins_on_the_cpu", || an_average_begins_after_an_import(&Device::Cpu)),
        ("a_model_comes_back_as_it_was", a_model_comes_back_as_it_was),
        ("sixteen_bits_are_widened_exactly", sixteen_bits_are_widened_exactly),
        ("every_float16_is_widened", every_float16_is_widened),
        ("a_new_head_is_listed", a_new_head_is_listed),
        ("names_are_mapped", names_are_mapped),
        ("only_what_computes_nothing_is_ignored", only_what_computes_nothing_is_ignored),
        ("groups_may_be_cut_elsewhere", groups_may_be_cut_elsewhere),
        ("wrong_files_change_nothing", wrong_files_change_nothing),
    ];
    cpu.into_iter().map(|(name, test)| Trial::test(format!("torch_models::{name}"), test)).collect()
}

/// A file of `tests/torch`.
fn file(name: &str) -> Result<Vec<u8>, Failed> {
    Ok(std::fs::read(format!("{}/tests/torch/{name}.safetensors", env!("CARGO_MANIFEST_DIR")))?)
}

/// Layers of 3 inputs and 2 outputs, all 0.
fn add<F: Real>(optimizer: &mut Optimizer, group: usize, names: &[&str]) -> Result<(), Error> {
    for name in names {
        optimizer.add(group, name, &vec![F::zero(); if name.ends_with("weight") { 6 } else { 2 }])?;
    }
    Ok(())
}

/// The gradients of `make.py`.
fn train(optimizer: &mut Optimizer, steps: std::ops::Range<usize>) -> Result<(), Error> {
    let ids: Vec<_> = optimizer.parameters().map(|(id, name)| (id, name.ends_with("weight"))).collect();
    for t in steps {
        for &(id, weight) in &ids {
            let gradient = (0..if weight { 6 } else { 2 }).map(|i| ((7 * i + 3 * t) % 11) as f32 / 8.0 - 0.625);
            optimizer.write_gradient(id, &gradient.collect::<Vec<_>>())?;
        }
        optimizer.step()?;
    }
    Ok(())
}

fn partial(device: &Device, with_backbone: bool) -> Result<Optimizer, Error> {
    let mut optimizer = Optimizer::new(device, Adam::default(), 1.0)?;
    add::<f32>(&mut optimizer, 0, &["head.weight", "head.bias"])?;
    if with_backbone {
        add::<f32>(&mut optimizer, 0, &["backbone.weight", "backbone.bias"])?;
        let frozen = Options { frozen: true, ..Options::default() };
        optimizer.set_options_where(|name| name.starts_with("backbone"), frozen)?;
    }
    Ok(optimizer)
}

fn wrapped(device: &Device) -> Result<Optimizer, Error> {
    let mut optimizer = Optimizer::new(device, Adam::default(), 1.0)?;
    optimizer.add_group(Adam::default(), 1.0)?;
    add::<f32>(&mut optimizer, 0, &["embed.weight", "middle.weight"])?;
    add::<f32>(&mut optimizer, 1, &["embed.bias", "middle.bias", "decode.bias"])?;
    optimizer.set_options("middle.bias", Options { frozen: true, ..Options::default() })?;
    Ok(optimizer)
}

fn models_are_continued(gpu: &Gpu) -> Result<(), Failed> {
    continue_models(&gpu.into())
}

fn continue_models(device: &Device) -> Result<(), Failed> {
    for (name, mut optimizer) in
        [("partial", partial(device, false)?), ("partial", partial(device, true)?), ("wrapped", wrapped(device)?)]
    {
        let before = optimizer.read_blocking::<f32>("head.weight").is_ok();
        optimizer.load_torch_from(&mut Cursor::new(file(&format!("{name}.5"))?))?;
        ensure(before == (name == "partial"), "the head")?;
        train(&mut optimizer, 5..8)?;
        let after = file(&format!("{name}.8"))?;
        let after = SafeTensors::deserialize(&after)?;
        let prefix = if name == "wrapped" { "module._orig_mod." } else { "" };
        for (_, parameter) in optimizer.parameters() {
            let expected = f32s(&after, &format!("{prefix}{parameter}"))?;
            close(parameter, &optimizer.read_blocking(parameter)?, &expected, &vec![2.0; expected.len()], TOLERANCE)?;
            let frozen = optimizer.options(parameter)?.frozen;
            ensure(optimizer.steps(parameter)? == if frozen { 0 } else { 8 }, format!("steps of {parameter}"))?;
            for state in ["exp_avg", "exp_avg_sq"].into_iter().filter(|_| !frozen) {
                let expected = f32s(&after, &format!("{prefix}{parameter}.{state}"))?;
                let found = optimizer.read_state_blocking(parameter, state)?;
                close(state, &found, &expected, &vec![0.625; expected.len()], TOLERANCE)?;
            }
        }
        let decays = |group| Ok::<_, Error>(optimizer.settings(group)?.weight_decay);
        let decayed = if name == "wrapped" { WeightDecay::Decoupled(0.1) } else { WeightDecay::None };
        ensure(decays(0)? == decayed && optimizer.lr(0)? == if name == "wrapped" { 0.02 } else { 0.01 }, "group 0")?;
        ensure(name == "partial" || decays(1)? == WeightDecay::None && optimizer.lr(1)? == 0.01, "group 1")?;
    }
    Ok(())
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>, Failed> {
    Ok(values(&file.tensor(name)?).into_iter().map(|x| x as f32).collect())
}

/// What is loaded and saved again has the bits and the hyperparameters of PyTorch's file.
fn a_model_comes_back_as_it_was() -> Result<(), Failed> {
    for (name, prefix, mut optimizer, tensors) in [
        ("partial", "", partial(&Device::Cpu, false)?, 8),
        ("wrapped", "module._orig_mod.", wrapped(&Device::Cpu)?, 17),
    ] {
        let theirs = file(&format!("{name}.5"))?;
        optimizer.load_torch_from(&mut Cursor::new(&theirs))?;
        let mut ours = Vec::new();
        pollster::block_on(optimizer.save_torch_to(&mut ours))?;
        if let Some(directory) = std::env::var_os("WGPU_OPTIM_EXPORTS") {
            std::fs::write(std::path::Path::new(&directory).join(format!("{name}.safetensors")), &ours)?;
        }
        let (a, b) = (SafeTensors::deserialize(&ours)?, SafeTensors::deserialize(&theirs)?);
        ensure(a.len() == tensors, format!("{name}: {:?}", a.names()))?;
        for (tensor, view) in a.tensors() {
            ensure(view.data() == b.tensor(&format!("{prefix}{tensor}"))?.data(), tensor)?;
        }
        let (ours, theirs) = (note(&ours)?, note(&theirs)?);
        ensure(ours["optimizer"] == theirs["optimizer"], "the class")?;
        for (ours, theirs) in groups(&ours).iter().zip(groups(&theirs)) {
            for (key, value) in ours.as_object().into_iter().flatten().filter(|(key, _)| *key != "params") {
                let same = value == &theirs[key] || value.as_f64().is_some() && value.as_f64() == theirs[key].as_f64();
                ensure(same, format!("{name}: {key} is {value}, not {}", theirs[key]))?;
            }
        }
    }
    Ok(())
}

fn groups(note: &Value) -> &[Value] {
    note["param_groups"].as_array().map_or(&[], Vec::as_slice)
}

fn sixteen_bits_are_widened_exactly() -> Result<(), Failed> {
    fn widened<F: Real>() -> Result<(), Failed> {
        let (narrow, wide) = (file("mixed.5")?, file("mixed.wide")?);
        let wide = SafeTensors::deserialize(&wide)?;
        let mut optimizer = Optimizer::new(&Device::Cpu, NAdam::default(), 1.0)?;
        let names = ["bf16", "f16", "f32"].map(|layer| ["weight", "bias"].map(|part| format!("{layer}.{part}")));
        for name in names.iter().flatten() {
            add::<F>(&mut optimizer, 0, &[name])?;
        }
        optimizer.load_torch_from(&mut Cursor::new(&narrow))?;
        for name in names.iter().flatten().map(String::as_str) {
            let expected = |part: &str| -> Result<Vec<F>, Failed> {
                Ok(values(&wide.tensor(&format!("{name}{part}"))?).into_iter().map(F::of).collect())
            };
            ensure(optimizer.read_blocking::<F>(name)? == expected("")?, name)?;
            for state in ["exp_avg", "exp_avg_sq"] {
                let found = optimizer.read_state_blocking::<F>(name, state)?;
                ensure(found == expected(&format!(".{state}"))?, format!("{name}.{state} as {}", F::NAME))?;
            }
            ensure(optimizer.steps(name)? == 5, "steps")?;
        }
        Ok(())
    }
    widened::<f32>()?;
    widened::<f64>()
}

/// A file of PyTorch's with these groups and tensors.
fn written(class: &str, groups: Value, tensors: &[(&str, Dtype, &[u8])]) -> Result<Vec<u8>, Failed> {
    let width = |dtype: Dtype| dtype.bitsize() / 8;
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, bytes)| Ok((*name, TensorView::new(*dtype, vec![bytes.len() / width(*dtype)], bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()?;
    let note = json!({ "optimizer": class, "param_groups": groups }).to_string();
    Ok(safetensors::serialize(views, Some([("torch".to_owned(), note)].into_iter().collect()))?)
}

/// A group of Adam with these keys besides.
fn adam(mut more: Value) -> Value {
    let group = json!({ "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": false });
    if let (Some(more), Some(group)) = (more.as_object_mut(), group.as_object()) {
        group.iter().for_each(|(key, value)| _ = more.entry(key).or_insert(value.clone()));
    }
    more
}

/// The value, subnormals, infinities and NaNs too, by the definition of the format.
fn every_float16_is_widened() -> Result<(), Failed> {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let group =
        json!({ "lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": false, "weight_decay": 0, "params": ["w"] });
    let file = written("SGD", json!([group]), &[("w", Dtype::F16, &all), ("w.momentum_buffer", Dtype::BF16, &all)])?;
    let mut optimizer = Optimizer::new(&Device::Cpu, Momentum::default(), 1.0)?;
    optimizer.add(0, "w", &vec![0.0f32; 1 << 16])?;
    optimizer.load_torch_from(&mut Cursor::new(file))?;
    for (bits, found) in (0..=u16::MAX).zip(optimizer.read_blocking::<f32>("w")?) {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(-24),
            31 if fraction > 0.0 => f64::NAN,
            31 => f64::INFINITY,
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        let expected = if bits >> 15 == 1 { -magnitude } else { magnitude } as f32;
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        ensure(same, format!("{bits:#06x}: {found:e} for {expected:e}"))?;
    }
    let brains = optimizer.read_state_blocking::<f32>("w", "momentum_buffer")?;
    let same = |(bits, found): (u16, &f32)| found.to_bits() >> 16 == u32::from(bits) && found.to_bits() & 0xffff == 0;
    // A NaN's payload may change, by way of f64.
    let wrong = (0..=u16::MAX).zip(&brains).find(|&(bits, found)| !same((bits, found)) && !found.is_nan());
    ensure(wrong.is_none(), format!("{wrong:?}"))?;
    ensure(brains.iter().filter(|x| x.is_nan()).count() == 2 * 127, "NaNs")
}

fn load(optimizer: &mut Optimizer, file: &[u8], options: TorchOptions<'_>) -> Result<Mismatch, Error> {
    optimizer.load_torch_from_with(&mut Cursor::new(file), options)
}

fn lenient<'a>() -> TorchOptions<'a> {
    TorchOptions { strict: false, ..TorchOptions::default() }
}

/// Other classes than PyTorch's model has: the head of another length, and a layer that is not in the file.
fn a_new_head_is_listed() -> Result<(), Failed> {
    let theirs = file("wrapped.5")?;
    let wide = SafeTensors::deserialize(&theirs)?;
    let make = || -> Result<Optimizer, Error> {
        let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 1.0)?;
        optimizer.add_group(Adam::default(), 1.0)?;
        add::<f32>(&mut optimizer, 0, &["embed.weight", "middle.weight", "head.weight"])?;
        add::<f32>(&mut optimizer, 1, &["embed.bias", "middle.bias"])?;
        optimizer.add(1, "decode.bias", &[5.0f32; 3])?;
        optimizer.set_steps("decode.bias", 2)?;
        Ok(optimizer)
    };
    let mut optimizer = make()?;
    let before = saved(&mut optimizer)?;
    let Err(Error::Mismatch(strict)) = load(&mut optimizer, &theirs, TorchOptions::default()) else {
        return Err("a new head without a word".into());
    };
    ensure(saved(&mut optimizer)? == before, "something was loaded")?;
    let mismatch = load(&mut optimizer, &theirs, lenient())?;
    ensure(mismatch == strict, "another list")?;
    ensure(mismatch.missing == ["head.weight"] && mismatch.unexpected.is_empty(), format!("{mismatch:?}"))?;
    let lengths = |name: &str| format!("{name} ([2] of F32 in the file, [3] of F32 here)");
    let expected = ["decode.bias", "decode.bias.exp_avg", "decode.bias.exp_avg_sq"].map(lengths);
    ensure(mismatch.different == expected, format!("{mismatch:?}"))?;
    ensure(optimizer.read_blocking::<f32>("decode.bias")? == [5.0; 3] && optimizer.steps("decode.bias")? == 2, "head")?;
    ensure((optimizer.steps("embed.weight")?, optimizer.steps("head.weight")?) == (5, 0), "steps")?;
    let prefix = "module._orig_mod.";
    ensure(optimizer.read_blocking::<f32>("embed.weight")? == f32s(&wide, &format!("{prefix}embed.weight"))?, "embed")?;
    ensure((optimizer.lr(0)?, optimizer.lr(1)?) == (0.02, 0.01), "rates")?;
    // A state that is not in the file takes the parameter's others and its count along, but not its value.
    let [two, one] = [[1.0f32, 2.0], [3.0, 4.0]].map(|x| bytemuck::cast_slice(&x).to_vec());
    let part = [("w", Dtype::F32, &two[..]), ("w.exp_avg", Dtype::F32, &one), ("w.step", Dtype::F32, &one[..4])];
    let part = written("Adam", json!([adam(json!({ "params": ["w"] }))]), &part)?;
    let mut single = Optimizer::new(&Device::Cpu, Adam::default(), 1.0)?;
    single.add(0, "w", &[0.0f32; 2])?;
    let mismatch = load(&mut single, &part, lenient())?;
    ensure(mismatch.missing == ["w.exp_avg_sq"], format!("{mismatch:?}"))?;
    let found = (single.read_blocking::<f32>("w")?, single.read_state_blocking::<f32>("w", "exp_avg")?);
    ensure(found == (vec![1.0, 2.0], vec![0.0; 2]) && single.steps("w")? == 0, format!("{found:?}"))?;
    // Another rule: values alone.
    let mut other = Optimizer::new(&Device::Cpu, Momentum::default(), 1.0)?;
    other.add(0, "w", &[0.0f32; 2])?;
    let mismatch = load(&mut other, &part, lenient())?;
    ensure(mismatch.different.len() == 1 && other.lr(0)? == 1.0, format!("{mismatch:?}"))?;
    ensure(other.read_blocking::<f32>("w")? == [1.0, 2.0] && other.steps("w")? == 0, "values")
}

fn names_are_mapped() -> Result<(), Failed> {
    let theirs = file("partial.5")?;
    let make = |names: &[&str]| -> Result<Optimizer, Error> {
        let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 1.0)?;
        add::<f32>(&mut optimizer, 0, names)?;
        Ok(optimizer)
    };
    // Renamed, and in part ignored.
    let head = |name: &str| name.strip_prefix("head.").map(String::from);
    let mut renamed = make(&["weight", "bias"])?;
    load(&mut renamed, &theirs, TorchOptions { rename: Some(&head), ..TorchOptions::default() })?;
    ensure((renamed.steps("weight")?, renamed.steps("bias")?) == (5, 5), "steps")?;
    let mut plain = partial(&Device::Cpu, true)?;
    let progress: &mut dyn FnMut(u64, u64) = &mut |done, all| assert!(done <= all);
    load(&mut plain, &theirs, TorchOptions { progress: Some(progress), ..TorchOptions::default() })?;
    ensure(renamed.read_blocking::<f32>("weight")? == plain.read_blocking::<f32>("head.weight")?, "values")?;
    ensure(plain.read_blocking::<f32>("backbone.bias")? == [-0.5, -0.25], "the frozen backbone")?;
    // A frozen backbone that stays as it is here, and its own states; states alone.
    let ours = |name: &str| name.starts_with("head").then(|| name.to_owned());
    let mut kept = partial(&Device::Cpu, true)?;
    let mismatch = load(&mut kept, &theirs, TorchOptions { rename: Some(&ours), ..lenient() })?;
    ensure(mismatch.missing == ["backbone.bias", "backbone.weight"], format!("{mismatch:?}"))?;
    ensure(kept.read_blocking::<f32>("backbone.bias")? == [0.0; 2] && kept.steps("head.bias")? == 5, "kept")?;
    let mut states = partial(&Device::Cpu, true)?;
    load(&mut states, &theirs, TorchOptions { parameters: false, ..TorchOptions::default() })?;
    ensure(states.read_blocking::<f32>("head.bias")? == [0.0; 2] && states.steps("head.bias")? == 5, "states alone")?;
    // A parameter of PyTorch's optimizer that is not here is lost only on request.
    let mut less = make(&["head.weight"])?;
    let strict = load(&mut less, &theirs, TorchOptions::default());
    let lost = ["head.bias", "head.bias.exp_avg", "head.bias.exp_avg_sq", "head.bias.step"];
    ensure(matches!(&strict, Err(Error::Mismatch(m)) if m.unexpected == lost), format!("{strict:?}"))?;
    let without = |name: &str| (name != "head.bias").then(|| name.to_owned());
    load(&mut less, &theirs, TorchOptions { rename: Some(&without), ..TorchOptions::default() })?;
    // One name for two, from the map or from a wrapper; a name that is here as it is comes first.
    let one = |_: &str| Some("weight".to_owned());
    let refused = load(&mut renamed, &theirs, TorchOptions { rename: Some(&one), ..TorchOptions::default() });
    ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))?;
    let [a, b] = [[1.0f32; 2], [2.0; 2]].map(|x| bytemuck::cast_slice(&x).to_vec());
    let both = written(
        "Adam",
        json!([adam(json!({ "params": [] }))]),
        &[("bias", Dtype::F32, &a), ("module.bias", Dtype::F32, &b)],
    )?;
    let mut exact = make(&["bias"])?;
    load(&mut exact, &both, TorchOptions::default())?;
    ensure(exact.read_blocking::<f32>("bias")? == [1.0; 2], "the name as it is comes first")?;
    let twice = |name: &str| Some(name.replace("module", "module.module").replace("bias", "module.b"));
    let mut short = Optimizer::new(&Device::Cpu, Adam::default(), 1.0)?;
    short.add(0, "b", &[0.0f32; 2])?;
    let refused = load(&mut short, &both, TorchOptions { rename: Some(&twice), ..TorchOptions::default() });
    ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))
}

fn only_what_computes_nothing_is_ignored() -> Result<(), Failed> {
    let load = |class: &str, more: Value| {
        let mut group = adam(more);
        group["params"] = json!(["w"]);
        let file = written(class, json!([group]), &[("w", Dtype::F32, &[0; 8])]).map_err(|e| format!("{e:?}"))?;
        let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 1.0).map_err(|e| e.to_string())?;
        optimizer.add(0, "w", &[0.0f32; 2]).map_err(|e| e.to_string())?;
        optimizer.load_torch_from(&mut Cursor::new(file)).map_err(|e| e.to_string())
    };
    let beside =
        json!({ "name": "head", "foreach": null, "fused": true, "initial_lr": 0.1, "lr_scale": 0.5, "new": null });
    load("Adam", beside)?;
    for bad in [json!({ "centered": true }), json!({ "correct_bias": false }), json!({ "mode": "other" })] {
        let refused = load("AdamW", bad.clone());
        ensure(refused.as_ref().is_err_and(|e| e.contains("is not known")), format!("{bad}: {refused:?}"))?;
    }
    let refused = load("Lion", json!({}));
    ensure(refused.is_err_and(|e| e.contains("Lion")), "another class")
}

/// PyTorch's groups are for names or rates, ours for averages or clipping.
fn groups_may_be_cut_elsewhere() -> Result<(), Failed> {
    let tensors: Vec<_> = ["a", "b", "c"].map(|name| (name, Dtype::F32, &[0u8; 8][..])).into();
    let three = |lr: f64| {
        let groups = [("a", 0.01), ("b", 0.01), ("c", lr)];
        let groups = groups.map(|(name, lr)| adam(json!({ "params": [name], "name": name, "lr": lr })));
        written("Adam", json!(groups), &tensors)
    };
    let make = |rule: AnyRule| -> Result<Optimizer, Error> {
        let mut optimizer =
            Optimizer::new(&Device::Cpu, rule, Settings { clip_value: Some(1.0), ..Settings::lr(1.0) })?;
        ["a", "b", "c"].iter().try_for_each(|name| optimizer.add(0, name, &[1.0f32; 2]).map(drop))?;
        Ok(optimizer)
    };
    let mut one = make(Adam::default().into())?;
    load(&mut one, &three(0.01)?, TorchOptions::default())?;
    ensure(one.lr(0)? == 0.01 && one.settings(0)?.clip_value == Some(1.0), "groups that agree are one")?;
    let mut one = make(Adam::default().into())?;
    let strict = load(&mut one, &three(0.02)?, TorchOptions::default());
    let named = |m: &Mismatch| m.different == ["c (in group 2 of the file, others of group 0 here in its group 0)"];
    ensure(matches!(&strict, Err(Error::Mismatch(m)) if named(m)), format!("{strict:?}"))?;
    ensure(one.lr(0)? == 1.0, "something was loaded")?;
    ensure(named(&load(&mut one, &three(0.02)?, lenient())?) && one.lr(0)? == 0.01, "the rest")
}

fn wrong_files_change_nothing() -> Result<(), Failed> {
    let bytes = 3f32.to_le_bytes();
    let w = ("w", Dtype::F32, &bytes[..]);
    let full = |step: &'static [u8], dtype| {
        [w, ("w.exp_avg", Dtype::F32, &bytes), ("w.exp_avg_sq", Dtype::F32, &bytes), ("w.step", dtype, step)]
    };
    let half = full(&[0, 0, 0x20, 0x40], Dtype::F32);
    let one = json!([adam(json!({ "params": ["w"] }))]);
    for (what, groups, tensors) in [
        ("numbers for names", json!([adam(json!({ "params": [0] }))]), &[w][..]),
        ("no names", json!([adam(json!({}))]), &[w]),
        ("two groups", json!([adam(json!({ "params": ["w"] })), adam(json!({ "params": ["w"] }))]), &[w]),
        ("half a step", one.clone(), &half),
        ("a step before the first", one.clone(), &full(&[0x80, 0xbf], Dtype::BF16)),
        ("a step of another kind", one.clone(), &full(&[5], Dtype::U8)),
    ] {
        let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 1.0)?;
        optimizer.add(0, "w", &[1.0f32])?;
        let before = saved(&mut optimizer)?;
        let refused = load(&mut optimizer, &written("Adam", groups, tensors)?, lenient());
        ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{what}: {refused:?}"))?;
        ensure(saved(&mut optimizer)? == before, what)?;
    }
    // A count in 16 bits, as old versions saved it; a parameter that is listed twice.
    let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 1.0)?;
    optimizer.add(0, "w", &[1.0f32])?;
    let twice = json!([adam(json!({ "params": ["w", "w"] }))]);
    load(&mut optimizer, &written("Adam", twice, &full(&[0x80, 0x40], Dtype::BF16))?, TorchOptions::default())?;
    ensure(optimizer.steps("w")? == 4, "steps")?;
    Ok(())
}

/// PyTorch's optimizers keep no averages: the average begins with the first step here.
fn an_average_begins_after_an_import(device: &Device) -> Result<(), Failed> {
    for kind in [Averaging::Ema(0.9), Averaging::EmaDebiased(0.9), Averaging::Swa { from: 2, every: 1 }] {
        let mut averaged = Optimizer::new(device, Adam::default(), 1.0)?;
        averaged.set_averaging(0, kind)?;
        add::<f32>(&mut averaged, 0, &["head.weight", "head.bias"])?;
        averaged.write_state("head.bias", "average", &[9.0f32; 2])?;
        averaged.load_torch_from(&mut Cursor::new(file("partial.5")?))?;
        let imported = averaged.read_blocking::<f32>("head.bias")?;
        averaged.swap_averages(0)?;
        ensure(averaged.read_blocking::<f32>("head.bias")? == imported, format!("{kind:?}: an average of no step"))?;
        averaged.swap_averages(0)?;
        let mut mean = vec![0.0f32; 2];
        for n in 1..=3 {
            train(&mut averaged, 4 + n..5 + n)?;
            let after = averaged.read_blocking::<f32>("head.bias")?;
            let rate = match kind {
                Averaging::Ema(_) if n == 1 => 1.0,
                Averaging::Ema(_) => 0.1,
                Averaging::EmaDebiased(_) => 0.1 / (1.0 - 0.9f64.powi(n as i32)),
                _ => 1.0 / n as f64,
            };
            mean.iter_mut().zip(&after).for_each(|(a, w)| *a += rate as f32 * (w - *a));
            let found = averaged.read_state_blocking("head.bias", "average")?;
            close(&format!("{kind:?} {n}"), &found, &mean, &[1.0; 2], TOLERANCE)?;
        }
    }
    Ok(())
}

fn an_average_begins(gpu: &Gpu) -> Result<(), Failed> {
    an_average_begins_after_an_import(&gpu.into())
}
