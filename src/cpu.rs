//! The same step on slices: the fallback without a GPU, and in f64 the oracle for the GPU.

use std::ops::Range;

use crate::clipping::Unit;
use crate::noise::Stream;
use crate::rule::{Fields, Real, Rule, Step};
use crate::settings::{Coefficients, Settings};

/// Elements that a rule updates from its registers' point of view: loaded, computed and stored as one block that stays in L1.
const BLOCK: usize = 256;
/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 14;
/// The coefficient that a norm-based rule gets from its norms.
pub(crate) const TRUST_RATIO: &str = "trust_ratio";
/// The most states that a rule may keep on the CPU.
pub(crate) const MAX_SLOTS: usize = 8;

/// One parameter's memory. All slices have one length; `slots` are the states that the configuration keeps, in order, and behind
/// them the average if there is one.
#[derive(Debug)]
pub(crate) struct Job<'a, F> {
    pub(crate) parameter: &'a mut [F],
    pub(crate) gradient: Gradient<'a, F>,
    pub(crate) slots: Vec<&'a mut [F]>,
}

/// A job in one of the two precisions.
#[derive(Debug)]
pub(crate) enum AnyJob<'a> {
    F32(Job<'a, f32>),
    F64(Job<'a, f64>),
}

/// A gradient, ours to clear or the caller's to read.
#[derive(Debug)]
pub(crate) enum Gradient<'a, F> {
    Ours(&'a mut [F]),
    Callers(&'a [F]),
    /// A copy of the caller's, rewritten.
    Changed(Vec<F>),
}

impl<'a, F: Real> Gradient<'a, F> {
    fn get(&self) -> &[F] {
        match self {
            Self::Ours(g) => g,
            Self::Callers(g) => g,
            Self::Changed(g) => g,
        }
    }

    /// To be rewritten; the caller's is copied for that.
    fn change(&mut self) -> &mut [F] {
        if let Self::Callers(g) = self {
            *self = Self::Changed(g.to_vec());
        }
        match self {
            Self::Ours(g) => g,
            Self::Changed(g) => g,
            Self::Callers(_) => &mut [],
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Ours(g) => {
                let (a, b) = g.split_at_mut(at);
                (Self::Ours(a), Self::Ours(b))
            }
            Self::Callers(g) => {
                let (a, b) = g.split_at(at);
                (Self::Callers(a), Self::Callers(b))
            }
            Self::Changed(mut a) => {
                let b = a.split_off(at);
                (Self::Changed(a), Self::Changed(b))
            }
        }
    }
}

impl AnyJob<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(job) => job.parameter.len(),
            Self::F64(job) => job.parameter.len(),
        }
    }

    /// The gradient's norm.
    pub(crate) fn norm(&self, kind: u32, zero: bool) -> Measure {
        match self {
            Self::F32(job) => norm(job.gradient.get(), kind, zero),
            Self::F64(job) => norm(job.gradient.get(), kind, zero),
        }
    }

    /// Does to the gradient what goes row by row: the twin of shaders/units.wgsl. `scale` stands before it in its norm.
    pub(crate) fn reshape(&mut self, shape: Option<[usize; 2]>, settings: &Settings, scale: f64, zero: bool) {
        match self {
            Self::F32(job) => job.reshape(shape, settings, scale, zero),
            Self::F64(job) => job.reshape(shape, settings, scale, zero),
        }
    }

    /// Clears a gradient that is ours.
    pub(crate) fn zero_gradient(&mut self) {
        match self {
            Self::F32(Job { gradient: Gradient::Ours(g), .. }) => g.fill(0.0),
            Self::F64(Job { gradient: Gradient::Ours(g), .. }) => g.fill(0.0),
            _ => {}
        }
    }
}

/// The number that a norm-based rule keeps, in one of the two precisions.
#[derive(Debug)]
pub(crate) enum Number<'a> {
    F32(&'a mut f32),
    F64(&'a mut f64),
}

/// What a norm-based rule makes of its norms.
pub(crate) fn trust<R: Rule, F: Real>(rule: &R, [w, x]: [f64; 2], scalar: &mut F, step: &Step) -> f64 {
    let ratio = rule.trust(F::of(w), F::of(x), scalar, &hyper::<R, F>(rule, step, 1.0));
    ratio.to_f64().unwrap_or(f64::NAN)
}

/// A norm, and whether the vector holds NaN or ∞.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measure {
    pub(crate) value: f64,
    pub(crate) bad: bool,
}

/// √(a² + b²); NaN of a NaN, where `f64::hypot` prefers an ∞.
pub(crate) fn hypot(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.hypot(b) }
}

/// The norm of a vector whose parts have these norms.
pub(crate) fn join(norms: impl Iterator<Item = f64>, kind: u32) -> f64 {
    norms.fold(0.0, |a, b| match kind {
        0 => a + b,
        1 => hypot(a, b),
        _ if a.is_nan() || a > b => a,
        _ => b,
    })
}

/// The norm of this kind, in f64 and in a fixed order; with `zero`, of the finite elements. The twin of shaders/norm.wgsl.
pub(crate) fn norm<F: Real>(x: &[F], kind: u32, zero: bool) -> Measure {
    #[cfg(not(target_family = "wasm"))]
    let parts: Vec<Measure> = {
        use rayon::prelude::*;
        x.par_chunks(CHUNK).map(|x| part_of_norm(x, kind, zero)).collect()
    };
    #[cfg(target_family = "wasm")]
    let parts = [part_of_norm(x, kind, zero)];
    Measure { value: join(parts.iter().map(|part| part.value), kind), bad: parts.iter().any(|part| part.bad) }
}

fn part_of_norm<F: Real>(x: &[F], kind: u32, zero: bool) -> Measure {
    let wide = |x: F| x.abs().to_f64().unwrap_or(f64::NAN);
    let kept = |x: F| if zero && !x.is_finite() { 0.0 } else { wide(x) };
    let largest = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
    let value = match kind {
        0 => fold(x, wide, |a, b| a + b),
        1 => fold(x, |x| wide(x) * wide(x), |a, b| a + b).sqrt(),
        _ => fold(x, wide, largest),
    };
    // NaN and ∞ show in the sum; in f64 a finite square may be ∞, too.
    let bad = !value.is_finite() && x.iter().any(|x| !x.is_finite());
    let value = match kind {
        _ if value.is_finite() => value,
        0 => fold(x, kept, |a, b| a + b),
        1 => fold(x, kept, hypot),
        _ => fold(x, kept, largest),
    };
    Measure { value, bad }
}

/// Joins terms, which may be joined in any order, in lanes beside each other for the vector unit.
#[inline(always)]
fn fold<F: Real>(x: &[F], get: impl Fn(F) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    let whole = x.chunks_exact(LANES);
    let rest = whole.remainder();
    for x in whole {
        for (lane, &x) in lanes.iter_mut().zip(x) {
            *lane = join(*lane, get(x));
        }
    }
    rest.iter().map(|&x| get(x)).chain(lanes).fold(0.0, join)
}

#[cfg(not(target_family = "wasm"))]
pub(crate) fn for_each<T: Send>(work: Vec<T>, f: impl Fn(T) + Send + Sync) {
    use rayon::prelude::*;
    work.into_par_iter().for_each(f);
}

#[cfg(target_family = "wasm")]
pub(crate) fn for_each<T>(work: Vec<T>, f: impl Fn(T)) {
    work.into_iter().for_each(f);
}

impl<'a, F: Real> Job<'a, F> {
    fn reshape(&mut self, shape: Option<[usize; 2]>, settings: &Settings, scale: f64, zero: bool) {
        let [rows, columns] = shape.unwrap_or([1, self.parameter.len()]);
        let g = self.gradient.change();
        let wide = |x: F| if zero && !x.is_finite() { 0.0 } else { x.to_f64().unwrap_or(f64::NAN) };
        if settings.centralize && shape.is_some() && columns > 0 {
            for row in g.chunks_mut(columns) {
                let sum: f64 = row.iter().map(|&g| wide(g)).sum();
                row.iter_mut().for_each(|g| *g -= F::of(sum / columns as f64));
            }
        }
        let Some(clip) = settings.adaptive_clip else { return };
        let (units, unit_step, count, step) = match clip.unit {
            Unit::Column if shape.is_some() => (columns, 1, rows, columns),
            _ => (rows, columns, columns, 1),
        };
        for unit in 0..units {
            let at = |k: usize| unit * unit_step + k * step;
            let norm = |x: &[F]| (0..count).map(|k| wide(x[at(k)]).powi(2)).sum::<f64>().sqrt();
            let factor = F::of(clip.coefficient(norm(self.parameter), scale * norm(g)));
            (0..count).for_each(|k| g[at(k)] *= factor);
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn split(self, at: usize) -> (Self, Self) {
        let (a, b) = self.parameter.split_at_mut(at);
        let (ga, gb) = self.gradient.split_at(at);
        let (sa, sb) = self.slots.into_iter().map(|s| s.split_at_mut(at)).unzip();
        (Self { parameter: a, gradient: ga, slots: sa }, Self { parameter: b, gradient: gb, slots: sb })
    }
}

/// One step of one parameter, on all threads.
pub(crate) fn update<R: Rule, F: Real>(rule: &R, job: Job<'_, F>, c: &Coefficients, step: &Step, trust_ratio: f64) {
    let hyper = hyper::<R, F>(rule, step, trust_ratio);
    let used = used(rule, |slot| rule.uses(slot));
    // Compiled apart, so that who does not use them does not pay for them.
    match c.extras() {
        true => parallel::<R, F, true>(rule, job, &used, c, &hyper, 0),
        false => parallel::<R, F, false>(rule, job, &used, c, &hyper, 0),
    }
}

/// The step's coefficients, each rounded once.
fn hyper<R: Rule, F: Real>(rule: &R, step: &Step, trust_ratio: f64) -> R::Hyper<F> {
    let names = <R::Hyper<F> as Fields<F>>::NAMES;
    let mut rounded = [F::zero(); 32];
    rule.hyper(step).store(|k, x| rounded[k] = F::of(if names[k] == TRUST_RATIO { trust_ratio } else { x }));
    R::Hyper::<F>::load(|k| rounded[k])
}

/// Which of the rule's states are kept.
fn used<R: Rule>(_: &R, keep: impl Fn(&str) -> bool) -> Vec<usize> {
    let names = <R::State<f64> as Fields<f64>>::NAMES;
    (0..names.len()).filter(|&k| keep(names[k])).collect()
}

/// Halves the job until it is a chunk: rayon balances, and small parameters stay on one thread. `first` is the job's first element.
fn parallel<R: Rule, F: Real, const EXTRAS: bool>(
    rule: &R,
    job: Job<'_, F>,
    used: &[usize],
    c: &Coefficients,
    h: &R::Hyper<F>,
    first: usize,
) {
    #[cfg(not(target_family = "wasm"))]
    if job.parameter.len() > CHUNK {
        let half = job.parameter.len().div_ceil(CHUNK) / 2 * CHUNK;
        let (a, b) = job.split(half);
        rayon::join(
            || parallel::<R, F, EXTRAS>(rule, a, used, c, h, first),
            || parallel::<R, F, EXTRAS>(rule, b, used, c, h, first + half),
        );
        return;
    }
    serial::<R, F, EXTRAS>(rule, job, used, c, h, first);
}

/// The twin of shaders/update.wgsl.
fn serial<R: Rule, F: Real, const EXTRAS: bool>(
    rule: &R,
    mut job: Job<'_, F>,
    used: &[usize],
    c: &Coefficients,
    h: &R::Hyper<F>,
    first: usize,
) {
    let decay = F::of(c.decay);
    let drivers = Driver::<F>::of(c);
    let mut state = [[F::zero(); BLOCK]; MAX_SLOTS];
    let mut noise = [F::zero(); BLOCK];
    let gradient = job.gradient.get();
    for (block, (w, g)) in job.parameter.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK)).enumerate() {
        let at = block * BLOCK..block * BLOCK + w.len();
        for (&k, slot) in used.iter().zip(&job.slots) {
            state[k][..w.len()].copy_from_slice(&slot[at.clone()]);
        }
        if EXTRAS {
            drivers.noise(first + at.start, &mut noise);
        }
        for (i, (w, &g)) in w.iter_mut().zip(g).enumerate() {
            let mut s = R::State::<F>::load(|k| state[k][i]);
            let g = drivers.gradient::<EXTRAS>(g, *w, noise[i]);
            *w = rule.update(*w - decay * *w, g, &mut s, h);
            s.store(|k, x| state[k][i] = x);
        }
        for (&k, slot) in used.iter().zip(&mut job.slots) {
            slot[at.clone()].copy_from_slice(&state[k][..w.len()]);
        }
        if let (Some(rate), Some(average)) = (c.average, job.slots.get_mut(used.len())) {
            follow(&mut average[at], w, rate);
        }
    }
    if let (true, Gradient::Ours(g)) = (c.zero_grad, job.gradient) {
        g.fill(F::zero());
    }
}

/// What stands between a gradient and its rule.
struct Driver<F> {
    grad_scale: F,
    l2: F,
    limit: F,
    zero: bool,
    stream: Option<Stream>,
}

impl<F: Real> Driver<F> {
    fn of(c: &Coefficients) -> Self {
        let limit = F::of(c.clip_value.unwrap_or(f64::INFINITY));
        Self { grad_scale: F::of(c.grad_scale), l2: F::of(c.l2), limit, zero: c.zero_non_finite, stream: c.noise }
    }

    #[inline(always)]
    fn gradient<const EXTRAS: bool>(&self, g: F, w: F, noise: F) -> F {
        if !EXTRAS {
            return self.grad_scale * g + self.l2 * w;
        }
        let g = if self.zero && !g.is_finite() { F::zero() } else { g };
        clip(self.grad_scale * g, self.limit) + noise + self.l2 * w
    }

    /// The noise on the elements from `first` on, which is a multiple of four.
    fn noise(&self, first: usize, noise: &mut [F; BLOCK]) {
        let Some(stream) = &self.stream else { return };
        for (block, four) in noise.chunks_mut(4).enumerate() {
            let drawn = stream.four((first / 4 + block) as u32);
            four.iter_mut().zip(drawn).for_each(|(noise, x)| *noise = F::of(x));
        }
    }
}

/// L2 norms of the parameter and of what the rule measures: the twin of shaders/measure.wgsl.
pub(crate) fn measure<R: Rule, F: Real>(rule: &R, job: &Job<'_, F>, c: &Coefficients, step: &Step) -> [f64; 2] {
    let hyper = hyper::<R, F>(rule, step, 1.0);
    let names = <R::State<F> as Fields<F>>::NAMES;
    let kept = (0..).zip(used(rule, |slot| rule.uses(slot)));
    let slots: Vec<_> =
        kept.filter(|(_, k)| R::MEASURED.contains(&names[*k])).map(|(at, k)| (k, &*job.slots[at])).collect();
    let parts = (0..job.parameter.len()).step_by(CHUNK);
    let of_part = |start: usize| {
        let part = start..job.parameter.len().min(start + CHUNK);
        match c.extras() {
            true => part_of_measure::<R, F, true>(rule, job, &slots, c, &hyper, part),
            false => part_of_measure::<R, F, false>(rule, job, &slots, c, &hyper, part),
        }
    };
    #[cfg(not(target_family = "wasm"))]
    let parts: Vec<[f64; 2]> = {
        use rayon::prelude::*;
        parts.collect::<Vec<_>>().into_par_iter().map(of_part).collect()
    };
    #[cfg(target_family = "wasm")]
    let parts: Vec<[f64; 2]> = parts.map(of_part).collect();
    parts.iter().fold([0.0; 2], |[w, x], part| [w + part[0], x + part[1]]).map(f64::sqrt)
}

/// Sums of squares of a part.
fn part_of_measure<R: Rule, F: Real, const EXTRAS: bool>(
    rule: &R,
    job: &Job<'_, F>,
    slots: &[(usize, &[F])],
    c: &Coefficients,
    h: &R::Hyper<F>,
    part: Range<usize>,
) -> [f64; 2] {
    let (decay, driver) = (F::of(c.decay), Driver::<F>::of(c));
    let mut state = [[F::zero(); BLOCK]; MAX_SLOTS];
    let (mut noise, mut measured) = ([F::zero(); BLOCK], [F::zero(); BLOCK]);
    let square = |x: F| x.to_f64().map_or(f64::NAN, |x| x * x);
    let mut sums = [0.0; 2];
    for start in part.clone().step_by(BLOCK) {
        let at = start..part.end.min(start + BLOCK);
        let (w, g) = (&job.parameter[at.clone()], &job.gradient.get()[at.clone()]);
        for (k, slot) in slots {
            state[*k][..w.len()].copy_from_slice(&slot[at.clone()]);
        }
        if EXTRAS {
            driver.noise(start, &mut noise);
        }
        for (i, ((x, &w), &g)) in measured.iter_mut().zip(w).zip(g).enumerate() {
            let g = driver.gradient::<EXTRAS>(g, w, noise[i]);
            *x = rule.measure(w - decay * w, g, &R::State::<F>::load(|k| state[k][i]), h);
        }
        sums[0] += fold(w, square, |a, b| a + b);
        sums[1] += fold(&measured[..w.len()], square, |a, b| a + b);
    }
    sums
}

/// The average goes towards the parameters; it is them at rate 1, and stays at rate 0.
fn follow<F: Real>(average: &mut [F], w: &[F], rate: f64) {
    if rate == 1.0 {
        average.copy_from_slice(w);
    } else if rate != 0.0 {
        let rate = F::of(rate);
        average.iter_mut().zip(w).for_each(|(a, &w)| *a += rate * (w - *a));
    }
}

/// To ±limit; NaN passes: the twin of the shaders' `clip`.
fn clip<F: Real>(x: F, limit: F) -> F {
    if x > limit {
        limit
    } else if x < -limit {
        -limit
    } else {
        x
    }
}

/// `w ← w + shift·v`: the twin of shaders/look_ahead.wgsl.
pub(crate) fn look_ahead<F: Real>(w: &mut [F], v: &[F], shift: f64) {
    let shift = F::of(shift);
    for (w, &v) in w.iter_mut().zip(v) {
        *w += shift * v;
    }
}
