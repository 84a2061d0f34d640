//! One step of 2²⁰ parameters for each rule, and of 200 × 4,096 with Adam, on the CPU and on the best adapter: for
//! tracking regressions (`wgpu-optim bench` compares and tabulates). `cargo bench --bench step -- gpu/adam` picks.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wgpu_optim::{AnyRule, Device, Error, Gpu, Optimizer, rules, rules::Adam};

const LEN: usize = 1 << 20;

/// A rule at work on `count` tensors of `len` elements.
fn prepare(device: &Device, rule: &AnyRule, count: usize, values: &[f32]) -> Result<Optimizer, Error> {
    let mut optimizer = Optimizer::new(device, rule.clone(), rule.default_lr())?;
    let names: Vec<_> = (0..count).map(|k| format!("w{k}")).collect();
    let tensors: Vec<_> = names.iter().map(String::as_str).zip(values.chunks_exact(values.len() / count)).collect();
    for (id, (_, values)) in optimizer.add_all(0, &tensors)?.into_iter().zip(&tensors) {
        optimizer.write_gradient(id, values)?;
    }
    Ok(optimizer)
}

fn steps(c: &mut Criterion) {
    let gpu = Gpu::new_blocking().inspect_err(|e| eprintln!("CPU only: {e}")).ok();
    let devices = [("cpu", Some(Device::Cpu)), ("gpu", gpu.map(Device::from))];
    let values: Vec<f32> = (0..LEN).map(|i| (i % 1000) as f32 / 500.0 - 1.0).collect();
    for (label, device) in devices {
        let Some(device) = device else { continue };
        let mut group = c.benchmark_group(label);
        let one = rules::all().into_iter().map(|(name, rule)| (name, rule, 1, &values[..]));
        for (name, rule, count, values) in one.chain([("200x4096", Adam::default().into(), 200, &values[..200 * 4096])])
        {
            group.throughput(Throughput::Bytes((values.len() * rule.bytes_per_parameter()) as u64));
            let mut optimizer = match prepare(&device, &rule, count, values) {
                Ok(optimizer) => optimizer,
                Err(e) => {
                    eprintln!("{label}/{name}: {e}");
                    continue;
                }
            };
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    let stepped = optimizer.step();
                    if let Device::Gpu(gpu) = &device {
                        _ = gpu.device().poll(wgpu::PollType::wait_indefinitely());
                    }
                    assert!(stepped.is_ok(), "{stepped:?}");
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = steps
}
criterion_main!(benches);
