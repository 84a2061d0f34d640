//! The network on the device: our own buffers, kernels and encoder, the optimizer's step recorded into it.

use std::collections::BTreeMap;

use wgpu::util::DeviceExt;
use wgpu_optim::{BufferRange, Error, Gpu, Optimizer};

use crate::data::{PIXELS, Samples};
use crate::shape::{Shape, Weights};

/// What one pass over a batch dispatches.
struct Pass {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    workgroups: (u32, u32),
}

/// Samples on the device, and the passes that read them.
struct Set {
    order: wgpu::Buffer,
    progress: wgpu::Buffer,
    losses: wgpu::Buffer,
    /// What a batch runs, in order.
    passes: Vec<Pass>,
    len: usize,
}

pub(crate) struct Network {
    gpu: Gpu,
    pub(crate) optimizer: Optimizer,
    train: Set,
    tests: Vec<Set>,
    batch: usize,
    /// What has a gradient.
    names: Vec<String>,
}

/// The words of `progress` in network.wgsl.
const PROGRESS: usize = 4;

impl Network {
    pub(crate) fn new(
        gpu: &Gpu,
        mut optimizer: Optimizer,
        weights: &Weights,
        (train, tests): (&Samples, &[&Samples]),
        (batch, shape): (usize, &Shape),
    ) -> Result<Self, Error> {
        shape.add(&mut optimizer, weights)?;
        let set = |samples, trained| Set::new(gpu, &optimizer, samples, batch, (shape, trained));
        let tests = tests.iter().map(|samples| set(samples, false)).collect::<Result<_, _>>()?;
        let train = set(train, true)?;
        let names = shape.tensors().into_iter().filter(|tensor| tensor.learnt).map(|tensor| tensor.name).collect();
        Ok(Self { gpu: gpu.clone(), optimizer, train, tests, batch, names })
    }

    /// Starts an epoch over the training samples in this order.
    pub(crate) fn start(&self, epoch: u32, order: &[u32]) {
        self.gpu.queue().write_buffer(&self.train.order, 0, bytemuck::cast_slice(order));
        self.gpu.queue().write_buffer(&self.train.progress, 0, bytemuck::cast_slice(&[0, 0, 0, epoch]));
    }

    /// Forward, backward and the optimizer's step of the next batch: one encoder, one submission, nothing read back.
    pub(crate) fn train(&mut self) -> Result<(), Error> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.train.encode(&mut encoder);
        self.optimizer.wait_for_room()?; // waits only where the GPU is 128 steps behind
        self.optimizer.encode(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// The gradients of the next batch, for the check.
    pub(crate) fn gradients(&mut self) -> Result<Vec<Vec<f32>>, Error> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.train.encode(&mut encoder);
        self.gpu.queue().submit([encoder.finish()]);
        self.names.iter().map(|name| self.optimizer.read_gradient_blocking(name.as_str())).collect()
    }

    /// The losses of the epoch's batches so far.
    pub(crate) fn losses(&self, batches: usize) -> Result<Vec<f32>, Error> {
        read(&self.gpu, &self.train.losses, batches)
    }

    /// How many samples of the k-th test set the network gets right.
    pub(crate) fn hits(&self, k: usize) -> Result<usize, Error> {
        let test = &self.tests[k];
        self.gpu.queue().write_buffer(&test.progress, 0, &[0; 4 * PROGRESS]);
        for _ in 0..test.len.div_ceil(self.batch) {
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            test.encode(&mut encoder);
            self.gpu.queue().submit([encoder.finish()]);
        }
        Ok(read::<u32>(&self.gpu, &test.progress, PROGRESS)?[2] as usize)
    }
}

/// The numbers of network.wgsl's bindings.
mod at {
    pub(super) const LAYER: u32 = 0;
    pub(super) const PROGRESS: u32 = 1;
    pub(super) const IMAGES: u32 = 2;
    pub(super) const LABELS: u32 = 3;
    pub(super) const ORDER: u32 = 4;
    pub(super) const INPUT: u32 = 5;
    pub(super) const W: u32 = 6;
    pub(super) const B: u32 = 7;
    pub(super) const SCALE: u32 = 8;
    pub(super) const Z: u32 = 9;
    pub(super) const MEAN: u32 = 10;
    pub(super) const VARIANCE: u32 = 11;
    pub(super) const RUNNING_MEAN: u32 = 12;
    pub(super) const RUNNING_VARIANCE: u32 = 13;
    pub(super) const OUTPUT: u32 = 14;
    pub(super) const D: u32 = 15;
    pub(super) const D_INPUT: u32 = 16;
    pub(super) const G_W: u32 = 17;
    pub(super) const G_B: u32 = 18;
    pub(super) const G_SCALE: u32 = 19;
    pub(super) const OUTCOME: u32 = 20;
    pub(super) const LOSSES: u32 = 21;
}

impl Set {
    /// Of samples that the network is `trained` on, or tested.
    fn new(
        gpu: &Gpu,
        optimizer: &Optimizer,
        samples: &Samples,
        batch: usize,
        (shape, trained): (&Shape, bool),
    ) -> Result<Self, Error> {
        let device = gpu.device();
        let filled = |content: &[u8], usage| {
            let usage = usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: content, usage })
        };
        let storage = |words: usize| filled(&vec![0; 4 * words], wgpu::BufferUsages::STORAGE);
        let words = |content: Vec<u32>| filled(bytemuck::cast_slice(&content), wgpu::BufferUsages::STORAGE);
        let len = samples.len();
        let images = filled(&samples.images, wgpu::BufferUsages::STORAGE);
        let labels = words(samples.labels.iter().map(|&label| label.into()).collect());
        let order = words((0..len as u32).collect());
        let (progress, losses, outcome) = (storage(PROGRESS), storage(len.div_ceil(batch)), storage(batch * 2));
        let module = device.create_shader_module(wgpu::include_wgsl!("network.wgsl"));
        let dropout = if trained { shape.dropout } else { 0.0 };
        let constants = [("HINGE", f64::from(u8::from(shape.hinge))), ("DROPOUT", dropout.into())];
        let mut pipelines = BTreeMap::new();
        let mut pass = |entry, bound: &[u32], workgroups, resources: &BTreeMap<u32, wgpu::BindingResource<'_>>| {
            let create = || {
                device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(entry),
                    layout: None,
                    module: &module,
                    entry_point: Some(entry),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        constants: &constants,
                        ..Default::default()
                    },
                    cache: None,
                })
            };
            let pipeline: wgpu::ComputePipeline = pipelines.entry(entry).or_insert_with(create).clone();
            let entry = |&binding: &u32| wgpu::BindGroupEntry { binding, resource: resources[&binding].clone() };
            let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &bound.iter().map(entry).collect::<Vec<_>>(),
            });
            Pass { pipeline, bindings, workgroups }
        };
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        let n = batch as u32;
        let layers = shape.layers();
        let (mut input, mut d_input) = (storage(batch * PIXELS), storage(1));
        let mut finish = None;
        for (l, &(inputs, outputs)) in layers.iter().enumerate() {
            let (last, normalizes) = (l + 1 == layers.len(), shape.normalizes(l));
            let bias = u32::from(!normalizes);
            let content = [n, len as u32, inputs as u32, outputs as u32, l as u32, bias];
            let layer = filled(bytemuck::cast_slice(&content), wgpu::BufferUsages::UNIFORM);
            let [z, output, d] = [(); 3].map(|()| storage(batch * outputs));
            let [mean, variance] = [(); 2].map(|()| storage(outputs));
            let (name, first) = (|kind: &str| format!("{kind}{}", l + 1), l == 0);
            let range = |kind: &str| optimizer.parameter(name(kind).as_str()).map(BufferRange::binding);
            let gradient = |kind: &str| optimizer.gradient(name(kind).as_str()).map(BufferRange::binding);
            let whole = wgpu::Buffer::as_entire_binding;
            let mut of: BTreeMap<_, _> = [
                (at::LAYER, whole(&layer)),
                (at::PROGRESS, whole(&progress)),
                (at::IMAGES, whole(&images)),
                (at::LABELS, whole(&labels)),
                (at::ORDER, whole(&order)),
                (at::INPUT, whole(&input)),
                (at::W, range("w")?),
                (at::B, range("b")?),
                (at::Z, whole(&z)),
                (at::OUTPUT, whole(&output)),
                (at::D, whole(&d)),
                (at::D_INPUT, whole(&d_input)),
                (at::G_W, gradient("w")?),
                (at::G_B, gradient("b")?),
                (at::OUTCOME, whole(&outcome)),
                (at::LOSSES, whole(&losses)),
            ]
            .into();
            if normalizes {
                // What a test normalizes by is what training has left.
                let (batch_mean, batch_variance) = match trained {
                    true => (whole(&mean), whole(&variance)),
                    false => (range("mean")?, range("variance")?),
                };
                of.extend([
                    (at::SCALE, range("scale")?),
                    (at::MEAN, batch_mean),
                    (at::VARIANCE, batch_variance),
                    (at::RUNNING_MEAN, range("mean")?),
                    (at::RUNNING_VARIANCE, range("variance")?),
                    (at::G_SCALE, gradient("scale")?),
                ]);
            }
            use at::*;
            let groups = |units: usize| units.div_ceil(64) as u32;
            let (wide, one) = ((groups(outputs), n), (groups(outputs), 1));
            if first {
                forward.push(pass("unpack", &[LAYER, PROGRESS, IMAGES, ORDER, INPUT], (groups(PIXELS), n), &of));
            }
            forward.push(pass("dense", &[LAYER, PROGRESS, INPUT, W, B, Z], wide, &of));
            let mut back = Vec::new();
            if normalizes {
                if trained {
                    let bound = [LAYER, PROGRESS, Z, MEAN, VARIANCE, RUNNING_MEAN, RUNNING_VARIANCE];
                    forward.push(pass("statistics", &bound, one, &of));
                }
                let bound = [LAYER, PROGRESS, ORDER, B, SCALE, Z, MEAN, VARIANCE, OUTPUT];
                forward.push(pass("normalize", &bound, wide, &of));
                let bound = [LAYER, PROGRESS, SCALE, Z, VARIANCE, D, G_B, G_SCALE];
                back.push(pass("normalize_back", &bound, one, &of));
            } else if last {
                let bound = [LAYER, PROGRESS, LABELS, ORDER, Z, D, OUTCOME];
                forward.push(pass("loss", &bound, (n.div_ceil(64), 1), &of));
            } else {
                forward.push(pass("activate", &[LAYER, PROGRESS, ORDER, Z, OUTPUT], wide, &of));
            }
            let rows = (groups(outputs), inputs as u32 + bias);
            back.push(pass("gradient", &[LAYER, PROGRESS, INPUT, D, G_W, G_B], rows, &of));
            if !first {
                back.push(pass("back", &[LAYER, PROGRESS, INPUT, W, D, D_INPUT], (groups(inputs), n), &of));
            }
            backward.splice(0..0, back);
            if last {
                finish = Some(pass("finish", &[LAYER, PROGRESS, OUTCOME, LOSSES], (1, 1), &of));
            }
            (input, d_input) = (output, d);
        }
        let mut passes = forward;
        passes.extend(if trained { backward } else { Vec::new() });
        passes.extend(finish);
        Ok(Self { order, progress, losses, passes, len })
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for Pass { pipeline, bindings, workgroups: (x, y) } in &self.passes {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bindings, &[]);
            pass.dispatch_workgroups(*x, *y, 1);
        }
    }
}

fn read<T: bytemuck::Pod>(gpu: &Gpu, buffer: &wgpu::Buffer, len: usize) -> Result<Vec<T>, Error> {
    let failed = |reason: String| Error::ReadBack { name: "progress".into(), reason };
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4 * len as u64,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, staging.size());
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).map_err(|e| failed(e.to_string()))?;
    let view = staging.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
    Ok(bytemuck::pod_collect_to_vec(&view))
}
