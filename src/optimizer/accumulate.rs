//! Gradient accumulation over micro-batches, in the gradient itself.

use super::{Memory, Optimizer, ParameterId, Run};
use crate::error::{Error, Result};
use crate::gpu::kernel::{GradientAccess, KernelKey};
use crate::gpu::memory::BufferRange;
use crate::gpu::plan::Plan;
use crate::rule::Real;
use crate::settings::ROW_HEAD;

impl Optimizer {
    /// Records the addition of a micro-batch's gradients, in the caller's buffers, to the parameters' gradients, in one compute pass.
    /// The first addition after a step takes their place: nothing is to be zeroed. The step takes their mean or their sum, as
    /// [`Settings::accumulation`](crate::Settings::accumulation) says. 12 bytes of traffic an element.
    ///
    /// Each call counts as a step for the 128 that may be recorded and not finished. An encoder that is dropped instead of submitted
    /// leaves the count of micro-batches one ahead.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Unsupported`] on the CPU, for a parameter without a gradient; for the buffers those of
    /// [`Optimizer::add_buffer`], with [`Error::Overlap`] for a gradient given twice; those of [`Optimizer::encode`].
    pub fn encode_accumulate(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        gradients: &[(ParameterId, BufferRange)],
    ) -> Result<()> {
        let gpu = self.gpu("encode_accumulate")?;
        gpu.check_flag()?;
        let (mut plan, mut targets) = (Plan::default(), Vec::<(String, BufferRange)>::new());
        for (id, range) in gradients {
            let parameter = self.get(*id)?;
            parameter.check_len(range.len)?;
            range.check(&gpu, &format!("micro-batch of {}", parameter.name))?;
            let Memory::Gpu(tensor) = &parameter.memory else { continue };
            let Some(gradient) = tensor.gradient.clone().filter(|_| !parameter.missing) else {
                return Err(parameter.unsupported("encode_accumulate", "the parameter has no gradient"));
            };
            if range.overlaps(&gradient) {
                let (a, b) =
                    (format!("micro-batch of `{}`", parameter.name), format!("gradient of `{}`", parameter.name));
                return Err(Error::Overlap { a, b });
            }
            if let Some(other) = targets.iter().find(|(_, other)| gradient.overlaps(other) || range.overlaps(other)) {
                let (a, b) = (format!("gradient of `{}`", parameter.name), format!("gradient of `{}`", other.0));
                return Err(Error::Overlap { a, b });
            }
            targets.push((parameter.name.clone(), gradient.clone()));
            let shared = gradient.buffer == range.buffer;
            let access = if shared { GradientAccess::Aliased } else { GradientAccess::Read };
            plan.members.push(id.0);
            let first = parameter.batches == 0;
            let same = |row: &u64| self.parameters.get(row).is_some_and(|other| (other.batches == 0) == first);
            let row = plan.rows.iter().position(same).unwrap_or_else(|| {
                plan.rows.push(id.0);
                plan.rows.len() - 1
            });
            let run = Run::of(vec![gradient, range.clone()], access, row, range.len, false);
            plan.add_run(&gpu, &mut self.bind_groups, |lane| KernelKey::accumulate(lane, access), &run)?;
        }
        if self.bind_groups.len() > 256 + 8 * self.parameters.len() {
            // Those of micro-batches that will not come again.
            self.keep_bind_groups(self.parameters.len());
        }
        self.record(&gpu, &plan, encoder, |parameter, _, row| {
            row.extend([1f32.to_bits()]);
            row.extend([0; ROW_HEAD - 1]);
            row.push(f32::from(u8::from(parameter.batches == 0)).to_bits());
        })?;
        for (id, _) in gradients {
            self.parameters.entry(id.0).and_modify(|parameter| parameter.batches += 1);
        }
        Ok(())
    }

    /// Adds a micro-batch's gradient to a parameter's, on the CPU; the first after a step takes its place.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, rules::Sgd};
    /// let mut sgd = Optimizer::new(&Device::Cpu, Sgd, 1.0)?;
    /// let w = sgd.add(0, "w", &[0.0f32])?;
    /// sgd.accumulate(w, &[1.0f32])?;
    /// sgd.accumulate(w, &[3.0f32])?;
    /// sgd.step()?; // by their mean
    /// assert_eq!(sgd.read_blocking::<f32>(w)?, [-2.0]);
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Length`], [`Error::ElementType`], [`Error::Unsupported`] on a GPU (see
    /// [`Optimizer::encode_accumulate`]), for a parameter without a gradient, and for one in the caller's slice.
    pub fn accumulate<F: Real>(&mut self, id: ParameterId, gradient: &[F]) -> Result<()> {
        let parameter = self.get(id)?;
        parameter.check_len(gradient.len())?;
        let (expected, found, name) = (parameter.element(), F::NAME, parameter.name.clone());
        let refuse = |reason| Err(parameter.unsupported("accumulate", reason));
        if matches!(parameter.memory, Memory::Gpu(_)) {
            return refuse("the optimizer runs on a GPU");
        }
        if parameter.in_slice() {
            return refuse("it is in the caller's slice");
        }
        if parameter.missing {
            return refuse("the parameter has no gradient");
        }
        if expected != found {
            return Err(Error::ElementType { name, expected, found });
        }
        let Some(parameter) = self.parameters.get_mut(&id.0) else { return Ok(()) };
        let own: Option<&mut [F]> = match &mut parameter.memory {
            Memory::Gpu(_) => None,
            Memory::F32(v) => v.own.as_mut().map(|own| bytemuck::cast_slice_mut(&mut own.gradient)),
            Memory::F64(v) => v.own.as_mut().map(|own| bytemuck::cast_slice_mut(&mut own.gradient)),
        };
        if let Some(own) = own {
            match parameter.batches {
                0 => own.copy_from_slice(gradient),
                _ => own.iter_mut().zip(gradient).for_each(|(a, &g)| *a += g),
            }
            parameter.batches += 1;
        }
        Ok(())
    }
}
