//! What the host does for a step, on the best adapter: recording 1, 200 and 2,000 tensors, compiling, the first step
//! (which it submits). Only that is timed; waits are not. `cargo bench --bench host -- encode` picks.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use wgpu_optim::{BufferRange, Gpu, Gradient, Optimizer, rules::Adam};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Elements of a tensor.
const LEN: usize = 64;

/// Tensors in the arena.
fn arena(gpu: &Gpu, count: usize) -> Outcome<Optimizer> {
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 1e-3)?;
    let names: Vec<_> = (0..count).map(|k| format!("w{k}")).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), &[0.5f32; LEN][..])).collect();
    for id in optimizer.add_all(0, &tensors)? {
        optimizer.set_gradient(id, Gradient::Own)?;
    }
    Ok(optimizer)
}

/// Tensors in the caller's buffers: two pools, or two buffers each.
fn foreign(gpu: &Gpu, count: usize, pooled: bool) -> Outcome<Optimizer> {
    let buffer = |tensors: usize| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("benchmark"),
            size: (4 * LEN * tensors) as u64,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    };
    let ranges = || -> Vec<BufferRange> {
        let pool = buffer(if pooled { count } else { 1 });
        let range = |k: usize| match pooled {
            true => BufferRange::new(&pool, (4 * LEN * k) as u64, LEN),
            false => BufferRange::whole(&buffer(1)),
        };
        (0..count).map(range).collect()
    };
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 1e-3)?;
    let names: Vec<_> = (0..count).map(|k| format!("w{k}")).collect();
    let tensors: Vec<_> = names.iter().map(String::as_str).zip(ranges()).collect();
    let ids = optimizer.add_buffers(0, &tensors)?;
    for (id, range) in ids.into_iter().zip(ranges()) {
        optimizer.set_gradient(id, Gradient::Buffer(range))?;
    }
    Ok(optimizer)
}

/// The time of one recording, submitted and finished behind it.
fn encode(gpu: &Gpu, optimizer: &mut Optimizer) -> Outcome<Duration> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    let start = Instant::now();
    optimizer.encode(&mut encoder)?;
    let took = start.elapsed();
    gpu.queue().submit([encoder.finish()]);
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    Ok(took)
}

fn host(c: &mut Criterion) {
    let gpu = match Gpu::new_blocking() {
        Ok(gpu) => gpu,
        Err(e) => return eprintln!("nothing to measure: {e}"),
    };
    let mut group = c.benchmark_group("encode");
    for count in [1, 200, 2000] {
        let made = [
            ("arena", arena(&gpu, count)),
            ("pool", foreign(&gpu, count, true)),
            ("buffers", foreign(&gpu, count, false)),
        ];
        for (label, optimizer) in made {
            let mut optimizer = match optimizer {
                Ok(optimizer) => optimizer,
                Err(e) => return eprintln!("{label} {count}: {e}"),
            };
            group.bench_function(BenchmarkId::new(label, count), |b| {
                b.iter_custom(|iterations| {
                    let times = (0..iterations).map(|_| encode(&gpu, &mut optimizer));
                    times.sum::<Outcome<Duration>>().unwrap_or_else(|e| panic!("{label} {count}: {e}"))
                });
            });
        }
    }
    group.finish();
    // A `Gpu` of its own has compiled nothing yet.
    let fresh = || Gpu::from_wgpu(gpu.device().clone(), gpu.queue().clone());
    c.bench_function("pipelines", |b| {
        let made = || Optimizer::new(&fresh().into(), Adam::default(), 1e-3).unwrap_or_else(|e| panic!("{e}"));
        b.iter_with_large_drop(made);
    });
    c.bench_function("first step", |b| {
        b.iter_batched_ref(
            || arena(&gpu, 200).unwrap_or_else(|e| panic!("{e}")),
            |optimizer| optimizer.step().unwrap_or_else(|e| panic!("{e}")),
            criterion::BatchSize::PerIteration,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = host
}
criterion_main!(benches);
