//! What the crate is to those who depend on it: licences, versions of its dependencies, types that threads may share,
//! an index of methods.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences that code under MIT OR Apache-2.0 may link.
const LICENCES: [&str; 13] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "Unicode-3.0",
    // Of the font that the examples draw with.
    "OFL-1.1",
    "Ubuntu-font-1.0",
];
/// Licences that come with Burn: weak copyleft for their own files, data, and one more as permissive as MIT. And a
/// crate that names its licence only in a file: Apache-2.0.
const BURNS: [&str; 3] = ["MPL-2.0", "CDLA-Permissive-2.0", "BSL-1.0"];
const IN_A_FILE: &str = "cfg_block";
/// Crates that others demand in more than one version, and in how many: those of bitflags and miniz_oxide come with the
/// examples' PNG and GIF, those of equator and the oldest syn with faer.
const MORE: [(&str, usize); 6] =
    [("bitflags", 2), ("equator", 2), ("equator-macro", 2), ("hashbrown", 2), ("miniz_oxide", 2), ("syn", 3)];

/// What `cargo test` builds with these features: name, version, licence.
fn dependencies(features: &str) -> Vec<[String; 3]> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--features", features, "--manifest-path"]);
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = cargo.args([concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--filter-platform", &host]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let built: HashSet<_> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or("none").to_owned();
    packages
        .filter(|package| built.contains(package["id"].as_str().unwrap()))
        .map(|package| ["name", "version", "license"].map(|key| text(package, key)))
        .collect()
}

fn allowed(licence: &str, more: &[&str]) -> bool {
    let known = |one: &str| LICENCES.contains(&one) || more.contains(&one);
    let any = |part: &str| part.split(" OR ").any(|one| known(one.trim_matches(['(', ')', ' '])));
    licence.replace('/', " OR ").split(" AND ").all(any)
}

#[test]
fn licences_go_with_ours() {
    let strict = |licence| allowed(licence, &[]);
    assert!(strict("(MIT OR GPL-3.0) AND Unicode-3.0") && !strict("GPL-3.0") && !strict("MIT AND GPL-3.0"));
    for (features, more) in [("", &[][..]), ("burn", &BURNS)] {
        let mut dependencies = dependencies(features);
        assert!(dependencies.len() > 50, "{}", dependencies.len());
        dependencies.retain(|[name, _, licence]| !allowed(licence, more) && (name != IN_A_FILE || more.is_empty()));
        assert!(dependencies.is_empty(), "{dependencies:?}");
    }
}

#[test]
fn no_crate_is_built_twice() {
    let mut versions = BTreeMap::<_, Vec<_>>::new();
    for [name, version, _] in dependencies("") {
        versions.entry(name).or_default().push(version);
    }
    // nalgebra names 18 of them in case somebody wants one (weak features, which cargo resolves and does not build).
    versions.remove("glam");
    versions.retain(|_, versions| versions.len() > 1);
    let counts = versions.iter().map(|(name, versions)| (name.as_str(), versions.len()));
    assert!(counts.eq(MORE), "{versions:?}");
}

/// The binary's dependencies are not those of who writes `cargo add wgpu-optim`.
#[test]
fn the_library_alone_is_the_default() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--package", "wgpu-optim"]);
    let output = cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: HashSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("wgpu"), "{tree}");
    for name in ["clap", "comfy-table", "env_logger", "epaint_default_fonts", "flate2", "indicatif", "plotters", "ron"]
    {
        assert!(!names.contains(name), "{name}");
    }
}

/// The index in the docs of `Optimizer` names each of its methods.
#[test]
fn the_index_has_every_method() {
    let (mut methods, mut folders) = (Vec::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/optimizer")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let bodies = text.split("\nimpl Optimizer {\n").skip(1).map(|rest| rest.split("\n}\n").next().unwrap());
            let lines = bodies.flat_map(str::lines).filter(|line| line.starts_with("    pub "));
            let name = |line: &str| Some(line.split_once("fn ")?.1.split(['(', '<']).next()?.to_owned());
            methods.extend(lines.filter_map(name));
        }
    }
    assert!(methods.len() > 70 && methods.iter().any(|method| method == "encode_accumulate"), "{methods:?}");
    let source = include_str!("../src/optimizer/mod.rs");
    let index = source.split("# Methods by what you want to do").nth(1).unwrap().split("pub struct").next().unwrap();
    methods.retain(|method| !index.contains(&format!("(Self::{method})")));
    assert!(methods.is_empty(), "not in the index: {methods:?}");
}

#[test]
fn threads_may_share_everything() {
    fn shared<T: Send + Sync>() {}
    shared::<wgpu_optim::Device>();
    shared::<wgpu_optim::Error>();
    shared::<wgpu_optim::Gpu>();
    shared::<wgpu_optim::Optimizer>();
    shared::<wgpu_optim::AnyRule>();
}
