//! An optimizer that a program is applied to, on one device and in one manner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, Momentum, NAdam};
use wgpu_optim::{
    AnyRule, Averaging, BufferRange, Device, Error, Extent, Format, Gpu, Gradient, Optimizer, Precision, Report,
    Settings, rules,
};

use super::program::{Call, GroupSetup, Memory, Mode, NAMES, Pause, Program, Record, Tensor};
use crate::checkpoint::{load, saved};
use crate::fixture::{FOREIGN, buffer, parameters};

/// The one number that a group's rule keeps, which any step changes.
pub(super) const OF_GROUP: &str = "number of its group";

pub(super) struct World {
    pub(super) optimizer: Optimizer,
    pub(super) tensors: BTreeMap<usize, Tensor>,
    mode: Mode,
    exact_master: bool,
    setup: Vec<GroupSetup>,
    /// What is recorded and not submitted.
    encoder: Option<wgpu::CommandEncoder>,
    /// Parameters and gradients in the caller's buffers.
    ranges: BTreeMap<usize, [BufferRange; 2]>,
    /// Gradients that were moved into buffers of their own.
    moved: BTreeMap<usize, BufferRange>,
    /// Whose gradients may hold micro-batches.
    batches: BTreeSet<usize>,
    /// Whose gradients have no place in the caller's memory yet, or no more.
    unbound: BTreeSet<usize>,
    /// Groups that keep an average, for which some calls wait.
    averaged: BTreeSet<usize>,
}

/// All that can be read of an optimizer.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Step counts, schedules, rates: compared bit for bit.
    pub(super) numbers: Vec<(String, u64)>,
    pub(super) vectors: BTreeMap<(usize, String), Vec<f32>>,
    pub(super) report: Report,
}

/// Gradients of 1/4 … 1 and either sign, so that none comes near 0. Of matrices in sixteenths: means of rows are exact,
/// and no difference from them is near 0 either.
pub(super) fn gradient(len: usize, seed: u8) -> Vec<f32> {
    let matrix = len.is_multiple_of(64);
    let magnitude =
        |h: u32| if matrix { (4 + h % 13) as f32 / 16.0 } else { 0.25 + (h >> 5) as f32 / (1 << 15) as f32 * 0.75 };
    (0..len as u32).map(|i| mixed(i, seed)).map(|h| if h & 16 == 0 { magnitude(h) } else { -magnitude(h) }).collect()
}

/// States that no rule takes for the square of less than a gradient.
fn positive(len: usize, seed: u8) -> Vec<f32> {
    (0..len as u32).map(|i| 1.5 + (mixed(i, seed) % 16) as f32 / 8.0).collect()
}

fn mixed(i: u32, seed: u8) -> u32 {
    let h = (i + 1).wrapping_mul(0x9e37_79b9) ^ (u32::from(seed) + 1).wrapping_mul(0x85eb_ca6b);
    (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d) >> 12
}

/// The same rule with other numbers, where it has some that change nothing that is compiled or kept.
fn other_numbers(rule: &str) -> Result<AnyRule, Error> {
    Ok(match rule {
        "momentum" => Momentum::torch(0.5).into(),
        "adam" => Adam { beta1: 0.7, beta2: 0.9, ..Adam::torch() }.into(),
        "nadam" => NAdam { beta1: 0.7, ..NAdam::torch() }.into(),
        rule => rules::by_name(rule)?,
    })
}

impl World {
    pub(super) fn new(device: &Device, program: &Program, mode: Mode) -> Result<Self, Error> {
        let averaging: Vec<_> = program.groups.iter().map(|group| group.averaging).collect();
        let settings: Vec<_> = program.groups.iter().map(|group| group.settings).collect();
        let exact_master = mode.exact_master(program);
        let mut world = Self {
            optimizer: groups(device, &program.groups, &settings, &averaging, exact_master)?,
            exact_master,
            tensors: BTreeMap::new(),
            mode,
            setup: program.groups.clone(),
            encoder: None,
            ranges: BTreeMap::new(),
            moved: BTreeMap::new(),
            batches: BTreeSet::new(),
            unbound: BTreeSet::new(),
            averaged: (0..).zip(&program.groups).filter(|(_, g)| g.averaging.is_some()).map(|(k, _)| k).collect(),
        };
        world.add_all(&program.tensors)?;
        Ok(world)
    }

    fn add_all(&mut self, tensors: &[Tensor]) -> Result<(), Error> {
        let mut tensors = tensors.to_vec();
        if self.mode.reversed {
            tensors.reverse();
        }
        tensors.into_iter().try_for_each(|tensor| self.add(tensor))
    }

    fn gpu(&self) -> Option<Gpu> {
        match self.optimizer.device() {
            Device::Gpu(gpu) => Some(gpu.clone()),
            Device::Cpu => None,
        }
    }

    pub(super) fn apply(&mut self, call: &Call) -> Result<(), Error> {
        let name = |to: &usize| NAMES[*to];
        let result = match call {
            Call::Step => self.step(),
            Call::WriteGradient { to, seed, bad } => self.write_gradient(*to, |len| {
                let mut values = gradient(len, *seed);
                values.iter_mut().rev().take(1).for_each(|last| *last = bad.unwrap_or(*last));
                values
            }),
            Call::WriteGradients(seed) => {
                let names: Vec<_> = self.tensors.keys().copied().collect();
                let of = |to: usize| seed.wrapping_add(to as u8);
                names.into_iter().try_for_each(|to| self.write_gradient(to, |len| gradient(len, of(to))))
            }
            Call::Accumulate { to, seed } => self.accumulate(to, *seed),
            Call::MoveGradient { to, seed } => self.move_gradient(*to, *seed),
            Call::Missing(to) => {
                self.moved.remove(to);
                self.unbound.insert(*to);
                self.optimizer.set_gradient(name(to), Gradient::Missing)
            }
            Call::ZeroGrad => self.on_gpu(Optimizer::zero_grad, Optimizer::encode_zero_grad),
            Call::LookAhead => self.on_gpu(Optimizer::look_ahead, Optimizer::encode_look_ahead),
            Call::Write { to, seed } => {
                self.submit();
                let len = self.len(*to)?;
                self.optimizer.write(name(to), &parameters(len, u64::from(*seed)))
            }
            Call::WriteState { to, seed } => self.write_state(*to, *seed),
            Call::SetSteps(to, steps) => {
                if self.tensors.get(to).is_some_and(|tensor| self.averaged.contains(&tensor.group)) {
                    self.submit();
                }
                self.optimizer.set_steps(name(to), *steps)
            }
            Call::SetOptions(to, options) => self.optimizer.set_options(name(to), *options),
            Call::SetSettings(group, settings) => self.optimizer.set_settings(*group, *settings),
            Call::SetRule(group, rule) => {
                let known = self.setup.get(*group).map_or("sgd", |group| group.rule);
                let rule = if rule.is_empty() { other_numbers(known)? } else { rules::by_name(rule)? };
                self.optimizer.set_rule(*group, rule)
            }
            Call::SetSchedule(group, schedule) => self.optimizer.set_schedule(*group, schedule.clone()),
            Call::SetScheduleStep(group, step) => self.optimizer.set_schedule_step(*group, *step),
            Call::SetAveraging(group, averaging) => {
                self.submit();
                self.averaged.insert(*group);
                self.optimizer.set_averaging(*group, *averaging)
            }
            Call::Swap(group) => {
                self.submit();
                self.optimizer.swap_averages(*group)
            }
            Call::SetClipNorm(clip) => self.optimizer.set_clip_norm(*clip),
            Call::SetNonFinite(policy) => {
                self.optimizer.set_non_finite(*policy);
                Ok(())
            }
            Call::SetLossScaler(scaler) => {
                self.submit();
                self.optimizer.set_loss_scaler(*scaler)
            }
            Call::SetLossScale(scale, tracker, skipped) => {
                self.submit();
                self.optimizer.set_loss_scale(*scale, *tracker, *skipped)
            }
            Call::Add(tensor) => self.add(*tensor),
            Call::Remove(to) => {
                self.submit();
                self.optimizer.remove(name(to)).map(|()| {
                    self.tensors.remove(to);
                    self.ranges.remove(to);
                    self.moved.remove(to);
                    self.batches.remove(to);
                    self.unbound.remove(to);
                })
            }
            Call::Rename(to, name) => self.rename(*to, *name),
            Call::Move(to, group) => self.optimizer.move_to_group(name(to), *group).map(|()| {
                self.tensors.entry(*to).and_modify(|tensor| tensor.group = *group);
            }),
            Call::CopySchedule(from, to) => self.optimizer.copy_schedule(*from, *to),
            Call::DroppedStep | Call::RefusedStep(_) | Call::Evaluate(_) | Call::Reload(_) | Call::Pause(_) => Ok(()),
        };
        if self.mode.settled {
            self.settle()?;
        }
        result
    }

    fn step(&mut self) -> Result<(), Error> {
        self.batches.clear();
        match self.mode.record {
            Record::Step => self.optimizer.step(),
            _ if self.gpu().is_none() => self.optimizer.step(),
            _ => self.record(Optimizer::encode),
        }
    }

    /// By itself, or recorded with what is open.
    fn on_gpu(
        &mut self,
        alone: impl Fn(&mut Optimizer) -> Result<(), Error>,
        encode: impl Fn(&mut Optimizer, &mut wgpu::CommandEncoder) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.gpu().is_none() {
            return alone(&mut self.optimizer);
        }
        let once = |world: &mut Self| match world.mode.record {
            Record::Step => alone(&mut world.optimizer),
            _ => world.record(&encode),
        };
        match once(self) {
            // The outcomes of steps before a look-ahead have to be known.
            Err(Error::Unsupported { .. }) => {
                self.settle()?;
                once(self)
            }
            result => result,
        }
    }

    fn record(
        &mut self,
        encode: impl FnOnce(&mut Optimizer, &mut wgpu::CommandEncoder) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(gpu) = self.gpu() else { return Ok(()) };
        let open = || gpu.device().create_command_encoder(&Default::default());
        let mut encoder = self.encoder.take().unwrap_or_else(open);
        let result = encode(&mut self.optimizer, &mut encoder);
        self.encoder = Some(encoder);
        if self.mode.record != Record::Together {
            self.submit();
        }
        result
    }

    pub(super) fn submit(&mut self) {
        if let (Some(encoder), Some(gpu)) = (self.encoder.take(), self.gpu()) {
            gpu.queue().submit([encoder.finish()]);
        }
    }

    pub(super) fn settle(&mut self) -> Result<(), Error> {
        self.submit();
        self.optimizer.settle_blocking()
    }

    pub(super) fn pause(&mut self, pause: Pause) -> Result<(), Error> {
        match pause {
            Pause::Submit => self.submit(),
            Pause::Poll => _ = self.gpu().map(|gpu| gpu.device().poll(wgpu::PollType::Poll)),
            Pause::Sleep => {
                self.submit();
                std::thread::sleep(Duration::from_millis(2));
            }
            Pause::Settle => self.settle()?,
        }
        Ok(())
    }

    fn rename(&mut self, to: usize, name: usize) -> Result<(), Error> {
        self.optimizer.rename(NAMES[to], NAMES[name])?;
        let tensor = self.tensors.remove(&to);
        self.tensors.extend(tensor.map(|tensor| (name, Tensor { name, ..tensor })));
        let ranges = self.ranges.remove(&to);
        self.ranges.extend(ranges.map(|ranges| (name, ranges)));
        let moved = self.moved.remove(&to);
        self.moved.extend(moved.map(|range| (name, range)));
        for of in [&mut self.batches, &mut self.unbound] {
            if of.remove(&to) {
                of.insert(name);
            }
        }
        Ok(())
    }

    fn len(&self, to: usize) -> Result<usize, Error> {
        self.optimizer.id(NAMES[to])?;
        Ok(self.tensors.get(&to).map_or(0, |tensor| tensor.len))
    }

    /// Where a parameter's gradient lies while it has one.
    fn place(&self, to: usize) -> Gradient {
        let foreign = self.ranges.get(&to).map(|[_, gradient]| gradient);
        self.moved.get(&to).or(foreign).map_or(Gradient::Own, |range| Gradient::Buffer(range.clone()))
    }

    /// A gradient in the caller's memory has to be told where it is; ours is there once it is written.
    fn bind(&mut self, to: usize) -> Result<(), Error> {
        let unbound = self.unbound.remove(&to);
        match self.place(to) {
            Gradient::Buffer(range) if unbound => self.optimizer.set_gradient(NAMES[to], Gradient::Buffer(range)),
            _ => Ok(()),
        }
    }

    pub(super) fn write_gradient(&mut self, to: usize, values: impl Fn(usize) -> Vec<f32>) -> Result<(), Error> {
        let values = values(self.len(to)?);
        self.bind(to)?;
        if self.batches.remove(&to) {
            self.submit();
        }
        let place = self.place(to);
        match (self.gpu(), &mut self.encoder) {
            (Some(gpu), Some(encoder)) => {
                self.optimizer.set_gradient(NAMES[to], place)?;
                let range = self.optimizer.gradient(NAMES[to])?.clone();
                let source = buffer(&gpu, &values, FOREIGN);
                encoder.copy_buffer_to_buffer(&source, 0, &range.buffer, range.offset, range.size());
                Ok(())
            }
            _ => self.optimizer.write_gradient(NAMES[to], &values),
        }
    }

    fn accumulate(&mut self, to: &[usize], seed: u8) -> Result<(), Error> {
        let lens = to.iter().map(|&to| self.len(to)).collect::<Result<Vec<_>, _>>()?;
        for to in to {
            self.bind(*to)?;
            self.batches.insert(*to);
        }
        let Some(gpu) = self.gpu() else {
            return to.iter().zip(lens).try_for_each(|(&to, len)| {
                self.optimizer.accumulate(self.optimizer.id(NAMES[to])?, &gradient(len, seed.wrapping_add(to as u8)))
            });
        };
        let mut gradients = Vec::new();
        for (&to, len) in to.iter().zip(lens) {
            let source = buffer(&gpu, &gradient(len, seed.wrapping_add(to as u8)), FOREIGN);
            gradients.push((self.optimizer.id(NAMES[to])?, BufferRange::whole(&source)));
        }
        self.record(|optimizer, encoder| optimizer.encode_accumulate(encoder, &gradients))
    }

    fn move_gradient(&mut self, to: usize, seed: u8) -> Result<(), Error> {
        let values = gradient(self.len(to)?, seed);
        if let Some(gpu) = self.gpu() {
            match self.moved.remove(&to) {
                Some(_) => {}
                None => _ = self.moved.insert(to, BufferRange::whole(&buffer(&gpu, &values, FOREIGN))),
            }
            self.unbound.remove(&to);
            self.optimizer.set_gradient(NAMES[to], self.place(to))?;
            self.batches.remove(&to);
        }
        self.write_gradient(to, |_| values.clone())
    }

    /// Of rules that keep the square of one state below another this would make NaN.
    fn write_state(&mut self, to: usize, seed: u8) -> Result<(), Error> {
        self.submit();
        let len = self.len(to)?;
        let group = self.tensors.get(&to).map_or(0, |tensor| tensor.group);
        let rule = self.setup[group].rule;
        let storage = self.optimizer.rule(group)?.storage();
        match storage.iter().find(|state| state.extent == Extent::Element).map(|state| state.name) {
            Some(state) if !rule.contains("centered") && !rule.contains("graves") => {
                self.optimizer.write_state(NAMES[to], state, &positive(len, seed))
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, tensor: Tensor) -> Result<(), Error> {
        let Tensor { group, name, len } = tensor;
        let values = parameters(len, name as u64);
        let Some(gpu) = self.gpu().filter(|_| self.mode.memory != Memory::Arena) else {
            self.optimizer.add(group, NAMES[name], &values)?;
            self.tensors.insert(name, tensor);
            return Ok(());
        };
        if !self.tensors.contains_key(&name) {
            self.submit();
            let ranges = self.new_ranges(&gpu, len);
            gpu.queue().write_buffer(&ranges[0].buffer, ranges[0].offset, bytemuck::cast_slice(&values));
            self.ranges.insert(name, ranges);
        }
        let range = self.ranges.get(&name).map(|[parameter, _]| parameter.clone());
        self.optimizer.add_buffer(group, NAMES[name], range.ok_or(Error::DeviceLost)?)?;
        self.unbound.insert(name);
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// A place for a parameter in the caller's memory, and for its gradient: at multiples of 4 bytes, of 16 and of 256.
    fn new_ranges(&self, gpu: &Gpu, len: usize) -> [BufferRange; 2] {
        let (room, places) = (1 << 13, NAMES.len());
        let new = |places: usize| buffer(gpu, &vec![0.0; places * room], FOREIGN);
        let old = |k: usize| self.ranges.values().next().map(|ranges| ranges[k].buffer.clone());
        let at = |place: usize| 4 * (place * room + [0, 64, 4, 1][place % places]) as u64;
        let taken = |place: &usize| self.ranges.values().any(|[range, _]| range.offset == at(*place));
        let free = (0..places).find(|place| !taken(place)).unwrap_or(0);
        match self.mode.memory {
            Memory::Pool => {
                let all = old(0).unwrap_or_else(|| new(2 * places));
                [BufferRange::new(&all, at(free), len), BufferRange::new(&all, at(places + free), len)]
            }
            Memory::Pools => [0, 1].map(|k| BufferRange::new(&old(k).unwrap_or_else(|| new(places)), at(free), len)),
            Memory::Apart | Memory::Arena => [0, 1].map(|_| BufferRange::new(&new(1), 0, len)),
        }
    }

    /// Records a step that is never submitted.
    pub(super) fn dropped_step(&mut self) -> Result<(), Error> {
        self.submit();
        let Some(gpu) = self.gpu() else { return Ok(()) };
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.optimizer.encode(&mut encoder)
    }

    /// A step whose submission is refused, as a gradient of it lies in a destroyed buffer; `Err` if it was not.
    pub(super) fn refused_step(&mut self, to: usize) -> Result<(), Failed> {
        self.submit();
        let Some(gpu) = self.gpu() else { return Ok(()) };
        let dead = buffer(&gpu, &gradient(self.len(to)?, 0), FOREIGN);
        self.optimizer.set_gradient(NAMES[to], Gradient::Buffer(BufferRange::whole(&dead)))?;
        dead.destroy();
        let refused = self.optimizer.step();
        self.optimizer.set_gradient(NAMES[to], self.place(to))?;
        match refused {
            Err(Error::Rejected { .. }) => Ok(()),
            other => Err(format!("{other:?} of a step on a destroyed buffer").into()),
        }
    }

    pub(super) fn save(&mut self) -> Result<Vec<u8>, Failed> {
        self.submit();
        saved(&mut self.optimizer)
    }

    pub(super) fn load(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.submit();
        load(&mut self.optimizer, bytes).map(drop)
    }

    /// Into a new optimizer, to which the parameters are added in the opposite order.
    pub(super) fn load_anew(&mut self, bytes: &[u8], averaging: &[Option<Averaging>]) -> Result<(), Error> {
        self.submit();
        let other: Vec<_> = averaging.iter().map(|averaging| averaging.map(|_| Averaging::EmaFromZero(0.3))).collect();
        let plain = vec![Settings::lr(1.0); self.setup.len()];
        self.optimizer = groups(&self.optimizer.device().clone(), &self.setup, &plain, &other, self.exact_master)?;
        let mut tensors: Vec<_> = std::mem::take(&mut self.tensors).into_values().collect();
        tensors.reverse();
        (self.ranges, self.moved) = (BTreeMap::new(), BTreeMap::new());
        (self.batches, self.unbound) = (BTreeSet::new(), BTreeSet::new());
        self.add_all(&tensors)?;
        self.load(bytes)
    }

    /// Everything, once all that was recorded has been done.
    pub(super) fn state(&mut self) -> Result<State, Failed> {
        self.settle()?;
        let (mut numbers, mut vectors) = (Vec::new(), BTreeMap::new());
        for group in 0..self.setup.len() {
            numbers.push((format!("schedule_step({group})"), self.optimizer.schedule_step(group)?));
            numbers.push((format!("lr({group})"), self.optimizer.lr(group)?.to_bits()));
        }
        for (to, tensor) in &self.tensors {
            let name = NAMES[*to];
            numbers.push((format!("steps({name:?})"), self.optimizer.steps(name)?));
            vectors.insert((*to, "parameter".into()), self.optimizer.read_blocking(name)?);
            let rule = self.optimizer.rule(tensor.group)?;
            for state in rule.states().into_iter().chain(["average"]) {
                match self.optimizer.read_state_blocking(name, state) {
                    Ok(values)
                        if rule.reduce().map(|reduce| reduce.over) == Some(Extent::Group)
                            && rule.reduce().and_then(|reduce| reduce.keeps) == Some(state) =>
                    {
                        vectors.insert((*to, OF_GROUP.into()), values);
                    }
                    Ok(values) => _ = vectors.insert((*to, state.into()), values),
                    Err(Error::UnknownState { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            if let Ok(gradient) = self.optimizer.read_gradient_blocking(name) {
                vectors.insert((*to, "gradient".into()), gradient);
            }
        }
        Ok(State { numbers, vectors, report: self.optimizer.read_report_blocking()? })
    }

    /// A parameter and its own states, without waiting for any outcome.
    pub(super) fn untouched(&self, to: usize) -> Result<Vec<Vec<f32>>, Error> {
        let mut all = vec![self.optimizer.read_blocking(NAMES[to])?];
        let rule = self.optimizer.rule(self.tensors.get(&to).map_or(0, |tensor| tensor.group))?;
        for state in rule.storage().iter().filter(|state| state.extent != Extent::Group) {
            all.push(self.optimizer.read_state_blocking(NAMES[to], state.name)?);
        }
        Ok(all)
    }
}

fn groups(
    device: &Device,
    setup: &[GroupSetup],
    settings: &[Settings],
    averaging: &[Option<Averaging>],
    exact_master: bool,
) -> Result<Optimizer, Error> {
    let mut optimizer = None::<Optimizer>;
    for (k, group) in setup.iter().enumerate() {
        let rule = rules::by_name(group.rule)?;
        match &mut optimizer {
            None => optimizer = Some(Optimizer::new(device, rule, settings[k])?),
            Some(optimizer) => _ = optimizer.add_group(rule, settings[k])?,
        }
        if let (true, Some(optimizer)) = (exact_master, &mut optimizer) {
            optimizer.set_precision(k, Precision { gradients: Format::F32, ..Precision::bf16_exact_master() })?;
        }
        if let (Some(averaging), Some(optimizer)) = (averaging[k], &mut optimizer) {
            optimizer.set_averaging(k, averaging)?;
        }
    }
    optimizer.ok_or(Error::DeviceLost)
}
