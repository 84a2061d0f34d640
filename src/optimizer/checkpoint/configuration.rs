//! The configuration in a checkpoint's header: groups, parameters, and what concerns the step as a whole.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Target;
use crate::any_rule::AnyRule;
use crate::averaging::Averaging;
use crate::clipping::{ClipNorm, NonFinite};
use crate::error::{Error, Mismatch, Result, require};
use crate::formats::{Extent, Format, Storage};
use crate::gpu::Device;
use crate::json;
use crate::optimizer::storage::{Role, check_formats};
use crate::optimizer::{Change, Optimizer, Parameter, ParameterId};
use crate::precision::Precision;
use crate::scaling::{LossScaler, Report, Safeguards};
use crate::schedule::Schedule;
use crate::settings::{Options, Settings};

/// The version that this code writes. It reads the older ones, too: a group of version 1 does not list its storage.
const VERSION: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Configuration {
    version: u32,
    /// Whether the file has the parameters' values.
    pub(super) values: bool,
    groups: Vec<GroupRecord>,
    /// By name.
    pub(super) parameters: BTreeMap<String, ParameterRecord>,
    clip_norm: Option<ClipNorm>,
    non_finite: Option<NonFinite>,
    loss_scaler: Option<LossScaler>,
    loss_scale: f64,
    growth_tracker: u32,
    skipped_steps: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupRecord {
    rule: String,
    /// What the rule saves: JSON, or a text.
    configuration: Value,
    settings: Settings,
    schedule: Option<Schedule>,
    schedule_step: u64,
    averaging: Option<Averaging>,
    /// Whether its parameters stood where the model is evaluated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    evaluating: bool,
    /// How its memory was stored; a file loads into any.
    #[serde(default)]
    precision: Precision,
    /// Its states and its average; `None` in a file of version 1, whose storage is that of the group as it is.
    #[serde(default)]
    storage: Option<Vec<StorageRecord>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StorageRecord {
    name: String,
    extent: Extent,
    format: Format,
}

impl GroupRecord {
    /// What it says of the state of this name.
    fn stored(&self, name: &str) -> Option<&StorageRecord> {
        self.storage.iter().flatten().find(|state| state.name == name)
    }
}

impl StorageRecord {
    fn of(&Storage { name, extent, format, .. }: &Storage) -> Self {
        Self { name: name.into(), extent, format }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParameterRecord {
    group: usize,
    len: usize,
    steps: u64,
    options: Options,
    /// The step behind which its average began; `None` for one that counts all steps, since somebody wrote it.
    #[serde(default = "from_the_start", skip_serializing_if = "began_at_the_start")]
    average_begun: Option<u64>,
}

fn from_the_start() -> Option<u64> {
    Some(0)
}

fn began_at_the_start(begun: &Option<u64>) -> bool {
    *begun == from_the_start()
}

/// What of a file fits this optimizer.
#[derive(Debug)]
pub(super) struct Fitting {
    /// The rule of each group whose configuration fits.
    rules: Vec<Option<AnyRule>>,
    /// The groups of the parameters whose states and step counts fit.
    parameters: HashMap<u64, usize>,
    /// The parameters whose averages the file lacks: they begin behind the file's last step.
    pub(super) averages: HashSet<u64>,
}

impl Fitting {
    /// Leaves out what does not fit. Without one of its states, a parameter's other states and its step count do not
    /// fit either; without a group's number, the states of all its parameters do not.
    pub(super) fn leave_out(&mut self, target: Target) {
        match target {
            Target::Of(_, Role::Parameter) | Target::Absmax(..) | Target::Number(_) | Target::Map(_) => {}
            Target::Of(id, _) => _ = self.parameters.remove(&id),
            Target::Group(k, _) => self.rules[k] = None,
        }
    }

    pub(super) fn takes(&self, target: Target) -> bool {
        match target {
            Target::Of(_, Role::Parameter) | Target::Absmax(..) | Target::Number(_) | Target::Map(_) => true,
            Target::Of(id, _) => self.parameters.get(&id).is_some_and(|k| self.takes_group(*k)),
            Target::Group(k, _) => self.takes_group(k),
        }
    }

    fn takes_group(&self, k: usize) -> bool {
        self.rules.get(k).is_some_and(Option::is_some)
    }
}

impl Configuration {
    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Checkpoint { reason: e.to_string() })
    }

    /// How it stores the states of long parameters of this name and group.
    pub(super) fn format(&self, group: usize, state: &str) -> Option<Format> {
        self.groups.get(group)?.stored(state).map(|stored| stored.format)
    }

    pub(super) fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let wrong = |e: serde_json::Error| Error::Checkpoint { reason: format!("its configuration is wrong: {e}") };
        let Version { version } = json::read(text).map_err(wrong)?;
        if !(1..=VERSION).contains(&version) {
            let reason = format!("it is of version {version}, this code reads 1 to {VERSION}");
            return Err(Error::Checkpoint { reason });
        }
        let read: Self = json::read(text).map_err(wrong)?;
        match read.groups.iter().position(|group| group.storage.is_some() != (version > 1)) {
            None => Ok(read),
            Some(k) if version > 1 => {
                Err(Error::Checkpoint { reason: format!("its group {k} does not list its storage") })
            }
            Some(k) => {
                Err(Error::Checkpoint { reason: format!("its group {k} lists its storage in version {version}") })
            }
        }
    }
}

/// A rule's configuration as JSON if that restores the same text, else as a text.
fn as_json(saved: String) -> Value {
    match serde_json::from_str::<Value>(&saved) {
        Ok(value) if !value.is_string() && serde_json::to_string(&value).is_ok_and(|again| again == saved) => value,
        _ => Value::String(saved),
    }
}

/// A group's rule, settings, schedule, average and precision.
type Configured = (AnyRule, Settings, Option<Schedule>, Option<Averaging>, Precision);

/// The configuration that a file replaces.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) groups: Vec<Configured>,
    safeguards: Safeguards,
    options: BTreeMap<u64, Options>,
}

impl Optimizer {
    pub(super) fn configuration(&self, values: bool) -> Configuration {
        let groups = self.groups.iter().map(|group| {
            let saved = group.rule.0.save();
            GroupRecord {
                rule: group.rule.name().into(),
                configuration: as_json(saved),
                settings: group.settings,
                schedule: group.schedule.clone(),
                schedule_step: group.steps,
                averaging: group.averaging,
                evaluating: group.evaluating,
                precision: group.precision,
                storage: Some(group.states().map(|stored| StorageRecord::of(&stored.storage)).collect()),
            }
        });
        let parameters = self.parameters.values().map(|parameter| {
            let Parameter { group, len, steps, options, average_begun, .. } = *parameter;
            (parameter.name.clone(), ParameterRecord { group, len, steps, options, average_begun })
        });
        let Report { loss_scale, growth_tracker, skipped_steps, .. } = self.report();
        let Safeguards { clip, policy, scaler } = self.safeguards;
        Configuration {
            version: VERSION,
            values,
            groups: groups.collect(),
            parameters: parameters.collect(),
            clip_norm: clip,
            non_finite: policy,
            loss_scaler: scaler,
            loss_scale,
            growth_tracker,
            skipped_steps,
        }
    }

    /// Which groups and parameters the file and this optimizer have in common.
    pub(super) fn compare(&self, file: &Configuration) -> (Fitting, Mismatch) {
        let mut mismatch = Mismatch::default();
        let mut different = |what: String| mismatch.different.push(what);
        if file.groups.len() != self.groups.len() {
            different(format!("the groups ({} in the file, {} here)", file.groups.len(), self.groups.len()));
        }
        let mut rules = vec![None; self.groups.len()];
        for (k, (record, group)) in file.groups.iter().zip(&self.groups).enumerate() {
            let saved = match &record.configuration {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            let same_name = record.rule == group.rule.name();
            let restored = same_name.then(|| group.rule.0.restore(&saved)).flatten();
            rules[k] = restored.filter(|rule| group.rule.compatible_with(rule));
            let ours = group.states().map(|stored| StorageRecord::of(&stored.storage));
            let stored = ours.flat_map(|here| Some((record.stored(&here.name)?, here)));
            let stored: Vec<_> = stored.filter(|(file, here)| file.extent != here.extent).collect();
            for (file, here) in &stored {
                let [theirs, ours] = [*file, here].map(|of| of.extent.name());
                different(format!("the state {} of group {k} ({theirs} in the file, {ours} here)", here.name));
            }
            if rules[k].is_none() {
                let here = (group.rule.name(), group.rule.0.save());
                let GroupRecord { rule, .. } = record;
                different(format!("the rule of group {k} ({rule} {saved} in the file, {} {} here)", here.0, here.1));
            } else if !stored.is_empty() {
                // Its numbers would mean something else here.
                rules[k] = None;
            } else if record.averaging.is_some() != group.averaging.is_some() {
                let [file, here] = [record.averaging, group.averaging];
                different(format!("the averaging of group {k} ({file:?} in the file, {here:?} here)"));
            }
        }
        let mut parameters = HashMap::new();
        for (&id, parameter) in &self.parameters {
            let name = &parameter.name;
            match file.parameters.get(name) {
                None => mismatch.missing.push(name.clone()),
                Some(ParameterRecord { group, .. }) if *group != parameter.group => {
                    let here = parameter.group;
                    mismatch.different.push(format!("{name} (in group {group} of the file, {here} here)"));
                }
                Some(ParameterRecord { len, .. }) if *len != parameter.len => {
                    mismatch.different.push(format!("{name} ({len} elements in the file, {} here)", parameter.len));
                }
                // States of another rule do not fit.
                Some(_) if rules[parameter.group].is_none() => {}
                Some(_) => _ = parameters.insert(id, parameter.group),
            }
        }
        let unknown = file.parameters.keys().filter(|name| !self.names.contains_key(*name));
        mismatch.unexpected.extend(unknown.cloned());
        (Fitting { rules, parameters, averages: HashSet::new() }, mismatch)
    }

    /// Installs what fits of the configuration, after the checks of the setters, and calls `read`, which reads the
    /// tensors. If either fails, the configuration is unchanged. `parameters`: whether values are to be loaded.
    pub(super) fn install(
        &mut self,
        file: &Configuration,
        fitting: &Fitting,
        parameters: bool,
        read: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.check_rest()?;
        let (mut new, records) = (self.replaced(), self.records(file, fitting)?);
        if file.groups.iter().any(|group| group.evaluating) {
            self.check_evaluating(file, parameters && file.values && records.len() == self.parameters.len())?;
        }
        for (k, rule) in fitting.rules.iter().enumerate() {
            if let (Some(rule), Some(record)) = (rule, file.groups.get(k)) {
                let GroupRecord { settings, schedule, schedule_step, averaging, precision, .. } = record;
                rule.0.check()?;
                settings.check()?;
                schedule.as_ref().map_or(Ok(()), Schedule::check)?;
                averaging.as_ref().map_or(Ok(()), Averaging::check)?;
                require(*schedule_step < 1 << 53, "schedule_step", *schedule_step as f64, "below 2^53")?;
                let kept = new.groups[k].3;
                let averaging = kept.and(*averaging).or(kept);
                // What is stored here stays as it is; what is rounded as in the file goes on as there.
                let here = new.groups[k].4;
                let rounded = |precision: &Precision| (precision.states, precision.parameters_on_cpu());
                let draws = if rounded(precision) == rounded(&here) { *precision } else { here };
                let precision = Precision { rounding: draws.rounding, seed: draws.seed, ..here };
                new.groups[k] = (rule.clone(), *settings, schedule.clone(), averaging, precision);
            }
        }
        new.safeguards = Safeguards { clip: file.clip_norm, policy: file.non_finite, scaler: file.loss_scaler };
        new.safeguards.clip.as_ref().map_or(Ok(()), ClipNorm::check)?;
        new.safeguards.scaler.as_ref().map_or(Ok(()), LossScaler::check)?;
        LossScaler { init_scale: file.loss_scale, ..LossScaler::default() }.check()?;
        for (id, record) in &records {
            new.options.insert(*id, record.options);
        }
        let before = self.replaced();
        self.replace(new);
        let Configuration { loss_scale, growth_tracker, skipped_steps, .. } = *file;
        let report = Report { loss_scale, growth_tracker, skipped_steps, ..Report::default() };
        let loaded = self.check_together().and_then(|()| read(self)).and_then(|()| {
            // The device may have executed steps that the host does not know of.
            let known = self.log.is_none() && self.report() == report;
            if known { Ok(()) } else { self.set_report(report, true) }
        });
        if loaded.is_err() {
            self.replace(before);
            return loaded;
        }
        for (id, record) in records {
            let begun = if fitting.averages.contains(&id) { Some(record.steps) } else { record.average_begun };
            self.parameters.entry(id).and_modify(|p| (p.steps, p.pending, p.average_begun) = (record.steps, 0, begun));
        }
        for (k, record) in file.groups.iter().enumerate().filter(|(k, _)| fitting.takes_group(*k)) {
            (self.groups[k].steps, self.groups[k].pending) = (record.schedule_step, 0);
            self.groups[k].evaluating = record.evaluating;
        }
        self.end_window();
        Ok(())
    }

    /// Refuses a file that was saved where the model is evaluated, unless all of it is loaded, and can be taken back.
    fn check_evaluating(&self, file: &Configuration, whole: bool) -> Result<()> {
        let stuck = |parameter: &Parameter| {
            let group = parameter.group;
            let evaluating = file.groups.get(group).is_some_and(|record| record.evaluating);
            evaluating && (parameter.in_slice() || self.groups[group].precision.rounds_parameters())
        };
        let reason = match self.parameters.values().find(|parameter| stuck(parameter)) {
            _ if !whole => "not all of it is to be loaded, or fits".into(),
            Some(parameter) => format!("`{}` cannot be taken back from there", parameter.name),
            None => return Ok(()),
        };
        let reason = format!("it was saved where the model is evaluated, and {reason}: save it after `train`");
        Err(Error::Checkpoint { reason })
    }

    /// The records of the parameters that fit.
    fn records<'a>(&self, file: &'a Configuration, fitting: &Fitting) -> Result<Vec<(u64, &'a ParameterRecord)>> {
        let mut records = Vec::new();
        for (id, k) in &fitting.parameters {
            if !fitting.takes_group(*k) {
                continue;
            }
            let Some(record) = self.parameters.get(id).and_then(|p| file.parameters.get(&p.name)) else { continue };
            record.options.check()?;
            self.check_shape(ParameterId(*id), record.options)?;
            require(record.steps < 1 << 53, "steps", record.steps as f64, "below 2^53")?;
            let begun = record.average_begun.unwrap_or(0);
            require(begun < 1 << 53, "average_begun", begun as f64, "below 2^53")?;
            records.push((*id, record));
        }
        Ok(records)
    }

    pub(super) fn replaced(&self) -> Replaced {
        let groups = self.groups.iter();
        Replaced {
            groups: groups
                .map(|g| (g.rule.clone(), g.settings, g.schedule.clone(), g.averaging, g.precision))
                .collect(),
            safeguards: self.safeguards,
            options: self.parameters.iter().map(|(&id, parameter)| (id, parameter.options)).collect(),
        }
    }

    pub(super) fn replace(&mut self, Replaced { groups, safeguards, options }: Replaced) {
        for (group, new) in self.groups.iter_mut().zip(groups) {
            (group.rule, group.settings, group.schedule, group.averaging, group.precision) = new;
            group.list_storage();
        }
        self.safeguards = safeguards;
        for (id, options) in options {
            self.parameters.entry(id).and_modify(|parameter| parameter.options = options);
        }
        self.claims = None;
        self.invalidate(Change::Parameters);
    }

    /// Checks settings that must fit each other, as their setters do.
    pub(super) fn check_together(&mut self) -> Result<()> {
        self.check_clipping(self.safeguards.clip.as_ref(), usize::MAX, None)?;
        for group in &self.groups {
            check_formats(group.precision, &group.settings)?;
            if let Device::Gpu(gpu) = &self.device {
                group.compile(gpu, &group.settings, group.extras(self.zeroes()))?;
            }
        }
        for k in 0..self.groups.len() {
            let (written, rewritten) = (self.groups[k].settings.writes_gradient(), self.groups[k].settings.reshapes());
            if written {
                self.check_gradients(|parameter| parameter.group == k, rewritten)?;
            }
        }
        Ok(())
    }

    /// Refuses to load in the middle of a swap or a look-ahead.
    pub(super) fn check_rest(&self) -> Result<()> {
        for group in 0..self.groups.len() {
            self.check_in_place(group, "loading")?;
        }
        match self.parameters.values().find(|parameter| parameter.shift != 0.0) {
            Some(parameter) => Err(parameter.unsupported("loading", "it stands at its look-ahead point: step first")),
            None => Ok(()),
        }
    }
}
