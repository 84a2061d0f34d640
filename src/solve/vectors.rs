//! The vectors of a method, on the host or on the device. The methods are written once, with these operations.

use crate::error::Error;
use crate::rule::Real;

/// A vector of n elements, by its index.
pub(crate) type Vector = usize;

/// The point at which the objective is evaluated, and the gradient that it writes.
pub(crate) const X: Vector = 0;
pub(crate) const G: Vector = 1;
/// The gradient before, for y = G − G0, and the direction of slopes.
pub(crate) const G0: Vector = 2;
pub(crate) const D: Vector = 3;
/// How many vectors there always are: these four. The methods make the others.
pub(crate) const FIXED_VECTORS: usize = 4;

/// A number that stays where the vectors are, by its index. The first ones are the fields of a [`Probe`].
pub(crate) type Scalar = usize;
/// From here on the methods use scalars for themselves.
pub(crate) const FREE_SCALAR: Scalar = 16;

/// A factor: a number that the host knows, times a scalar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) by: f64,
    pub(crate) scalar: Option<Scalar>,
}

impl From<f64> for Scale {
    fn from(by: f64) -> Self {
        Self { by, scalar: None }
    }
}

impl Scale {
    pub(crate) fn of(by: f64, scalar: Scalar) -> Self {
        Self { by, scalar: Some(scalar) }
    }
}

/// What is known of a point X = x₀ + t·d, with y = G − G0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Probe {
    pub(crate) value: f64,
    /// G·d, and G0·d.
    pub(crate) slope: f64,
    pub(crate) slope_before: f64,
    /// y·(t·d), y·y, G·G, G·y.
    pub(crate) ys: f64,
    pub(crate) yy: f64,
    pub(crate) gg: f64,
    pub(crate) gy: f64,
    /// Σ|G|, max|G|, max|d|.
    pub(crate) sum_g: f64,
    pub(crate) max_g: f64,
    pub(crate) max_d: f64,
}

impl Probe {
    pub(crate) const LEN: usize = 10;

    pub(crate) fn read(scalars: &[f64]) -> Self {
        let at = |k: usize| scalars.get(k).copied().unwrap_or(f64::NAN);
        Self {
            value: at(0),
            slope: at(1),
            slope_before: at(2),
            ys: at(3),
            yy: at(4),
            gg: at(5),
            gy: at(6),
            sum_g: at(7),
            max_g: at(8),
            max_d: at(9),
        }
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.value.is_finite() && self.gg.is_finite()
    }
}

/// The operations of a method. On a device they are only recorded: `fetch` runs them, and reports errors on both sides.
pub(crate) trait Vectors {
    type Error: From<Error>;
    /// Whether operations run at once.
    const EAGER: bool;

    /// How many unknowns.
    fn len(&self) -> usize;
    /// A new vector of zeros.
    fn new_vector(&mut self) -> Result<Vector, Self::Error>;
    /// out ← a·x + b·y; out may be y.
    fn combine(&mut self, out: Vector, a: impl Into<Scale>, x: Vector, b: impl Into<Scale>, y: Vector);
    /// scalar ← scale·(a·b); with `add`, scalar ← scalar + scale·(a·b).
    fn dot(&mut self, scalar: Scalar, add: bool, scale: f64, a: Vector, b: Vector);
    /// The n × n matrix of BFGS: c·1.
    fn identity(&mut self, c: f64) -> Result<(), Self::Error>;
    /// out ← scale·H·x.
    fn multiply(&mut self, out: Vector, scale: f64, x: Vector);
    /// H ← H − ρ(s·hᵀ + h·sᵀ) + ρ(1 + ρ·scalar)·s·sᵀ.
    fn rank_two(&mut self, rho: f64, scalar: Scalar, s: Vector, h: Vector);
    /// Evaluates the objective at X, with its gradient in G, and writes the scalars of a [`Probe`].
    fn evaluate(&mut self, t: f64);
    /// The vectors p and out for [`Vectors::hessian`].
    fn products(&mut self) -> Result<[Vector; 2], Self::Error>;
    /// out ← ∇²f(X)·p.
    fn hessian(&mut self, p: Vector, out: Vector);
    /// out ← x / the diagonal of the preconditioner. Without one, out ← x.
    fn precondition(&mut self, out: Vector, x: Vector);
    /// D ← −(∇²f(X) + τ·1)⁻¹·G with the first τ that makes the matrix positive definite. Returns `false` if none does.
    async fn newton(&mut self) -> Result<bool, Self::Error>;
    /// Runs what is recorded, and returns the first `len` scalars.
    async fn fetch(&mut self, len: usize) -> Result<Vec<f64>, Self::Error>;

    fn copy(&mut self, out: Vector, x: Vector) {
        self.combine(out, 1.0, x, 0.0, x);
    }

    async fn probe(&mut self, t: f64) -> Result<Probe, Self::Error> {
        self.evaluate(t);
        Ok(Probe::read(&self.fetch(Probe::LEN).await?))
    }
}

/// What a method on the host keeps between its steps.
#[derive(Debug, Default)]
pub(crate) struct HostMemory<F> {
    vectors: Vec<Vec<F>>,
    products: Option<[Vector; 2]>,
    matrix: Vec<F>,
    scalars: Vec<f64>,
}

impl<F: Real> HostMemory<F> {
    pub(crate) fn new(len: usize) -> Self {
        let (vectors, scalars) = (vec![vec![F::zero(); len]; FIXED_VECTORS], vec![0.0; FREE_SCALAR]);
        Self { vectors, products: None, matrix: Vec::new(), scalars }
    }

    pub(crate) fn x(&mut self) -> &mut Vec<F> {
        &mut self.vectors[X]
    }
}

/// Writes the n × n matrix ∇²f(x), row by row.
pub type Matrix<'a, F, E> = &'a mut dyn FnMut(&[F], &mut [F]) -> Result<(), E>;
/// From x and p, writes ∇²f(x)·p.
pub type Product<'a, F, E> = &'a mut dyn FnMut(&[F], &[F], &mut [F]) -> Result<(), E>;

/// Second derivatives of an objective.
pub enum Hessian<'a, F, E> {
    /// The whole matrix.
    Matrix(Matrix<'a, F, E>),
    /// Products, and optionally a preconditioner: a diagonal that approximates the Hessian's.
    Product(Product<'a, F, E>, Option<&'a [F]>),
}

impl<F, E> std::fmt::Debug for Hessian<'_, F, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Matrix(_) => "Matrix",
            Self::Product(..) => "Product",
        })
    }
}

/// The vectors on the host, and the caller's functions.
pub(crate) struct HostVectors<'v, 'h, F, E, O> {
    pub(crate) memory: &'v mut HostMemory<F>,
    pub(crate) objective: O,
    pub(crate) hessian: Option<Hessian<'h, F, E>>,
    pub(crate) failed: Option<E>,
}

fn dot<F: Real>(a: &[F], b: &[F]) -> f64 {
    let product = |(&a, &b): (&F, &F)| a * b;
    a.iter().zip(b).map(product).fold(F::zero(), |sum, x| sum + x).to_f64().unwrap_or(f64::NAN)
}

impl<F, E, O> HostVectors<'_, '_, F, E, O> {
    fn scalar(&mut self, scalar: Scalar) -> &mut f64 {
        if self.memory.scalars.len() <= scalar {
            self.memory.scalars.resize(scalar + 1, 0.0);
        }
        &mut self.memory.scalars[scalar]
    }
}

impl<F: Real, E, O> HostVectors<'_, '_, F, E, O> {
    fn value(&mut self, scale: Scale) -> F {
        F::of(scale.by * scale.scalar.map_or(1.0, |scalar| *self.scalar(scalar)))
    }
}

impl<F, E, O> Vectors for HostVectors<'_, '_, F, E, O>
where
    F: Real,
    E: From<Error>,
    O: FnMut(&[F], &mut [F]) -> Result<F, E>,
{
    type Error = E;
    const EAGER: bool = true;

    fn len(&self) -> usize {
        self.memory.vectors[X].len()
    }

    fn new_vector(&mut self) -> Result<Vector, E> {
        let len = self.memory.vectors[X].len();
        self.memory.vectors.push(vec![F::zero(); len]);
        Ok(self.memory.vectors.len() - 1)
    }

    fn combine(&mut self, out: Vector, a: impl Into<Scale>, x: Vector, b: impl Into<Scale>, y: Vector) {
        let (a, b) = (self.value(a.into()), self.value(b.into()));
        // A factor of 0 gives 0, even with NaN, as in the kernel.
        let times = |factor: F, value: F| if factor == F::zero() { F::zero() } else { factor * value };
        let vectors = &mut self.memory.vectors;
        for i in 0..vectors[out].len() {
            vectors[out][i] = times(a, vectors[x][i]) + times(b, vectors[y][i]);
        }
    }

    fn dot(&mut self, scalar: Scalar, add: bool, scale: f64, a: Vector, b: Vector) {
        let product = scale * dot(&self.memory.vectors[a], &self.memory.vectors[b]);
        let scalar = self.scalar(scalar);
        *scalar = if add { *scalar + product } else { product };
    }

    fn identity(&mut self, c: f64) -> Result<(), E> {
        let n = self.memory.vectors[X].len();
        self.memory.matrix = vec![F::zero(); n * n];
        self.memory.matrix.iter_mut().step_by(n + 1).for_each(|h| *h = F::of(c));
        Ok(())
    }

    fn multiply(&mut self, out: Vector, scale: f64, x: Vector) {
        let x = &self.memory.vectors[x];
        let row = |row: &[F]| F::of(scale * dot(row, x));
        self.memory.vectors[out] = self.memory.matrix.chunks(x.len()).map(row).collect();
    }

    fn rank_two(&mut self, rho: f64, scalar: Scalar, s: Vector, h: Vector) {
        let both = F::of(rho * (1.0 + rho * *self.scalar(scalar)));
        let (rho, s, h) = (F::of(rho), &self.memory.vectors[s], &self.memory.vectors[h]);
        for ((row, &si), &hi) in self.memory.matrix.chunks_mut(s.len()).zip(s).zip(h) {
            for ((m, &sj), &hj) in row.iter_mut().zip(s).zip(h) {
                *m += both * si * sj - rho * (si * hj + hi * sj);
            }
        }
    }

    fn evaluate(&mut self, t: f64) {
        let mut g = std::mem::take(&mut self.memory.vectors[G]);
        let value = (self.objective)(&self.memory.vectors[X], &mut g);
        self.memory.vectors[G] = g;
        let value = match value {
            Ok(value) => value.to_f64().unwrap_or(f64::NAN),
            Err(e) => {
                self.failed = self.failed.take().or(Some(e));
                f64::NAN
            }
        };
        let [_, g, g0, d] = [X, G, G0, D].map(|k| self.memory.vectors[k].as_slice());
        let t = F::of(t);
        let y: Vec<F> = g.iter().zip(g0).map(|(&g, &g0)| g - g0).collect();
        let s: Vec<F> = d.iter().map(|&d| d * t).collect();
        let float = |x: F| x.to_f64().unwrap_or(f64::NAN);
        let sum = |of: &[F]| float(of.iter().fold(F::zero(), |sum, x| sum + x.abs()));
        let most = |of: &[F]| of.iter().map(|&x| float(x.abs())).fold(0.0, crate::rule::largest);
        let found =
            [value, dot(g, d), dot(g0, d), dot(&y, &s), dot(&y, &y), dot(g, g), dot(g, &y), sum(g), most(g), most(d)];
        self.memory.scalars[..found.len()].copy_from_slice(&found);
    }

    fn products(&mut self) -> Result<[Vector; 2], E> {
        if self.memory.products.is_none() {
            self.memory.products = Some([self.new_vector()?, self.new_vector()?]);
        }
        Ok(self.memory.products.unwrap_or_default())
    }

    fn hessian(&mut self, p: Vector, out: Vector) {
        let mut product = std::mem::take(&mut self.memory.vectors[out]);
        if let Some(Hessian::Product(hessian, _)) = &mut self.hessian
            && let Err(e) = hessian(&self.memory.vectors[X], &self.memory.vectors[p], &mut product)
        {
            self.failed = self.failed.take().or(Some(e));
        }
        self.memory.vectors[out] = product;
    }

    fn precondition(&mut self, out: Vector, x: Vector) {
        match &self.hessian {
            Some(Hessian::Product(_, Some(diagonal))) => {
                let quotients = self.memory.vectors[x].iter().zip(*diagonal).map(|(&x, &d)| x / d);
                self.memory.vectors[out] = quotients.collect();
            }
            _ => self.copy(out, x),
        }
    }

    async fn newton(&mut self) -> Result<bool, E> {
        let n = self.memory.vectors[X].len();
        let mut matrix = vec![F::zero(); n * n];
        if let Some(Hessian::Matrix(hessian)) = &mut self.hessian {
            hessian(&self.memory.vectors[X], &mut matrix)?;
        }
        let double = |x: &F| x.to_f64().unwrap_or(f64::NAN);
        let matrix: Vec<_> = matrix.iter().map(double).collect();
        let g: Vec<_> = self.memory.vectors[G].iter().map(double).collect();
        let solution = super::dense::shifted(&matrix, &g);
        let found = solution.is_some();
        for (d, p) in self.memory.vectors[D].iter_mut().zip(solution.into_iter().flatten()) {
            *d = F::of(-p);
        }
        Ok(found)
    }

    async fn fetch(&mut self, len: usize) -> Result<Vec<f64>, E> {
        match self.failed.take() {
            Some(e) => Err(e),
            None => Ok(self.memory.scalars[..len.min(self.memory.scalars.len())].to_vec()),
        }
    }
}
