//! The network on the device: our own buffers, kernels and encoder, the optimizer's step recorded into it.

use wgpu::util::DeviceExt;
use wgpu_optim::{Error, Gpu, Optimizer};

use crate::cpu::How;
use crate::data::{CLASSES, PIXELS, Samples};
use crate::{HIDDEN, SHAPES, Weights};

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
    forward: Vec<Pass>,
    backward: Vec<Pass>,
    finish: Pass,
    len: usize,
}

pub(crate) struct Network {
    gpu: Gpu,
    pub(crate) optimizer: Optimizer,
    train: Set,
    tests: Vec<Set>,
    batch: usize,
}

/// The words of `progress` in network.wgsl.
const PROGRESS: usize = 4;

impl Network {
    pub(crate) fn new(
        gpu: &Gpu,
        mut optimizer: Optimizer,
        weights: &Weights,
        (train, tests): (&Samples, &[&Samples]),
        (batch, how): (usize, How),
    ) -> Result<Self, Error> {
        let tensors: Vec<_> =
            SHAPES.iter().zip(weights).map(|(&(name, _), values)| (name, values.as_slice())).collect();
        optimizer.add_all(0, &tensors)?;
        let set = |samples, how| Set::new(gpu, &optimizer, samples, batch, how);
        let whole = How { dropout: 0.0, ..how };
        let tests = tests.iter().map(|samples| set(samples, whole)).collect::<Result<_, _>>()?;
        let train = set(train, how)?;
        Ok(Self { gpu: gpu.clone(), optimizer, train, tests, batch })
    }

    /// Starts an epoch over the training samples in this order.
    pub(crate) fn start(&self, epoch: u32, order: &[u32]) {
        self.gpu.queue().write_buffer(&self.train.order, 0, bytemuck::cast_slice(order));
        self.gpu.queue().write_buffer(&self.train.progress, 0, bytemuck::cast_slice(&[0, 0, 0, epoch]));
    }

    /// Forward, backward and the optimizer's step of the next batch: one encoder, one submission, nothing read back.
    pub(crate) fn train(&mut self) -> Result<(), Error> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.train.encode(&mut encoder, true);
        self.optimizer.wait_for_room()?; // waits only where the GPU is 128 steps behind
        self.optimizer.encode(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// The gradients of the next batch, for the check.
    pub(crate) fn gradients(&mut self) -> Result<Vec<Vec<f32>>, Error> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.train.encode(&mut encoder, true);
        self.gpu.queue().submit([encoder.finish()]);
        SHAPES.iter().map(|&(name, _)| self.optimizer.read_gradient_blocking(name)).collect()
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
            test.encode(&mut encoder, false);
            self.gpu.queue().submit([encoder.finish()]);
        }
        Ok(read::<u32>(&self.gpu, &test.progress, PROGRESS)?[2] as usize)
    }
}

impl Set {
    fn new(gpu: &Gpu, optimizer: &Optimizer, samples: &Samples, batch: usize, how: How) -> Result<Self, Error> {
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
        let sizes = filled(bytemuck::cast_slice(&[batch as u32, len as u32]), wgpu::BufferUsages::UNIFORM);
        let (progress, losses) = (storage(PROGRESS), storage(len.div_ceil(batch)));
        let (hidden, d_hidden) = (storage(batch * HIDDEN), storage(batch * HIDDEN));
        let (d_logits, outcome) = (storage(batch * CLASSES), storage(batch * 2));
        let mut resources = Vec::new();
        let buffers = [&sizes, &progress, &images, &labels, &order];
        resources.extend(buffers.map(wgpu::Buffer::as_entire_binding));
        for (name, _) in SHAPES {
            resources.push(optimizer.parameter(name)?.binding());
        }
        resources.extend([&hidden, &d_hidden, &d_logits, &outcome, &losses].map(wgpu::Buffer::as_entire_binding));
        for (name, _) in SHAPES {
            resources.push(optimizer.gradient(name)?.binding());
        }
        let module = device.create_shader_module(wgpu::include_wgsl!("network.wgsl"));
        let constants = [("HINGE", f64::from(u8::from(how.hinge))), ("DROPOUT", how.dropout.into())];
        let pass = |entry, bound: &[u32], workgroups| {
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry),
                layout: None,
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() },
                cache: None,
            });
            let entry =
                |&binding: &u32| wgpu::BindGroupEntry { binding, resource: resources[binding as usize].clone() };
            let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &bound.iter().map(entry).collect::<Vec<_>>(),
            });
            Pass { pipeline, bindings, workgroups }
        };
        let n = batch as u32;
        let output_rows = ((HIDDEN + 1) * CLASSES).div_ceil(64) as u32;
        let forward = vec![
            pass("forward_hidden", &[0, 1, 2, 4, 5, 6, 9], (1, n)),
            pass("forward_loss", &[0, 1, 3, 4, 7, 8, 9, 11, 12], (n.div_ceil(64), 1)),
        ];
        let backward = vec![
            pass("backward_hidden", &[0, 1, 7, 9, 10, 11], (1, n)),
            pass("gradient_output", &[0, 1, 9, 11, 16, 17], (output_rows, 1)),
            pass("gradient_hidden", &[0, 1, 2, 4, 10, 14, 15], (1, PIXELS as u32 + 1)),
        ];
        let finish = pass("finish", &[0, 1, 12, 13], (1, 1));
        Ok(Self { order, progress, losses, forward, backward, finish, len })
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder, train: bool) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        let backward = if train { self.backward.as_slice() } else { &[] };
        for Pass { pipeline, bindings, workgroups: (x, y) } in self.forward.iter().chain(backward).chain([&self.finish])
        {
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
