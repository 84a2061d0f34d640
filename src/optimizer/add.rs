//! Adding and removing parameters, and the memory that they get.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use super::accumulate::Held;
use super::claims::Binding;
use super::storage::{Role, Stored};
use super::{Arenas, Change, Group, HostMemory, Key, Memory, Optimizer, Own, Parameter, ParameterId};
use crate::cpu::Numbers;
use crate::error::{Error, Result};
use crate::formats::{Format, Storage};
use crate::gpu::arena::Arena;
use crate::gpu::memory::{Allocation, BufferRange, Tensor, conflict};
use crate::gpu::own::OwnBuffer;
use crate::gpu::{Device, Gpu};
use crate::precision::{Precision, States};
use crate::rule::Real;
use crate::settings::Options;

impl Optimizer {
    /// Adds a parameter in the optimizer's own memory; see [`Optimizer::add_all`].
    ///
    /// # Errors
    /// As [`Optimizer::add_all`].
    pub fn add<F: Real>(&mut self, group: usize, name: &str, values: &[F]) -> Result<ParameterId> {
        self.add_owned(group, &[(name, values)], false).map(|ids| ids[0])
    }

    /// Adds parameters in the optimizer's own memory: `f32` on a GPU, `f32` or `f64` on the CPU.
    ///
    /// A gradient is missing until it is written: by [`Optimizer::write_gradient`] or [`Optimizer::accumulate`], or on
    /// a GPU by your kernels, for which [`Optimizer::gradient`] counts. A parameter whose gradient is missing takes no
    /// part in a step, as in PyTorch: AdamW does not decay what the loss does not reach. To step with a gradient of 0,
    /// [set](Optimizer::set_gradient) it to [`Gradient::Own`](crate::Gradient::Own).
    ///
    /// On a GPU they share buffers of just their size, and step in one dispatch. Parameters that [`Optimizer::add`]
    /// adds one by one lie in a few buffers, each of which is a dispatch; at most a third of these buffers is free for
    /// more, or 16 KiB of each kind. Freed memory is used again, and a buffer goes with the last parameter in it.
    /// [`Optimizer::parameter`] and [`Optimizer::gradient`] are the ranges for your kernels to bind.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::DuplicateName`], [`Error::ElementType`] for `f64` on a GPU, for parameters in
    /// bf16 and beside states in 16 or 8 bits, [`Error::OverLimit`] for more than `max_buffer_size` bytes, or more than
    /// `max_storage_buffer_binding_size` of what is bound whole: mirrors, states in 16 or 8 bits, [`Error::Rejected`]
    /// if the GPU has no memory left.
    pub fn add_all<F: Real>(&mut self, group: usize, tensors: &[(&str, &[F])]) -> Result<Vec<ParameterId>> {
        self.add_owned(group, tensors, true)
    }

    fn add_owned<F: Real>(&mut self, group: usize, tensors: &[(&str, &[F])], exact: bool) -> Result<Vec<ParameterId>> {
        self.check_in_place(group, "adding")?;
        self.check_names(tensors)?;
        tensors.iter().try_for_each(|(name, values)| self.check_width::<F>(group, name, values.len()))?;
        let memories = match self.device.clone() {
            Device::Gpu(gpu) => self.gpu_memories(&gpu, group, tensors, exact)?,
            Device::Cpu => {
                tensors.iter().map(|(_, values)| self.cpu_memory(group, values.len(), Some(values))).collect()
            }
        };
        let mut ids = Vec::new();
        for ((name, values), memory) in tensors.iter().zip(memories) {
            let id = self.insert(name, group, values.len(), memory);
            self.note_largest(id, 0, values);
            ids.push(id);
        }
        self.warn_of_small_lr();
        Ok(ids)
    }

    fn gpu_memories<F: Real>(
        &mut self,
        gpu: &Gpu,
        group: usize,
        tensors: &[(&str, &[F])],
        exact: bool,
    ) -> Result<Vec<Memory>> {
        gpu.check_alive()?;
        if let Some((name, _)) = tensors.first().filter(|_| F::NAME != f32::NAME) {
            return Err(Error::ElementType { name: (*name).into(), expected: f32::NAME, found: F::NAME });
        }
        let (home, group) = (group, &mut self.groups[group]);
        let mut taken = Vec::<(usize, Tensor)>::new();
        let mut filled = Ok(());
        for narrow in [false, true] {
            let ours = group.of_width(tensors, narrow, |(_, values)| values.len());
            filled = filled.and_then(|()| group.take_owned(gpu, (home, narrow), &ours, exact, &mut taken));
        }
        if let Err(e) = filled {
            taken.into_iter().for_each(|(_, tensor)| _ = group.release(tensor));
            return Err(e);
        }
        taken.sort_unstable_by_key(|(k, _)| *k);
        Ok(taken.into_iter().map(|(_, tensor)| Memory::Gpu(Box::new(tensor))).collect())
    }

    fn cpu_memory<F: Real>(&self, group: usize, len: usize, values: Option<&[F]>) -> Memory {
        let group = &self.groups[group];
        let state = |state: &Storage| {
            let format = group.format_of(state, len);
            Numbers::filled(format, state.extent.len(len, None), state.initial)
        };
        let states = group.states_of_parameters().map(state).collect();
        let own = values.map(|values| Own {
            parameter: Numbers::of(group.precision.parameters_on_cpu(), values),
            gradient: Numbers::filled(group.precision.gradients, len, 0.0),
        });
        let vectors = HostMemory { own, states };
        match F::NAME == f64::NAME {
            true => Memory::F64(vectors.cast()),
            false => Memory::F32(vectors.cast()),
        }
    }

    /// Adds a parameter that stays in the caller's buffer; see [`Optimizer::add_buffers`].
    ///
    /// # Errors
    /// As [`Optimizer::add_buffers`].
    pub fn add_buffer(&mut self, group: usize, name: &str, range: BufferRange) -> Result<ParameterId> {
        self.add_foreign(group, &[(name, range)], false).map(|ids| ids[0])
    }

    /// Adds parameters that stay in the caller's buffers and are updated there. They have no gradients until
    /// [`Optimizer::set_gradient`] gives them some. Nothing beside the ranges is touched.
    ///
    /// Their states share buffers of just their size. Those of up to 2¹⁸ elements that lie in the same buffers (a pool
    /// for parameters, one for gradients, or one for both) and have taken the same steps are one dispatch, or two where
    /// some are not whole fours; if the device binds one buffer more than they need, for the table. Offsets are any
    /// multiples of 4 bytes; those of 16 are faster. They are stored as [`Precision::parameters`] says.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::DuplicateName`], [`Error::Unsupported`] on the CPU, [`Error::MissingUsage`]
    /// without `STORAGE`, [`Error::OutOfBounds`], [`Error::Misaligned`] if the offset is no multiple of 4 bytes,
    /// [`Error::ElementType`] if they are stored in another format,
    /// [`Error::Overlap`] with another parameter or its gradient, [`Error::OverLimit`] or [`Error::Rejected`] if there
    /// is no room for the state. Then none is added.
    pub fn add_buffers(&mut self, group: usize, tensors: &[(&str, BufferRange)]) -> Result<Vec<ParameterId>> {
        self.add_foreign(group, tensors, true)
    }

    fn add_foreign(&mut self, group: usize, tensors: &[(&str, BufferRange)], exact: bool) -> Result<Vec<ParameterId>> {
        self.check_in_place(group, "adding")?;
        self.check_names(tensors)?;
        let Some((first, _)) = tensors.first() else { return Ok(Vec::new()) };
        let Device::Gpu(gpu) = self.device.clone() else {
            let reason = "the optimizer runs on the CPU";
            return Err(Error::Unsupported { operation: "add_buffer", name: (*first).into(), reason });
        };
        gpu.check_alive()?;
        for (name, range) in tensors {
            range.check(name, self.group(group)?.precision.parameters)?;
            self.check_overlap(None, name, range, Binding::Parameter)?;
        }
        let uses: Vec<_> = tensors.iter().map(|(_, range)| (range, true)).collect();
        if let Some((a, b)) = conflict(&uses) {
            let name = |k: usize| format!("parameter `{}`", tensors[k].0);
            return Err(Error::Overlap { a: name(a.max(b)), b: name(a.min(b)) });
        }
        let lens: Vec<_> = tensors.iter().map(|(name, range)| (*name, range.len)).collect();
        let ids = self.add_unbound(&gpu, group, &lens, exact)?;
        for (id, (_, range)) in ids.iter().zip(tensors) {
            if let Some(Memory::Gpu(tensor)) = self.parameters.get_mut(&id.0).map(|parameter| &mut parameter.memory) {
                tensor.parameter = Some(range.clone());
            }
            self.claim(*id);
        }
        Ok(ids)
    }

    /// Adds parameters of these lengths that have states and are unbound.
    pub(super) fn add_unbound(
        &mut self,
        gpu: &Gpu,
        group: usize,
        tensors: &[(&str, usize)],
        exact: bool,
    ) -> Result<Vec<ParameterId>> {
        let home = group;
        let mut taken = Vec::new();
        let mut filled = Ok(());
        for narrow in [false, true] {
            let group = &mut self.groups[home];
            let ours = group.of_width(tensors, narrow, |(_, len)| *len);
            filled = filled.and_then(|()| group.take_foreign(gpu, (home, narrow), &ours, exact, &mut taken));
        }
        match filled {
            Ok(()) => {
                taken.sort_unstable_by_key(|(k, _)| *k);
                let added = tensors.iter().zip(taken);
                let insert = |(&(name, len), (_, tensor))| self.insert(name, home, len, Memory::Gpu(Box::new(tensor)));
                Ok(added.map(insert).collect())
            }
            Err(e) => {
                taken.into_iter().for_each(|(_, tensor)| _ = self.groups[home].release(tensor));
                Err(e)
            }
        }
    }

    /// Adds a parameter of `len` elements that stays in the caller's slice, for [`Optimizer::step_slices`]; on the CPU.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::DuplicateName`], [`Error::ElementType`] for `f64` beside states in 16 or 8
    /// bits, [`Error::Unsupported`] on a GPU and in a group whose parameters or gradients are not f32,
    /// [`Error::OverLimit`] for a length that no slice has.
    pub fn add_slice<F: Real>(&mut self, group: usize, name: &str, len: usize) -> Result<ParameterId> {
        self.check_in_place(group, "adding")?;
        self.check_new(name)?;
        if let Device::Gpu(_) = self.device {
            let reason = "the optimizer runs on a GPU";
            return Err(Error::Unsupported { operation: "add_slice", name: name.into(), reason });
        }
        let Precision { parameters, gradients, .. } = self.groups[group].precision;
        if parameters != Format::F32 || gradients != Format::F32 {
            let reason = "slices and their gradients are of f32 or f64";
            return Err(Error::Unsupported { operation: "add_slice", name: name.into(), reason });
        }
        self.check_width::<F>(group, name, len)?;
        // No slice is longer than this, so neither is one of its states.
        let (needed, available) = (len as u64, (isize::MAX as usize / size_of::<F>()) as u64);
        if needed > available {
            return Err(Error::OverLimit { name: name.into(), limit: "elements of a slice", needed, available });
        }
        let memory = self.cpu_memory::<F>(group, len, None);
        Ok(self.insert(name, group, len, memory))
    }

    /// Removes a parameter with its state. Its memory is used again, so first submit what you have recorded.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`].
    pub fn remove<'k>(&mut self, key: impl Into<Key<'k>>) -> Result<()> {
        let id = self.find(key.into())?;
        self.unclaim(id);
        if let Some(parameter) = self.parameters.remove(&id.0) {
            self.names.remove(&parameter.name);
            if let Memory::Gpu(tensor) = parameter.memory {
                let callers =
                    [&tensor.parameter, &tensor.gradient].map(|range| range.as_ref().map(|r| r.buffer.clone()));
                let callers =
                    callers.into_iter().flatten().filter(|_| !tensor.owned || tensor.gradient != tensor.own_gradient);
                let mut gone: HashSet<_> = callers.collect();
                let freed = self.groups[tensor.home].release(*tensor);
                gone.extend(freed.iter().map(|buffer| (**buffer).clone()));
                // Bind groups keep buffers alive. Those of a buffer that is still in use are made again.
                if !gone.is_empty() {
                    self.bind_groups.retain(|(ranges, _), _| !ranges.iter().any(|range| gone.contains(&range.buffer)));
                }
            }
        }
        self.invalidate(Change::Removed);
        Ok(())
    }

    fn insert(&mut self, name: &str, group: usize, len: usize, memory: Memory) -> ParameterId {
        let id = ParameterId(self.next);
        self.next += 1;
        let parameter = Parameter {
            name: name.into(),
            group,
            len,
            steps: 0,
            pending: 0,
            shift: 0.0,
            gradient: Held::Unwritten,
            handed_out: AtomicBool::new(false),
            options: Options::default(),
            average_begun: Some(0),
            largest: 0.0,
            memory,
        };
        self.parameters.insert(id.0, parameter);
        self.names.insert(name.into(), id);
        self.claim(id);
        self.invalidate(Change::Parameters);
        id
    }

    /// No name is taken, by another parameter or among these.
    pub(super) fn check_names<T>(&self, tensors: &[(&str, T)]) -> Result<()> {
        let mut names = HashSet::new();
        match tensors.iter().find(|(name, _)| self.names.contains_key(*name) || !names.insert(*name)) {
            Some((name, _)) => Err(Error::DuplicateName { name: (*name).into() }),
            None => Ok(()),
        }
    }

    /// What is stored in bf16 or 8 bits is computed in f32.
    fn check_width<F: Real>(&self, group: usize, name: &str, len: usize) -> Result<()> {
        let group = &self.groups[group];
        let of_f32 = group.narrows(len) || group.precision.parameters != Format::F32;
        match F::NAME == f64::NAME && (of_f32 || group.precision.states == States::Bf16) {
            true => Err(Error::ElementType { name: name.into(), expected: f32::NAME, found: F::NAME }),
            false => Ok(()),
        }
    }

    fn check_new(&self, name: &str) -> Result<()> {
        if self.names.contains_key(name) { Err(Error::DuplicateName { name: name.into() }) } else { Ok(()) }
    }
}

impl<F: Real> HostMemory<F> {
    /// The same vectors, `G` being the same type as `F`.
    fn cast<G: Real>(self) -> HostMemory<G> {
        let cast = |numbers: Numbers<F>| match numbers {
            Numbers::Same(x) => Numbers::Same(bytemuck::cast_vec::<F, G>(x)),
            Numbers::Halves { format, halves } => Numbers::Halves { format, halves },
            Numbers::Blocks { format, codes, absmax } => Numbers::Blocks { format, codes, absmax },
        };
        let own = self.own.map(|own| Own { parameter: cast(own.parameter), gradient: cast(own.gradient) });
        HostMemory { own, states: self.states.into_iter().map(cast).collect() }
    }
}

impl Group {
    /// Frees a tensor's allocations. These buffers go with it.
    fn release(&mut self, tensor: Tensor) -> Vec<OwnBuffer> {
        let Arenas { owned, states } = self.arenas(tensor.narrow);
        let arena = if tensor.owned { owned } else { states };
        let mut gone = arena.release(tensor.allocation);
        for (k, allocation) in tensor.others {
            gone.extend(self.others[k].release(allocation));
        }
        gone
    }

    /// Those of these tensors that have states in blocks, or those that do not, each with its index.
    fn of_width<'t, T>(&self, tensors: &'t [T], narrow: bool, len: impl Fn(&T) -> usize) -> Vec<(usize, &'t T)> {
        tensors.iter().enumerate().filter(|(_, tensor)| self.narrows(len(tensor)) == narrow).collect()
    }

    /// Memory for parameters, gradients and states, in buffers that hold as many as fit.
    fn take_owned<F: Real>(
        &mut self,
        gpu: &Gpu,
        (home, narrow): (usize, bool),
        tensors: &[(usize, &(&str, &[F]))],
        exact: bool,
        taken: &mut Vec<(usize, Tensor)>,
    ) -> Result<()> {
        let (initial, has_beside) = (self.initial(true), self.precision.beside().is_some());
        for (batch, room) in batches(gpu, &self.arenas(narrow).owned, tensors, |(_, (_, values))| values.len()) {
            self.arenas(narrow).owned.reserve(gpu, batch[0].1.0, room, exact)?;
            for &(k, (name, values)) in batch {
                let owned = &mut self.arenas(narrow).owned;
                let mut tensor = allocate(gpu, owned, name, bytemuck::cast_slice(values), (&initial, has_beside))?;
                (tensor.home, tensor.narrow) = (home, narrow);
                let others = self.take_others(gpu, name, values.len(), &mut tensor);
                taken.push((k, tensor));
                others?;
            }
        }
        Ok(())
    }

    /// Memory for the states of foreign tensors.
    fn take_foreign(
        &mut self,
        gpu: &Gpu,
        (home, narrow): (usize, bool),
        tensors: &[(usize, &(&str, usize))],
        exact: bool,
        taken: &mut Vec<(usize, Tensor)>,
    ) -> Result<()> {
        let (initial, has_beside) = (self.initial(false), self.precision.beside().is_some());
        for (batch, room) in batches(gpu, &self.arenas(narrow).states, tensors, |(_, (_, len))| *len) {
            self.arenas(narrow).states.reserve(gpu, batch[0].1.0, room, exact)?;
            for &(k, &(name, len)) in batch {
                let states = &mut self.arenas(narrow).states;
                let (allocation, mut states) = fill_allocation(gpu, states, name, len, &initial)?;
                let beside = has_beside.then(|| states.remove(0));
                let mut tensor = Tensor { home, narrow, allocation, beside, states, ..Tensor::default() };
                let others = self.take_others(gpu, name, len, &mut tensor);
                taken.push((k, tensor));
                others?;
            }
        }
        Ok(())
    }

    /// Places for the states of a tensor that are not its elements', each in an arena of its own. `tensor` has the
    /// elements' states, and then all of them in order.
    fn take_others(&mut self, gpu: &Gpu, name: &str, len: usize, tensor: &mut Tensor) -> Result<()> {
        self.take_states(gpu, name, len, tensor, |role| matches!(role, Role::State(_)))
    }

    fn take_states(
        &mut self,
        gpu: &Gpu,
        name: &str,
        len: usize,
        tensor: &mut Tensor,
        wanted: impl Fn(Role) -> bool,
    ) -> Result<()> {
        let mut of_elements = std::mem::take(&mut tensor.states).into_iter();
        let mut arenas = self.others.iter_mut().enumerate();
        for stored in self.storage.iter().filter(|stored| stored.is_state()) {
            let Stored { role, storage } = stored;
            let arena = if stored.is_of_elements() { None } else { arenas.next() };
            match arena {
                _ if !wanted(*role) => {}
                None => tensor.states.extend(of_elements.next()),
                Some((k, arena)) => {
                    let len = storage.extent.len(len, None);
                    arena.reserve(gpu, name, arena.padded(len), false)?;
                    let (allocation, ranges) = fill_allocation(gpu, arena, name, len, &[storage.initial])?;
                    tensor.others.push((k, allocation));
                    tensor.states.extend(ranges);
                }
            }
        }
        Ok(())
    }

    /// The memory of its own states, at their first values.
    pub(super) fn make_shared(&mut self, device: &Device) -> Result<Memory> {
        Ok(match device {
            Device::Cpu => {
                let state = |state: &Storage| Numbers::filled(Format::F64, state.extent.len(0, None), state.initial);
                let states = self.shared_states().map(state).collect();
                Memory::F64(HostMemory { own: None, states })
            }
            Device::Gpu(gpu) => {
                let mut tensor = Tensor::default();
                self.take_states(gpu, "the group", 0, &mut tensor, |role| matches!(role, Role::Shared(_)))?;
                Memory::Gpu(Box::new(tensor))
            }
        })
    }
}

/// The tensors in batches, each of as many as fit into one chunk of the arena, with the elements that they take.
fn batches<'a, T>(gpu: &Gpu, arena: &Arena, tensors: &'a [T], len: impl Fn(&T) -> usize) -> Vec<(&'a [T], u64)> {
    let most = arena.most(gpu);
    let (mut batches, mut start, mut room) = (Vec::new(), 0, 0);
    for (k, tensor) in tensors.iter().enumerate() {
        let more = arena.padded(len(tensor));
        if room + more > most && k > start {
            batches.push((&tensors[start..k], room));
            (start, room) = (k, 0);
        }
        room += more;
    }
    batches.extend((start < tensors.len()).then(|| (&tensors[start..], room)));
    batches
}

/// Allocates in the arena and fills it: the values and what is beside them, a gradient of 0, the states' initial
/// values.
fn allocate(
    gpu: &Gpu,
    arena: &mut Arena,
    name: &str,
    values: &[f32],
    (initial, has_beside): (&[f64], bool),
) -> Result<Tensor> {
    let (allocation, mut ranges) = fill_allocation(gpu, arena, name, values.len(), initial)?;
    let mut states = ranges.split_off(ranges.len().min(2));
    let beside = has_beside.then(|| states.remove(0));
    let (gradient, parameter) = (ranges.pop(), ranges.pop());
    let (Some(parameter), Some(gradient)) = (parameter, gradient) else {
        return Err(Error::Unsupported { operation: "add", name: name.into(), reason: "the arena is full" });
    };
    if let Err(e) = gpu.write_with(&parameter, beside.as_ref(), values, name) {
        arena.release(allocation);
        return Err(e);
    }
    let own_gradient = Some(gradient.clone());
    let (parameter, gradient) = (Some(parameter), Some(gradient));
    Ok(Tensor { owned: true, allocation, parameter, gradient, own_gradient, beside, states, ..Tensor::default() })
}

/// Takes an allocation in the arena and sets buffer `k` of it to `initial[k]`, padding included.
fn fill_allocation(
    gpu: &Gpu,
    arena: &mut Arena,
    name: &str,
    len: usize,
    initial: &[f64],
) -> Result<(Allocation, Vec<BufferRange>)> {
    let full = Error::Unsupported { operation: "add", name: name.into(), reason: "the arena is full" };
    let allocation = arena.take(arena.padded(len)).ok_or(full)?;
    let ranges = arena.ranges(allocation, len);
    match gpu.fill(&ranges, initial, arena.padded(len), name) {
        Ok(()) => Ok((allocation, ranges)),
        Err(e) => {
            arena.release(allocation);
            Err(e)
        }
    }
}
