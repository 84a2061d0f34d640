//! What a group, or one of its parameters, steps with: rule, settings, schedule, average, options.

use super::storage::check_formats;
use super::{Change, Key, Memory, Optimizer, ParameterId};
use crate::any_rule::AnyRule;
use crate::error::{Error, Result, require};
use crate::gpu::Device;
use crate::precision::Precision;
use crate::schedule::Schedule;
use crate::settings::{Options, Settings};

impl Optimizer {
    /// A group's rule.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn rule(&self, group: usize) -> Result<&AnyRule> {
        Ok(&self.group(group)?.rule)
    }

    /// Another configuration of a group's rule: other β, ε, …, from the next recorded step on. What it compiles to and
    /// the states that it keeps must stay the same.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Hyperparameter`], [`Error::Unsupported`] if it is another rule or keeps other
    /// states, and while parameters stand where the model is [evaluated](Optimizer::evaluate).
    pub fn set_rule(&mut self, group: usize, rule: impl Into<AnyRule>) -> Result<()> {
        let rule = rule.into();
        rule.0.check()?;
        if !self.group(group)?.rule.compatible_with(&rule) {
            let reason =
                "another rule, or one that keeps other states or has another reduction, needs a group of its own";
            return Err(Error::Unsupported { operation: "set_rule", name: rule.name().into(), reason });
        }
        self.check_training(group, "set_rule")?;
        self.groups[group].rule = rule;
        self.groups[group].list_storage();
        Ok(())
    }

    /// A group's settings.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn settings(&self, group: usize) -> Result<&Settings> {
        Ok(&self.group(group)?.settings)
    }

    /// Other settings, from the next recorded step on.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Hyperparameter`], [`Error::Overlap`] if the gradient that would be written is
    /// another parameter's, too, [`Error::OverLimit`] if the device binds too few buffers for it,
    /// [`Error::Unsupported`] for limits on norms that do not go together.
    pub fn set_settings(&mut self, group: usize, settings: impl Into<Settings>) -> Result<()> {
        let settings = settings.into();
        settings.check()?;
        self.check_clipping(self.safeguards.clip.as_ref(), group, Some(&settings))?;
        let uses = |settings: &Settings| (settings.writes_gradient(), settings.reshapes());
        if settings.writes_gradient() && uses(&settings) != uses(&self.group(group)?.settings) {
            self.check_gradients(|parameter| parameter.group == group, settings.reshapes())?;
        }
        let now = self.group(group)?;
        check_formats(now.precision, &settings)?;
        let kind = |settings: &Settings| {
            [settings.clip_norm, settings.group_clip_norm].map(|clip| clip.map(|clip| clip.norm.kind()))
        };
        let extras = |settings: &Settings| {
            let Settings { clip_value, noise, zero_grad, centralize, adaptive_clip, .. } = settings;
            (clip_value.is_some(), noise.is_some(), *zero_grad, *centralize, *adaptive_clip, settings.two_factors())
        };
        if extras(&now.settings) != extras(&settings) || kind(&now.settings) != kind(&settings) {
            if let Device::Gpu(gpu) = &self.device {
                now.compile(gpu, &settings, now.extras_with(&settings, self.zeroes()))?;
            }
            self.invalidate(Change::Step);
        }
        if self.groups[group].settings.writes_gradient() != settings.writes_gradient() {
            self.claims = None;
        }
        self.groups[group].settings = settings;
        self.warn_of_small_lr();
        Ok(())
    }

    /// How the memory of a group's parameters is stored.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn precision(&self, group: usize) -> Result<Precision> {
        Ok(self.group(group)?.precision)
    }

    /// Sets how the memory of a group's parameters is stored, while it has none yet: states in 8 bits
    /// ([`Precision::block8`]: Adam with 6 bytes a parameter instead of 12), gradients and parameters in 16.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, Precision, rules::Adam};
    /// let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), 1e-3)?;
    /// adam.set_precision(0, Precision::block8())?;
    /// adam.add(0, "w", &[1.0f32; 5000])?;
    /// adam.write_gradient("w", &[0.5f32; 5000])?;
    /// adam.step()?; // its states take 10,160 bytes, not 40,000
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// States in 8 bits: reading one gives f32, and writing one rounds to the nearest. Their blocks of 256 elements
    /// begin at the tensor's start. A new state that is not finite is stored as 0, so that it does not spoil its block.
    ///
    /// Gradients in 16 bits are read, and cleared by [`Settings::zero_grad`]. They have no [`Settings::centralize`] or
    /// [`Settings::adaptive_clip`], and no micro-batches are added to them: small ones would be lost. Micro-batches
    /// themselves may be in 16 bits.
    ///
    /// Parameters in bf16 have no [`Settings::adaptive_clip`], and without [`Precision::exact_master`] no
    /// [look-ahead](Optimizer::look_ahead), which would round twice. Reading one gives f32.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::Unsupported`] for formats that there are not or that do not go together, for a
    /// group that has parameters, or whose settings rewrite gradients in 16 bits; on a GPU [`Error::Shader`], and
    /// [`Error::OverLimit`] if the device binds too few buffers. Then nothing has changed.
    pub fn set_precision(&mut self, group: usize, precision: Precision) -> Result<()> {
        let now = self.group(group)?;
        let refuse = |reason| {
            let (operation, name) = ("set_precision", format!("group {group}"));
            Err(Error::Unsupported { operation, name, reason })
        };
        if let Some(reason) = precision.refused() {
            return refuse(reason);
        }
        // One that was moved elsewhere still has its memory in this group's arena.
        let lies_here = |memory: &Memory| matches!(memory, Memory::Gpu(tensor) if tensor.home == group);
        if self.parameters.values().any(|parameter| parameter.group == group || lies_here(&parameter.memory)) {
            return refuse("it has parameters, or had some that were moved: set the precision before they are added");
        }
        check_formats(precision, &now.settings)?;
        let (device, group) = (self.device.clone(), &mut self.groups[group]);
        let before = std::mem::replace(&mut group.precision, precision);
        group.list_storage();
        if let Device::Gpu(gpu) = &device {
            let compiled = group.compile(gpu, &group.settings, group.extras(false));
            if compiled.is_err() {
                group.precision = before;
                group.list_storage();
                return compiled;
            }
        }
        group.make_arenas();
        Ok(())
    }

    /// Another learning rate, from the next recorded step on.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Hyperparameter`].
    pub fn set_lr(&mut self, group: usize, lr: f64) -> Result<()> {
        let settings = Settings { lr, ..*self.settings(group)? };
        self.set_settings(group, settings)
    }

    /// Multiplies the group's learning rate by a schedule, and sets its momentum where the schedule cycles it, from the
    /// next recorded step on; `None` for none. It starts at step 0 now, and each step of the optimizer takes it one
    /// further.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, Schedule, rules::Sgd};
    /// let mut sgd = Optimizer::new(&Device::Cpu, Sgd, 0.5)?;
    /// sgd.set_schedule(0, Schedule::linear(1.0, 0.0, 10))?;
    /// sgd.step()?;
    /// assert_eq!(sgd.lr(0)?, 0.45);
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Hyperparameter`] for a schedule with a number outside its range.
    pub fn set_schedule(&mut self, group: usize, schedule: impl Into<Option<Schedule>>) -> Result<()> {
        let schedule = schedule.into();
        self.group(group)?;
        schedule.as_ref().map_or(Ok(()), Schedule::check)?;
        self.groups[group].schedule = schedule;
        (self.groups[group].steps, self.groups[group].pending) = (0, 0);
        Ok(())
    }

    /// Steps that a group's schedule has taken (on a GPU: that were recorded; those that the device is known to have
    /// skipped do not count).
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn schedule_step(&self, group: usize) -> Result<u64> {
        Ok(self.group(group)?.recorded())
    }

    /// Takes a group's schedule to another step, to go on where another run stopped.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Hyperparameter`] for 2^53 or more.
    pub fn set_schedule_step(&mut self, group: usize, step: u64) -> Result<()> {
        self.group(group)?;
        require(step < 1 << 53, "step", step as f64, "below 2^53")?;
        (self.groups[group].steps, self.groups[group].pending) = (step, 0);
        Ok(())
    }

    /// The learning rate of a group's next step: `lr · lr_factor · schedule`.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn lr(&self, group: usize) -> Result<f64> {
        Ok(self.group(group)?.now().effective_lr())
    }

    /// Sets one parameter apart from its group, from the next recorded step on.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Hyperparameter`], [`Error::Length`] for a shape of another length.
    pub fn set_options<'k>(&mut self, key: impl Into<Key<'k>>, options: Options) -> Result<()> {
        let id = self.find(key.into())?;
        options.check()?;
        self.check_shape(id, options)?;
        if let Some(parameter) = self.parameters.get_mut(&id.0).filter(|parameter| parameter.options != options) {
            parameter.options = options;
            self.invalidate(Change::Parameters);
        }
        Ok(())
    }

    /// [`Optimizer::set_options`] for every parameter whose name the predicate picks; returns how many.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, Options, Settings, WeightDecay, rules::Adam};
    /// let adamw = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(1e-3) };
    /// let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), adamw)?;
    /// optimizer.add_all(0, &[("fc.weight", &[1.0f32; 4][..]), ("fc.bias", &[1.0; 2])])?;
    /// // No decay for biases and norms.
    /// let plain = Options { weight_decay: false, ..Options::default() };
    /// assert_eq!(optimizer.set_options_where(|name| name.ends_with("bias") || name.contains("norm"), plain)?, 1);
    /// optimizer.write_gradient("fc.bias", &[0.0f32; 2])?;
    /// optimizer.step()?;
    /// assert_eq!(optimizer.read_blocking::<f32>("fc.bias")?, [1.0; 2]);
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Hyperparameter`], [`Error::Length`] for a shape of another length; then nothing is set.
    pub fn set_options_where(&mut self, pick: impl Fn(&str) -> bool, options: Options) -> Result<usize> {
        options.check()?;
        let picked: Vec<_> = self.parameters().filter(|(_, name)| pick(name)).map(|(id, _)| id).collect();
        picked.iter().try_for_each(|id| self.check_shape(*id, options))?;
        picked.iter().try_for_each(|id| self.set_options(*id, options))?;
        Ok(picked.len())
    }

    pub(super) fn check_shape(&self, id: ParameterId, options: Options) -> Result<()> {
        let parameter = self.get(id)?;
        options.shape.map_or(Ok(()), |[rows, columns]| parameter.check_len(rows.saturating_mul(columns)))
    }

    /// A parameter's options.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn options<'k>(&self, key: impl Into<Key<'k>>) -> Result<Options> {
        Ok(self.get(key)?.options)
    }
}
