//! One step of 2²⁰ parameters for each rule, on the CPU and on the best adapter: for tracking regressions
//! (`wgpu-optim bench` compares and tabulates). `cargo bench -- gpu/adam` picks.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wgpu_optim::{Device, Gpu, Optimizer, rules};

const LEN: usize = 1 << 20;

fn steps(c: &mut Criterion) {
    let gpu = Gpu::new_blocking().inspect_err(|e| eprintln!("CPU only: {e}")).ok();
    let devices = [("cpu", Some(Device::Cpu)), ("gpu", gpu.map(Device::from))];
    let values: Vec<f32> = (0..LEN).map(|i| (i % 1000) as f32 / 500.0 - 1.0).collect();
    for (label, device) in devices {
        let Some(device) = device else { continue };
        let mut group = c.benchmark_group(label);
        for (name, rule) in rules::all() {
            group.throughput(Throughput::Bytes((LEN * rule.bytes_per_parameter()) as u64));
            let prepared = Optimizer::new(&device, rule.clone(), rule.default_lr()).and_then(|mut optimizer| {
                let w = optimizer.add_all(0, &[("w", values.as_slice())])?[0];
                optimizer.write_gradient(w, &values)?;
                Ok(optimizer)
            });
            let mut optimizer = match prepared {
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
