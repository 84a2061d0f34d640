//! Writes the file that `examples/torch_optimizer.py` loads into PyTorch.

use std::io::Write;

use safetensors::Dtype;

use super::torch::Note;
use super::{Entry, Target};
use crate::any_rule::AnyRule;
use crate::error::{Error, Result};
use crate::optimizer::storage::Role;
use crate::optimizer::{Optimizer, Parameter, ParameterId};
use crate::rules::NAdam;
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
        let mut class = None;
        let mut param_groups = Vec::new();
        let mut members = vec![Vec::new(); self.groups.len()];
        self.parameters.values().for_each(|parameter| members[parameter.group].push(parameter));
        for ((k, group), ours) in self.groups.iter().enumerate().zip(members) {
            let refuse = |reason| {
                let name = format!("group {k} ({})", group.rule.name());
                Err(Error::Unsupported { operation: "saving for PyTorch", name, reason })
            };
            let Some((of, mut saved)) = torch::write(&group.rule, &group.now(), adamw) else {
                return refuse("PyTorch has no such rule, or not with this form, configuration or decay");
            };
            if *class.get_or_insert(of) != of {
                return refuse("all groups of one of PyTorch's optimizers are of one class");
            }
            let settings = group.now();
            if ours.iter().any(|parameter| parameter.options.apply(settings) != settings) {
                return refuse("a parameter has a rate or decay of its own: PyTorch needs a group for it");
            }
            saved.insert("params".into(), ours.iter().map(|parameter| parameter.name.as_str()).collect());
            param_groups.push(saved);
        }
        let mut entries = self.entries(true, false);
        let begun = |parameter: &&Parameter| parameter.steps > 0 || class == Some("Adagrad");
        for parameter in self.parameters.values().filter(begun) {
            for (count, value) in torch_counts(&self.groups[parameter.group].rule, parameter.steps) {
                let (name, target) = (format!("{}.{count}", parameter.name), Target::Number(value as f32));
                entries.push(Entry { name, target, len: 1, dtype: Dtype::F32, shape: Vec::new() });
            }
        }
        // PyTorch has no states before the first step, except Adagrad's.
        entries.retain(|entry| match entry.target {
            Target::Of(id, Role::State(_)) => self.get(ParameterId(id)).is_ok_and(|parameter| begun(&parameter)),
            _ => true,
        });
        let note = Note { optimizer: class.unwrap_or_default().into(), param_groups };
        let note = serde_json::to_string(&note).map_err(|e| Error::Checkpoint { reason: e.to_string() })?;
        self.write_tensors(out, entries, ("torch", note), None).await
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
fn torch_counts(rule: &AnyRule, steps: u64) -> Vec<(&'static str, f64)> {
    match rule.name() {
        "sgd" | "momentum" => Vec::new(),
        "nadam" => {
            let nadam: Option<NAdam> = serde_json::from_str(&rule.0.save()).ok();
            vec![("step", steps as f64), ("mu_product", nadam.map_or(0.0, |nadam| nadam.mu_product(steps)))]
        }
        _ => vec![("step", steps as f64)],
    }
}
