//! Averages of a group's parameters: their memory, their beginning, and the exchange with the parameters.

use super::storage::AVERAGE;
use super::{Arenas, Change, Group, Memory, Optimizer};
use crate::averaging::Averaging;
use crate::cpu::Numbers;
use crate::error::{Error, Result};
use crate::gpu::arena::Arena;
use crate::gpu::kernel::Extras;
use crate::gpu::memory::{Allocation, BufferRange};
use crate::gpu::{Device, Gpu};
use crate::settings::COEFFICIENT_HEAD;

/// Where the average of a parameter is to be, and the allocation that it takes for that, if it had none for states.
type Averages = Vec<(u64, BufferRange, Option<Allocation>)>;

impl Optimizer {
    /// Keeps an average of a group's parameters, as the state `average`, from the next recorded step on; or changes its
    /// kind. A parameter that misses a step keeps its average. Where parameters have taken steps without one, theirs
    /// begins with the next.
    ///
    /// ```
    /// use wgpu_optim::{Averaging, Device, Optimizer, rules::Sgd};
    /// let mut sgd = Optimizer::new(&Device::Cpu, Sgd, 1.0)?;
    /// sgd.set_averaging(0, Averaging::Swa { from: 1, every: 1 })?;
    /// let w = sgd.add(0, "w", &[4.0f32])?;
    /// sgd.write_gradient(w, &[1.0f32])?;
    /// sgd.step()?; // w = 3
    /// sgd.step()?; // w = 2
    /// sgd.swap_averages(0)?; // evaluate on the average
    /// assert_eq!(sgd.read_blocking::<f32>(w)?, [2.5]);
    /// sgd.swap_averages(0)?; // and train on
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// Waits until it is known which of the group's steps were skipped: an average that has not begun yet begins behind
    /// those taken. A browser cannot wait: call [`Optimizer::settle`] first.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Hyperparameter`], [`Error::OverLimit`] if the device binds too few buffers for
    /// one more, [`Error::Rejected`] if the GPU has no memory left, [`Error::Unsupported`] while averages are swapped
    /// in, and on a GPU for a group's first average if a parameter was [moved](Optimizer::move_to_group) into the
    /// group; those of [`Optimizer::settle`].
    pub fn set_averaging(&mut self, group: usize, averaging: Averaging) -> Result<()> {
        averaging.check()?;
        self.check_in_place(group, "set_averaging")?;
        if self.parameters.values().any(|parameter| parameter.group == group && parameter.pending != 0) {
            self.settle_here()?;
        }
        let before = self.group(group)?.averaging;
        if let Device::Gpu(gpu) = self.device.clone() {
            let of = self.group(group)?;
            let extras = Extras { average: true, ..of.extras(false) };
            of.compile(&gpu, &of.settings, extras)?;
            if before.is_none() {
                self.add_average_buffers(&gpu, group)?;
            }
        }
        for parameter in self.parameters.values_mut().filter(|parameter| parameter.group == group) {
            if !parameter.has_average(before) {
                parameter.average_begun = parameter.average_begun.map(|_| parameter.recorded());
            }
            let len = parameter.len;
            match &mut parameter.memory {
                Memory::F32(vectors) if before.is_none() => vectors.states.push(Numbers::Same(vec![0.0; len])),
                Memory::F64(vectors) if before.is_none() => vectors.states.push(Numbers::Same(vec![0.0; len])),
                _ => {}
            }
        }
        self.groups[group].averaging = Some(averaging);
        self.groups[group].list_storage();
        if before.is_none() {
            self.claims = None;
            self.invalidate(Change::Parameters);
        }
        Ok(())
    }

    /// One buffer more for each chunk of the group's arenas, and with it a range for each of its parameters. wgpu fills
    /// new buffers with 0.
    fn add_average_buffers(&mut self, gpu: &Gpu, k: usize) -> Result<()> {
        let mut lens = Vec::new();
        for (&id, parameter) in self.parameters.iter().filter(|(_, parameter)| parameter.group == k) {
            let Memory::Gpu(tensor) = &parameter.memory else { continue };
            if tensor.home != k {
                let reason =
                    "it was moved here from another group: set the group's averaging before moving parameters into it";
                return Err(parameter.unsupported("set_averaging", reason));
            }
            lens.push((id, parameter.name.as_str(), parameter.len, tensor));
        }
        let group = &mut self.groups[k];
        let kind = group.kind(&AVERAGE, false);
        let mut averages = Averages::new();
        // Room in all arenas before the first one changes.
        let mut rooms = Vec::new();
        for narrow in [false, true] {
            let Arenas { owned, states } = group.arenas(narrow);
            rooms.push((owned.buffers_like(gpu, &kind)?, states.buffers_like(gpu, &kind)?));
        }
        for (narrow, (owned_buffers, state_buffers)) in [false, true].into_iter().zip(rooms) {
            let Arenas { owned, states } = group.arenas(narrow);
            let ours = || lens.iter().filter(|(.., tensor)| tensor.narrow == narrow);
            let without_states = states.is_without_buffers();
            states.widen(kind.clone(), state_buffers);
            let mut taken = Ok(());
            for &(id, name, len, _) in ours().filter(|(.., tensor)| without_states && !tensor.owned) {
                // A rule without states had no allocations for them.
                let padded = states.padded(len);
                taken = states.reserve(gpu, name, padded, false);
                let Some(allocation) = taken.is_ok().then(|| states.take(padded)).flatten() else { break };
                averages.extend(states.ranges(allocation, len).pop().map(|range| (id, range, Some(allocation))));
            }
            if let Err(e) = taken {
                *states = Arena::new(Vec::new());
                return Err(e);
            }
            owned.widen(kind.clone(), owned_buffers);
            for &(id, _, len, tensor) in ours().filter(|(.., tensor)| tensor.owned || !without_states) {
                let arena = if tensor.owned { &*owned } else { &*states };
                averages.extend(arena.ranges(tensor.allocation, len).pop().map(|range| (id, range, None)));
            }
        }
        for (id, range, allocation) in averages {
            if let Some(Memory::Gpu(tensor)) = self.parameters.get_mut(&id).map(|parameter| &mut parameter.memory) {
                tensor.states.push(range);
                tensor.allocation = allocation.unwrap_or(tensor.allocation);
            }
        }
        Ok(())
    }

    /// Exchanges a group's parameters with their averages, to evaluate the model on them, and back. A parameter without
    /// an average yet, such as a frozen one, stays. A parameter in bf16 gets the nearest number, and its average keeps
    /// what is needed to take that back. In between no step is possible, nor a change to the group's parameters and
    /// states. Waits until it is known which steps were skipped; a browser cannot: call [`Optimizer::settle`] first.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Unsupported`] for a group without [`Optimizer::set_averaging`], with
    /// parameters in the caller's slices, at their look-ahead point, or unbound; on a GPU those of
    /// [`Optimizer::step`].
    pub fn swap_averages(&mut self, group: usize) -> Result<()> {
        let refuse =
            |reason| Err(Error::Unsupported { operation: "swap_averages", name: format!("group {group}"), reason });
        if self.group(group)?.averaging.is_none() {
            return refuse("it keeps no average");
        }
        self.check_training(group, "swap_averages")?;
        if self.parameters.values().any(|parameter| parameter.group == group && parameter.in_slice()) {
            return refuse("some of its parameters are in the caller's slices");
        }
        if self.parameters.values().any(|parameter| parameter.group == group && parameter.shift != 0.0) {
            return refuse("some of its parameters stand at their look-ahead point: step first");
        }
        if self.parameters.values().any(|parameter| parameter.group == group && parameter.is_unbound()) {
            return refuse("some of its parameters are unbound: see Optimizer::relocate");
        }
        if let Device::Gpu(gpu) = self.device.clone() {
            self.settle_here()?;
            self.submit(&gpu, |optimizer, encoder| {
                let program = optimizer.make_swap_program(&gpu, group)?;
                optimizer
                    .record(&gpu, &program, encoder, |_, _, words| words.extend([0; COEFFICIENT_HEAD + 1]))
                    .map(drop)
            })?;
        }
        let Group { averaging, swapped, .. } = self.groups[group];
        let ours = self.parameters.values_mut().filter(|parameter| parameter.group == group);
        for parameter in ours.filter(|parameter| parameter.has_average(averaging)) {
            match &mut parameter.memory {
                Memory::Gpu(_) => {}
                Memory::F32(vectors) => vectors.swap(swapped),
                Memory::F64(vectors) => vectors.swap(swapped),
            }
        }
        self.groups[group].swapped ^= true;
        Ok(())
    }

    /// Who has an average depends on which steps were taken.
    pub(super) fn settle_here(&mut self) -> Result<()> {
        self.resolve();
        #[cfg(not(target_family = "wasm"))]
        return self.settle_blocking();
        #[cfg(target_family = "wasm")]
        match self.unresolved() {
            0 => Ok(()),
            limit => Err(Error::TooManyStepsInFlight { limit }),
        }
    }
}
