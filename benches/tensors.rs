//! What the host does for many tensors, on the best adapter: microseconds a tensor for 100, 1,000 and 10,000 of 64
//! elements. A column that grows downwards is a cost that is not linear. `cargo bench --bench tensors`.

use std::time::Instant;

use wgpu_optim::{BufferRange, ClipNorm, Gpu, Gradient, Optimizer, Options, SaveOptions, rules::Adam};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Elements of a tensor.
const LEN: usize = 64;

/// Milliseconds.
fn timed<T>(f: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let start = Instant::now();
    let value = f()?;
    Ok((start.elapsed().as_secs_f64() * 1e3, value))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|k| format!("layer{k}.weight")).collect()
}

fn buffer(gpu: &Gpu, count: usize) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("benchmark"),
        size: (4 * LEN * count) as u64,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Steps that may be skipped, `times` of them, recorded and submitted.
fn steps(gpu: &Gpu, optimizer: &mut Optimizer, times: usize) -> Outcome<()> {
    for _ in 0..times {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        optimizer.encode(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
    }
    Ok(())
}

/// In the arena, added one by one: add, first step, warm step, outcomes of ten steps, an option of each, removal of
/// half, the step behind that, save.
fn arena(gpu: &Gpu, count: usize) -> Outcome<Vec<(&'static str, f64)>> {
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 1e-3)?;
    optimizer.set_clip_norm(ClipNorm::torch(1.0))?;
    let (names, values) = (names(count), [0.5f32; LEN]);
    let (add, ids) =
        timed(|| Ok(names.iter().map(|n| optimizer.add(0, n, &values)).collect::<Result<Vec<_>, _>>()?))?;
    ids.iter().try_for_each(|&id| optimizer.set_gradient(id, Gradient::Own))?;
    let (first, ()) = timed(|| steps(gpu, &mut optimizer, 1))?;
    let (warm, ()) = timed(|| steps(gpu, &mut optimizer, 10))?;
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    let (outcomes, ()) = timed(|| Ok(optimizer.settle_blocking()?))?;
    let scaled = |k: usize| Options { lr_scale: 1.0 + (k % 2) as f64, ..Options::default() };
    let (options, ()) = timed(|| {
        (0..count).try_for_each(|k| optimizer.set_options(ids[k], scaled(k)))?;
        steps(gpu, &mut optimizer, 1)
    })?;
    optimizer.settle_blocking()?;
    let (remove, ()) = timed(|| Ok(ids.iter().step_by(2).try_for_each(|&id| optimizer.remove(id))?))?;
    let (behind, ()) = timed(|| steps(gpu, &mut optimizer, 1))?;
    optimizer.settle_blocking()?;
    let (save, ()) = timed(|| Ok(pollster::block_on(optimizer.save_to(&mut Vec::new(), SaveOptions::default()))?))?;
    Ok(vec![
        ("add", add),
        ("first step", first),
        ("warm step", warm / 10.0),
        ("10 outcomes", outcomes),
        ("options", options),
        ("remove half", remove),
        ("step behind", behind),
        ("save", save),
    ])
}

/// In the caller's buffers: gradients set one by one, twice; a warm step.
fn foreign(gpu: &Gpu, count: usize) -> Outcome<Vec<(&'static str, f64)>> {
    let mut optimizer = Optimizer::new(&gpu.into(), Adam::default(), 1e-3)?;
    let pools = [buffer(gpu, count), buffer(gpu, count), buffer(gpu, count)];
    let range = |pool: usize, k: usize| BufferRange::new(&pools[pool], (4 * LEN * k) as u64, LEN);
    let names = names(count);
    let (add, ids) = timed(|| {
        let added = names.iter().enumerate().map(|(k, name)| optimizer.add_buffer(0, name, range(0, k)));
        Ok(added.collect::<Result<Vec<_>, _>>()?)
    })?;
    let mut set = |pool: usize| -> Outcome<f64> {
        let set = ids.iter().enumerate();
        let mut all = set.map(|(k, &id)| (id, Gradient::Buffer(range(pool, k))));
        Ok(timed(|| Ok(all.try_for_each(|(id, gradient)| optimizer.set_gradient(id, gradient))?))?.0)
    };
    let (set_1, set_2) = (set(1)?, set(2)?);
    steps(gpu, &mut optimizer, 1)?;
    let (warm, ()) = timed(|| steps(gpu, &mut optimizer, 10))?;
    Ok(vec![("add_buffer", add), ("set_gradient", set_1), ("and again", set_2), ("warm step", warm / 10.0)])
}

fn main() -> Outcome<()> {
    let gpu = match Gpu::new_blocking() {
        Ok(gpu) => gpu,
        Err(e) => {
            eprintln!("nothing to measure: {e}");
            return Ok(());
        }
    };
    println!("{}, microseconds a tensor", gpu.name());
    for measure in [arena, foreign] {
        for (line, count) in [100usize, 1000, 10_000].into_iter().enumerate() {
            let columns = measure(&gpu, count)?;
            if line == 0 {
                println!(
                    "\n{:>8}{}",
                    "tensors",
                    columns.iter().map(|(name, _)| format!("{name:>13}")).collect::<String>()
                );
            }
            let of = |(_, ms): &(&str, f64)| format!("{:>13.2}", 1e3 * ms / count as f64);
            println!("{count:>8}{}", columns.iter().map(of).collect::<String>());
        }
    }
    Ok(())
}
