//! Times: by the device's timestamps where it has them, else by the host's clock. Results are medians of rounds in
//! turn.

use std::time::{Duration, Instant};

use wgpu_optim::{Error, Gpu};

/// The fewest rounds of a median.
pub(crate) const ROUNDS: usize = 21;
/// The most rounds.
const MOST: usize = 201;
/// Rounds go on for this long, up to [`MOST`].
const BUDGET: Duration = Duration::from_millis(500);

/// What a device's work is timed with.
pub(crate) struct Clock {
    gpu: Gpu,
    timestamps: Option<Timestamps>,
}

struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
}

impl Clock {
    /// Timestamps where the device has them in encoders.
    pub(crate) fn new(gpu: &Gpu) -> Self {
        let device = gpu.device();
        let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false })
        };
        let timestamps = device.features().contains(wanted).then(|| Timestamps {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            read: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
        });
        Self { gpu: gpu.clone(), timestamps }
    }

    /// The host's clock, which includes the host's work and the submission.
    pub(crate) fn wall(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), timestamps: None }
    }

    pub(crate) fn name(&self) -> &'static str {
        if self.timestamps.is_some() { "timestamps" } else { "wall" }
    }

    /// Milliseconds of what `record` records, submitted at once.
    pub(crate) fn time(
        &self,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Error>,
    ) -> Result<f64, Error> {
        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        if let Some(Timestamps { queries, .. }) = &self.timestamps {
            encoder.write_timestamp(queries, 0);
        }
        record(&mut encoder)?;
        if let Some(Timestamps { queries, resolved, read }) = &self.timestamps {
            encoder.write_timestamp(queries, 1);
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, read, 0, 16);
        }
        self.gpu.queue().submit([encoder.finish()]);
        wait(&self.gpu)?;
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let Some(Timestamps { read, .. }) = &self.timestamps else { return Ok(wall) };
        let failed = |reason: String| Error::ReadBack { name: "the timestamps".into(), reason };
        read.map_async(wgpu::MapMode::Read, .., |_| {});
        wait(&self.gpu)?;
        let ticks: Vec<u64> =
            bytemuck::pod_collect_to_vec(&read.get_mapped_range(..).map_err(|e| failed(e.to_string()))?);
        read.unmap();
        Ok(ticks[1].wrapping_sub(ticks[0]) as f64 * f64::from(self.gpu.queue().get_timestamp_period()) / 1e6)
    }
}

pub(crate) fn wait(gpu: &Gpu) -> Result<(), Error> {
    let waited = gpu.device().poll(wgpu::PollType::wait_indefinitely());
    waited.map(drop).map_err(|e| Error::ReadBack { name: "the step".into(), reason: e.to_string() })
}

/// What wgpu refuses, as an error.
pub(crate) fn checked<T>(gpu: &Gpu, f: impl FnOnce() -> T) -> Result<T, Error> {
    let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
    let scopes = scopes.map(|filter| gpu.device().push_error_scope(filter));
    let made = f();
    for scope in scopes.into_iter().rev() {
        if let Some(e) = pollster::block_on(scope.pop()) {
            return Err(Error::Rejected { operation: "a benchmark", reason: e.to_string() });
        }
    }
    Ok(made)
}

/// Milliseconds of `f` by the host's clock.
pub(crate) fn wall(f: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Two things side by side.
pub(crate) struct Pair {
    /// Medians.
    pub(crate) ms: [f64; 2],
    /// The second time over the first: the median of all rounds.
    pub(crate) ratio: f64,
    /// How far off the ratio may be. The larger of its standard error and of |r − 1|, where r is the same ratio of the
    /// first to itself.
    pub(crate) noise: f64,
    pub(crate) rounds: usize,
}

/// Times `a` and `b` in turn, after three rounds that do not count. Each finds the caches as the other left them.
pub(crate) fn interleave(
    mut a: impl FnMut() -> Result<f64, Error>,
    mut b: impl FnMut() -> Result<f64, Error>,
) -> Result<Pair, Error> {
    let (mut first, mut second, mut ratios, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        a()?;
        b()?;
    }
    let start = Instant::now();
    let mut one = a()?;
    while ratios.len() < ROUNDS || (start.elapsed() < BUDGET && ratios.len() < MOST) {
        let (other, next) = (b()?, a()?);
        first.push(one);
        second.push(other);
        // Between the two, so that a drift is not a difference.
        ratios.push(2.0 * other / (one + next));
        again.push(next / one);
        one = next;
    }
    let (rounds, ratio) = (ratios.len(), median(ratios.clone()));
    // A median's standard error is 1.253 σ/√n, and σ is 1.483 median absolute deviations.
    let deviation = median(ratios.iter().map(|x| (x - ratio).abs()).collect());
    let error = 1.253 * 1.483 * deviation / (rounds as f64).sqrt();
    let noise = error.max((median(again) - 1.0).abs());
    Ok(Pair { ms: [median(first), median(second)], ratio, noise, rounds })
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
