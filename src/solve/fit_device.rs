//! Many fits at once on the device: one dispatch, nothing read back until all are done.

use std::marker::PhantomData;
use std::sync::Arc;

use super::fit::{Fits, Model, check};
use super::{Damping, LeastSquares, Status};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;
use crate::gpu::passes::Pass;

/// Bytes of workgroup memory that any device has.
const SHARED: usize = 16_384;
/// Threads of a workgroup.
const THREADS: usize = 64;

/// The WGSL that fits a model by this many threads a problem; and how many problems a workgroup has.
pub(crate) fn text<M: Model>(lanes: usize) -> (String, usize) {
    let n = M::UNKNOWNS;
    let normal = n * (n + 1) / 2 + n + 1;
    let problem = 4 * (2 * normal + 3 * n + 8 + lanes * (n + 1));
    let problems = (SHARED / problem).clamp(1, THREADS / lanes);
    // Fewer than memory has room for, so that the workgroup is a power of two.
    let problems = 1 << problems.ilog2();
    let constants = format!(
        "const N = {n}u; const COLUMNS = {}u; const LANES = {lanes}u; const PROBLEMS = {problems}u;\n",
        M::COLUMNS
    );
    let (loss, fit) = (include_str!("../../shaders/loss.wgsl"), include_str!("../../shaders/fit.wgsl"));
    (format!("{constants}{loss}{}\n{fit}", M::SHADER), problems)
}

/// Fits a model to many problems of `rows` samples each, in f32: Levenberg–Marquardt with λ, acceptance and convergence decided on the
/// device, problem by problem, in one dispatch. Nothing is read back until the end, or not at all: [`x`](Self::x) stays where the caller's kernels can
/// use it. The host's half is [`fit`](super::fit()).
///
/// ```no_run
/// use wgpu_optim::{Gpu, solve::{Decay, GpuFits, LeastSquares}};
/// let gpu = Gpu::new_blocking()?;
/// let (problems, rows) = (100_000, 32);
/// let fits = GpuFits::<Decay>::new(&gpu, problems, rows, LeastSquares::single())?;
/// fits.write(&vec![0.0; problems * rows * 2], &[1.0, 1.0, 0.0].repeat(problems))?; // or your kernels, to fits.data() and fits.x()
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// fits.encode(&mut encoder)?;
/// gpu.queue().submit([encoder.finish()]);
/// let found = fits.read_blocking()?;
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Debug)]
pub struct GpuFits<M> {
    gpu: Gpu,
    pass: Arc<Pass>,
    settings: wgpu::BindGroup,
    group: wgpu::BindGroup,
    data: BufferRange,
    x: BufferRange,
    outcomes: BufferRange,
    workgroups: (u32, u32),
    model: PhantomData<M>,
}

impl<M: Model> GpuFits<M> {
    /// Room for so many problems.
    ///
    /// # Errors
    /// As [`fit`](super::fit()); [`Error::OverLimit`]; [`Error::Shader`] for a model's text that does not compile.
    pub fn new(gpu: &Gpu, problems: usize, rows: usize, options: LeastSquares) -> Result<Self> {
        // As measured: benches/fits.rs on llvmpipe and on an H100.
        let software = gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
        let few = if software { 1 } else { 8 };
        Self::with_lanes(gpu, problems, rows, options, if M::UNKNOWNS <= 6 { few } else { 16 })
    }

    /// The same with so many threads a problem, a power of two up to 64: [`GpuFits::new`] takes 16 for more than 6 unknowns; for fewer, 8 on a
    /// GPU and one on a software adapter.
    ///
    /// # Errors
    /// As [`GpuFits::new`]; [`Error::Hyperparameter`] for another number.
    pub fn with_lanes(gpu: &Gpu, problems: usize, rows: usize, options: LeastSquares, lanes: usize) -> Result<Self> {
        let power = lanes.is_power_of_two() && lanes <= THREADS;
        crate::error::require(power, "lanes", lanes as f64, "a power of two up to 64")?;
        let data = problems.saturating_mul(rows).saturating_mul(M::COLUMNS);
        let unknowns = problems.saturating_mul(M::UNKNOWNS);
        check::<M>(rows, data, unknowns, &options)?;
        let (text, each) = text::<M>(lanes);
        let pass = gpu.pass_with("fit", text, "fit", &[&[], &[true, false, false]], false)?;
        let own = |name, len: usize| super::device::buffer(gpu, name, len as u64);
        let data = own("the data of fits", data)?;
        let (x, outcomes) =
            (own("the unknowns of fits", unknowns)?, own("the outcomes of fits", problems.saturating_mul(4))?);
        let (kind, c) = options.loss.kind();
        let unit = u32::from(options.damping == Damping::Identity);
        let head = [problems as u32, rows as u32, options.max_iter.min(u32::MAX.into()) as u32, kind];
        let numbers = [options.lambda, options.ftol, options.xtol, options.gtol, c].map(|x| (x as f32).to_bits());
        let words: Vec<u32> = head.into_iter().chain(numbers).chain([unit, M::UNKNOWNS as u32, 0]).collect();
        let groups = problems.div_ceil(each) as u32;
        let most = gpu.device().limits().max_compute_workgroups_per_dimension;
        let workgroups = (groups.min(most), groups.div_ceil(most.max(1)));
        let (settings, group) = gpu.scoped("the bind groups of fits", || {
            let row = gpu.buffer_of("wgpu-optim fits", bytemuck::cast_slice(&words), wgpu::BufferUsages::UNIFORM);
            let resources = [data.binding(), x.binding(), outcomes.binding()];
            (pass.bind(gpu, 0, &[row.as_entire_binding()]), pass.bind(gpu, 1, &resources))
        })?;
        Ok(Self { gpu: gpu.clone(), pass, settings, group, data, x, outcomes, workgroups, model: PhantomData })
    }

    /// The samples, problem by problem.
    pub fn data(&self) -> &BufferRange {
        &self.data
    }

    /// The unknowns: where each fit starts, and then where it ends.
    pub fn x(&self) -> &BufferRange {
        &self.x
    }

    /// Of each problem: cost and max|Jᵀr| as f32, status (0 not done, 1 gradient, 2 change, 3 not finite, 4 no descent, 5 all iterations) and
    /// iterations as u32.
    pub fn outcomes(&self) -> &BufferRange {
        &self.outcomes
    }

    /// Writes samples and starts.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::DeviceLost`].
    pub fn write(&self, data: &[f32], start: &[f32]) -> Result<()> {
        for (name, range, found) in [("data", &self.data, data.len()), ("start", &self.x, start.len())] {
            if range.len != found {
                return Err(Error::Length { name: name.into(), expected: range.len, found });
            }
        }
        self.gpu.write(&self.data, data, "data")?;
        self.gpu.write(&self.x, start, "start")
    }

    /// Records all fits: one dispatch, behind a clear of the outcomes.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.gpu.check_alive()?;
        if self.x.len == 0 {
            return Ok(());
        }
        encoder.clear_buffer(&self.outcomes.buffer, 0, None);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pass.pipeline);
        pass.set_bind_group(0, &self.settings, &[0]);
        pass.set_bind_group(1, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups.0, self.workgroups.1, 1);
        Ok(())
    }

    /// Reads what all fits have come to.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`].
    pub async fn read(&self) -> Result<Fits<f32>> {
        let x = self.gpu.read(&self.x, "the unknowns of fits").await?;
        let outcomes = self.gpu.read(&self.outcomes, "the outcomes of fits").await?;
        let each = || outcomes.chunks_exact(4);
        let status = |outcome: &[f32]| match outcome[2].to_bits() {
            0 => Status::NotDone,
            5 => Status::MaxIterations,
            1 => Status::GradientTolerance,
            2 => Status::ChangeTolerance,
            3 => Status::NonFinite,
            _ => Status::NoDescent,
        };
        Ok(Fits {
            x,
            costs: each().map(|outcome| outcome[0]).collect(),
            gradients: each().map(|outcome| outcome[1]).collect(),
            statuses: each().map(status).collect(),
            iterations: each().map(|outcome| outcome[3].to_bits()).collect(),
        })
    }

    /// [`GpuFits::read`], waiting for it.
    ///
    /// # Errors
    /// As [`GpuFits::read`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self) -> Result<Fits<f32>> {
        pollster::block_on(self.read())
    }
}
