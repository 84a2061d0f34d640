//! A method's vectors on the device: its memory, and its arithmetic.

use std::collections::HashMap;
use std::sync::Arc;

use super::dispatcher::{Dispatcher, WORDS};
use super::newton::Newton;
use super::replay::TURNS;
use super::vectors::{D, FIXED_VECTORS, FREE_SCALAR, G, G0, Probe, Scalar, Scale, Vector, Vectors, X};
use crate::error::{Error, Result};
use crate::formats::Format;
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;
use crate::gpu::own::OwnBuffer;
use crate::gpu::passes::Pass;

/// The most workgroups of a pass over a vector, and the most partial results of a reduction.
const GROUPS: usize = 256;
/// Elements of a workgroup, while there are fewer than `GROUPS`.
const SHARE: usize = 2048;
const NONE: u32 = u32::MAX;

/// The WGSL of the solvers' passes: name, entry point, text.
pub(crate) const SHADERS: [(&str, &str, &str); 9] = [
    ("combine", "combine", include_str!("../../shaders/combine.wgsl")),
    ("add", "add", include_str!("../../shaders/combine.wgsl")),
    ("divide", "divide", include_str!("../../shaders/combine.wgsl")),
    ("dot", "dot_main", include_str!("../../shaders/dot.wgsl")),
    ("probe", "probe", include_str!("../../shaders/probe.wgsl")),
    ("total", "total", include_str!("../../shaders/total.wgsl")),
    ("multiply", "multiply", include_str!("../../shaders/matrix.wgsl")),
    ("identity", "identity", include_str!("../../shaders/matrix.wgsl")),
    ("rank two", "rank_two", include_str!("../../shaders/matrix.wgsl")),
];

/// A kernel of [`SHADERS`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kernel {
    Combine,
    Add,
    Divide,
    Dot,
    Probe,
    Total,
    Multiply,
    Identity,
    RankTwo,
}

impl Kernel {
    fn bindings(self) -> &'static [bool] {
        match self {
            Self::Combine | Self::Divide => &[true, true, false, true],
            Self::Add => &[true, true, false],
            Self::Dot => &[true, true, false],
            Self::Probe => &[true, true, true, false],
            Self::Total => &[true, false],
            Self::Multiply | Self::Identity => &[false, true, false],
            Self::RankTwo => &[false, true, false, true],
        }
    }

    fn pass(self, gpu: &Gpu) -> Result<Arc<Pass>> {
        let (name, entry, text) = SHADERS[self as usize];
        gpu.pass(name, text.into(), entry, &[&[], self.bindings()])
    }
}

/// What a pass binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bound {
    Vector(Vector),
    Scalars,
    Partials,
    Matrix,
    Diagonal,
}

/// Vectors, scalars and matrix on the device.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    pub(super) dispatcher: Dispatcher,
    pub(super) own: Vec<OwnBuffer>,
    pub(super) vectors: Vec<BufferRange>,
    pub(super) value: BufferRange,
    scalars: BufferRange,
    partials: BufferRange,
    /// The matrix of BFGS, or of Newton's method.
    pub(super) matrix: Option<BufferRange>,
    diagonal: Option<BufferRange>,
    pub(super) products: Option<[Vector; 2]>,
    newton: Option<Newton>,
    passes: HashMap<Kernel, Arc<Pass>>,
    groups: HashMap<(Kernel, [Option<Bound>; 4]), wgpu::BindGroup>,
    failed: Option<Error>,
}

/// Workgroups of a pass over so many elements.
fn groups(len: usize) -> usize {
    // With this many workgroups a thread's loops have at most TURNS turns: ten for each element (shaders/probe.wgsl).
    let least = len.div_ceil(256 * TURNS / 10);
    len.div_ceil(SHARE).clamp(1, GROUPS).max(least)
}

/// Makes a buffer, which lasts as long as `own`.
pub(super) fn buffer(gpu: &Gpu, own: &mut Vec<OwnBuffer>, label: &'static str, len: u64) -> Result<BufferRange> {
    let limits = gpu.device().limits();
    let size = len.max(1).saturating_mul(4);
    let most = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
    if size > most {
        let limit = "max_storage_buffer_binding_size";
        return Err(Error::OverLimit { name: label.into(), limit, needed: size, available: most });
    }
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
    let buffer = gpu.scoped("a solver's buffer", || OwnBuffer::new(gpu.device().create_buffer(&descriptor)))?;
    let range = BufferRange::new(&buffer, 0, len as usize);
    own.push(buffer);
    Ok(range)
}

/// Checks that kernels can bind a caller's range, and that it has the expected length.
pub(super) fn check(gpu: &Gpu, name: &str, range: &BufferRange, expected: usize) -> Result<()> {
    range.check(name, Format::F32)?;
    if range.len != expected {
        return Err(Error::Length { name: name.into(), expected, found: range.len });
    }
    let alignment = u64::from(gpu.device().limits().min_storage_buffer_offset_alignment);
    if !range.offset.is_multiple_of(alignment) {
        return Err(Error::Misaligned { name: name.into(), offset: range.offset, alignment });
    }
    Ok(())
}

impl DeviceMemory {
    pub(super) fn new(gpu: &Gpu, x: BufferRange, g: BufferRange, value: BufferRange, scalars: usize) -> Result<Self> {
        let len = x.len;
        for (name, range, expected) in [("x", &x, len), ("gradient", &g, len), ("value", &value, 1)] {
            check(gpu, name, range, expected)?;
        }
        value.check_usage("value", wgpu::BufferUsages::COPY_SRC)?;
        if let Some((a, b)) = crate::gpu::memory::conflict(&[(&x, true), (&g, true), (&value, true)]) {
            let name = |k: usize| ["x", "gradient", "value"][k].to_owned();
            return Err(Error::Overlap { a: name(a), b: name(b) });
        }
        let mut own = Vec::new();
        let partials = (Probe::LEN * groups(len).max(GROUPS)) as u64;
        let mut memory = Self {
            dispatcher: Dispatcher::new(gpu, scalars + 1)?,
            vectors: vec![x, g],
            value,
            scalars: buffer(gpu, &mut own, "wgpu-optim solver scalars", scalars as u64)?,
            partials: buffer(gpu, &mut own, "wgpu-optim solver partials", partials)?,
            own,
            matrix: None,
            diagonal: None,
            products: None,
            newton: None,
            passes: HashMap::new(),
            groups: HashMap::new(),
            failed: None,
        };
        for _ in memory.vectors.len()..FIXED_VECTORS {
            memory.new_vector()?;
        }
        let kernels = [Kernel::Combine, Kernel::Add, Kernel::Dot, Kernel::Probe, Kernel::Total];
        for kernel in kernels {
            memory.passes.insert(kernel, kernel.pass(gpu)?);
        }
        Ok(memory)
    }

    pub(super) fn len(&self) -> usize {
        self.vectors[X].len
    }

    pub(super) fn new_vector(&mut self) -> Result<Vector> {
        let len = self.len() as u64;
        let range = buffer(&self.dispatcher.gpu, &mut self.own, "wgpu-optim solver vector", len)?;
        self.vectors.push(range);
        Ok(self.vectors.len() - 1)
    }

    /// Sets the diagonal of the preconditioner.
    pub(super) fn set_diagonal(&mut self, diagonal: BufferRange) -> Result<()> {
        check(&self.dispatcher.gpu, "preconditioner", &diagonal, self.len())?;
        self.diagonal = Some(diagonal);
        self.groups.retain(|(kernel, _), _| *kernel != Kernel::Divide);
        Ok(())
    }

    fn groups(&self) -> u32 {
        groups(self.len()) as u32
    }

    fn range(&self, bound: Bound) -> Option<&BufferRange> {
        match bound {
            Bound::Vector(vector) => self.vectors.get(vector),
            Bound::Scalars => Some(&self.scalars),
            Bound::Partials => Some(&self.partials),
            Bound::Matrix => self.matrix.as_ref(),
            Bound::Diagonal => self.diagonal.as_ref(),
        }
    }

    /// Makes Newton's matrix.
    pub(super) fn prepare_newton(&mut self) -> Result<()> {
        let (gpu, len) = (&self.dispatcher.gpu, (self.len() as u64).saturating_pow(2));
        let matrix = buffer(gpu, &mut self.own, "Newton's matrix", len)?;
        let [g, delta] = [G, D].map(|vector| &self.vectors[vector]);
        self.newton = Some(Newton::new(gpu, &mut self.own, &matrix, g, delta, &self.scalars)?);
        self.matrix = Some(matrix);
        Ok(())
    }

    /// D ← −(A + τ·1)⁻¹·G, with one read-back for each τ.
    async fn newton(&mut self) -> Result<bool> {
        let n = self.len() as u32;
        self.run(Kernel::Dot, &[Bound::Matrix, Bound::Matrix, Bound::Partials], &[n * n], [GROUPS as u32, 1]);
        let arguments = [GROUPS as u32, FREE_SCALAR as u32, 1, 0, 1f32.to_bits()];
        self.run(Kernel::Total, &[Bound::Partials, Bound::Scalars], &arguments, [1, 1]);
        match (&self.newton, self.failed.take()) {
            (_, Some(e)) => Err(e),
            (Some(newton), None) => newton.solve(&mut self.dispatcher).await,
            (None, None) => Ok(false),
        }
    }

    /// Records a pass. The next fetch reports its errors.
    fn run(&mut self, kernel: Kernel, bound: &[Bound], arguments: &[u32], workgroups: [u32; 2]) {
        let recorded = self.record(kernel, bound, arguments, workgroups);
        if let Err(e) = recorded {
            self.failed.get_or_insert(e);
        }
    }

    fn record(&mut self, kernel: Kernel, bound: &[Bound], arguments: &[u32], workgroups: [u32; 2]) -> Result<()> {
        let pass = match self.passes.get(&kernel) {
            Some(pass) => pass.clone(),
            None => {
                let pass = kernel.pass(&self.dispatcher.gpu)?;
                self.passes.insert(kernel, pass.clone());
                pass
            }
        };
        let mut key = [None; 4];
        key.iter_mut().zip(bound).for_each(|(key, bound)| *key = Some(*bound));
        let group = match self.groups.get(&(kernel, key)) {
            Some(group) => group.clone(),
            None => {
                let resources: Vec<_> =
                    bound.iter().filter_map(|&bound| self.range(bound)).map(BufferRange::binding).collect();
                let gpu = &self.dispatcher.gpu;
                let group = gpu.scoped("a solver's bind group", || pass.bind(gpu, 1, &resources))?;
                self.groups.insert((kernel, key), group.clone());
                group
            }
        };
        let mut words = [0; WORDS];
        words[..arguments.len()].copy_from_slice(arguments);
        self.dispatcher.push(&pass, &group, words, workgroups);
        Ok(())
    }
}

/// A scale as arguments: its factor, and the index of its scalar.
fn words(scale: Scale) -> [u32; 2] {
    [(scale.by as f32).to_bits(), scale.scalar.map_or(NONE, |scalar| scalar as u32)]
}

/// The vectors on the device, and what the caller records.
pub(super) struct DeviceVectors<'a, E, O, H> {
    pub(super) memory: &'a mut DeviceMemory,
    pub(super) objective: O,
    pub(super) hessian: H,
    pub(super) failed: Option<E>,
}

impl<E, O, H> Vectors for DeviceVectors<'_, E, O, H>
where
    E: From<Error>,
    O: FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
    H: FnMut(&mut wgpu::CommandEncoder) -> Result<(), E>,
{
    type Error = E;
    const EAGER: bool = false;

    fn len(&self) -> usize {
        self.memory.len()
    }

    fn new_vector(&mut self) -> Result<Vector, E> {
        Ok(self.memory.new_vector()?)
    }

    fn products(&mut self) -> Result<[Vector; 2], E> {
        if self.memory.products.is_none() {
            self.memory.products = Some([self.memory.new_vector()?, self.memory.new_vector()?]);
        }
        Ok(self.memory.products.unwrap_or_default())
    }

    fn combine(&mut self, out: Vector, a: impl Into<Scale>, x: Vector, b: impl Into<Scale>, y: Vector) {
        let ([a, a_scalar], [b, b_scalar]) = (words(a.into()), words(b.into()));
        let (len, groups) = (self.memory.len() as u32, self.memory.groups());
        let bound = [Bound::Scalars, Bound::Vector(x), Bound::Vector(out), Bound::Vector(y)];
        let arguments = [len, a, a_scalar, b, b_scalar];
        match out == y {
            true => self.memory.run(Kernel::Add, &bound[..3], &arguments, [groups, 1]),
            false => self.memory.run(Kernel::Combine, &bound, &arguments, [groups, 1]),
        }
    }

    fn dot(&mut self, scalar: Scalar, add: bool, scale: f64, a: Vector, b: Vector) {
        let (len, groups) = (self.memory.len() as u32, self.memory.groups());
        let bound = [Bound::Vector(a), Bound::Vector(b), Bound::Partials];
        self.memory.run(Kernel::Dot, &bound, &[len], [groups, 1]);
        let arguments = [groups, scalar as u32, 1, u32::from(add), (scale as f32).to_bits()];
        self.memory.run(Kernel::Total, &[Bound::Partials, Bound::Scalars], &arguments, [1, 1]);
    }

    fn identity(&mut self, c: f64) -> Result<(), E> {
        let n = self.memory.len();
        if self.memory.matrix.is_none() {
            let DeviceMemory { dispatcher, own, .. } = &mut self.memory;
            self.memory.matrix = Some(buffer(&dispatcher.gpu, own, "the matrix of BFGS", (n as u64).pow(2))?);
        }
        let bound = [Bound::Matrix, Bound::Vector(G), Bound::Vector(D)];
        let arguments = [n as u32, (c as f32).to_bits()];
        self.memory.run(Kernel::Identity, &bound, &arguments, [n.div_ceil(64) as u32, n as u32]);
        Ok(())
    }

    fn multiply(&mut self, out: Vector, scale: f64, x: Vector) {
        let n = self.memory.len() as u32;
        let bound = [Bound::Matrix, Bound::Vector(x), Bound::Vector(out)];
        self.memory.run(Kernel::Multiply, &bound, &[n, (scale as f32).to_bits()], [n, 1]);
    }

    fn rank_two(&mut self, rho: f64, scalar: Scalar, s: Vector, h: Vector) {
        let n = self.memory.len() as u32;
        let bound = [Bound::Matrix, Bound::Vector(s), Bound::Vector(h), Bound::Scalars];
        let arguments = [n, (rho as f32).to_bits(), scalar as u32];
        self.memory.run(Kernel::RankTwo, &bound, &arguments, [n.div_ceil(64), n]);
    }

    fn evaluate(&mut self, t: f64) {
        if let Err(e) = (self.objective)(self.memory.dispatcher.encoder()) {
            self.failed = self.failed.take().or(Some(e));
        }
        let (len, groups) = (self.memory.len() as u32, self.memory.groups());
        let bound = [Bound::Vector(G), Bound::Vector(G0), Bound::Vector(D), Bound::Partials];
        self.memory.run(Kernel::Probe, &bound, &[len, (t as f32).to_bits()], [groups, 1]);
        // Scalar 0 is the value, which the caller's kernels write.
        let (columns, maxima) = (Probe::LEN as u32 - 1, Probe::LEN as u32 - 3);
        let arguments = [groups, 1, maxima, 0, 1f32.to_bits()];
        self.memory.run(Kernel::Total, &[Bound::Partials, Bound::Scalars], &arguments, [columns, 1]);
    }

    fn hessian(&mut self, _: Vector, _: Vector) {
        if let Err(e) = (self.hessian)(self.memory.dispatcher.encoder()) {
            self.failed = self.failed.take().or(Some(e));
        }
    }

    fn precondition(&mut self, out: Vector, x: Vector) {
        if self.memory.diagonal.is_none() {
            return self.copy(out, x);
        }
        let (len, groups) = (self.memory.len() as u32, self.memory.groups());
        let bound = [Bound::Scalars, Bound::Vector(x), Bound::Vector(out), Bound::Diagonal];
        self.memory.run(Kernel::Divide, &bound, &[len], [groups, 1]);
    }

    async fn newton(&mut self) -> Result<bool, E> {
        (self.hessian)(self.memory.dispatcher.encoder())?;
        Ok(self.memory.newton().await?)
    }

    async fn fetch(&mut self, len: usize) -> Result<Vec<f64>, E> {
        let memory = &mut *self.memory;
        let scalars = BufferRange::new(&memory.scalars.buffer, 4, len.saturating_sub(1));
        let ranges = [memory.value.clone(), scalars];
        let found = memory.dispatcher.fetch(if len == 0 { &[] } else { &ranges }).await;
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        if let Some(e) = memory.failed.take() {
            return Err(e.into());
        }
        Ok(found?.into_iter().map(f64::from).collect())
    }
}
