//! Which parameters and groups here are which of PyTorch's file.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::torch::{COUNTS, Note, Rename};
use crate::any_rule::AnyRule;
use crate::bitsandbytes;
use crate::error::{Error, Mismatch, Result};
use crate::optimizer::{Optimizer, ParameterId};
use crate::settings::Settings;
use crate::torch;

/// Modules that PyTorch's `compile`, FSDP and activation checkpointing insert.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A parameter, as the file has it.
#[derive(Debug)]
pub(super) struct Theirs<'a> {
    pub(super) name: &'a str,
    /// Its parameter group there; `None` for one that PyTorch's optimizer does not step.
    group: Option<usize>,
}

/// What of the file's groups fits here.
#[derive(Debug)]
pub(super) struct Groups {
    /// The configuration of each group here, where the file has one that fits.
    pub(super) configurations: Vec<Option<(AnyRule, Settings)>>,
    /// The parameters whose states mean the same in the file and here.
    pub(super) members: HashSet<u64>,
}

impl Note {
    /// The parameters' names in each group.
    fn names(&self) -> Result<Vec<Vec<&str>>> {
        let wrong = || damaged("a parameter group has no list `params` of its parameters' names".into());
        self.param_groups.iter().map(|group| listed(group).ok_or_else(wrong)).collect()
    }

    /// A group's rule and settings; with its scheduler's base rate if it is `scheduled` here, too.
    fn configuration(&self, group: usize, scheduled: bool) -> Result<(AnyRule, Settings)> {
        let saved = &self.param_groups[group];
        let (rule, settings) = match bitsandbytes::owns(&self.optimizer, saved) {
            true => bitsandbytes::read(&self.optimizer, saved)?,
            false => torch::read(&self.optimizer, saved)?,
        };
        let initial_lr = saved.get("initial_lr").and_then(Value::as_f64).filter(|_| scheduled);
        Ok((rule, Settings { lr: initial_lr.unwrap_or(settings.lr), ..settings }))
    }
}

impl Optimizer {
    /// Finds the file's parameters here. Lists those of its groups that are not here, with their tensors, and states
    /// that no rule here keeps. A tensor outside all groups is the value of a parameter that PyTorch's optimizer does
    /// not step.
    pub(super) fn torch_parameters<'a>(
        &self,
        note: &'a Note,
        tensors: &'a [String],
        rename: Rename<'_>,
        mismatch: &mut Mismatch,
    ) -> Result<HashMap<u64, Theirs<'a>>> {
        let mut grouped = HashMap::new();
        let mut all = Vec::new();
        for (k, names) in note.names()?.into_iter().enumerate() {
            for name in names {
                match grouped.insert(name, k) {
                    None => all.push((name, Some(k))),
                    Some(other) if other != k => return Err(damaged(format!("`{name}` is in two parameter groups"))),
                    Some(_) => {}
                }
            }
        }
        let state = |name: &'a str| name.rsplit_once('.').filter(|(owner, _)| grouped.contains_key(owner));
        let outside = tensors.iter().map(String::as_str).filter(|name| !grouped.contains_key(name));
        all.extend(outside.filter(|name| state(name).is_none()).map(|name| (name, None)));

        let mut found: HashMap<u64, Theirs<'a>> = HashMap::new();
        let mut ignored = HashSet::new();
        let mut wrapped = Vec::new();
        let mut take = |ParameterId(id): ParameterId, name, group| match found.entry(id) {
            Entry::Vacant(place) => {
                place.insert(Theirs { name, group });
                Ok(())
            }
            Entry::Occupied(other) => {
                let here = self.parameters.get(&id).map_or("", |parameter| &parameter.name);
                Err(damaged(format!("its `{}` and `{name}` would both be `{here}` here", other.get().name)))
            }
        };
        let mut exact = HashSet::new();
        for (name, group) in all {
            match rename.map_or(Some(name.to_owned()), |rename| rename(name)) {
                None => _ = ignored.insert(name),
                Some(here) => match self.names.get(&here) {
                    Some(&id) => {
                        take(id, name, group)?;
                        exact.insert(id);
                    }
                    None => wrapped.push((name, group, unwrapped(&here))),
                },
            }
        }
        for (name, group, here) in wrapped {
            if let Some(&id) = self.names.get(&here).filter(|id| !exact.contains(id)) {
                take(id, name, group)?;
            }
        }

        let ids: HashMap<_, _> = found.iter().map(|(&id, theirs)| (theirs.name, id)).collect();
        let kept = |owner: &str, state: &str| match ids.get(owner).and_then(|id| self.parameters.get(id)) {
            Some(parameter) => {
                let group = &self.groups[parameter.group];
                let theirs = |name: &str| bitsandbytes::place(name).is_some_and(|at| bitsandbytes::is_of(state, at));
                let known = group.states().any(|stored| stored.storage.name == state || theirs(stored.storage.name));
                known || COUNTS.contains(&state)
            }
            None => ignored.contains(owner),
        };
        let missing = |name: &&&str| !ids.contains_key(**name) && !ignored.contains(**name);
        mismatch.unexpected.extend(grouped.keys().filter(missing).map(|name| (*name).to_owned()));
        let states = tensors.iter().filter(|name| !grouped.contains_key(name.as_str()));
        let unknown = states.filter(|name| state(name).is_some_and(|(owner, state)| !kept(owner, state)));
        mismatch.unexpected.extend(unknown.cloned());
        Ok(found)
    }

    /// Finds each group's configuration: that of the file's group that its parameters are in.
    pub(super) fn torch_groups(
        &self,
        note: &Note,
        found: &HashMap<u64, Theirs<'_>>,
        mismatch: &mut Mismatch,
    ) -> Result<Groups> {
        let mut read = HashMap::new();
        let mut first = vec![None; self.groups.len()];
        let mut members = HashSet::new();
        for (&id, parameter) in &self.parameters {
            let (name, k) = (&parameter.name, parameter.group);
            let Some(theirs) = found.get(&id).and_then(|theirs| theirs.group) else { continue };
            let scheduled = self.groups[k].schedule.is_some();
            if let Entry::Vacant(place) = read.entry((theirs, scheduled)) {
                place.insert(note.configuration(theirs, scheduled)?);
            }
            let chosen = *first[k].get_or_insert(theirs);
            if chosen == theirs || same(&read[&(chosen, scheduled)], &read[&(theirs, scheduled)]) {
                members.insert(id);
            } else {
                let groups = format!("(in group {theirs} of the file, others of group {k} here in its group {chosen})");
                mismatch.different.push(format!("{name} {groups}"));
            }
        }
        let mut configurations = Vec::new();
        for (k, group) in self.groups.iter().enumerate() {
            let configuration = first[k].and_then(|theirs| read.get(&(theirs, group.schedule.is_some())));
            let fits = configuration.filter(|(rule, _)| group.rule.compatible_with(rule));
            if let (Some((rule, _)), None) = (configuration, fits) {
                let (class, saved) = (&note.optimizer, rule.0.save());
                let (name, here) = (group.rule.name(), group.rule.0.save());
                mismatch
                    .different
                    .push(format!("the rule of group {k} ({class}, {saved} in the file, {name} {here} here)"));
            }
            configurations.push(match fits {
                None => None,
                Some((rule, Settings { lr, weight_decay, maximize, .. })) => {
                    let (lr, weight_decay, maximize) = (*lr, *weight_decay, *maximize);
                    let settings = Settings { lr, lr_factor: 1.0, weight_decay, maximize, ..group.settings };
                    settings.check()?;
                    Some((rule.clone(), settings))
                }
            });
        }
        let fits =
            |id: &u64| self.parameters.get(id).is_some_and(|parameter| configurations[parameter.group].is_some());
        members.retain(fits);
        Ok(Groups { configurations, members })
    }
}

fn listed(group: &Map<String, Value>) -> Option<Vec<&str>> {
    group.get("params")?.as_array()?.iter().map(Value::as_str).collect()
}

fn same((rule, settings): &(AnyRule, Settings), (other, others): &(AnyRule, Settings)) -> bool {
    (rule.name(), rule.0.save(), settings) == (other.name(), other.0.save(), others)
}

/// A parameter's name without what wrapped modules add to it: `module.` in front (data parallelism), and [`WRAPPERS`]
/// anywhere.
fn unwrapped(name: &str) -> String {
    let parts: Vec<_> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    let modules = parts.iter().take_while(|part| **part == "module").count();
    parts[modules..].join(".")
}

fn damaged(reason: String) -> Error {
    Error::Checkpoint { reason }
}
