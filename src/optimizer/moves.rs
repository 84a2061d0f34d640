//! Parameters that get another name or another group, with all that the optimizer keeps for them.

use super::storage::Stored;
use super::{Change, Group, Key, Optimizer, Parameter, ParameterId};
use crate::error::{Error, Result};
use crate::formats::Storage;
use crate::schedule::Schedule;

impl Optimizer {
    /// Gives a parameter another name; memory, state and step count stay. Its [noise](crate::Noise) and its stochastic
    /// rounding change, because both are drawn by name.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, rules::Adam};
    /// let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), 1e-3)?;
    /// let w = adam.add(0, "head.weight", &[1.0f32])?;
    /// adam.rename("head.weight", "old_head.weight")?;
    /// assert_eq!(adam.id("old_head.weight")?, w);
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::DuplicateName`].
    pub fn rename<'k>(&mut self, key: impl Into<Key<'k>>, name: &str) -> Result<()> {
        let id = self.find(key.into())?;
        if self.names.get(name).is_some_and(|other| *other != id) {
            return Err(Error::DuplicateName { name: name.into() });
        }
        if let Some(parameter) = self.parameters.get_mut(&id.0) {
            let old = std::mem::replace(&mut parameter.name, name.into());
            self.names.remove(&old);
            self.names.insert(name.into(), id);
            // Norms are summed in the order of names.
            self.invalidate(Change::Step);
        }
        Ok(())
    }

    /// Moves a parameter to another group, with its state, average and step count: from the next recorded step on it
    /// has that group's learning rate, settings and schedule. Its memory stays where it is, and so do the ranges that
    /// you have bound.
    /// An average that has not begun yet begins with its next step there: this waits until it is known which steps were
    /// skipped; a browser cannot, call [`Optimizer::settle`] first.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, rules::Adam};
    /// let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), 1e-3)?;
    /// let slow = adam.add_group(Adam::default(), 1e-5)?;
    /// let w = adam.add(0, "w", &[1.0f32])?;
    /// adam.write_gradient(w, &[0.5f32])?;
    /// adam.step()?;
    /// adam.move_to_group(w, slow)?;
    /// assert_eq!((adam.group_of(w)?, adam.steps(w)?), (slow, 1));
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::UnknownGroup`]; [`Error::Unsupported`] if the group's rule keeps other
    /// states or in other formats, if only one of the groups keeps an average, while averages are swapped in, or at a
    /// look-ahead point; [`Error::Overlap`] if that group's steps write gradients, and this one is used elsewhere. Then
    /// nothing has changed.
    pub fn move_to_group<'k>(&mut self, key: impl Into<Key<'k>>, group: usize) -> Result<()> {
        let id = self.find(key.into())?;
        let parameter = self.get(id)?;
        let (from, to) = (self.group(parameter.group)?, self.group(group)?);
        let kept = |group: &Group| {
            let storage = group.storage.iter().map(|Stored { role, storage }| {
                let Storage { name, extent, format, .. } = *storage;
                (*role, name, extent, format)
            });
            (storage.collect::<Vec<_>>(), group.rule.reduces_over())
        };
        let reason = if kept(from) != kept(to) {
            Some("the groups keep different states, or store them in other formats")
        } else if from.swapped || to.swapped {
            Some("averages stand where the parameters belong: swap back first")
        } else if from.evaluating || to.evaluating {
            Some("parameters stand where the model is evaluated: call Optimizer::train first")
        } else if parameter.shift != 0.0 {
            Some("it stands at its look-ahead point: step first")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(parameter.unsupported("move_to_group", reason));
        }
        let (before, averaging) = (parameter.group, from.averaging);
        if averaging.is_some() && parameter.pending != 0 {
            self.settle_here()?;
        }
        self.regroup(id.0, group);
        let settings = &self.groups[group].settings;
        let (written, rewritten) = (settings.writes_gradient(), settings.reshapes());
        let checked = if written { self.check_gradients_of(&[id.0], rewritten) } else { Ok(()) };
        if checked.is_err() {
            self.regroup(id.0, before);
            return checked;
        }
        if let Some(parameter) = self.parameters.get_mut(&id.0).filter(|parameter| !parameter.has_average(averaging)) {
            parameter.average_begun = parameter.average_begun.map(|_| parameter.recorded());
        }
        Ok(())
    }

    fn regroup(&mut self, id: u64, group: usize) {
        self.unclaim(ParameterId(id));
        self.parameters.entry(id).and_modify(|parameter| parameter.group = group);
        self.claim(ParameterId(id));
        self.invalidate(Change::Parameters);
    }

    /// The group that a parameter is in.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn group_of<'k>(&self, key: impl Into<Key<'k>>) -> Result<usize> {
        Ok(self.get(key)?.group)
    }

    /// Gives a group the schedule of another one, at the step where that one stands: for a group that is added while
    /// training.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn copy_schedule(&mut self, from: usize, to: usize) -> Result<()> {
        self.group(to)?;
        let Group { schedule, steps, pending, .. } = self.group(from)?;
        let (schedule, steps, pending): (Option<Schedule>, _, _) = (schedule.clone(), *steps, *pending);
        let to = &mut self.groups[to];
        (to.schedule, to.steps, to.pending) = (schedule, steps, pending);
        Ok(())
    }

    /// The parameters that the next step would leave out for want of a gradient: those whose gradient is
    /// [missing](crate::Gradient::Missing), or was never written. A training loop that logs them once finds what it has
    /// forgotten.
    pub fn without_gradient(&self) -> impl Iterator<Item = &str> {
        let missing = |parameter: &&Parameter| !parameter.has_gradient() && !parameter.in_slice();
        self.parameters.values().filter(missing).map(|parameter| parameter.name.as_str())
    }
}
