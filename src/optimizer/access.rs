//! Reading and writing parameters, gradients and state, by handle or by name.

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use super::accumulate::Held;
use super::claims::Binding;
use super::relocate::UNBOUND;
use super::storage::{Role, check_gradient_format};
use super::{Change, Gradient, Group, HostMemory, Key, Memory, Optimizer, Parameter, ParameterId};
use crate::error::{Error, Result, require};
use crate::formats::{Extent, Format, remainder};
use crate::gpu::Device;
use crate::gpu::kernel::AVERAGE;
use crate::gpu::memory::BufferRange;
use crate::rule::Real;
use crate::settings::COEFFICIENT_HEAD;

impl Optimizer {
    /// The parameter's values. On a GPU this waits for all work submitted so far: the future needs no polling of the
    /// device.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::ElementType`], [`Error::Unsupported`] for a parameter in the caller's
    /// slice, [`Error::MissingUsage`] for a caller's buffer without `COPY_SRC`, [`Error::ReadBack`],
    /// [`Error::DeviceLost`].
    pub async fn read<'k, F: Real>(&self, key: impl Into<Key<'k>>) -> Result<Vec<F>> {
        self.read_part(self.get(key)?, Role::Parameter).await
    }

    /// The state of this name: `exp_avg`, `momentum_buffer`, …
    ///
    /// # Errors
    /// As [`Optimizer::read`], and [`Error::UnknownState`]; [`Error::Unsupported`] for the average of a parameter in
    /// bf16 while averages are swapped in.
    pub async fn read_state<'k, F: Real>(&self, key: impl Into<Key<'k>>, state: &str) -> Result<Vec<F>> {
        let parameter = self.get(key)?;
        let group = &self.groups[parameter.group];
        if state == AVERAGE && group.swapped && group.precision.rounds_parameters() {
            let reason = "it is swapped in, and what is kept of it is not a number: read the parameter";
            return Err(parameter.unsupported("reading an average", reason));
        }
        self.read_part(parameter, self.state(parameter, state)?).await
    }

    /// The gradient that the next step will read; for a missing one, the optimizer's own.
    ///
    /// # Errors
    /// As [`Optimizer::read`], and [`Error::Unsupported`] if there is none.
    pub async fn read_gradient<'k, F: Real>(&self, key: impl Into<Key<'k>>) -> Result<Vec<F>> {
        self.read_part(self.get(key)?, Role::Gradient).await
    }

    /// [`Optimizer::read`], waiting for it.
    ///
    /// # Errors
    /// As [`Optimizer::read`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking<'k, F: Real>(&self, key: impl Into<Key<'k>>) -> Result<Vec<F>> {
        pollster::block_on(self.read(key))
    }

    /// [`Optimizer::read_state`], waiting for it.
    ///
    /// # Errors
    /// As [`Optimizer::read_state`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_state_blocking<'k, F: Real>(&self, key: impl Into<Key<'k>>, state: &str) -> Result<Vec<F>> {
        pollster::block_on(self.read_state(key, state))
    }

    /// [`Optimizer::read_gradient`], waiting for it.
    ///
    /// # Errors
    /// As [`Optimizer::read_gradient`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_gradient_blocking<'k, F: Real>(&self, key: impl Into<Key<'k>>) -> Result<Vec<F>> {
        pollster::block_on(self.read_gradient(key))
    }

    /// Sets the parameter's values, before the work that is submitted next.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Length`], [`Error::ElementType`], [`Error::Unsupported`] for a parameter
    /// in the caller's slice, [`Error::MissingUsage`] for a caller's buffer without `COPY_DST`, [`Error::Rejected`],
    /// [`Error::DeviceLost`].
    pub fn write<'k, F: Real>(&mut self, key: impl Into<Key<'k>>, values: &[F]) -> Result<()> {
        let key = key.into();
        self.write_part(key, |_, _| Ok(Role::Parameter), values)?;
        let id = self.find(key)?;
        self.note_largest(id, 0, values);
        self.warn_of_small_lr();
        Ok(())
    }

    /// Sets the state of this name, before the work that is submitted next. An `average` that is written counts all of
    /// the parameter's steps.
    ///
    /// # Errors
    /// As [`Optimizer::write`], and [`Error::UnknownState`].
    pub fn write_state<'k, F: Real>(&mut self, key: impl Into<Key<'k>>, state: &str, values: &[F]) -> Result<()> {
        let key = key.into();
        self.write_part(key, |optimizer, parameter| optimizer.state(parameter, state), values)?;
        let id = self.find(key)?;
        self.parameters.entry(id.0).and_modify(|parameter| {
            if state == AVERAGE {
                parameter.average_begun = None;
            }
        });
        Ok(())
    }

    /// Sets the gradient, before the work that is submitted next. It is then present, and stays until it is written
    /// again. A gradient in 16 bits gets the nearest numbers.
    ///
    /// # Errors
    /// As [`Optimizer::write`], and [`Error::Unsupported`] if there is none.
    pub fn write_gradient<'k, F: Real>(&mut self, key: impl Into<Key<'k>>, values: &[F]) -> Result<()> {
        self.write_part(key.into(), |_, _| Ok(Role::Gradient), values)
    }

    /// Steps that this parameter has taken (on a GPU: that were recorded; those that the device is known to have
    /// skipped do not count, see [`Optimizer::settle`]).
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn steps<'k>(&self, key: impl Into<Key<'k>>) -> Result<u64> {
        Ok(self.get(key)?.recorded())
    }

    /// Sets the number of steps taken, to go on where another run stopped; with [`Optimizer::write`] and
    /// [`Optimizer::write_state`] the next step is then that run's next step. Where the group keeps an average, this
    /// waits until it is known which of the parameter's steps were skipped; a browser cannot: call
    /// [`Optimizer::settle`] first.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Hyperparameter`] for 2^53 or more, [`Error::Unsupported`] while averages
    /// are swapped in; with an average those of [`Optimizer::settle`].
    pub fn set_steps<'k>(&mut self, key: impl Into<Key<'k>>, steps: u64) -> Result<()> {
        let id = self.find(key.into())?;
        require(steps < 1 << 53, "steps", steps as f64, "below 2^53")?;
        self.check_in_place(self.get(id)?.group, "set_steps")?;
        let averaging = self.groups[self.get(id)?.group].averaging;
        if averaging.is_some() && self.get(id)?.pending != 0 {
            self.settle_here()?;
        }
        let changes = |parameter: &&mut Parameter| parameter.steps != steps || parameter.pending != 0;
        self.measured = None;
        if let Some(parameter) = self.parameters.get_mut(&id.0).filter(changes) {
            // An average that there is has seen as many steps as before.
            let seen = parameter.recorded() - parameter.begun().min(parameter.recorded());
            let has = parameter.has_average(averaging);
            if let Some(begun) = &mut parameter.average_begun {
                *begun = if has { steps.saturating_sub(seen) } else { steps };
            }
            (parameter.steps, parameter.pending) = (steps, 0);
        }
        Ok(())
    }

    /// Sets where the next steps find the parameter's gradient. What is there counts as written and stays until it is
    /// written again; micro-batches stay micro-batches if the place does not change. [`Gradient::Missing`] makes the
    /// gradient missing.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Length`], [`Error::Unsupported`] for a kind of gradient that this
    /// parameter cannot have; for a buffer those of [`Optimizer::add_buffer`], with [`Error::Overlap`] if a parameter
    /// is in it.
    pub fn set_gradient<'k>(&mut self, key: impl Into<Key<'k>>, gradient: Gradient) -> Result<()> {
        let id = self.find(key.into())?;
        let parameter = self.get(id)?;
        let refuse = |reason| Err(parameter.unsupported("set_gradient", reason));
        if parameter.is_unbound() {
            return refuse(UNBOUND);
        }
        let (range, missing) = match (&parameter.memory, &gradient) {
            (Memory::Gpu(tensor), Gradient::Missing) => (tensor.own_gradient.clone(), true),
            (_, Gradient::Missing) => (None, true),
            (Memory::Gpu(tensor), Gradient::Own) => match &tensor.own_gradient {
                Some(own) => (Some(own.clone()), false),
                None => {
                    return refuse("a parameter in the caller's buffer has its gradient in one, too");
                }
            },
            (Memory::Gpu(_), Gradient::Buffer(range)) => {
                parameter.check_len(range.len)?;
                let name = format!("gradient of {}", parameter.name);
                range.check_gradient(&name)?;
                let zeroed = self.groups[parameter.group].settings.writes_gradient();
                let rewritten = self.groups[parameter.group].settings.reshapes();
                check_gradient_format(&parameter.name, range.format, rewritten)?;
                let (name, role) = (parameter.name.clone(), if zeroed { Binding::Zeroed } else { Binding::Gradient });
                self.check_overlap(Some(id), &name, range, role)?;
                (Some(range.clone()), false)
            }
            (_, Gradient::Buffer(_)) => return refuse("the optimizer runs on the CPU"),
            (
                Memory::F32(HostMemory { own: Some(_), .. }) | Memory::F64(HostMemory { own: Some(_), .. }),
                Gradient::Own,
            ) => (None, false),
            (_, Gradient::Own) => {
                return refuse("a parameter in the caller's slice has its gradient in step_slices");
            }
        };
        self.unclaim(id);
        let Some(parameter) = self.parameters.get_mut(&id.0) else { return Ok(()) };
        let mut moved = false;
        if let Memory::Gpu(tensor) = &mut parameter.memory {
            moved = tensor.gradient != range;
            tensor.gradient = range;
        }
        parameter.gradient = match parameter.gradient {
            _ if missing => Held::Nothing,
            held @ Held::Batches(_) if !moved => held,
            _ => Held::Values,
        };
        if moved {
            self.invalidate(Change::Step);
        }
        self.claim(id);
        Ok(())
    }

    /// The range of a parameter on the GPU, for your kernels to bind. It stays where it is until the parameter is
    /// removed.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Unsupported`] on the CPU.
    pub fn parameter<'k>(&self, key: impl Into<Key<'k>>) -> Result<&BufferRange> {
        self.range(self.get(key)?, Role::Parameter)
    }

    /// The range of the gradient on the GPU, for your kernels to write. A gradient that nobody has written counts as
    /// written from now on. One that a step has used up, or that was set to missing, stays missing: see
    /// [`Gradient::Own`].
    ///
    /// # Errors
    /// As [`Optimizer::parameter`], also if the parameter has none.
    pub fn gradient<'k>(&self, key: impl Into<Key<'k>>) -> Result<&BufferRange> {
        let parameter = self.get(key)?;
        let range = self.range(parameter, Role::Gradient)?;
        parameter.handed_out.store(true, Relaxed);
        Ok(range)
    }

    /// The range of a state on the GPU.
    ///
    /// # Errors
    /// As [`Optimizer::parameter`], and [`Error::UnknownState`].
    pub fn state_range<'k>(&self, key: impl Into<Key<'k>>, state: &str) -> Result<&BufferRange> {
        let parameter = self.get(key)?;
        self.range(parameter, self.state(parameter, state)?)
    }

    /// Sets all gradients to 0. One that was written stays present, as 0; one that holds micro-batches becomes missing,
    /// and a missing one stays missing. [`Settings::zero_grad`](crate::Settings::zero_grad) does it in the step.
    ///
    /// # Errors
    /// [`Error::MissingUsage`] for a gradient in a caller's buffer without `COPY_DST`, [`Error::DeviceLost`],
    /// [`Error::Rejected`].
    pub fn zero_grad(&mut self) -> Result<()> {
        if let Device::Gpu(gpu) = self.device.clone() {
            return self.submit(&gpu, Self::encode_zero_grad);
        }
        self.end_window();
        for parameter in self.parameters.values_mut() {
            match &mut parameter.memory {
                Memory::F32(v) => v.fill(Role::Gradient, 0.0),
                Memory::F64(v) => v.fill(Role::Gradient, 0.0),
                Memory::Gpu(_) => {}
            }
        }
        Ok(())
    }

    /// Records [`Optimizer::zero_grad`] into the caller's encoder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on the CPU, [`Error::MissingUsage`] as [`Optimizer::zero_grad`]; then nothing is
    /// recorded.
    pub fn encode_zero_grad(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.gpu("encode_zero_grad")?.check_alive()?;
        let mut ranges = Vec::new();
        for parameter in self.parameters.values() {
            let Memory::Gpu(tensor) = &parameter.memory else {
                continue;
            };
            for range in tensor.gradient.iter().filter(|range| range.len > 0) {
                range.check_usage(&format!("gradient of {}", parameter.name), wgpu::BufferUsages::COPY_DST)?;
                ranges.push(range);
            }
        }
        for range in ranges {
            encoder.clear_buffer(&range.buffer, range.offset, Some(range.words()));
        }
        self.end_window();
        Ok(())
    }

    /// The range of the parameter in 16 bits on a GPU, for your forward pass to bind: `4 · len.div_ceil(2)` bytes. It
    /// is what [`Precision::mirror`](crate::Precision::mirror) asks for, or the parameter itself if that is in bf16.
    /// Steps, look-aheads, [`Optimizer::evaluate`], swaps of averages and [`Optimizer::write`] write it with the
    /// parameter. For a parameter in your buffer it holds 0 until the first of them, or until
    /// [`Optimizer::encode_mirrors`].
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Unsupported`] on the CPU and in a group without mirrors.
    pub fn mirror<'k>(&self, key: impl Into<Key<'k>>) -> Result<&BufferRange> {
        let parameter = self.get(key)?;
        self.range(parameter, self.mirror_of(parameter))
    }

    /// Which of its memory has 16 bits: a parameter in bf16 is its own mirror.
    fn mirror_of(&self, parameter: &Parameter) -> Role {
        let is_half = self.groups[parameter.group].precision.parameters != Format::F32;
        if is_half { Role::Parameter } else { Role::Beside }
    }

    /// The parameter as its mirror holds it; on the CPU, as it would.
    ///
    /// # Errors
    /// As [`Optimizer::read`], and [`Error::Unsupported`] in a group without mirrors.
    pub async fn read_mirror<'k>(&self, key: impl Into<Key<'k>>) -> Result<Vec<f32>> {
        let parameter = self.get(key)?;
        if let Device::Gpu(gpu) = &self.device {
            return gpu.read(self.range(parameter, self.mirror_of(parameter))?, &parameter.name).await;
        }
        let precision = self.groups[parameter.group].precision;
        let Some(format) = precision.mirror.or((precision.parameters != Format::F32).then_some(precision.parameters))
        else {
            return Err(parameter.unsupported("a mirror", "its group has none: see Precision::mirror"));
        };
        if parameter.element() == f64::NAME {
            let values: Vec<f64> = self.read_part(parameter, Role::Parameter).await?;
            return Ok(values.into_iter().map(|x| format.wide(format.nearest(x))).collect());
        }
        let values: Vec<f32> = self.read_part(parameter, Role::Parameter).await?;
        let stored =
            if precision.exact_master { remainder::uppers(&values) } else { format.encode(&values).0.into_owned() };
        Ok(format.decode(&stored, &[]).into_owned())
    }

    /// [`Optimizer::read_mirror`], waiting for it.
    ///
    /// # Errors
    /// As [`Optimizer::read_mirror`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_mirror_blocking<'k>(&self, key: impl Into<Key<'k>>) -> Result<Vec<f32>> {
        pollster::block_on(self.read_mirror(key))
    }

    /// Records what writes all mirrors from their parameters, in one compute pass: for parameters in your buffers that
    /// something else has written. It counts as a step for the 128 that may be recorded and not finished.
    ///
    /// # Errors
    /// As [`Optimizer::encode`], and [`Error::Unsupported`] if no group has mirrors.
    pub fn encode_mirrors(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let gpu = self.gpu("encode_mirrors")?;
        if self.groups.iter().all(|group| group.precision.mirror.is_none()) {
            let (name, reason) = ("the optimizer".into(), "no group has mirrors: see Precision::mirror");
            return Err(Error::Unsupported { operation: "encode_mirrors", name, reason });
        }
        let program = self.make_mirror_program(&gpu)?;
        let nothing = |_: &Parameter, _: &Group, words: &mut Vec<u32>| words.extend([0; COEFFICIENT_HEAD + 1]);
        self.record(&gpu, &program, encoder, nothing).map(drop)
    }

    fn state(&self, parameter: &Parameter, state: &str) -> Result<Role> {
        let group = &self.groups[parameter.group];
        let known = || group.states().map(|stored| stored.storage.name).collect();
        let unknown = || Error::UnknownState { parameter: parameter.name.clone(), state: state.into(), known: known() };
        group.state(state).map(|stored| stored.role).ok_or_else(unknown)
    }

    pub(super) fn range<'a>(&'a self, parameter: &'a Parameter, role: Role) -> Result<&'a BufferRange> {
        let refuse = |operation, reason| parameter.unsupported(operation, reason);
        if let Device::Cpu = self.device {
            return Err(refuse("a buffer range", "the optimizer runs on the CPU"));
        }
        self.groups[parameter.group].range(parameter, role).ok_or_else(|| match role {
            Role::Parameter => refuse("a buffer range", UNBOUND),
            Role::Beside => refuse("a mirror", "its group has none: see Precision::mirror"),
            _ => refuse("the gradient", "the parameter has none"),
        })
    }

    async fn read_part<F: Real>(&self, parameter: &Parameter, role: Role) -> Result<Vec<F>> {
        check_element::<F>(parameter)?;
        if let Device::Gpu(gpu) = &self.device {
            let beside = parameter.memory.range(Role::Beside).filter(|_| role == Role::Parameter);
            let values = gpu.read_with(self.range(parameter, role)?, beside, &parameter.name).await?;
            return Ok(bytemuck::cast_vec(values));
        }
        let (memory, role) = self.groups[parameter.group].memory(parameter, role);
        let values = match memory {
            Memory::F32(v) => v.numbers(role).map(|numbers| converted(&numbers.decoded()).into_owned()),
            Memory::F64(v) => v.numbers(role).map(|numbers| converted(&numbers.decoded()).into_owned()),
            Memory::Gpu(_) => None,
        };
        values.ok_or_else(|| parameter.unsupported("reading", "it is in the caller's slice"))
    }

    fn write_part<F: Real>(
        &mut self,
        key: Key<'_>,
        part: impl Fn(&Self, &Parameter) -> Result<Role>,
        values: &[F],
    ) -> Result<()> {
        let id = self.find(key)?;
        let parameter = self.get(id)?;
        let part = part(self, parameter)?;
        check_element::<F>(parameter)?;
        let (expected, found) = (self.groups[parameter.group].len_of(parameter, part), values.len());
        if expected != found {
            let of = self.groups[parameter.group].storage_of(part).filter(|storage| storage.extent != Extent::Element);
            let name = of.map_or(parameter.name.clone(), |state| format!("{} of {}", state.name, parameter.name));
            return Err(Error::Length { name, expected, found });
        }
        if part == Role::Gradient {
            self.write_values(id, part, values)?;
            self.parameters.entry(id.0).and_modify(|parameter| parameter.gradient = Held::Values);
            return Ok(());
        }
        self.check_in_place(parameter.group, "writing")?;
        let velocity = Role::State(parameter.momentum(&self.groups));
        if parameter.shift != 0.0 && part == velocity {
            return Err(
                parameter.unsupported("writing a state", "the next step has to take the look-ahead back with it")
            );
        }
        if parameter.shift != 0.0 && matches!(part, Role::Parameter) {
            self.write_values(id, part, values)?;
            if let Some(parameter) = self.parameters.get_mut(&id.0) {
                parameter.shift = 0.0;
                self.invalidate(Change::Step);
            }
            return Ok(());
        }
        self.write_values(id, part, values)
    }

    fn write_values<F: Real>(&mut self, id: ParameterId, part: Role, values: &[F]) -> Result<()> {
        let parameter = self.get(id)?;
        if let (Memory::Gpu(tensor), Device::Gpu(gpu)) = (&parameter.memory, &self.device) {
            let beside = tensor.beside.as_ref().filter(|_| part == Role::Parameter);
            let range = self.range(parameter, part)?;
            return gpu.write_with(range, beside, bytemuck::cast_slice(values), &parameter.name);
        }
        let reason = "it is in the caller's slice";
        let refused = parameter.unsupported("writing", reason);
        let written = self.memory_mut(id, part).and_then(|(memory, role)| match memory {
            Memory::F32(v) => v.numbers_mut(role).map(|numbers| numbers.set_part(0, &converted(values))),
            Memory::F64(v) => v.numbers_mut(role).map(|numbers| numbers.set_part(0, &converted(values))),
            Memory::Gpu(_) => None,
        });
        written.ok_or(refused)
    }

    /// The memory that has what this role is to a parameter, and its role there.
    fn memory_mut(&mut self, id: ParameterId, role: Role) -> Option<(&mut Memory, Role)> {
        let parameter = self.parameters.get_mut(&id.0)?;
        match role {
            Role::Shared(k) => Some((&mut self.groups[parameter.group].shared, Role::State(k))),
            _ => Some((&mut parameter.memory, role)),
        }
    }
}

fn check_element<F: Real>(parameter: &Parameter) -> Result<()> {
    let (expected, found, name) = (parameter.element(), F::NAME, parameter.name.clone());
    if expected == found { Ok(()) } else { Err(Error::ElementType { name, expected, found }) }
}

/// As numbers of another type: a group's own are `f64`, whatever the parameter's are.
fn converted<F: Real, G: Real>(from: &[G]) -> Cow<'_, [F]> {
    match bytemuck::try_cast_slice(from) {
        Ok(same) if F::NAME == G::NAME => Cow::Borrowed(same),
        _ => from.iter().map(|from| F::of(from.to_f64().unwrap_or(f64::NAN))).collect(),
    }
}
