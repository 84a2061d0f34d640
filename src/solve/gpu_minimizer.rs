//! Minimizing on the device.

use super::device::{DeviceMemory, DeviceVectors, buffer};
use super::vectors::{FREE_SCALAR, G, X};
use super::{Direction, Options, Summary, descent};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;

/// Minimizes on the device, in f32. Unknowns, gradient and the method's vectors stay there. An evaluation is one
/// submission and one read-back of ten numbers; a step ends with one more submission. [`Direction::Newton`] also reads
/// a few numbers for each shift of the matrix that it tries, [`Direction::NewtonCg`] for each product and each of its
/// steps.
///
/// Your kernels are recorded into our encoder. They read [`x`](Self::x), and write [`gradient`](Self::gradient) and
/// [`value`](Self::value), which is one number.
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
    memory: DeviceMemory,
    history: descent::History,
}

impl GpuMinimizer {
    /// Makes buffers for `len` unknowns, which are 0.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`]; [`Error::OverLimit`].
    pub fn new(gpu: &Gpu, len: usize, options: Options) -> Result<Self> {
        let mut own = Vec::new();
        let mut make = |label, len| buffer(gpu, &mut own, label, len as u64);
        let (x, g) = (make("wgpu-optim solver x", len)?, make("wgpu-optim solver gradient", len)?);
        let mut minimizer = Self::with_ranges(gpu, x, g, make("wgpu-optim solver value", 1)?, options)?;
        minimizer.memory.own.append(&mut own);
        Ok(minimizer)
    }

    /// Uses your ranges for unknowns, gradient and value. Their offsets must be multiples of the device's
    /// `min_storage_buffer_offset_alignment`.
    ///
    /// # Errors
    /// Like [`GpuMinimizer::new`]; [`Error::Length`], [`Error::Misaligned`], [`Error::OutOfBounds`],
    /// [`Error::MissingUsage`] (`STORAGE`, and `COPY_SRC` for the value), [`Error::Overlap`].
    pub fn with_ranges(
        gpu: &Gpu,
        x: BufferRange,
        gradient: BufferRange,
        value: BufferRange,
        options: Options,
    ) -> Result<Self> {
        options.check()?;
        let pairs = match options.direction {
            Direction::Lbfgs { history_size } => history_size,
            _ => 0,
        };
        let mut memory = DeviceMemory::new(gpu, x, gradient, value, FREE_SCALAR + pairs.max(3))?;
        if options.direction == Direction::NewtonCg {
            memory.products = Some([memory.new_vector()?, memory.new_vector()?]);
        }
        if options.direction == Direction::Newton {
            memory.prepare_newton()?;
        }
        Ok(Self { options, memory, history: descent::History::default() })
    }

    /// The unknowns: the point to evaluate the objective at, and after a step the last accepted point.
    pub fn x(&self) -> &BufferRange {
        &self.memory.vectors[X]
    }

    /// Where your kernels write the gradient.
    pub fn gradient(&self) -> &BufferRange {
        &self.memory.vectors[G]
    }

    /// Where your kernels write the value.
    pub fn value(&self) -> &BufferRange {
        &self.memory.value
    }

    /// For [`Direction::NewtonCg`]: the vector p, and where your kernels write the product ∇²f(x)·p.
    pub fn product(&self) -> Option<[&BufferRange; 2]> {
        self.memory.products.map(|products| products.map(|vector| &self.memory.vectors[vector]))
    }

    /// For [`Direction::Newton`]: where your kernels write the whole symmetric n × n matrix ∇²f(x).
    pub fn hessian(&self) -> Option<&BufferRange> {
        self.memory.matrix.as_ref().filter(|_| self.options.direction == Direction::Newton)
    }

    /// For [`Direction::NewtonCg`]: sets a preconditioner, a diagonal that approximates the Hessian's.
    ///
    /// # Errors
    /// Like [`GpuMinimizer::with_ranges`] for its ranges.
    pub fn set_preconditioner(&mut self, diagonal: BufferRange) -> Result<()> {
        self.memory.set_diagonal(diagonal)
    }

    /// Writes the unknowns.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::DeviceLost`]; [`Error::MissingUsage`] if your range lacks `COPY_DST`.
    pub fn write(&self, x: &[f32]) -> Result<()> {
        if x.len() != self.memory.len() {
            return Err(Error::Length { name: "x".into(), expected: self.memory.len(), found: x.len() });
        }
        self.memory.dispatcher.gpu.write(self.x(), x, "x")
    }

    /// Reads the unknowns.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`]; [`Error::MissingUsage`] if your range lacks `COPY_SRC`.
    pub async fn read(&self) -> Result<Vec<f32>> {
        self.memory.dispatcher.gpu.read(self.x(), "x").await
    }

    /// [`GpuMinimizer::read`], waiting for it.
    ///
    /// # Errors
    /// Like [`GpuMinimizer::read`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_blocking(&self) -> Result<Vec<f32>> {
        pollster::block_on(self.read())
    }

    /// Does up to `max_iter` iterations from the unknowns. What the method has learnt (pairs, matrix) is kept for the
    /// next call. `objective` records the kernels that compute value and gradient at x.
    ///
    /// # Errors
    /// What `objective` returns; [`Error::Rejected`] if wgpu rejects the commands; [`Error::DeviceLost`];
    /// [`Error::Unsupported`] for Newton's methods, which need second derivatives.
    pub async fn step<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        self.options.direction.check::<f32, E>(None)?;
        self.step_with(objective, |_| Ok(())).await
    }

    /// [`GpuMinimizer::step`] with second derivatives. `hessian` records the kernels that compute them: the product
    /// ∇²f(x)·p of [`GpuMinimizer::product`], or the matrix in [`GpuMinimizer::hessian`].
    ///
    /// # Errors
    /// Like [`GpuMinimizer::step`], and what `hessian` returns.
    pub async fn step_with<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
        hessian: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        let mut vectors = DeviceVectors { memory: &mut self.memory, objective, hessian, failed: None };
        descent::step(&mut vectors, &mut self.history, &self.options).await
    }

    /// [`GpuMinimizer::step`], waiting for it.
    ///
    /// # Errors
    /// Like [`GpuMinimizer::step`].
    #[cfg(not(target_family = "wasm"))]
    pub fn step_blocking<E: From<Error>>(
        &mut self,
        objective: impl FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    ) -> Result<Summary, E> {
        pollster::block_on(self.step(objective))
    }
}
