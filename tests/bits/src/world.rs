//! One case: an optimizer with a rule and a set of features on a device, 20 steps, and every number that it then holds.

use wgpu::util::DeviceExt;
use wgpu_optim::{
    AnyRule, Averaging, BufferRange, ClipNorm, Device, Gpu, Gradient, NonFinite, Optimizer, Options, ParameterId, Real,
    Report, Result, SaveOptions, Settings, Slices, WeightDecay, rules::Momentum,
};

use crate::features::{Features, Input, Place, Second};

const STEPS: usize = 20;
const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Numbers under a name; each is exact in f64.
pub(crate) type Section = (String, Vec<f64>);

/// f32 or f64.
pub(crate) trait Element: Real {
    fn of_f32(x: f32) -> Self;
    fn wide(self) -> f64;
}

impl Element for f32 {
    fn of_f32(x: f32) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Element for f64 {
    fn of_f32(x: f32) -> Self {
        x.into()
    }
    fn wide(self) -> f64 {
        self
    }
}

/// A number in (−1, 1), the same on every machine: 24 bits from a counter, and a power of two. Every 11th is 0.
fn number(stream: usize, tensor: usize, at: usize) -> f32 {
    let mut h = (stream as u64) << 48 ^ (tensor as u64) << 32 ^ at as u64;
    for multiplier in [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
        h = (h ^ h >> 31).wrapping_add(0x9e37_79b9).wrapping_mul(multiplier);
    }
    if h % 11 == 0 {
        return 0.0;
    }
    let mantissa = ((h >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32;
    mantissa / (1u32 << (h >> 8 & 7)) as f32
}

struct Tensor<F> {
    id: ParameterId,
    /// Its number in the generator.
    seed: usize,
    len: usize,
    /// Its values in the caller's slice.
    own: Vec<F>,
    /// Where the caller's buffer has its gradient.
    gradient: Option<(wgpu::Buffer, u64)>,
}

struct World<'a, F> {
    features: &'a Features,
    rule: &'a AnyRule,
    gpu: Option<Gpu>,
    optimizer: Optimizer,
    tensors: Vec<Tensor<F>>,
    /// All buffers of the caller's, holes included.
    buffers: Vec<wgpu::Buffer>,
    /// What a hash tells of the steps on the way.
    reports: Vec<f64>,
}

/// Runs the case. `None` where there is no such case on the device.
pub(crate) fn run<F: Element>(device: &Device, rule: &AnyRule, features: &Features) -> Result<Option<Vec<Section>>> {
    let gpu = if let Device::Gpu(gpu) = device { Some(gpu.clone()) } else { None };
    if gpu.is_some() && features.place == Place::Slices {
        return Ok(None);
    }
    let optimizer = Optimizer::new(device, rule.clone(), features.settings)?;
    let (tensors, buffers, reports) = (Vec::new(), Vec::new(), Vec::new());
    let mut world = World::<F> { features, rule, gpu, optimizer, tensors, buffers, reports };
    world.configure()?;
    world.add()?;
    let mut k = 0;
    while k < STEPS {
        if features.changes {
            world.change(k)?;
        }
        k += world.steps(k)?;
        // Not behind each step: outcomes are to pile up in between.
        if k % 7 == 0 || features.encoded > 0 {
            let report = world.optimizer.read_report_blocking()?;
            world.reports.extend(numbers(&report));
        }
    }
    world.finish().map(Some)
}

fn numbers(report: &Report) -> [f64; 5] {
    let Report { grad_norm, found_inf, loss_scale, growth_tracker, skipped_steps, .. } = *report;
    [grad_norm, found_inf.into(), loss_scale, growth_tracker.into(), skipped_steps as f64]
}

impl<F: Element> World<'_, F> {
    fn configure(&mut self) -> Result<()> {
        let features = self.features;
        match features.second {
            Second::None => {}
            Second::Momentum => {
                _ = self.optimizer.add_group(Momentum::default(), Settings { lr: 0.02, ..features.settings })?;
            }
            Second::Same => {
                _ = self.optimizer.add_group(self.rule.clone(), Settings { lr: 0.02, ..features.settings })?;
            }
        }
        for group in 0..self.groups() {
            if let Some(averaging) = features.averaging {
                self.optimizer.set_averaging(group, averaging)?;
            }
            self.optimizer.set_schedule(group, features.schedule.clone())?;
        }
        self.optimizer.set_clip_norm(features.clip)?;
        self.optimizer.set_loss_scaler(features.scaler)?;
        if let Some(policy) = features.policy {
            self.optimizer.set_non_finite(policy);
        }
        Ok(())
    }

    fn groups(&self) -> usize {
        if self.features.second == Second::None { 1 } else { 2 }
    }

    fn add(&mut self) -> Result<()> {
        let shapes = self.features.shapes();
        let values: Vec<Vec<F>> =
            shapes.iter().enumerate().map(|(k, s)| values(0, k, s[0] * s[1]).map(F::of_f32).collect()).collect();
        let names: Vec<_> = (0..shapes.len()).map(|k| format!("w{k}")).collect();
        for group in 0..self.groups() {
            let ours: Vec<_> = (0..shapes.len()).filter(|k| k % self.groups() == group).collect();
            let lens: Vec<_> = ours.iter().map(|&k| values[k].len()).collect();
            let (mut ids, mut gradients) = (Vec::new(), vec![None; ours.len()]);
            match (self.gpu.clone(), self.features.place) {
                (_, Place::Slices) => {
                    for &k in &ours {
                        ids.push(self.optimizer.add_slice::<F>(group, &names[k], values[k].len())?);
                    }
                }
                (None, _) | (_, Place::Arena) => {
                    let all: Vec<_> = ours.iter().map(|&k| (&*names[k], &*values[k])).collect();
                    ids = self.optimizer.add_all(group, &all)?;
                }
                (Some(gpu), place) => {
                    let (parameters, theirs) = self.places(&gpu, place, &lens);
                    for (&k, (buffer, offset)) in ours.iter().zip(&parameters) {
                        let values: Vec<_> = values[k].iter().map(|x| x.wide() as f32).collect();
                        gpu.queue().write_buffer(buffer, *offset, bytemuck::cast_slice(&values));
                    }
                    let ranges = |at: usize, len| BufferRange::new(&parameters[at].0, parameters[at].1, len);
                    let all: Vec<_> =
                        ours.iter().enumerate().map(|(at, &k)| (&*names[k], ranges(at, lens[at]))).collect();
                    ids = self.optimizer.add_buffers(group, &all)?;
                    gradients = theirs.into_iter().map(Some).collect();
                }
            }
            for ((id, k), gradient) in ids.into_iter().zip(ours).zip(gradients) {
                let own = if self.features.place == Place::Slices { values[k].clone() } else { Vec::new() };
                self.tensors.push(Tensor { id, seed: k, len: values[k].len(), own, gradient });
                self.set_options(id, k, shapes[k])?;
            }
        }
        for tensor in &self.tensors {
            if let Some((buffer, offset)) = &tensor.gradient {
                let range = BufferRange::new(buffer, *offset, tensor.len);
                self.optimizer.set_gradient(tensor.id, Gradient::Buffer(range))?;
            }
        }
        Ok(())
    }

    /// Places of parameters and of gradients in new buffers of the caller's.
    #[allow(clippy::type_complexity, reason = "used once")]
    fn places(
        &mut self,
        gpu: &Gpu,
        place: Place,
        lens: &[usize],
    ) -> (Vec<(wgpu::Buffer, u64)>, Vec<(wgpu::Buffer, u64)>) {
        let mut buffer = |len: usize| {
            // Holes hold numbers that a step must not touch.
            let holes: Vec<_> = values(9, self.buffers.len(), len).collect();
            let buffer = gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(&holes),
                usage: USAGE,
            });
            self.buffers.push(buffer.clone());
            buffer
        };
        if place == Place::Buffers {
            return lens.iter().map(|&len| ((buffer(len), 0), (buffer(len), 0))).unzip();
        }
        // Odd offsets with holes of 0, 1 and 2 elements.
        let mut at = 3;
        let mut next = |(k, len): (usize, &usize)| {
            let offset = 4 * at as u64;
            at += len + k % 3;
            offset
        };
        let parameters: Vec<_> = lens.iter().enumerate().map(&mut next).collect();
        let between =
            if place == Place::Shared { lens.iter().enumerate().map(&mut next).collect() } else { Vec::new() };
        let whole = buffer(at + 5);
        match place {
            Place::Shared => {
                let of = |offsets: Vec<u64>| offsets.into_iter().map(|offset| (whole.clone(), offset)).collect();
                (of(parameters), of(between))
            }
            _ => {
                // Gradients at other offsets by 4.
                let second = buffer(at + 6);
                let gradients = parameters.iter().map(|offset| (second.clone(), offset + 4)).collect();
                (parameters.into_iter().map(|offset| (whole.clone(), offset)).collect(), gradients)
            }
        }
    }

    fn set_options(&mut self, id: ParameterId, k: usize, shape: [usize; 2]) -> Result<()> {
        let mut options = Options { shape: self.features.shapes.then_some(shape), ..Options::default() };
        if self.features.options {
            match k % 5 {
                1 => options.lr_scale = 0.5,
                2 => options.weight_decay = false,
                3 => options.frozen = true,
                _ => {}
            }
        }
        self.optimizer.set_options(id, options)
    }

    /// Changes that a step finds: of settings, groups, parameters and averages.
    fn change(&mut self, k: usize) -> Result<()> {
        let optimizer = &mut self.optimizer;
        let settings = *optimizer.settings(0)?;
        match k {
            3 => optimizer.set_settings(0, Settings { clip_value: Some(0.5), ..settings })?,
            4 => optimizer.set_settings(1, Settings { weight_decay: WeightDecay::L2(0.1), ..settings })?,
            5 => optimizer.remove(self.tensors.remove(2).id)?,
            6 => self.add_late()?,
            7 => optimizer.rename(self.tensors[0].id, "renamed")?,
            8 => optimizer.set_lr(0, 0.03)?,
            9 => optimizer.move_to_group(self.tensors[3].id, 1)?,
            10 => optimizer.set_clip_norm(ClipNorm::torch(1.0))?,
            11 => optimizer.set_options(self.tensors[1].id, Options { lr_scale: 0.5, ..Options::default() })?,
            12 => optimizer.set_options(self.tensors[4].id, Options { frozen: true, ..Options::default() })?,
            13 => optimizer.set_non_finite(NonFinite::Zero),
            14 => optimizer.set_averaging(0, Averaging::Ema(0.9))?,
            15 => optimizer.set_steps(self.tensors[0].id, 3)?,
            16 => optimizer.set_clip_norm(None)?,
            17 => optimizer.set_settings(0, Settings { clip_norm: Some(ClipNorm::optax(0.3)), ..settings })?,
            18 => optimizer.set_settings(0, Settings { zero_grad: true, clip_value: None, ..settings })?,
            19 => optimizer.set_averaging(0, Averaging::Swa { from: 1, every: 2 })?,
            _ => {}
        }
        Ok(())
    }

    fn add_late(&mut self) -> Result<()> {
        let (len, seed) = (70, 50);
        let values: Vec<_> = values(0, seed, len).collect();
        let (id, gradient) = match self.gpu.clone() {
            Some(gpu) if self.features.place != Place::Arena => {
                let (parameters, gradients) = self.places(&gpu, Place::Buffers, &[len]);
                gpu.queue().write_buffer(&parameters[0].0, 0, bytemuck::cast_slice(&values));
                let id = self.optimizer.add_buffer(0, "late", BufferRange::whole(&parameters[0].0))?;
                (id, Some(gradients[0].clone()))
            }
            _ => {
                let values: Vec<_> = values.into_iter().map(F::of_f32).collect();
                (self.optimizer.add(0, "late", &values)?, None)
            }
        };
        self.tensors.push(Tensor { id, seed, len, own: Vec::new(), gradient });
        Ok(())
    }

    /// The gradient of micro-batch `batch` of step `k`.
    fn gradient(&self, k: usize, batch: usize, tensor: &Tensor<F>) -> Vec<f32> {
        let stream = 16 + 4 * k + batch;
        let mut gradient: Vec<_> = values(stream, tensor.seed, tensor.len).map(|g| self.features.scale * g).collect();
        // The first or the last tensor of many elements.
        if let Some(bad) = (self.features.bad)(k).filter(|_| tensor.seed == 5 - 2 * (k % 2) && batch == 0) {
            gradient[tensor.len / 2] = bad;
        }
        gradient
    }

    /// Step k, or those that are recorded with it; returns how many.
    fn steps(&mut self, k: usize) -> Result<usize> {
        if self.features.place == Place::Slices {
            return self.step_slices(k).map(|()| 1);
        }
        if self.features.look_ahead {
            self.optimizer.look_ahead()?;
        }
        match self.features.input {
            Input::Write => self.write(k)?,
            _ => self.accumulate(k)?,
        }
        let encoded = self.features.encoded;
        if encoded == 0 {
            return self.optimizer.step().map(|()| 1);
        }
        let mut encoder = self.gpu.as_ref().map(|gpu| gpu.device().create_command_encoder(&Default::default()));
        for at in 0..encoded {
            self.optimizer.set_lr(0, 0.01 / (1 + at) as f64)?;
            self.optimizer.wait_for_room()?;
            match &mut encoder {
                Some(encoder) => self.optimizer.encode(encoder)?,
                None => self.optimizer.step()?,
            }
        }
        if let (Some(gpu), Some(encoder)) = (&self.gpu, encoder) {
            gpu.queue().submit([encoder.finish()]);
        }
        Ok(encoded)
    }

    fn is_missing(&self, k: usize, tensor: &Tensor<F>) -> bool {
        // Not in the last step behind a look-ahead: nothing is saved at a look-ahead point.
        let last = self.features.look_ahead && k + 1 == STEPS;
        self.features.missing && !last && (tensor.seed + k) % 4 == 1
    }

    fn write(&mut self, k: usize) -> Result<()> {
        for at in 0..self.tensors.len() {
            let tensor = &self.tensors[at];
            if self.is_missing(k, tensor) {
                self.optimizer.set_gradient(tensor.id, Gradient::Missing)?;
                continue;
            }
            let gradient = self.gradient(k, 0, tensor);
            match (&tensor.gradient, &self.gpu) {
                (Some((buffer, offset)), Some(gpu)) => {
                    let range = BufferRange::new(buffer, *offset, tensor.len);
                    self.optimizer.set_gradient(tensor.id, Gradient::Buffer(range))?;
                    gpu.queue().write_buffer(buffer, *offset, bytemuck::cast_slice(&gradient));
                }
                _ => {
                    let gradient: Vec<_> = gradient.into_iter().map(F::of_f32).collect();
                    self.optimizer.write_gradient(tensor.id, &gradient)?;
                }
            }
        }
        Ok(())
    }

    /// One to three micro-batches, of which some tensors have one less.
    fn accumulate(&mut self, k: usize) -> Result<()> {
        for batch in 0..1 + k % 3 {
            let ours: Vec<_> = (0..self.tensors.len()).filter(|at| batch != 1 || at % 3 > 0).collect();
            let mut ranges = Vec::new();
            for at in ours {
                let tensor = &self.tensors[at];
                let gradient = self.gradient(k, batch, tensor);
                match &self.gpu {
                    Some(gpu) if self.features.input == Input::AccumulateBuffers => {
                        let contents = bytemuck::cast_slice(&gradient);
                        let buffer = wgpu::util::BufferInitDescriptor { label: None, contents, usage: USAGE };
                        let buffer = gpu.device().create_buffer_init(&buffer);
                        ranges.push((tensor.id, BufferRange::whole(&buffer)));
                    }
                    _ => {
                        let gradient: Vec<_> = gradient.into_iter().map(F::of_f32).collect();
                        self.optimizer.accumulate(tensor.id, &gradient)?;
                    }
                }
            }
            if let Some(gpu) = self.gpu.as_ref().filter(|_| !ranges.is_empty()) {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                self.optimizer.wait_for_room()?;
                self.optimizer.encode_accumulate(&mut encoder, &ranges)?;
                gpu.queue().submit([encoder.finish()]);
            }
        }
        Ok(())
    }

    fn step_slices(&mut self, k: usize) -> Result<()> {
        let gradients: Vec<Option<Vec<F>>> = self
            .tensors
            .iter()
            .map(|tensor| {
                let gradient = || self.gradient(k, 0, tensor).into_iter().map(F::of_f32).collect();
                (!self.is_missing(k, tensor)).then(gradient)
            })
            .collect();
        let slices = self.tensors.iter_mut().zip(&gradients).map(|(tensor, gradient)| Slices {
            id: tensor.id,
            parameter: &mut tensor.own,
            gradient: gradient.as_deref(),
        });
        let mut slices: Vec<_> = slices.collect();
        if self.features.look_ahead {
            self.optimizer.look_ahead_slices(&mut slices)?;
        }
        self.optimizer.step_slices(&mut slices)
    }

    /// All that there is: what a checkpoint holds, gradients, counts, reports, the caller's memory, and the averages in
    /// the parameters' place.
    fn finish(&mut self) -> Result<Vec<Section>> {
        self.optimizer.settle_blocking()?;
        let report = self.optimizer.read_report_blocking()?;
        self.reports.extend(numbers(&report));
        let mut sections = vec![("reports".into(), std::mem::take(&mut self.reports))];
        let mut counts = Vec::new();
        for tensor in &self.tensors {
            counts.push(self.optimizer.steps(tensor.id)? as f64);
        }
        for group in 0..self.groups() {
            counts.extend([self.optimizer.schedule_step(group)? as f64, self.optimizer.lr(group)?]);
        }
        sections.push(("counts".into(), counts));
        let mut file = Vec::new();
        let options = SaveOptions::default();
        pollster::block_on(self.optimizer.save_to(&mut file, options))?;
        sections.extend(tensors(&file));
        for tensor in &self.tensors {
            // A parameter whose gradient is missing may have none.
            if let Ok(gradient) = self.optimizer.read_gradient_blocking::<F>(tensor.id) {
                sections.push((format!("gradient {}", tensor.seed), gradient.into_iter().map(F::wide).collect()));
            }
            if self.features.place == Place::Slices {
                sections.push((format!("slice {}", tensor.seed), tensor.own.iter().map(|x| x.wide()).collect()));
            }
        }
        if let Some(gpu) = &self.gpu {
            for (k, buffer) in self.buffers.iter().enumerate() {
                sections.push((format!("buffer {k}"), content(gpu, buffer)));
            }
        }
        if self.features.averaging.is_some() && self.features.place != Place::Slices {
            for swap in ["swapped", "back"] {
                (0..self.groups()).try_for_each(|group| self.optimizer.swap_averages(group))?;
                for tensor in &self.tensors {
                    let values = self.optimizer.read_blocking::<F>(tensor.id)?;
                    sections.push((format!("{swap} {}", tensor.seed), values.into_iter().map(F::wide).collect()));
                }
            }
        }
        Ok(sections)
    }
}

fn values(stream: usize, tensor: usize, len: usize) -> impl Iterator<Item = f32> {
    (0..len).map(move |at| number(stream, tensor, at))
}

/// The tensors of a checkpoint, by name. Whatever format a number is stored in, it is exact in f64.
fn tensors(file: &[u8]) -> Vec<Section> {
    use safetensors::{Dtype, SafeTensors};
    let file = SafeTensors::deserialize(file).expect("save_to writes safetensors");
    let numbers = |view: safetensors::tensor::TensorView<'_>| match view.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect(),
        Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(view.data()),
        _ => view.data().iter().map(|&byte| byte.into()).collect(),
    };
    let mut tensors: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, numbers(view))).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn content(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f64> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
    let mapped = staging.get_mapped_range(..).expect("it is mapped");
    bytemuck::pod_collect_to_vec::<u8, f32>(&mapped).into_iter().map(f64::from).collect()
}
