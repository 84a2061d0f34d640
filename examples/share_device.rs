//! A program with a device, buffers and compute passes of its own that lets wgpu-optim step: the ten lines are marked.
//!
//! It fits a line to 4,096 points on the GPU: `cargo run --release --example share_device`. Needs an adapter; lavapipe
//! is one.

use wgpu::util::DeviceExt;
use wgpu_optim::{BufferRange, ClipNorm, Gpu, Gradient, Optimizer, Schedule, Settings, rules::Adam}; // 1

/// Gradient of the mean squared error of slope and intercept, in one workgroup.
const BACKWARD: &str = "
@group(0) @binding(0) var<storage, read> points: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> line: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradient: array<f32>;
var<workgroup> sums: array<vec2<f32>, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    let n = arrayLength(&points);
    var sum = vec2(0.0);
    for (var i = lane; i < n; i += 64u) {
        let error = line[0] * points[i].x + line[1] - points[i].y;
        sum += 2.0 * error * vec2(points[i].x, 1.0) / f32(n);
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane == 0u {
        var total = vec2(0.0);
        for (var i = 0u; i < 64u; i++) { total += sums[i]; }
        gradient[0] = total.x;
        gradient[1] = total.y;
    }
}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = match pollster::block_on(instance.request_adapter(&Default::default())) {
        Ok(adapter) => adapter,
        Err(e) => {
            println!("no adapter to share ({e}): apt-get install mesa-vulkan-drivers gives one on the CPU");
            return Ok(());
        }
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: adapter.features() & Gpu::OPTIONAL_FEATURES,
        ..Default::default()
    }))?;

    // The program's own: points on y = 2x + 1 with some noise, the line, its gradient, the pass that computes it.
    let points: Vec<[f32; 2]> = (0..4096)
        .map(|i| {
            let (x, noise) = (i as f32 / 2048.0 - 1.0, (i * 7919 % 4096) as f32 / 4096.0 - 0.5);
            [x, 2.0 * x + 1.0 + 0.1 * noise]
        })
        .collect();
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let buffer = |contents: &[u8]| {
        let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents, usage: storage };
        device.create_buffer_init(&descriptor)
    };
    let points = buffer(bytemuck::cast_slice(&points));
    let (line, gradient) = (buffer(&[0; 8]), buffer(&[0; 8]));
    let source = wgpu::ShaderSource::Wgsl(BACKWARD.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("backward"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let entries: Vec<_> = (0..)
        .zip([&points, &line, &gradient])
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = &pipeline.get_bind_group_layout(0);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });

    let gpu = Gpu::from_wgpu(device.clone(), queue.clone()); // 2
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), Settings::lr(0.05))?; // 3
    optimizer.set_schedule(0, Schedule::cosine(400))?; // 4
    optimizer.set_clip_norm(ClipNorm::torch(1.0))?; // 5
    let id = optimizer.add_buffer(0, "line", BufferRange::whole(&line))?; // 6
    optimizer.set_gradient(id, Gradient::Buffer(BufferRange::whole(&gradient)))?; // 7
    for step in 0..400 {
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        drop(pass);
        optimizer.wait_for_room()?; // 8
        optimizer.encode(&mut encoder)?; // 9
        queue.submit([encoder.finish()]);
        if step % 100 == 99 {
            println!("step {:3}, norm of the gradient {:.2e}", step + 1, optimizer.report().grad_norm); // 10
        }
    }
    let found: Vec<f32> = optimizer.read_blocking(id)?;
    println!("{}: y = {:.3} x + {:.3}", adapter.get_info().name, found[0], found[1]);
    if (found[0] - 2.0).abs() > 0.01 || (found[1] - 1.0).abs() > 0.01 {
        return Err("that is not the line".into());
    }
    Ok(())
}
