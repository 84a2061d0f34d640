//! Many fits at once on the device: nothing is read back until all are done.

use std::marker::PhantomData;

use super::fit::{Fits, Model, check};
use super::replay::{STRIDE, TURNS};
use super::{Damping, LeastSquares, Status};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;
use crate::gpu::own::OwnBuffer;
use crate::gpu::recording::{Dispatch, Group, Inputs, record};

/// Bytes of workgroup memory that any device has.
const SHARED: usize = 16_384;
/// Threads of a workgroup.
const THREADS: usize = 64;
/// The most dispatches of all fits together; fits that take more stay [`Status::NotDone`].
const DISPATCHES: u64 = 1 << 16;
/// Words of a problem: `Problem` in shaders/fit.wgsl.
const fn words(unknowns: usize) -> usize {
    let normal = unknowns * (unknowns + 1) / 2 + unknowns + 1;
    2 * normal + 3 * unknowns + 10
}

/// What each dispatch does.
#[derive(Debug, PartialEq)]
struct Schedule {
    /// Rows that a dispatch takes: all, or a part of them.
    rows: usize,
    /// Points at which a dispatch computes residuals; 1 where it takes a part of the rows.
    rounds: u64,
    /// How often the dispatches for all rows are repeated.
    repeats: u64,
}

impl Schedule {
    /// From the number of unknowns, of numbers a sample, of samples and of threads a problem.
    fn new(unknowns: usize, columns: usize, rows: usize, lanes: usize, max_iter: u64, cuts_loops: bool) -> Self {
        // One for the start, one for each step.
        let points = max_iter.saturating_add(1);
        if !cuts_loops {
            return Self { rows, rounds: points, repeats: 1 };
        }
        let triangle = unknowns * (unknowns + 1) / 2;
        // A sample in each thread: to read it, to compute it, and each sum over the threads' samples.
        let sums = if lanes == 1 { triangle + unknowns } else { 2 * (triangle + unknowns) + 3 * lanes };
        let each = columns + 3 * unknowns + sums + 4;
        // Cholesky's factor, its solution, and the judgement of a point.
        let point = unknowns * (unknowns + 1) * (unknowns + 2) / 6 + 3 * triangle + 10 * unknowns + 10;
        let chunks = rows.div_ceil(lanes);
        let all = point + chunks * each;
        if all <= TURNS {
            let rounds = (TURNS / all) as u64;
            return Self { rows, rounds, repeats: points.div_ceil(rounds) };
        }
        let part = ((TURNS - point) / each).max(1) * lanes;
        Self { rows: part, rounds: 1, repeats: points }
    }

    fn parts(&self, rows: usize) -> usize {
        rows.div_ceil(self.rows)
    }
}

/// The WGSL that fits a model by this many threads a problem; and how many problems a workgroup has.
pub(crate) fn text<M: Model>(lanes: usize) -> (String, usize) {
    let n = M::UNKNOWNS;
    let problem = 4 * (words(n) + lanes * (n + 1));
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

/// Fits a model to many problems of `rows` samples each, in f32: Levenberg–Marquardt, with λ, acceptance and
/// convergence decided on the device for each problem. It is one dispatch, and several on software adapters. Nothing is
/// read back until the end, or not at all: your kernels can use [`x`](Self::x) where it is. On the host:
/// [`fit`](super::fit()).
///
/// ```no_run
/// use wgpu_optim::{Gpu, solve::{Decay, GpuFits, LeastSquares}};
/// let gpu = Gpu::new_blocking()?;
/// let (problems, rows) = (100_000, 32);
/// let fits = GpuFits::<Decay>::new(&gpu, problems, rows, LeastSquares::single())?;
/// // Or let your kernels write fits.data() and fits.x().
/// fits.write(&vec![0.0; problems * rows * 2], &[1.0, 1.0, 0.0].repeat(problems))?;
/// let mut encoder = gpu.device().create_command_encoder(&Default::default());
/// fits.encode(&mut encoder)?;
/// gpu.queue().submit([encoder.finish()]);
/// let found = fits.read_blocking()?;
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Debug)]
pub struct GpuFits<M> {
    gpu: Gpu,
    arguments: wgpu::BindGroup,
    /// One dispatch for each part of the rows: a first half that begins, and a second half that is repeated.
    dispatches: Vec<Dispatch>,
    data: BufferRange,
    x: BufferRange,
    outcomes: BufferRange,
    repeats: u64,
    /// Where all of this lies.
    _own: Vec<OwnBuffer>,
    model: PhantomData<M>,
}

impl<M: Model> GpuFits<M> {
    /// Makes room for so many problems.
    ///
    /// # Errors
    /// Like [`fit`](super::fit()); [`Error::OverLimit`]; [`Error::Shader`] if the WGSL of the model does not compile.
    pub fn new(gpu: &Gpu, problems: usize, rows: usize, options: LeastSquares) -> Result<Self> {
        // As measured: benches/fits.rs on llvmpipe and on an H100.
        let software = gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
        let few = if software { 1 } else { 8 };
        Self::with_lanes(gpu, problems, rows, options, if M::UNKNOWNS <= 6 { few } else { 16 })
    }

    /// [`GpuFits::new`] with a number of threads a problem, a power of two up to 64. The default is 16 for more than 6
    /// unknowns; for fewer it is 8 on a GPU and 1 on a software adapter.
    ///
    /// # Errors
    /// Like [`GpuFits::new`]; [`Error::Hyperparameter`] for another number of threads.
    pub fn with_lanes(gpu: &Gpu, problems: usize, rows: usize, options: LeastSquares, lanes: usize) -> Result<Self> {
        let power = lanes.is_power_of_two() && lanes <= THREADS;
        crate::error::require(power, "lanes", lanes as f64, "a power of two up to 64")?;
        let data = problems.saturating_mul(rows).saturating_mul(M::COLUMNS);
        let unknowns = problems.saturating_mul(M::UNKNOWNS);
        check::<M>(rows, data, unknowns, &options)?;
        let (text, each) = text::<M>(lanes);
        let pass = gpu.pass_with("fit", text, "fit", &[&[], &[true, false, false, false]], false)?;
        let mut own = Vec::new();
        let mut make = |name, len: usize| super::device::buffer(gpu, &mut own, name, len as u64);
        let data = make("the data of fits", data)?;
        let (x, outcomes) =
            (make("the unknowns of fits", unknowns)?, make("the outcomes of fits", problems.saturating_mul(4))?);
        let cuts_loops = gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
        let schedule = Schedule::new(M::UNKNOWNS, M::COLUMNS, rows, lanes, options.max_iter, cuts_loops);
        let (parts, only) = (schedule.parts(rows), schedule.repeats == 1 && schedule.rows >= rows);
        let states = if only { 1 } else { problems };
        let states = make("the states of fits", states.saturating_mul(words(M::UNKNOWNS)))?;
        let (kind, c) = options.loss.kind();
        let identity = u32::from(options.damping == Damping::Identity);
        let most = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
        let head = [problems as u32, rows as u32, most(options.max_iter), kind];
        let numbers = [options.lambda, options.ftol, options.xtol, options.gtol, c].map(|x| (x as f32).to_bits());
        let common: Vec<u32> = head.into_iter().chain(numbers).chain([identity, M::UNKNOWNS as u32]).collect();
        let mut words = Vec::new();
        for (begin, part) in [1, 0].into_iter().flat_map(|begin| (0..parts).map(move |part| (begin, part))) {
            let (from, to) = (part * schedule.rows, ((part + 1) * schedule.rows).min(rows));
            words.extend(&common);
            // Only the first part begins; the others go on from its states.
            let begin = u32::from(begin == 1 && part == 0);
            words.extend([from as u32, to as u32, most(schedule.rounds), begin, u32::from(only)]);
            words.resize(words.len().next_multiple_of(STRIDE / 4), 0);
        }
        let groups = problems.div_ceil(each) as u32;
        let most = gpu.device().limits().max_compute_workgroups_per_dimension;
        let workgroups = [groups.min(most), groups.div_ceil(most.max(1)), 1];
        let (arguments, group) = gpu.scoped("the bind groups of fits", || {
            let uniform = gpu.buffer_of("wgpu-optim fits", bytemuck::cast_slice(&words), wgpu::BufferUsages::UNIFORM);
            let resources = [data.binding(), x.binding(), outcomes.binding(), states.binding()];
            (super::replay::argument_group(gpu, &uniform, common.len() + 5), pass.bind(gpu, 1, &resources))
        })?;
        let (gpu, repeats) = (gpu.clone(), schedule.repeats);
        let dispatch = |k| {
            let groups = vec![Group::Coefficients(k), Group::Bound(group.clone())];
            Dispatch { kernel: pass.clone(), groups, workgroups }
        };
        let dispatches = (0..2 * parts).map(dispatch).collect();
        Ok(Self { gpu, arguments, dispatches, data, x, outcomes, repeats, _own: own, model: PhantomData })
    }

    /// The samples, problem by problem.
    pub fn data(&self) -> &BufferRange {
        &self.data
    }

    /// The unknowns: the start of each fit, and afterwards its result.
    pub fn x(&self) -> &BufferRange {
        &self.x
    }

    /// Four words a problem: cost and max|Jᵀr| as f32; status (0 not done, 1 gradient, 2 change, 3 not finite, 4 no
    /// descent, 5 all iterations) and iterations as u32.
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

    /// Clears the outcomes and records all fits, in one dispatch. A software adapter may leave long loops early; there
    /// it records several dispatches with short loops.
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
        let (first, others) = self.dispatches.split_at(self.dispatches.len() / 2);
        let inputs = Inputs { step: None, coefficients: (&self.arguments, STRIDE as u32) };
        record(first, inputs, &mut pass);
        let repeats = self.repeats.min(DISPATCHES.div_ceil(first.len().max(1) as u64));
        (1..repeats).for_each(|_| record(others, inputs, &mut pass));
        Ok(())
    }

    /// Reads the results of all fits.
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
    /// Like [`GpuFits::read`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self) -> Result<Fits<f32>> {
        pollster::block_on(self.read())
    }
}
