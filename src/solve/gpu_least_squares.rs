//! One least-squares problem on the device.

use super::cholesky::{self, Equations};
use super::device::{buffer, check};
use super::dispatcher::Dispatcher;
use super::replay::{Call, Replay};
use super::{Damping, LeastSquares, Status, Summary};
use crate::error::{Error, Result, require};
use crate::gpu::Gpu;
use crate::gpu::memory::{BufferRange, conflict};
use crate::gpu::own::OwnBuffer;

/// Workgroups that add the cost up.
const GROUPS: usize = 256;
/// Workgroups of JᵀJ that fill a GPU, and the most numbers of their partial results.
const FULL: usize = 2048;
const ROOM: usize = 1 << 24;
/// The fewest and the most rows of a slice of J. Mesa's llvmpipe leaves a thread's loops after 65,535 turns.
const LEAST_ROWS: usize = 256;
const MOST_ROWS: usize = 1 << 14;
/// Words of the state: `State` in shaders/least_squares.wgsl.
const STATE: u64 = 13;

pub(super) fn normal_text() -> String {
    let loss = include_str!("../../shaders/loss.wgsl");
    format!("{loss}{}{}", include_str!("../../shaders/block_product.wgsl"), include_str!("../../shaders/normal.wgsl"))
}

pub(super) fn text() -> String {
    concat!(include_str!("../../shaders/loss.wgsl"), include_str!("../../shaders/least_squares.wgsl")).into()
}

/// Gauss–Newton, Levenberg and Levenberg–Marquardt on the device, in f32, for one problem with up to a few thousand
/// unknowns and as many residuals as J has room for. Everything stays on the device: JᵀJ and Jᵀr (weighted by the
/// [`Loss`](super::Loss)), Cholesky's factor, λ, acceptance, bounds and convergence. A rejected step restores the point
/// before to the bit.
///
/// Your kernels read [`x`](Self::x), and write [`residuals`](Self::residuals) and [`jacobian`](Self::jacobian) (m × n,
/// row by row). [`solve`](Self::solve) needs one submission and one read-back of 13 numbers a point. Or you record the
/// points into your own encoder, and nothing is read back: [`begin`](Self::begin), then for each point your kernels and
/// [`iterate`](Self::iterate), then [`finish`](Self::finish). Points after convergence change nothing.
///
/// λ follows the gain ratio by Nielsen's rule, which needs one factorization a step; the trust region of
/// [`least_squares`](super::least_squares()) on the host needs several.
///
/// JᵀJ is formed in f32, where the host takes the QR factor of J in f64. Therefore columns and x must be within about
/// 1e-15 to 1e15 (their squares are f32, too). If the condition of J is above 3,000 (with its columns scaled to one
/// length), undamped steps have no digits; damped steps still converge, but more slowly. As on the host,
/// [`Damping::None`] stops with [`Status::Singular`] if there is no factor.
///
/// ```no_run
/// # fn record(_: &mut wgpu::CommandEncoder) {}
/// use wgpu_optim::{Error, Gpu, solve};
/// let gpu = Gpu::new_blocking()?;
/// let (residuals, unknowns) = (100_000, 200);
/// let mut solver = solve::GpuLeastSquares::new(&gpu, residuals, unknowns, solve::LeastSquares::single())?;
/// solver.write(&vec![1.0; unknowns])?;
/// // … bind solver.x(), .residuals() and .jacobian() to your kernels …
/// let summary = solver.solve_blocking(|encoder| Ok::<_, Error>(record(encoder)))?;
/// println!("{} after {} points, {}", summary.value, summary.evaluations, summary.status);
/// let x = solver.read_blocking()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct GpuLeastSquares {
    dispatcher: Dispatcher,
    x: BufferRange,
    residuals: BufferRange,
    jacobian: BufferRange,
    state: BufferRange,
    vectors: BufferRange,
    begin: Replay,
    iterate: Replay,
    finish: Replay,
    own: Vec<OwnBuffer>,
}

impl GpuLeastSquares {
    /// Makes buffers for so many residuals and unknowns. The unknowns are 0.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`], also for no residuals or unknowns; [`Error::OverLimit`] for buffers, or a device with
    /// fewer than 8 storage buffers a stage (which WebGPU guarantees).
    pub fn new(gpu: &Gpu, residuals: usize, unknowns: usize, options: LeastSquares) -> Result<Self> {
        let mut own = Vec::new();
        let mut make = |label, len: usize| buffer(gpu, &mut own, label, len as u64);
        let jacobian = make("wgpu-optim jacobian", residuals.saturating_mul(unknowns))?;
        let (x, residuals) = (make("wgpu-optim solver x", unknowns)?, make("wgpu-optim residuals", residuals)?);
        let mut solver = Self::with_ranges(gpu, x, residuals, jacobian, options)?;
        solver.own.append(&mut own);
        Ok(solver)
    }

    /// Uses your ranges. Their offsets must be multiples of the device's `min_storage_buffer_offset_alignment`.
    ///
    /// # Errors
    /// Like [`GpuLeastSquares::new`]; [`Error::Length`] unless the Jacobian has as many numbers as residuals times
    /// unknowns; [`Error::Misaligned`], [`Error::OutOfBounds`], [`Error::MissingUsage`] (`STORAGE`),
    /// [`Error::Overlap`].
    pub fn with_ranges(
        gpu: &Gpu,
        x: BufferRange,
        residuals: BufferRange,
        jacobian: BufferRange,
        options: LeastSquares,
    ) -> Result<Self> {
        options.check()?;
        let (m, n) = (residuals.len, x.len);
        require(m > 0, "residuals", m as f64, "1 or more")?;
        require(n > 0, "unknowns", n as f64, "1 or more")?;
        check(gpu, "x", &x, n)?;
        check(gpu, "residuals", &residuals, m)?;
        check(gpu, "jacobian", &jacobian, m.saturating_mul(n))?;
        if let Some((a, b)) = conflict(&[(&x, true), (&residuals, true), (&jacobian, true)]) {
            let name = |k: usize| ["x", "residuals", "jacobian"][k].to_owned();
            return Err(Error::Overlap { a: name(a), b: name(b) });
        }
        let slices = Slices::of(m, n);
        let mut own = Vec::new();
        let mut make = |label, len: usize| buffer(gpu, &mut own, label, len as u64);
        let matrix = make("wgpu-optim normal equations", n.saturating_mul(n))?;
        let partials = slices.count.saturating_mul((n + 1) * n);
        let partials = make("wgpu-optim partial normal equations", partials.max(GROUPS))?;
        let [g, added, delta] =
            [make("wgpu-optim Jᵀr", n)?, make("wgpu-optim damping", n)?, make("wgpu-optim step", n)?];
        let (state, vectors) =
            (make("wgpu-optim solver state", STATE as usize)?, make("wgpu-optim solver vectors", 5 * n)?);
        let pass = |entry| gpu.pass("normal", normal_text(), entry, &[&[], &[true, true, true, false, false, false]]);
        let [cost, normal, gather] = [pass("cost")?, pass("normal")?, pass("gather")?];
        let bound = &[false, true, false, false, true, true, false, false];
        let pass = |entry| gpu.pass("least squares", text(), entry, &[&[], bound]);
        let [begin, decide, assess] = [pass("begin")?, pass("decide")?, pass("assess")?];
        let [advance, predict, finish] = [pass("advance")?, pass("predict")?, pass("finish")?];
        let (linear, method) = gpu.scoped("a solver's bind groups", || {
            let linear = [&state, &jacobian, &residuals, &partials, &matrix, &g];
            let method = [&state, &partials, &x, &vectors, &matrix, &g, &added, &delta];
            (
                cost.bind(gpu, 1, &linear.map(BufferRange::binding)),
                begin.bind(gpu, 1, &method.map(BufferRange::binding)),
            )
        })?;

        let groups = m.div_ceil(256).min(GROUPS);
        let damping = [Damping::None, Damping::Identity, Damping::Diagonal].iter().position(|&d| d == options.damping);
        let max_iter = u32::try_from(options.max_iter).unwrap_or(u32::MAX);
        let mut arguments = vec![n as u32, groups as u32, max_iter, damping.unwrap_or_default() as u32];
        arguments.extend([options.lambda, options.ftol, options.xtol, options.gtol].map(|x| (x as f32).to_bits()));
        let call = |pass: &std::sync::Arc<_>, workgroups: usize| {
            let (kernel, group) = (std::sync::Arc::clone(pass), method.clone());
            Call { kernel, group, arguments: arguments.clone(), workgroups: [workgroups, 1, 1] }
        };
        let (kind, c) = options.loss.kind();
        // Threads an element where there are many slices of few elements.
        let lanes = 1 << slices.count.min(64).min((1 << 18) / (n * (n + 1)).min(1 << 18)).ilog2();
        let of_j = |pass: &std::sync::Arc<_>, workgroups| {
            let (kernel, group) = (std::sync::Arc::clone(pass), linear.clone());
            let mut arguments = [m, n, slices.count, slices.rows].map(|x| x as u32).to_vec();
            arguments.extend([kind, (c as f32).to_bits(), lanes]);
            Call { kernel, group, arguments, workgroups }
        };

        let blocks = (n + 1).div_ceil(32);
        let mut calls = vec![of_j(&cost, [groups, 1, 1]), call(&decide, 1)];
        calls.push(of_j(&normal, [n.div_ceil(32), blocks, slices.count]));
        let gathers = ((n + 1) * n).div_ceil(256 / lanes as usize);
        let across = gathers.min(gpu.device().limits().max_compute_workgroups_per_dimension as usize);
        calls.extend([of_j(&gather, [across, gathers.div_ceil(across), 1]), call(&assess, 1)]);
        let equations = Equations { matrix: &matrix, g: &g, added: &added, delta: &delta, status: &state };
        calls.extend(cholesky::calls(gpu, &mut own, &equations)?);
        calls.extend([call(&advance, 1), call(&predict, n)]);
        let (begin, iterate) = (Replay::new(gpu, vec![call(&begin, 1)])?, Replay::new(gpu, calls)?);
        let finish = Replay::new(gpu, vec![call(&finish, 1)])?;
        let dispatcher = Dispatcher::new(gpu, STATE as usize)?;
        let mut solver = Self { dispatcher, x, residuals, jacobian, state, vectors, begin, iterate, finish, own };
        let free = vec![f32::INFINITY; n];
        solver.set_bounds(&free.iter().map(|x| -x).collect::<Vec<_>>(), &free)?;
        Ok(solver)
    }

    /// The unknowns: the point to compute residuals at, and in the end the last accepted point.
    pub fn x(&self) -> &BufferRange {
        &self.x
    }

    /// Where your kernels write the residuals at x.
    pub fn residuals(&self) -> &BufferRange {
        &self.residuals
    }

    /// Where your kernels write ∂rᵢ/∂xⱼ, row by row: one row a residual.
    pub fn jacobian(&self) -> &BufferRange {
        &self.jacobian
    }

    /// Sets bounds of the unknowns; an infinite one is no bound. As on the host, a step that would leave them is cut.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::Hyperparameter`] for NaN, or an upper bound below the lower one;
    /// [`Error::DeviceLost`].
    pub fn set_bounds(&mut self, lower: &[f32], upper: &[f32]) -> Result<()> {
        super::least_squares::check_bounds(self.x.len, lower, upper)?;
        let finite: Vec<_> = lower.iter().chain(upper).map(|x| x.clamp(f32::MIN, f32::MAX)).collect();
        let range = BufferRange::new(&self.vectors.buffer, 4 * self.x.len as u64, finite.len());
        self.dispatcher.gpu.write(&range, &finite, "bounds")
    }

    /// Writes the unknowns.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::DeviceLost`]; [`Error::MissingUsage`] if your range lacks `COPY_DST`.
    pub fn write(&self, x: &[f32]) -> Result<()> {
        if x.len() != self.x.len {
            return Err(Error::Length { name: "x".into(), expected: self.x.len, found: x.len() });
        }
        self.dispatcher.gpu.write(&self.x, x, "x")
    }

    /// Reads the unknowns.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`]; [`Error::MissingUsage`] if your range lacks `COPY_SRC`.
    pub async fn read(&self) -> Result<Vec<f32>> {
        self.dispatcher.gpu.read(&self.x, "x").await
    }

    /// [`GpuLeastSquares::read`], waiting for it.
    ///
    /// # Errors
    /// Like [`GpuLeastSquares::read`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self) -> Result<Vec<f32>> {
        pollster::block_on(self.read())
    }

    /// Records the start: the unknowns as they are, moved into their bounds.
    pub fn begin(&self, encoder: &mut wgpu::CommandEncoder) {
        self.begin.encode(encoder);
    }

    /// Records the step after your kernels: it accepts or rejects the point, and moves x to the next one. Does nothing
    /// once a solution is found.
    pub fn iterate(&self, encoder: &mut wgpu::CommandEncoder) {
        self.iterate.encode(encoder);
    }

    /// Records the end: x becomes the last accepted point.
    pub fn finish(&self, encoder: &mut wgpu::CommandEncoder) {
        self.finish.encode(encoder);
    }

    /// Reads the result so far: one read-back.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`].
    pub async fn summary(&mut self) -> Result<Summary> {
        Ok(self.state().await?.0)
    }

    /// Solves from the unknowns as they are. `record` records the kernels that write residuals and Jacobian at x.
    /// Afterwards x is the last accepted point, also if an error is returned. The summary's `value` is the cost ½Σr²,
    /// or the sum of the losses; its `gradient` is max|Jᵀr|.
    ///
    /// # Errors
    /// What `record` returns; [`Error::Rejected`] if wgpu rejects the commands; [`Error::DeviceLost`].
    pub async fn solve<E: From<Error>>(
        &mut self,
        mut record: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        self.begin.encode(self.dispatcher.encoder());
        let mut begun = false;
        loop {
            let done = match record(self.dispatcher.encoder()) {
                Ok(()) => {
                    self.iterate.encode(self.dispatcher.encoder());
                    let state = self.state().await;
                    // What was rejected has not run.
                    begun |= !matches!(state, Err(Error::Rejected { .. }));
                    state.map_err(E::from)
                }
                Err(e) => {
                    self.dispatcher.discard();
                    Err(e)
                }
            };
            match done {
                Ok((_, false)) => {}
                Ok((summary, true)) => return Ok(summary),
                // Not even the start has run: x is as it was.
                Err(e) if !begun => return Err(e),
                Err(e) => {
                    self.finish.encode(self.dispatcher.encoder());
                    // The first error is the one to report.
                    _ = self.dispatcher.fetch(&[]).await;
                    return Err(e);
                }
            }
        }
    }

    /// [`GpuLeastSquares::solve`], waiting for it.
    ///
    /// # Errors
    /// Like [`GpuLeastSquares::solve`].
    #[cfg(not(target_family = "wasm"))]
    pub fn solve_blocking<E: From<Error>>(
        &mut self,
        record: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        pollster::block_on(self.solve(record))
    }

    /// The summary, and whether it is the last.
    async fn state(&mut self) -> Result<(Summary, bool)> {
        let state = self.dispatcher.fetch(std::slice::from_ref(&self.state)).await?;
        let word = |k: usize| state[k].to_bits();
        let status = match word(0) {
            0 => Status::NotDone,
            1 => Status::GradientTolerance,
            2 => Status::ChangeTolerance,
            3 => Status::NonFinite,
            4 => Status::NoDescent,
            5 => Status::MaxIterations,
            _ => Status::Singular,
        };
        let (evaluations, iterations) = (word(3).into(), word(4).into());
        let summary = Summary { value: state[8].into(), gradient: state[9].into(), status, iterations, evaluations };
        Ok((summary, word(0) != 0))
    }
}

/// How the rows of J are divided. Each slice gives a partial JᵀJ, and these are added up at the end.
struct Slices {
    count: usize,
    rows: usize,
}

impl Slices {
    fn of(m: usize, n: usize) -> Self {
        let blocks = (n + 1).div_ceil(32);
        // In wasm 65,536 squared is beyond usize.
        let (of_blocks, of_unknowns) = (blocks.saturating_mul(blocks + 1) / 2, n.saturating_add(1).saturating_mul(n));
        let most = (FULL / of_blocks).min(ROOM / of_unknowns).min(m.div_ceil(LEAST_ROWS));
        let most = most.max(m.div_ceil(MOST_ROWS)).max(1);
        let rows = m.div_ceil(most).next_multiple_of(32);
        Self { count: m.div_ceil(rows), rows }
    }
}
