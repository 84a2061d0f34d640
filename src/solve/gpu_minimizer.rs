//! Minimizing on the device.

use super::device::{Memory, Recorder, buffer};
use super::space::{FREE, G, X};
use super::{Direction, Options, Summary, descent};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;

/// Minimizes on the device, in f32: unknowns, gradient and all that the method keeps stay there. An evaluation is one submission, and
/// one read-back of ten numbers; a step ends with one more submission. [`Direction::Newton`] reads a few numbers back for each shift of the
/// matrix that it tries, [`Direction::NewtonCg`] for each product and each of its steps. Nothing else is read back.
///
/// The caller's kernels are recorded into our encoder: they read [`x`](Self::x), and write [`gradient`](Self::gradient) and, one
/// number, [`value`](Self::value).
///
/// ```no_run
/// # fn record(_: &mut wgpu::CommandEncoder) {}
/// use wgpu_optim::{Error, Gpu, solve};
/// let gpu = Gpu::new_blocking()?;
/// let mut minimizer = solve::GpuMinimizer::new(&gpu, 1 << 20, solve::Options::lbfgs())?;
/// minimizer.write(&vec![0.0; 1 << 20])?;
/// // … bind minimizer.x(), .gradient() and .value() to your kernels …
/// let summary = minimizer.step_blocking(|encoder| Ok::<_, Error>(record(encoder)))?;
/// println!("{} after {} iterations, {}", summary.value, summary.iterations, summary.status);
/// let x = minimizer.read_blocking()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct GpuMinimizer {
    options: Options,
    memory: Memory,
    state: descent::Memory,
}

impl GpuMinimizer {
    /// With buffers of its own, for `len` unknowns that are 0.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`]; [`Error::OverLimit`].
    pub fn new(gpu: &Gpu, len: usize, options: Options) -> Result<Self> {
        let own = |label, len| buffer(gpu, label, len as u64);
        let (x, g) = (own("wgpu-optim solver x", len)?, own("wgpu-optim solver gradient", len)?);
        Self::with_ranges(gpu, x, g, own("wgpu-optim solver value", 1)?, options)
    }

    /// With the caller's ranges for unknowns, gradient and value, which start where the device binds.
    ///
    /// # Errors
    /// As [`GpuMinimizer::new`]; [`Error::Length`], [`Error::Misaligned`], [`Error::OutOfBounds`], [`Error::MissingUsage`] (`STORAGE`, and
    /// `COPY_SRC` for the value), [`Error::Overlap`].
    pub fn with_ranges(
        gpu: &Gpu,
        x: BufferRange,
        gradient: BufferRange,
        value: BufferRange,
        options: Options,
    ) -> Result<Self> {
        options.check()?;
        let history = match options.direction {
            Direction::Lbfgs { history_size } => history_size,
            _ => 0,
        };
        let mut memory = Memory::new(gpu, x, gradient, value, FREE + history.max(3))?;
        if options.direction == Direction::NewtonCg {
            memory.products = Some([memory.vector()?, memory.vector()?]);
        }
        if options.direction == Direction::Newton {
            memory.prepare_newton()?;
        }
        Ok(Self { options, memory, state: descent::Memory::default() })
    }

    /// The unknowns: where the objective is evaluated, and after a step the last point that was accepted.
    pub fn x(&self) -> &BufferRange {
        &self.memory.vectors[X]
    }

    /// What the caller's kernels write the gradient to.
    pub fn gradient(&self) -> &BufferRange {
        &self.memory.vectors[G]
    }

    /// What they write the value to.
    pub fn value(&self) -> &BufferRange {
        &self.memory.value
    }

    /// Of [`Direction::NewtonCg`]: the vector p that products ∇²f(x)·p are asked for, and where to write them.
    pub fn product(&self) -> Option<[&BufferRange; 2]> {
        self.memory.products.map(|products| products.map(|vector| &self.memory.vectors[vector]))
    }

    /// Of [`Direction::Newton`]: where to write the symmetric n × n matrix ∇²f(x), all of it.
    pub fn hessian(&self) -> Option<&BufferRange> {
        self.memory.matrix.as_ref().filter(|_| self.options.direction == Direction::Newton)
    }

    /// Of [`Direction::NewtonCg`]: a diagonal like the Hessian's own to precondition with.
    ///
    /// # Errors
    /// As for the ranges of [`GpuMinimizer::with_ranges`].
    pub fn set_preconditioner(&mut self, diagonal: BufferRange) -> Result<()> {
        self.memory.set_diagonal(diagonal)
    }

    /// Writes the unknowns.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::DeviceLost`]; [`Error::MissingUsage`] (`COPY_DST`) of a caller's range.
    pub fn write(&self, x: &[f32]) -> Result<()> {
        if x.len() != self.memory.len() {
            return Err(Error::Length { name: "x".into(), expected: self.memory.len(), found: x.len() });
        }
        self.memory.tape.gpu.write(self.x(), x, "x")
    }

    /// Reads the unknowns.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`]; [`Error::MissingUsage`] (`COPY_SRC`) of a caller's range.
    pub async fn read(&self) -> Result<Vec<f32>> {
        self.memory.tape.gpu.read(self.x(), "x").await
    }

    /// [`GpuMinimizer::read`], waiting for it.
    ///
    /// # Errors
    /// As [`GpuMinimizer::read`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self) -> Result<Vec<f32>> {
        pollster::block_on(self.read())
    }

    /// Up to `max_iter` iterations from the unknowns on; what was learnt goes on from step to step. `objective` records the kernels
    /// that compute value and gradient at x.
    ///
    /// # Errors
    /// What `objective` returns; [`Error::Rejected`] for what wgpu has against the commands; [`Error::DeviceLost`];
    /// [`Error::Unsupported`] for Newton's methods, which want second derivatives.
    pub async fn step<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        self.options.direction.check::<f32, E>(None)?;
        self.step_with(objective, |_| Ok(())).await
    }

    /// The same with second derivatives, which `hessian` records: products ∇²f(x)·p of [`GpuMinimizer::product`], or the matrix in
    /// [`GpuMinimizer::hessian`].
    ///
    /// # Errors
    /// As [`GpuMinimizer::step`], and what `hessian` returns.
    pub async fn step_with<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
        hessian: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        let mut recorder = Recorder { memory: &mut self.memory, objective, hessian, failed: None };
        descent::step(&mut recorder, &mut self.state, &self.options).await
    }

    /// [`GpuMinimizer::step`], waiting for it.
    ///
    /// # Errors
    /// As [`GpuMinimizer::step`].
    #[cfg(not(target_family = "wasm"))]
    pub fn step_blocking<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        pollster::block_on(self.step(objective))
    }
}
