//! Gradient accumulation over micro-batches, in the gradient itself.

use super::{Memory, Optimizer, ParameterId, Run};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::kernel::{GradientAccess, KernelKey};
use crate::gpu::memory::{BufferRange, conflict};
use crate::gpu::plan::{BindGroups, Plan};
use crate::rule::Real;
use crate::settings::ROW_HEAD;

/// Plans that are kept: of the first micro-batch and the others, in two buffers each.
const ACCUMULATIONS: usize = 4;

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
        let mut additions = Vec::<Addition>::new();
        for (id, range) in gradients {
            let parameter = self.get(*id)?;
            parameter.check_len(range.len)?;
            range.check(&format!("micro-batch of {}", parameter.name))?;
            let Memory::Gpu(tensor) = &parameter.memory else { continue };
            let Some(gradient) = tensor.gradient.clone().filter(|_| !parameter.missing) else {
                return Err(parameter.unsupported("encode_accumulate", "the parameter has no gradient"));
            };
            additions.push(Addition { id: id.0, gradient, range: range.clone(), first: parameter.batches == 0 });
        }
        let known = self.accumulations.iter().position(|(of, _)| *of == additions);
        let plan = match known.map(|at| self.accumulations.remove(at)) {
            Some((_, plan)) => plan,
            None => {
                self.check_additions(&additions)?;
                self.make_accumulation(&gpu, &additions)?
            }
        };
        let recorded = self.record(&gpu, &plan, encoder, |parameter, _, row| {
            row.extend([1f32.to_bits()]);
            row.extend([0; ROW_HEAD - 1]);
            row.push(f32::from(u8::from(parameter.batches == 0)).to_bits());
        });
        self.accumulations.truncate(ACCUMULATIONS - 1);
        self.accumulations.insert(0, (additions, plan));
        recorded?;
        for (id, _) in gradients {
            self.parameters.entry(id.0).and_modify(|parameter| parameter.batches += 1);
        }
        Ok(())
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

    fn make_accumulation(&self, gpu: &Gpu, additions: &[Addition]) -> Result<Plan> {
        let (mut plan, mut runs, mut leaders) = (Plan::default(), Vec::new(), [None; 2]);
        // Of its own: with the plan go the buffers of micro-batches that will not come again.
        let mut bind_groups = BindGroups::new();
        for Addition { id, gradient, range, first } in additions {
            plan.members.push(*id);
            let row = *leaders[usize::from(*first)].get_or_insert_with(|| {
                plan.rows.push(*id);
                plan.rows.len() - 1
            });
            let shared = gradient.buffer == range.buffer;
            let access = if shared { GradientAccess::Aliased } else { GradientAccess::Read };
            runs.push(Run::of(vec![gradient.clone(), range.clone()], access, row, range.len, false));
        }
        plan.add_runs(gpu, &mut bind_groups, runs, KernelKey::accumulate)?;
        plan.finish(gpu)?;
        Ok(plan)
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
