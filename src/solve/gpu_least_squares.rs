//! One least-squares problem on the device: JᵀJ, its factor, λ and the decision about a step stay there.

use super::cholesky::{self, Equations};
use super::device::{buffer, check};
use super::program::{Op, Program};
use super::tape::Tape;
use super::{Damping, LeastSquares, Status, Summary};
use crate::error::{Error, Result, require};
use crate::gpu::Gpu;
use crate::gpu::memory::{BufferRange, conflict};

/// Workgroups that add the cost up.
const GROUPS: usize = 256;
/// Workgroups of JᵀJ that a GPU is full with, and numbers that they may take.
const FULL: usize = 2048;
const ROOM: usize = 1 << 24;
/// The fewest rows of a slice of J; and the most: Mesa's llvmpipe leaves a thread's loops after 65,535 turns.
const LEAST_ROWS: usize = 256;
const MOST_ROWS: usize = 1 << 14;
/// Words of the state: `State` in shaders/least_squares.wgsl.
const STATE: u64 = 13;

pub(super) fn normal_text() -> String {
    let loss = include_str!("../../shaders/loss.wgsl");
    format!("{loss}{}{}", include_str!("../../shaders/tile.wgsl"), include_str!("../../shaders/normal.wgsl"))
}

pub(super) fn text() -> String {
    concat!(include_str!("../../shaders/loss.wgsl"), include_str!("../../shaders/least_squares.wgsl")).into()
}

/// Gauss–Newton, Levenberg and Levenberg–Marquardt on the device, in f32, for one problem of up to a few thousand unknowns and any
/// number of residuals that J has room for. JᵀJ and Jᵀr (weighted by the [`Loss`](super::Loss)) are one pass over J; Cholesky's factor,
/// λ by the gain ratio (Nielsen's rule), acceptance, bounds and convergence are on the device, too. A step that is rejected leaves the
/// point before to the bit.
///
/// The caller's kernels read [`x`](Self::x), and write [`residuals`](Self::residuals) and [`jacobian`](Self::jacobian) (m × n, row by
/// row) there. [`solve`](Self::solve) is one submission and one read-back of 13 numbers for each point; or the caller records points
/// into an encoder of his own, and nothing is read back at all: [`begin`](Self::begin), then his kernels and
/// [`iterate`](Self::iterate) for each point, then [`finish`](Self::finish). Points behind the last one that was needed change
/// nothing.
///
/// The host's half is [`least_squares`](super::least_squares()), which takes the QR factor of J in f64. Here JᵀJ is formed in f32, so
/// that (columns and x within about 1e-15 to 1e15, for squares are f32, too) an undamped step has no digits where the condition of J (its columns scaled to one length) is above some 3,000; damped ones
/// go on all the same, more slowly. As on the host, [`Damping::None`] stops as [`Status::Singular`] where there is no factor.
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
    tape: Tape,
    x: BufferRange,
    residuals: BufferRange,
    jacobian: BufferRange,
    state: BufferRange,
    own: BufferRange,
    begin: Program,
    iterate: Program,
    finish: Program,
}

impl GpuLeastSquares {
    /// With buffers of its own, for `residuals` functions of `unknowns` that are 0.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`], also for no residuals or unknowns; [`Error::OverLimit`] for buffers, or a device with fewer than 8
    /// storage buffers a stage (which WebGPU guarantees).
    pub fn new(gpu: &Gpu, residuals: usize, unknowns: usize, options: LeastSquares) -> Result<Self> {
        let own = |label, len: usize| buffer(gpu, label, len as u64);
        let jacobian = own("wgpu-optim jacobian", residuals.saturating_mul(unknowns))?;
        let x = own("wgpu-optim solver x", unknowns)?;
        Self::with_ranges(gpu, x, own("wgpu-optim residuals", residuals)?, jacobian, options)
    }

    /// With the caller's ranges, which start where the device binds.
    ///
    /// # Errors
    /// As [`GpuLeastSquares::new`]; [`Error::Length`] unless the Jacobian has as many numbers as residuals times unknowns;
    /// [`Error::Misaligned`], [`Error::OutOfBounds`], [`Error::MissingUsage`] (`STORAGE`), [`Error::Overlap`].
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
        let own = |label, len: usize| buffer(gpu, label, len as u64);
        let matrix = own("wgpu-optim normal equations", n.saturating_mul(n))?;
        let partials = slices.count.saturating_mul((n + 1) * n);
        let partials = own("wgpu-optim partial normal equations", partials.max(GROUPS))?;
        let [g, added, delta] = [own("wgpu-optim Jᵀr", n)?, own("wgpu-optim damping", n)?, own("wgpu-optim step", n)?];
        let (state, vectors) =
            (buffer(gpu, "wgpu-optim solver state", STATE)?, own("wgpu-optim solver vectors", 5 * n)?);
        let pass = |entry| gpu.pass("normal", normal_text(), entry, &[&[], &[true, true, true, false, false, false]]);
        let [cost, normal, gather] = [pass("cost")?, pass("normal")?, pass("gather")?];
        let bound = &[false, true, false, false, true, true, false, false];
        let pass = |entry| gpu.pass("least squares", text(), entry, &[&[], bound]);
        let [begin, decide, assess] = [pass("begin")?, pass("decide")?, pass("assess")?];
        let [advance, promise, finish] = [pass("advance")?, pass("promise")?, pass("finish")?];
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
        let mut row = vec![n as u32, groups as u32, max_iter, damping.unwrap_or_default() as u32];
        row.extend([options.lambda, options.ftol, options.xtol, options.gtol].map(|x| (x as f32).to_bits()));
        let op = |pass: &std::sync::Arc<_>, workgroups: usize| {
            let (pass, group) = (std::sync::Arc::clone(pass), method.clone());
            Op { pass, group, row: row.clone(), workgroups: [workgroups, 1, 1] }
        };
        let (kind, c) = options.loss.kind();
        // Threads an element where there are many slices of few elements.
        let lanes = 1 << slices.count.min(64).min((1 << 18) / (n * (n + 1)).min(1 << 18)).ilog2();
        let of_j = |pass: &std::sync::Arc<_>, workgroups| {
            let (pass, group) = (std::sync::Arc::clone(pass), linear.clone());
            let mut row = [m, n, slices.count, slices.rows].map(|x| x as u32).to_vec();
            row.extend([kind, (c as f32).to_bits(), lanes]);
            Op { pass, group, row, workgroups }
        };

        let tiles = (n + 1).div_ceil(32);
        let mut ops = vec![of_j(&cost, [groups, 1, 1]), op(&decide, 1)];
        ops.push(of_j(&normal, [n.div_ceil(32), tiles, slices.count]));
        let gathers = ((n + 1) * n).div_ceil(256 / lanes as usize);
        let across = gathers.min(gpu.device().limits().max_compute_workgroups_per_dimension as usize);
        ops.extend([of_j(&gather, [across, gathers.div_ceil(across), 1]), op(&assess, 1)]);
        let equations = Equations { matrix: &matrix, g: &g, added: &added, delta: &delta, control: &state };
        ops.extend(cholesky::ops(gpu, &equations)?);
        ops.extend([op(&advance, 1), op(&promise, n)]);
        let (begin, iterate) = (Program::new(gpu, vec![op(&begin, 1)])?, Program::new(gpu, ops)?);
        let finish = Program::new(gpu, vec![op(&finish, 1)])?;
        let tape = Tape::new(gpu, STATE as usize)?;
        let mut solver = Self { tape, x, residuals, jacobian, state, own: vectors, begin, iterate, finish };
        let free = vec![f32::INFINITY; n];
        solver.set_bounds(&free.iter().map(|x| -x).collect::<Vec<_>>(), &free)?;
        Ok(solver)
    }

    /// The unknowns: where residuals are wanted, and in the end the last point that was accepted.
    pub fn x(&self) -> &BufferRange {
        &self.x
    }

    /// What the caller's kernels write the residuals at x to.
    pub fn residuals(&self) -> &BufferRange {
        &self.residuals
    }

    /// What they write ∂rᵢ/∂xⱼ to, a residual's row after the other.
    pub fn jacobian(&self) -> &BufferRange {
        &self.jacobian
    }

    /// Bounds of the unknowns, of which infinite ones are none; as on the host, unknowns that a step would push beyond theirs are held.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::Hyperparameter`] for NaN, or an upper bound below the lower one; [`Error::DeviceLost`].
    pub fn set_bounds(&mut self, lower: &[f32], upper: &[f32]) -> Result<()> {
        super::least_squares::check_bounds(self.x.len, lower, upper)?;
        let finite: Vec<_> = lower.iter().chain(upper).map(|x| x.clamp(f32::MIN, f32::MAX)).collect();
        let range = BufferRange::new(&self.own.buffer, 4 * self.x.len as u64, finite.len());
        self.tape.gpu.write(&range, &finite, "bounds")
    }

    /// Writes the unknowns.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::DeviceLost`]; [`Error::MissingUsage`] (`COPY_DST`) of a caller's range.
    pub fn write(&self, x: &[f32]) -> Result<()> {
        if x.len() != self.x.len {
            return Err(Error::Length { name: "x".into(), expected: self.x.len, found: x.len() });
        }
        self.tape.gpu.write(&self.x, x, "x")
    }

    /// Reads the unknowns.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`]; [`Error::MissingUsage`] (`COPY_SRC`) of a caller's range.
    pub async fn read(&self) -> Result<Vec<f32>> {
        self.tape.gpu.read(&self.x, "x").await
    }

    /// [`GpuLeastSquares::read`], waiting for it.
    ///
    /// # Errors
    /// As [`GpuLeastSquares::read`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self) -> Result<Vec<f32>> {
        pollster::block_on(self.read())
    }

    /// Records a start from the unknowns as they are, within their bounds.
    pub fn begin(&self, encoder: &mut wgpu::CommandEncoder) {
        self.begin.encode(encoder);
    }

    /// Records the judgement of the point that the caller's kernels have just written residuals and Jacobian of, and the way to the next.
    /// Does nothing once a solution is found.
    pub fn iterate(&self, encoder: &mut wgpu::CommandEncoder) {
        self.iterate.encode(encoder);
    }

    /// Records that x is the last point that was accepted.
    pub fn finish(&self, encoder: &mut wgpu::CommandEncoder) {
        self.finish.encode(encoder);
    }

    /// What it came to: one read-back.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`].
    pub async fn summary(&mut self) -> Result<Summary> {
        Ok(self.state().await?.0)
    }

    /// Solves from the unknowns on. `record` records the kernels that write residuals and Jacobian at x. However it ends, x is the last point
    /// that was accepted; the summary's `value` is the cost ½Σr², or what the loss makes of it, its `gradient` max|Jᵀr|.
    ///
    /// # Errors
    /// What `record` returns; [`Error::Rejected`] for what wgpu has against the commands; [`Error::DeviceLost`].
    pub async fn solve<E: From<Error>>(
        &mut self,
        mut record: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        self.begin.encode(self.tape.encoder());
        let mut begun = false;
        loop {
            let done = match record(self.tape.encoder()) {
                Ok(()) => {
                    self.iterate.encode(self.tape.encoder());
                    let state = self.state().await;
                    // What was rejected has not run.
                    begun |= !matches!(state, Err(Error::Rejected { .. }));
                    state.map_err(E::from)
                }
                Err(e) => {
                    self.tape.discard();
                    Err(e)
                }
            };
            match done {
                Ok((_, false)) => {}
                Ok((summary, true)) => return Ok(summary),
                // Not even the start has run: x is as it was.
                Err(e) if !begun => return Err(e),
                Err(e) => {
                    self.finish.encode(self.tape.encoder());
                    // The first error is the one to report.
                    _ = self.tape.fetch(&[]).await;
                    return Err(e);
                }
            }
        }
    }

    /// [`GpuLeastSquares::solve`], waiting for it.
    ///
    /// # Errors
    /// As [`GpuLeastSquares::solve`].
    #[cfg(not(target_family = "wasm"))]
    pub fn solve_blocking<E: From<Error>>(
        &mut self,
        record: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        pollster::block_on(self.solve(record))
    }

    /// The summary, and whether it is the last.
    async fn state(&mut self) -> Result<(Summary, bool)> {
        let state = self.tape.fetch(std::slice::from_ref(&self.state)).await?;
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

/// How the rows of J are dealt out: parts of JᵀJ that are added up at the end.
struct Slices {
    count: usize,
    rows: usize,
}

impl Slices {
    fn of(m: usize, n: usize) -> Self {
        let tiles = (n + 1).div_ceil(32);
        let most = (FULL / (tiles * (tiles + 1) / 2)).min(ROOM / ((n + 1) * n)).min(m.div_ceil(LEAST_ROWS));
        let most = most.max(m.div_ceil(MOST_ROWS)).max(1);
        let rows = m.div_ceil(most).next_multiple_of(32);
        Self { count: m.div_ceil(rows), rows }
    }
}
