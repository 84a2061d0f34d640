//! The types of the npm package name what the crate has: rules, errors, settings.

use std::collections::BTreeSet;

use wgpu_optim::internals::saved;
use wgpu_optim::{ClipNorm, LossScaler, Options, Report, Settings, rules};

const TYPES: &str = include_str!("../src/js/types.ts");

/// The members of a union of texts.
fn union(name: &str) -> BTreeSet<&'static str> {
    let body = TYPES.split(&format!("export type {name} =")).nth(1).unwrap().split(';').next().unwrap();
    body.split('\'').skip(1).step_by(2).collect()
}

/// The properties of an interface, in snake_case.
fn properties(name: &str) -> BTreeSet<String> {
    let body = TYPES.split(&format!("export interface {name} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    let property = |line: &str| Some(line.strip_prefix("    ")?.split([':', '?']).next()?.to_owned());
    let names = body.lines().filter(|line| !line.trim().starts_with(['*', '/'])).filter_map(property);
    let snake = |name: String| {
        let mut out = String::new();
        for c in name.chars() {
            out.extend(c.is_ascii_uppercase().then_some('_').into_iter().chain(c.to_lowercase()));
        }
        out
    };
    names.map(snake).collect()
}

fn keys(of: &impl serde::Serialize) -> BTreeSet<String> {
    serde_json::to_value(of).unwrap().as_object().unwrap().keys().cloned().collect()
}

#[test]
fn rules_and_errors() {
    assert_eq!(union("RuleName"), rules::all().into_iter().map(|(name, _)| name).collect());
    let source = include_str!("../src/error.rs");
    let body = source.split("pub enum Error {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let variant = |line: &'static str| line.strip_prefix("    ")?.split([' ', '(', ',']).next();
    let capital = |name: &&str| name.starts_with(|c: char| c.is_ascii_uppercase());
    let mut codes: BTreeSet<_> = body.lines().filter_map(variant).filter(capital).collect();
    assert!(codes.len() >= 25, "{codes:?}");
    // What only JavaScript can do wrong.
    codes.extend(["NoDevice", "NoBuffer", "Options", "Busy", "Destroyed"]);
    assert_eq!(union("ErrorCode"), codes);
    let given = include_str!("../src/js/errors.rs");
    for variant in codes.iter().filter(|code| source.contains(&format!("    {code}"))) {
        assert!(
            given
                .lines()
                .any(|line| line.contains(&format!("Error::{variant}")) && line.contains(&format!("\"{variant}\""))),
            "{variant}"
        );
    }
}

#[test]
fn settings() {
    assert_eq!(properties("Settings"), keys(&Settings::lr(0.1)));
    assert_eq!(properties("ClipNorm"), keys(&ClipNorm::torch(1.0)));
    assert_eq!(properties("LossScaler"), keys(&LossScaler::default()));
    assert_eq!(properties("Report"), keys(&Report::default()));
    let of_rules = rules::all().into_iter().flat_map(|(_, rule)| {
        // A rule without options saves none.
        let saved: serde_json::Value = serde_json::from_str(&saved(&rule)).unwrap_or_default();
        saved.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>()
    });
    assert_eq!(properties("RuleOptions"), of_rules.collect());
    let mut options = keys(&Options::default());
    options.insert("group".into());
    assert_eq!(properties("ParameterOptions"), options);
}

#[test]
fn the_package_exports_every_type() {
    let index = include_str!("../src/js/index.d.ts");
    let exported: BTreeSet<_> = index.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(',')).collect();
    let declared = TYPES.lines().filter_map(|line| {
        let name = line.strip_prefix("export type ").or(line.strip_prefix("export interface "))?;
        name.split([' ', '<']).next()
    });
    assert_eq!(exported, declared.collect());
}
