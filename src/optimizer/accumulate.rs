//! What a parameter's gradient holds, and gradient accumulation over micro-batches, in the gradient itself.

use std::collections::HashMap;

use super::storage::{Role, check_gradient_format};
use super::{Memory, Optimizer, Parameter, ParameterId};
use crate::cpu::Numbers;
use crate::error::{Error, Result};
use crate::gpu::kernel::{GradientAccess, KernelKey};
use crate::gpu::memory::{BufferRange, conflict};
use crate::gpu::own::OwnBuffer;
use crate::gpu::program::{BindGroups, Builder, Program};
use crate::gpu::runs::Run;
use crate::gpu::{Device, Gpu};
use crate::rule::Real;
use crate::settings::COEFFICIENT_HEAD;

/// Programs that are kept: of the first micro-batch and the others, in two buffers each.
const ACCUMULATIONS: usize = 4;

/// What a parameter's gradient holds. A step leaves out a parameter whose gradient holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing yet, unless somebody has taken its range to write there.
    Unwritten,
    /// Nothing until it is written: it was set to missing, or a step has used up its micro-batches.
    Nothing,
    /// What somebody wrote. It stays until it is written again.
    Values,
    /// The sum of this many micro-batches. The next step uses it up.
    Batches(u32),
}

/// One tensor's part of an accumulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addition {
    id: u64,
    /// What is added to.
    gradient: BufferRange,
    /// What is added.
    range: BufferRange,
    /// Whether it takes the place of what is there.
    first: bool,
}

impl Optimizer {
    /// Records the addition of a micro-batch's gradients, in the caller's buffers, to the parameters' gradients, in one
    /// compute pass. 12 bytes of traffic an element.
    ///
    /// The micro-batches between two steps are a window. The first one of a window takes the place of what the gradient
    /// held: nothing is to be zeroed. The step takes the mean over the window or the sum, as
    /// [`Settings::accumulation`](crate::Settings::accumulation) says, and uses the gradient up. It is then
    /// [missing](crate::Gradient::Missing) until it is written again, also of a frozen parameter, and also if the step
    /// is skipped.
    ///
    /// Each call counts as a step for the 128 that may be recorded and not finished. An encoder that is dropped instead
    /// of submitted leaves the count of micro-batches one ahead.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Unsupported`] on the CPU, for a parameter without memory for a gradient;
    /// for the buffers those of [`Optimizer::add_buffer`], with [`Error::Overlap`] for a gradient given twice; those of
    /// [`Optimizer::encode`].
    pub fn encode_accumulate(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        gradients: &[(ParameterId, BufferRange)],
    ) -> Result<()> {
        let gpu = self.gpu("encode_accumulate")?;
        self.record_additions(&gpu, encoder, gradients, true)
    }

    /// Records the additions; `again` says that these buffers may come again.
    fn record_additions(
        &mut self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        gradients: &[(ParameterId, BufferRange)],
        again: bool,
    ) -> Result<()> {
        let mut additions = Vec::<Addition>::new();
        for (id, range) in gradients {
            let parameter = self.get(*id)?;
            parameter.check_len(range.len)?;
            range.check_gradient(&format!("micro-batch of {}", parameter.name))?;
            let Memory::Gpu(tensor) = &parameter.memory else { continue };
            let Some(gradient) = tensor.gradient.clone() else {
                return Err(parameter.unsupported("encode_accumulate", "it has no memory for a gradient: set_gradient"));
            };
            check_gradient_format(&parameter.name, gradient.format, true)?;
            additions.push(Addition { id: id.0, gradient, range: range.clone(), first: parameter.batches() == 0 });
        }
        let known = self.accumulations.iter().position(|(of, _)| *of == additions);
        let program = match known.map(|at| self.accumulations.remove(at)) {
            Some((_, program)) => program,
            None => {
                self.check_additions(&additions)?;
                self.make_accumulation(gpu, &additions)?
            }
        };
        let recorded = self.record(gpu, &program, encoder, |parameter, _, words| {
            words.extend([1f32.to_bits()]);
            words.extend([0; COEFFICIENT_HEAD - 1]);
            words.push(f32::from(u8::from(parameter.batches() == 0)).to_bits());
        });
        if again {
            self.accumulations.truncate(ACCUMULATIONS - 1);
            self.accumulations.insert(0, (additions, program));
        }
        recorded?;
        gradients.iter().for_each(|(id, _)| self.count_batch(*id));
        Ok(())
    }

    /// One more micro-batch is in this parameter's gradient.
    fn count_batch(&mut self, id: ParameterId) {
        if let Some(parameter) = self.parameters.get_mut(&id.0) {
            let batches = parameter.batches() + 1;
            parameter.gradient = Held::Batches(batches);
            self.window = self.window.max(batches);
        }
    }

    /// A step ends the window, of parameters that it leaves out, too.
    pub(super) fn end_window(&mut self) {
        if std::mem::take(&mut self.window) > 0 {
            self.parameters.values_mut().for_each(Parameter::end_window);
        }
    }

    /// No gradient is written twice, or read while it is written.
    fn check_additions(&self, additions: &[Addition]) -> Result<()> {
        let uses: Vec<_> = additions.iter().flat_map(|of| [(&of.gradient, true), (&of.range, false)]).collect();
        let Some((a, b)) = conflict(&uses) else { return Ok(()) };
        let name = |at: usize| -> Result<String> {
            let what = if uses[at].1 { "gradient" } else { "micro-batch" };
            Ok(format!("{what} of `{}`", self.get(ParameterId(additions[at / 2].id))?.name))
        };
        Err(Error::Overlap { a: name(a)?, b: name(b)? })
    }

    fn make_accumulation(&self, gpu: &Gpu, additions: &[Addition]) -> Result<Program> {
        // Bind groups of its own: with the program go the buffers of micro-batches that will not come again.
        let mut bind_groups = BindGroups::new();
        let (mut builder, mut runs, mut cohorts) = (Builder::new(gpu, &mut bind_groups), Vec::new(), HashMap::new());
        for Addition { id, gradient, range, first } in additions {
            let cohort = builder.join(*id, *first, &mut cohorts);
            let shared = gradient.buffer == range.buffer;
            let access = if shared { GradientAccess::Aliased } else { GradientAccess::Read };
            runs.push(Run::of(vec![gradient.clone(), range.clone()], access, cohort, range.len, false));
        }
        builder.add_updates(runs, KernelKey::accumulate)?;
        builder.finish()
    }

    /// Adds a micro-batch's gradient, on the host, to a parameter's: see [`Optimizer::encode_accumulate`], which on a
    /// GPU takes it from a buffer.
    /// On a GPU submit the steps that you have recorded first: the first micro-batch of a window is written at once.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, rules::Sgd};
    /// let mut sgd = Optimizer::new(&Device::Cpu, Sgd, 1.0)?;
    /// let w = sgd.add(0, "w", &[0.0f32])?;
    /// sgd.accumulate(w, &[1.0f32])?;
    /// sgd.accumulate(w, &[3.0f32])?;
    /// sgd.step()?; // by their mean
    /// sgd.step()?; // the window is used up, and nothing new has come
    /// assert_eq!(sgd.read_blocking::<f32>(w)?, [-2.0]);
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Length`], [`Error::ElementType`], [`Error::Unsupported`] for a parameter
    /// in the caller's slice, or without memory for a gradient; on a GPU those of [`Optimizer::step`].
    pub fn accumulate<F: Real>(&mut self, id: ParameterId, gradient: &[F]) -> Result<()> {
        let parameter = self.get(id)?;
        parameter.check_len(gradient.len())?;
        let (expected, found, name) = (parameter.element(), F::NAME, parameter.name.clone());
        if parameter.in_slice() {
            return Err(parameter.unsupported("accumulate", "it is in the caller's slice"));
        }
        if expected != found {
            return Err(Error::ElementType { name, expected, found });
        }
        if let Device::Gpu(gpu) = self.device.clone() {
            return self.accumulate_from_host(&gpu, id, bytemuck::cast_slice(gradient));
        }
        check_gradient_format(&name, self.groups[parameter.group].precision.gradients, true)?;
        let batches = parameter.batches();
        let own: Option<&mut [F]> = match self.parameters.get_mut(&id.0).map(|parameter| &mut parameter.memory) {
            Some(Memory::F32(v)) => {
                v.numbers_mut(Role::Gradient).and_then(Numbers::same_mut).map(|g| bytemuck::cast_slice_mut(g))
            }
            Some(Memory::F64(v)) => {
                v.numbers_mut(Role::Gradient).and_then(Numbers::same_mut).map(|g| bytemuck::cast_slice_mut(g))
            }
            _ => None,
        };
        if let Some(own) = own {
            match batches {
                0 => own.copy_from_slice(gradient),
                _ => own.iter_mut().zip(gradient).for_each(|(a, &g)| *a += g),
            }
            self.count_batch(id);
        }
        Ok(())
    }

    /// The first micro-batch of a window is written; others are added from a buffer that lives as long as the addition.
    fn accumulate_from_host(&mut self, gpu: &Gpu, id: ParameterId, gradient: &[f32]) -> Result<()> {
        let parameter = self.get(id)?;
        let range = self.range(parameter, Role::Gradient)?;
        check_gradient_format(&parameter.name, range.format, true)?;
        let writable = range.buffer.usage().contains(wgpu::BufferUsages::COPY_DST);
        if gradient.is_empty() || (parameter.batches() == 0 && writable) {
            self.write_gradient(id, gradient)?;
            self.count_batch(id);
            return Ok(());
        }
        let batch = gpu.scoped("a micro-batch", || {
            let contents = bytemuck::cast_slice(gradient);
            OwnBuffer::new(gpu.buffer_of("wgpu-optim micro-batch", contents, wgpu::BufferUsages::STORAGE))
        })?;
        let range = BufferRange::new(&batch, 0, gradient.len());
        let before = (self.get(id)?.gradient, self.window);
        let add = |optimizer: &mut Self| {
            gpu.scoped("a micro-batch", || {
                let mut encoder = gpu.encoder();
                optimizer.record_additions(gpu, &mut encoder, &[(id, range.clone())], false)?;
                gpu.queue().submit([encoder.finish()]);
                Ok(())
            })?
        };
        let added = add(self);
        #[cfg(not(target_family = "wasm"))]
        let added = match added {
            Err(Error::TooManyStepsInFlight { .. }) => {
                gpu.wait_for_all()?;
                let room = |optimizer: &mut Self| optimizer.ring.as_ref().is_none_or(|ring| ring.check_room().is_ok());
                pollster::block_on(self.poll_until(gpu, room))?;
                add(self)
            }
            added => added,
        };
        if added.is_err() {
            self.parameters.entry(id.0).and_modify(|parameter| parameter.gradient = before.0);
            self.window = before.1;
        }
        added
    }
}
