//! What people use instead of our Adam: the kernel that they write by hand, and one kernel for each operation.

use std::ops::Range;

use wgpu::util::DeviceExt;
use wgpu_optim::{Error, Gpu};

use super::clock::checked;

/// A compute pipeline of plain wgpu, its layout taken from the text.
pub(crate) struct Kernel {
    gpu: Gpu,
    pipeline: wgpu::ComputePipeline,
}

/// A buffer of `len` f32.
pub(crate) fn storage(gpu: &Gpu, len: usize) -> wgpu::Buffer {
    // Of ordinary numbers: zeros would be subnormal after some steps, and slow.
    gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("benchmark"),
        contents: bytemuck::cast_slice(&vec![0.5f32; len]),
        usage: wgpu::BufferUsages::STORAGE,
    })
}

impl Kernel {
    pub(crate) fn new(gpu: &Gpu, text: &str) -> Self {
        let device = gpu.device();
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("benchmark"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        Self { gpu: gpu.clone(), pipeline }
    }

    /// These elements of each buffer.
    pub(crate) fn bind(&self, buffers: &[&wgpu::Buffer], elements: Range<u64>) -> wgpu::BindGroup {
        let (offset, size) = (4 * elements.start, wgpu::BufferSize::new(4 * (elements.end - elements.start)));
        let ranges = buffers.iter().map(|buffer| wgpu::BufferBinding { buffer, offset, size });
        let resources: Vec<_> = ranges.map(wgpu::BindingResource::Buffer).collect();
        self.bind_resources(&resources)
    }

    fn bind_resources(&self, resources: &[wgpu::BindingResource<'_>]) -> wgpu::BindGroup {
        let entries: Vec<_> = (0..)
            .zip(resources)
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
            .collect();
        let layout = &self.pipeline.get_bind_group_layout(0);
        self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    }

    pub(crate) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, group: &wgpu::BindGroup, workgroups: u32) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(workgroups, 1, 1);
    }
}

/// Threads of a workgroup, each with one f32.
const THREADS: u64 = 256;

/// A tensor in parts, each small enough for one dispatch.
fn parts(gpu: &Gpu, len: usize) -> Vec<Range<u64>> {
    let limits = gpu.device().limits();
    let most = u64::from(limits.max_compute_workgroups_per_dimension) * THREADS;
    let window = (limits.max_storage_buffer_binding_size / 4 / 64 * 64).min(most / 64 * 64);
    (0..len as u64).step_by(window as usize).map(|start| start..(len as u64).min(start + window)).collect()
}

/// A tensor with its own buffers for parameter, gradient and both moments.
struct Tensor {
    buffers: [wgpu::Buffer; 4],
    parts: Vec<Range<u64>>,
}

fn tensors(gpu: &Gpu, lens: &[usize]) -> Vec<Tensor> {
    let of = |&len: &usize| Tensor { buffers: [(); 4].map(|()| storage(gpu, len)), parts: parts(gpu, len) };
    lens.iter().map(of).collect()
}

/// As in tutorials and repositories: one f32 for each thread, `pow` in the shader, a new uniform buffer and a
/// submission for each tensor.
const BY_HAND: &str = "
struct Uniforms { lr: f32, beta1: f32, beta2: f32, eps: f32, t: f32 }
@group(0) @binding(0) var<uniform> u: Uniforms;
@group(0) @binding(1) var<storage, read_write> param: array<f32>;
@group(0) @binding(2) var<storage, read> grad: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i >= arrayLength(&param) { return; }
    let g = grad[i];
    m[i] = u.beta1 * m[i] + (1.0 - u.beta1) * g;
    v[i] = u.beta2 * v[i] + (1.0 - u.beta2) * g * g;
    let m_hat = m[i] / (1.0 - pow(u.beta1, u.t));
    let v_hat = v[i] / (1.0 - pow(u.beta2, u.t));
    param[i] -= u.lr * m_hat / (sqrt(v_hat) + u.eps);
}";

pub(crate) struct ByHand {
    gpu: Gpu,
    kernel: Kernel,
    tensors: Vec<Tensor>,
    t: f32,
}

impl ByHand {
    pub(crate) fn new(gpu: &Gpu, lens: &[usize]) -> Result<Self, Error> {
        let (kernel, tensors) = checked(gpu, || (Kernel::new(gpu, BY_HAND), tensors(gpu, lens)))?;
        Ok(Self { gpu: gpu.clone(), kernel, tensors, t: 0.0 })
    }

    pub(crate) fn step(&mut self) -> Result<(), Error> {
        self.t += 1.0;
        let device = self.gpu.device();
        for Tensor { buffers, parts } in &self.tensors {
            let uniforms = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(&[1e-3f32, 0.9, 0.999, 1e-8, self.t, 0.0, 0.0, 0.0]),
                usage: wgpu::BufferUsages::UNIFORM,
            });
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for part in parts {
                let (offset, size) = (4 * part.start, wgpu::BufferSize::new(4 * (part.end - part.start)));
                let mut resources = vec![uniforms.as_entire_binding()];
                resources.extend(
                    buffers
                        .iter()
                        .map(|buffer| wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })),
                );
                let group = self.kernel.bind_resources(&resources);
                self.kernel.dispatch(&mut pass, &group, (part.end - part.start).div_ceil(THREADS) as u32);
            }
            drop(pass);
            self.gpu.queue().submit([encoder.finish()]);
        }
        Ok(())
    }
}

/// The operations of unfused Adam: the buffers (0 parameter, 1 gradient, 2 and 3 moments, 4 temporary), and what
/// happens to the first.
const OPERATIONS: [(&[usize], &str); 7] = [
    (&[2, 1], "a[i] += 0.1 * (b[i] - a[i]);"),
    (&[3], "a[i] *= 0.999;"),
    (&[3, 1], "a[i] += 0.001 * b[i] * b[i];"),
    (&[4, 3], "a[i] = sqrt(b[i]);"),
    (&[4], "a[i] /= 0.5;"),
    (&[4], "a[i] += 1e-8;"),
    (&[0, 2, 4], "a[i] -= 0.001 * b[i] / c[i];"),
];

/// Adam with one kernel for each operation, in one pass and one submission, as PyTorch's `foreach=False`.
pub(crate) struct Unfused {
    dispatches: Vec<(usize, wgpu::BindGroup, u32)>,
    kernels: Vec<Kernel>,
}

impl Unfused {
    /// Memory traffic for each parameter.
    pub(crate) fn bytes() -> usize {
        // The fourth operation does not read its first buffer.
        4 * OPERATIONS.iter().map(|(buffers, _)| buffers.len() + 1).sum::<usize>() - 4
    }

    pub(crate) fn new(gpu: &Gpu, lens: &[usize]) -> Result<Self, Error> {
        checked(gpu, || Self::make(gpu, lens))
    }

    fn make(gpu: &Gpu, lens: &[usize]) -> Self {
        let text = |(buffers, operation): &(&[usize], &str)| {
            let declare = |(k, name): (usize, &str)| {
                let access = if k == 0 { "read_write" } else { "read" };
                format!("@group(0) @binding({k}) var<storage, {access}> {name}: array<f32>;\n")
            };
            let declared: String = ["a", "b", "c"].into_iter().take(buffers.len()).enumerate().map(declare).collect();
            format!(
                "{declared}@compute @workgroup_size(256)\nfn main(@builtin(global_invocation_id) id: vec3<u32>) {{\n    \
                 let i = id.x;\n    if i < arrayLength(&a) {{ {operation} }}\n}}\n"
            )
        };
        let kernels: Vec<_> = OPERATIONS.iter().map(|operation| Kernel::new(gpu, &text(operation))).collect();
        let mut dispatches = Vec::new();
        for (tensor, &len) in tensors(gpu, lens).iter().zip(lens) {
            let temporary = storage(gpu, len);
            let all: Vec<_> = tensor.buffers.iter().chain([&temporary]).collect();
            for (k, (buffers, _)) in OPERATIONS.iter().enumerate() {
                let bound: Vec<_> = buffers.iter().map(|&k| all[k]).collect();
                for part in &tensor.parts {
                    let workgroups = (part.end - part.start).div_ceil(THREADS) as u32;
                    dispatches.push((k, kernels[k].bind(&bound, part.clone()), workgroups));
                }
            }
        }
        Self { dispatches, kernels }
    }

    pub(crate) fn record(&self, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for (kernel, group, workgroups) in &self.dispatches {
            self.kernels[*kernel].dispatch(&mut pass, group, *workgroups);
        }
        Ok(())
    }
}
