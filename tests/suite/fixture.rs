//! Data and devices for the tests.

use std::sync::OnceLock;

use libtest_mimic::Failed;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use wgpu::util::DeviceExt;
use wgpu_optim::{AnyRule, BufferRange, Error, Gpu, Optimizer, Real};

pub(crate) fn random(seed: u64) -> impl Rng {
    Pcg64Mcg::seed_from_u64(seed)
}

/// What src/gpu/wgsl.rs generates before block.wgsl and lane.wgsl, for a kernel whose lanes are one element each.
pub(crate) const ONE_ELEMENT: &str = "
    alias Lane = f32; alias Bits = u32; alias Mask = bool; const TAIL = true; const PADDING = 12; const INDICES = 1u;
    const WITH_SETTINGS = true; const WITH_TWO_FACTORS = false; const WITH_ZERO = false;
    const WITH_CLIP = false; const WITH_NOISE = true; struct Hyper { x: f32 }
    fn of_four(x: vec4<f32>, at: u32) -> Lane { return x[at & 3u]; }";

/// Parameters of ordinary size.
pub(crate) fn parameters(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = random(seed);
    (0..len).map(|_| rng.random_range(-2.0..2.0)).collect()
}

/// Gradients of 1e-6 … 1e3 and either sign; each seventh 0; now and then ±1e30 or 1e-30.
pub(crate) fn gradients(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = random(seed ^ 0x9e37_79b9);
    let gradient = |i: usize| {
        let sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
        sign * match i % 7919 {
            5 => 1e30,
            6 => 1e-30,
            i if i % 7 == 3 => 0.0,
            _ => 10f32.powf(rng.random_range(-6.0..3.0)),
        }
    };
    (0..len).map(gradient).collect()
}

/// Gradients for this rule: a norm would be nothing but its extremes.
pub(crate) fn gradients_for(rule: &AnyRule, len: usize, seed: u64) -> Vec<f32> {
    let most = if rule.reduce().is_some() { 1e3 } else { f32::MAX };
    gradients(len, seed).iter().map(|g| g.clamp(-most, most)).collect()
}

/// What there is, looked for once: NVIDIA's driver hangs or crashes where many threads look, with EGL beside Vulkan
/// (gfx-rs/wgpu#5930).
pub(crate) static ADAPTERS: OnceLock<Vec<wgpu::Adapter>> = OnceLock::new();

/// A device with these limits on the same adapter as `gpu`.
pub(crate) fn device_like(gpu: &Gpu, limit: impl Fn(&mut wgpu::Limits)) -> Result<Gpu, Failed> {
    let like = gpu.device().adapter_info();
    let adapters = ADAPTERS.get().into_iter().flatten();
    let same = |adapter: &wgpu::Adapter| {
        let info = adapter.get_info();
        (info.name, info.backend) == (like.name.clone(), like.backend)
    };
    let adapter = adapters.into_iter().find(|adapter| same(adapter)).ok_or("the adapter is gone")?;
    let mut limits = wgpu::Limits::default().using_resolution(adapter.limits());
    limit(&mut limits);
    Ok(pollster::block_on(Gpu::with_limits(adapter, wgpu::Features::empty(), limits))?)
}

/// The same device as a caller would hand it over: none of our callbacks on it.
pub(crate) fn as_callers(gpu: &Gpu) -> Gpu {
    Gpu::from_wgpu(gpu.device().clone(), gpu.queue().clone())
}

/// A compute pipeline of a test's own.
pub(crate) fn pipeline(gpu: &Gpu, wgsl: &str) -> wgpu::ComputePipeline {
    let source = wgpu::ShaderSource::Wgsl(wgsl.into());
    let module = gpu.device().create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    gpu.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}

/// wgpu objects on the device: buffers, bind groups, layouts of both kinds, pipelines, shaders.
pub(crate) fn objects(gpu: &Gpu) -> [isize; 6] {
    let hal = gpu.device().get_internal_counters().hal;
    let counters = [
        &hal.buffers,
        &hal.bind_groups,
        &hal.bind_group_layouts,
        &hal.pipeline_layouts,
        &hal.compute_pipelines,
        &hal.shader_modules,
    ];
    counters.map(|counter| counter.read())
}

pub(crate) const FOREIGN: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// A buffer of the caller's with this content.
pub(crate) fn buffer(gpu: &Gpu, content: &[f32], usage: wgpu::BufferUsages) -> wgpu::Buffer {
    gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("caller's"),
        contents: bytemuck::cast_slice(content),
        usage,
    })
}

/// A buffer's whole content, by our own means as a user would have them.
pub(crate) fn content(gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<Vec<f32>, Failed> {
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
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    Ok(bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?))
}

/// Everything that the optimizer keeps for its parameters: values, states and step counts.
pub(crate) fn everything<F: Real>(optimizer: &Optimizer) -> Result<Vec<(String, Vec<F>)>, Failed> {
    let rule = optimizer.rule(0)?;
    let states: Vec<_> = rule.states().into_iter().collect();
    let mut all = Vec::new();
    for (id, name) in optimizer.parameters() {
        all.push((name.to_owned(), optimizer.read_blocking(id)?));
        all.push((format!("{name}.steps"), vec![F::of(optimizer.steps(id)? as f64)]));
        for state in &states {
            all.push((format!("{name}.{state}"), optimizer.read_state_blocking(id, state)?));
        }
    }
    Ok(all)
}

/// A range in the middle of a buffer full of a pattern, at an offset that every device binds.
pub(crate) fn surrounded(gpu: &Gpu, values: &[f32], usage: wgpu::BufferUsages) -> BufferRange {
    let mut padded = vec![PATTERN; 64];
    padded.extend(values);
    padded.extend([PATTERN; 61]);
    BufferRange::new(&buffer(gpu, &padded, usage), 256, values.len())
}

pub(crate) const PATTERN: f32 = 1234.5;

/// The values of a [`surrounded`] range, whose surroundings must be as they were.
pub(crate) fn intact(gpu: &Gpu, range: &BufferRange) -> Result<Vec<f32>, Failed> {
    let all = content(gpu, &range.buffer)?;
    let (start, end) = (range.offset as usize / 4, range.end() as usize / 4);
    match all[..start].iter().chain(&all[end..]).position(|x| *x != PATTERN) {
        None => Ok(all[start..end].to_vec()),
        Some(at) => Err(format!("element {at} outside of the range has changed").into()),
    }
}

/// A kernel of the caller's, with what it binds.
pub(crate) struct Kernel {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    workgroups: u32,
}

impl Kernel {
    pub(crate) fn new(gpu: &Gpu, text: &str, ranges: &[&BufferRange]) -> Self {
        Self::of(gpu, text, ranges, 1)
    }

    pub(crate) fn of(gpu: &Gpu, text: &str, ranges: &[&BufferRange], workgroups: u32) -> Self {
        let pipeline = pipeline(gpu, text);
        let mut entries = Vec::new();
        for (binding, range) in (0..).zip(ranges) {
            entries.push(wgpu::BindGroupEntry { binding, resource: range.binding() });
        }
        let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, group, workgroups }
    }

    pub(crate) fn record(&self, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
        Ok(())
    }
}
