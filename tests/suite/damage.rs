//! Damaged, hostile and contradictory checkpoints: an error, nothing changed, no large allocation.

use std::io::Cursor;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use wgpu_optim::rules::Adam;
use wgpu_optim::{Error, LoadOptions};

use crate::checkpoint::{load, saved, two};
use crate::compare::ensure;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("damage::damaged_files_are_refused", damaged_files_are_refused),
        Trial::test("damage::wrong_configurations_are_refused", wrong_configurations_are_refused),
    ]
}

/// The file with another header.
fn with_header(file: &[u8], change: impl FnOnce(&mut Value)) -> Result<Vec<u8>, Failed> {
    let length = u64::from_le_bytes(file[..8].try_into()?) as usize;
    let mut header = serde_json::from_slice(&file[8..8 + length])?;
    change(&mut header);
    let text = serde_json::to_vec(&header)?;
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice(), &file[8 + length..]].concat())
}

/// The file with another configuration.
pub(crate) fn with_configuration(file: &[u8], change: impl FnOnce(&mut Value)) -> Result<Vec<u8>, Failed> {
    with_header(file, |header| {
        let note = &mut header["__metadata__"]["wgpu-optim"];
        let mut configuration = note.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        change(&mut configuration);
        *note = configuration.to_string().into();
    })
}

fn refused(what: &str, file: &[u8], is: impl Fn(&Error) -> bool) -> Result<(), Failed> {
    let mut optimizer = two(["a", "b"], [4, 2], Adam::default())?;
    optimizer.step()?;
    let before = saved(&mut optimizer)?;
    for strict in [true, false] {
        let loaded = optimizer.load_from(&mut Cursor::new(file), LoadOptions { strict, ..LoadOptions::default() });
        ensure(loaded.as_ref().is_err_and(&is), format!("{what}: {loaded:?}"))?;
        ensure(saved(&mut optimizer)? == before, format!("{what}: something was loaded"))?;
    }
    Ok(())
}

fn damaged_files_are_refused() -> Result<(), Failed> {
    let file = saved(&mut two(["a", "b"], [4, 2], Adam::default())?)?;
    let checkpoint = |e: &Error| matches!(e, Error::Checkpoint { .. });
    for length in 0..file.len() {
        refused(&format!("{length} bytes"), &file[..length], checkpoint)?;
    }
    refused("one byte more", &[&file[..], &[0]].concat(), checkpoint)?;
    for claimed in [file.len() as u64, 100_000_001, u64::MAX] {
        refused(&format!("{claimed}"), &[&claimed.to_le_bytes(), &file[8..]].concat(), checkpoint)?;
    }
    let offsets = |of: [u64; 2]| with_header(&file, |header| header["a"]["data_offsets"] = of.to_vec().into());
    for of in [[0, 8], [8, 0], [8, 24], [0, u64::MAX], [u64::MAX - 16, u64::MAX]] {
        refused(&format!("{of:?}"), &offsets(of)?, checkpoint)?;
    }
    refused("a shape", &with_header(&file, |header| header["a"]["shape"] = vec![u64::MAX, 4].into())?, checkpoint)?;
    refused(
        "no note",
        &with_header(&file, |header| header["__metadata__"] = Value::Object(Default::default()))?,
        checkpoint,
    )?;
    let deep = format!("{{\"__metadata__\":{}", "[".repeat(100_000));
    refused("deep", &[&(deep.len() as u64).to_le_bytes(), deep.as_bytes()].concat(), checkpoint)?;
    // A large claim is found before memory is asked for.
    let mut optimizer = two(["a", "b"], [4, 2], Adam::default())?;
    let claim = [&99_999_999u64.to_le_bytes(), &[b' '; 64][..]].concat();
    let used = allocation_counter::measure(|| _ = load(&mut optimizer, &claim));
    ensure(used.bytes_max < 1 << 16, format!("{} bytes", used.bytes_max))
}

fn wrong_configurations_are_refused() -> Result<(), Failed> {
    let file = saved(&mut two(["a", "b"], [4, 2], Adam::default())?)?;
    let checkpoint = |e: &Error| matches!(e, Error::Checkpoint { .. });
    for version in [0, 3] {
        let changed = with_configuration(&file, |note| note["version"] = version.into())?;
        let said = format!("version {version}, this code reads 1 to 2");
        refused("version", &changed, |e| checkpoint(e) && e.to_string().contains(&said))?;
    }
    let unlisted = |note: &mut Value| _ = note["groups"][0].as_object_mut().and_then(|group| group.remove("storage"));
    let without = with_configuration(&file, unlisted)?;
    refused("no storage", &without, |e| checkpoint(e) && e.to_string().contains("group 0 does not list its storage"))?;
    let of_version_1 = with_configuration(&file, |note| note["version"] = 1.into())?;
    refused("storage", &of_version_1, |e| checkpoint(e) && e.to_string().contains("lists its storage in version 1"))?;
    let format = |note: &mut Value| note["groups"][0]["storage"][0]["format"] = "f128".into();
    refused("format", &with_configuration(&file, format)?, |e| checkpoint(e) && e.to_string().contains("`f128`"))?;
    refused("unknown", &with_configuration(&file, |note| note["more"] = 1.into())?, checkpoint)?;
    refused("null", &with_configuration(&file, |note| note["groups"][0]["settings"]["lr"] = Value::Null)?, checkpoint)?;
    type Change = fn(&mut Value);
    let bad: [(&str, Change); 8] = [
        ("lr", |note| note["groups"][0]["settings"]["lr"] = (-1.0).into()),
        ("beta1", |note| note["groups"][0]["configuration"]["beta1"] = 2.0.into()),
        ("schedule_step", |note| note["groups"][0]["schedule_step"] = u64::MAX.into()),
        ("steps", |note| note["parameters"]["a"]["steps"] = u64::MAX.into()),
        ("average_begun", |note| note["parameters"]["a"]["average_begun"] = u64::MAX.into()),
        ("lr_scale", |note| note["parameters"]["a"]["options"]["lr_scale"] = (-1.0).into()),
        ("init_scale", |note| note["loss_scale"] = 0.0.into()),
        ("max_norm", |note| {
            note["clip_norm"] = serde_json::json!({ "max_norm": -1.0, "norm": "l2", "eps": 0.0, "only_down": true });
        }),
    ];
    for (key, change) in bad {
        let is = |e: &Error| matches!(e, Error::Hyperparameter { name, .. } if *name == key);
        refused(key, &with_configuration(&file, change)?, is)?;
    }
    let shape = with_configuration(&file, |note| note["parameters"]["a"]["options"]["shape"] = vec![3, 3].into())?;
    refused("shape", &shape, |e| matches!(e, Error::Length { .. }))?;
    // Each by itself is fine; together they are not.
    let clip = |norm: &str| serde_json::json!({ "max_norm": 1.0, "norm": norm, "eps": 0.0, "only_down": true });
    let both = with_configuration(&file, |note| {
        note["groups"][0]["settings"]["clip_norm"] = clip("l1");
        note["clip_norm"] = clip("l2");
    })?;
    refused("two norms", &both, |e| matches!(e, Error::Unsupported { .. }))
}
