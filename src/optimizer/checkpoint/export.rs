//! Writes the file that `examples/torch_optimizer.py` loads into PyTorch.

use std::io::Write;

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::torch::Note;
use super::{Entry, Target};
use crate::any_rule::AnyRule;
use crate::bitsandbytes;
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::optimizer::storage::Role;
use crate::optimizer::{Group, Optimizer, Parameter, ParameterId};
use crate::rule::Real;
use crate::rules::{Asgd, NAdam};
use crate::torch;

impl Optimizer {
    /// Saves parameters, states and settings in a file that `examples/torch_optimizer.py` loads into PyTorch's
    /// optimizer of the same class.
    ///
    /// Clipping, loss scaling, noise and schedules are not saved: PyTorch does them beside its optimizers. A group's
    /// `lr` is that of the next step.
    ///
    /// # Errors
    /// As [`Optimizer::save`], and [`Error::Unsupported`]
    /// - for a rule, a form of a rule or a decay that PyTorch does not have,
    /// - for groups of different classes,
    /// - for a parameter whose [`Options`](crate::Options) change the group's rate or decay: PyTorch needs a group for
    ///   it,
    /// - for a group that keeps an average.
    #[cfg(not(target_family = "wasm"))]
    pub fn save_torch(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        super::file::replace(path.as_ref(), |out| pollster::block_on(self.save_torch_to(out)))
    }

    /// [`Optimizer::save_torch`] into a writer.
    ///
    /// # Errors
    /// As [`Optimizer::save_torch`].
    pub async fn save_torch_to(&mut self, out: &mut impl Write) -> Result<()> {
        self.settle().await?;
        self.check_saved()?;
        self.check_no_average()?;
        // Adam without decay may be PyTorch's Adam or AdamW: take the class of the other groups.
        let adamw = self.groups.iter().any(|group| group.rule.name() == "adam" && group.settings.decoupled() > 0.0);
        let note = self.note("saving for PyTorch", |group| torch::write(&group.rule, &group.now(), adamw))?;
        let mut entries = self.entries(true, false);
        let begun =
            |parameter: &&Parameter| parameter.steps > 0 || self.groups[parameter.group].rule.name() == "adagrad";
        for parameter in self.parameters.values().filter(begun) {
            let group = &self.groups[parameter.group];
            for (count, value) in torch_counts(&group.rule, group.now().effective_lr(), parameter.steps) {
                let (name, target) = (format!("{}.{count}", parameter.name), Target::Number(value as f32));
                entries.push(Entry { name, target, len: 1, dtype: Dtype::F32, shape: Vec::new() });
            }
        }
        // PyTorch has no states before the first step, except Adagrad's.
        entries.retain(|entry| match entry.target {
            Target::Of(id, Role::State(_)) => self.get(ParameterId(id)).is_ok_and(|parameter| begun(&parameter)),
            _ => true,
        });
        self.write_tensors(out, entries, ("torch", note), None).await
    }

    /// Saves parameters, states and settings in a file that `examples/torch_optimizer.py` loads into bitsandbytes'
    /// optimizer of the same class in 8 bits: `AdamW8bit` (its `Adam8bit` does the same), `AdEMAMix8bit`, `Lion8bit`,
    /// `SGD8bit`, `RMSprop8bit` or `Adagrad8bit`.
    ///
    /// States in [`States::Block8`](crate::States::Block8) are written code for code where bitsandbytes has the same
    /// map there: all but those of RMSprop and AdaGrad, which it keeps by the signed map. All others are written in
    /// f32, with which bitsandbytes then goes on. Clipping, loss scaling, noise and schedules are not saved. A group's
    /// `lr` is that of the next step.
    ///
    /// # Errors
    /// As [`Optimizer::save_torch`], for what bitsandbytes does not have, and [`Error::ElementType`] for `f64`.
    #[cfg(not(target_family = "wasm"))]
    pub fn save_bitsandbytes(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        super::file::replace(path.as_ref(), |out| pollster::block_on(self.save_bitsandbytes_to(out)))
    }

    /// [`Optimizer::save_bitsandbytes`] into a writer.
    ///
    /// # Errors
    /// As [`Optimizer::save_bitsandbytes`].
    pub async fn save_bitsandbytes_to(&mut self, out: &mut impl Write) -> Result<()> {
        self.settle().await?;
        self.check_saved()?;
        self.check_no_average()?;
        if let Some(parameter) = self.parameters.values().find(|parameter| parameter.element() == f64::NAME) {
            let (name, expected, found) = (parameter.name.clone(), f32::NAME, f64::NAME);
            return Err(Error::ElementType { name, expected, found });
        }
        let note = self.note("saving for bitsandbytes", |group| bitsandbytes::write(&group.rule, &group.now()))?;
        let begun = |id: u64| self.get(ParameterId(id)).is_ok_and(|parameter| parameter.steps > 0);
        let mut entries = Vec::new();
        for entry in self.entries(true, true) {
            let (Target::Of(id, role @ Role::State(_)) | Target::Absmax(id, role @ Role::State(_))) = entry.target
            else {
                entries.push(entry);
                continue;
            };
            let parameter = self.get(ParameterId(id))?;
            let state = self.groups[parameter.group].storage_of(role).map_or("", |storage| storage.name);
            let Some((number, row)) = bitsandbytes::place(state).filter(|_| begun(id)) else { continue };
            let slow = if row == 1 { bitsandbytes::SLOW } else { "" };
            let name = |of: &str| format!("{}.{of}{number}", parameter.name);
            // The map that bitsandbytes has there.
            let map = if number == 1 { Format::Block8Signed } else { Format::Block8Unsigned };
            let kept = parameter.memory.format(role) == Some(map);
            match entry.target {
                Target::Absmax(..) if kept => {
                    let (name_of_map, target) = (name("qmap"), Target::Map(map));
                    let map = Entry { name: name_of_map, target, len: 256, dtype: Dtype::F32, shape: vec![256] };
                    entries.extend((row == 0).then_some(map));
                    entries.push(Entry { name: name("absmax") + slow, ..entry });
                }
                Target::Absmax(..) => {}
                _ => {
                    let dtype = if kept { entry.dtype } else { Dtype::F32 };
                    entries.push(Entry { name: name("state") + slow, dtype, ..entry });
                }
            }
        }
        for parameter in self.parameters.values().filter(|parameter| parameter.steps > 0) {
            let (name, target) = (format!("{}.step", parameter.name), Target::Number(parameter.steps as f32));
            entries.push(Entry { name, target, len: 1, dtype: Dtype::F32, shape: Vec::new() });
        }
        self.write_tensors(out, entries, ("torch", note), None).await
    }

    /// The note of a file: the class, and each group's hyperparameters and parameters.
    fn note(
        &self,
        operation: &'static str,
        write: impl Fn(&Group) -> Option<(&'static str, Map<String, Value>)>,
    ) -> Result<String> {
        let (mut class, mut param_groups) = (None, Vec::new());
        let mut members = vec![Vec::new(); self.groups.len()];
        self.parameters.values().for_each(|parameter| members[parameter.group].push(parameter));
        for ((k, group), ours) in self.groups.iter().enumerate().zip(members) {
            let refuse = |reason| {
                let name = format!("group {k} ({})", group.rule.name());
                Err(Error::Unsupported { operation, name, reason })
            };
            let Some((of, mut saved)) = write(group) else {
                return refuse("the library has no such rule, or not with this form, configuration or decay");
            };
            if *class.get_or_insert(of) != of {
                return refuse("all groups of one of the library's optimizers are of one class");
            }
            let settings = group.now();
            if ours.iter().any(|parameter| parameter.options.apply(settings) != settings) {
                return refuse("a parameter has a rate or decay of its own: the library needs a group for it");
            }
            saved.insert("params".into(), ours.iter().map(|parameter| parameter.name.as_str()).collect());
            param_groups.push(saved);
        }
        let note = Note { optimizer: class.unwrap_or_default().into(), param_groups };
        serde_json::to_string(&note).map_err(|e| Error::Checkpoint { reason: e.to_string() })
    }

    fn check_no_average(&self) -> Result<()> {
        match self.groups.iter().position(|group| group.averaging.is_some()) {
            None => Ok(()),
            Some(k) => {
                let (name, reason) = (format!("group {k}"), "it keeps an average, which PyTorch's optimizers do not");
                Err(Error::Unsupported { operation: "PyTorch's state", name, reason })
            }
        }
    }
}

/// The counts in PyTorch's state.
fn torch_counts(rule: &AnyRule, lr: f64, steps: u64) -> Vec<(&'static str, f64)> {
    match rule.name() {
        "asgd" => {
            let asgd: Asgd = crate::json::read(&rule.0.save()).unwrap_or_default();
            vec![("step", steps as f64), ("eta", asgd.eta(lr, steps + 1)), ("mu", asgd.mu(steps + 1))]
        }
        "sgd" | "momentum" => Vec::new(),
        "nadam" => {
            let nadam: Option<NAdam> = crate::json::read(&rule.0.save()).ok();
            vec![("step", steps as f64), ("mu_product", nadam.map_or(0.0, |nadam| nadam.mu_product(steps)))]
        }
        _ => vec![("step", steps as f64)],
    }
}
