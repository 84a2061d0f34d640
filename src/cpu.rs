//! The same step on slices: the fallback without a GPU, and in f64 the oracle for the GPU.

use crate::formats::draws::PARAMETER;
use crate::formats::{Encoding, Extent, Format, remainder};
use crate::rule::{Description, Fields, Real, Rule, Step, coefficient};
use crate::settings::{Coefficients, Settings};

mod gradient;
mod machine;
mod measure;
mod norm;
mod numbers;
mod tiles;

pub(crate) use gradient::Gradient;
pub(crate) use machine::map;
use machine::{prefetch, widest, with_scratch};
pub(crate) use measure::measure;
pub(crate) use norm::{Measure, hypot, join};
pub(crate) use numbers::{Numbers, NumbersMut};
use tiles::{Driver, OfRule, Tiles, sized};

/// Elements that are loaded, computed and stored at a time: four of AVX2's vectors of f32.
const TILE: usize = 32;
/// Sums that are kept beside each other for the vector unit.
const LANES: usize = 16;
/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 14;
/// Elements that are decoded, updated and encoded while they are in the nearest cache.
const PART: usize = 1 << 10;
/// The most states that a rule may keep on the CPU.
pub(crate) const MAX_STATES: usize = 8;

/// One parameter's memory. `states` are the elements' states that the configuration keeps, in order, and behind them
/// the average if there is one; they are as long as the parameter. `others` are its states of other extents.
#[derive(Debug)]
pub(crate) struct Job<'a, F> {
    pub(crate) parameter: NumbersMut<'a, F>,
    pub(crate) gradient: Gradient<'a, F>,
    pub(crate) states: Vec<NumbersMut<'a, F>>,
    pub(crate) others: Vec<&'a mut [F]>,
}

/// A job in one of the two precisions.
#[derive(Debug)]
pub(crate) enum AnyJob<'a> {
    F32(Job<'a, f32>),
    F64(Job<'a, f64>),
}

impl AnyJob<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(job) => job.parameter.len(),
            Self::F64(job) => job.parameter.len(),
        }
    }

    /// Of its elements.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::F32(_) => Format::F32,
            Self::F64(_) => Format::F64,
        }
    }

    /// The number that a reduction over the tensor keeps; 0 if it keeps none.
    pub(crate) fn kept(&self) -> f64 {
        match self {
            Self::F32(job) => job.others.first().and_then(|state| state.first()).map_or(0.0, |&x| x.into()),
            Self::F64(job) => job.others.first().and_then(|state| state.first()).map_or(0.0, |&x| x),
        }
    }

    /// Keeps another number, if its rule's reduction keeps one.
    pub(crate) fn keep(&mut self, number: f64) {
        match self {
            Self::F32(job) => {
                job.others.iter_mut().flat_map(|state| state.first_mut()).for_each(|x| *x = f32::of(number))
            }
            Self::F64(job) => job.others.iter_mut().flat_map(|state| state.first_mut()).for_each(|x| *x = number),
        }
    }

    /// The gradient's norm.
    pub(crate) fn norm(&self, kind: u32, zero: bool) -> Measure {
        match self {
            Self::F32(job) => job.gradient.view().norm(kind, zero),
            Self::F64(job) => job.gradient.view().norm(kind, zero),
        }
    }

    /// Whether a finite element of a gradient of this norm, times `scale`, is infinite.
    pub(crate) fn overflows(&self, norm: f64, scale: f64) -> bool {
        match self {
            Self::F32(job) => job.gradient.view().overflows(norm, scale),
            Self::F64(job) => job.gradient.view().overflows(norm, scale),
        }
    }

    /// Does to the gradient what goes row by row: the twin of shaders/lines.wgsl. `scale` stands before it in its norm.
    pub(crate) fn reshape(&mut self, shape: Option<[usize; 2]>, settings: &Settings, scale: f64, zero: bool) {
        match self {
            Self::F32(job) => job.reshape(shape, settings, scale, zero),
            Self::F64(job) => job.reshape(shape, settings, scale, zero),
        }
    }

    /// Clears a gradient that is ours.
    pub(crate) fn zero_gradient(&mut self) {
        match self {
            Self::F32(job) => job.gradient.clear(),
            Self::F64(job) => job.gradient.clear(),
        }
    }
}

/// What a norm-based rule makes of its norms.
pub(crate) fn trust<R: Rule, F: Real>(rule: &R, [w, x]: [f64; 2], kept: &mut F, step: &Step) -> f64 {
    let ratio = rule.trust(F::of(w), F::of(x), kept, &hyper::<R, F>(rule, step, 1.0));
    ratio.to_f64().unwrap_or(f64::NAN)
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
        let parameter = self.parameter.decoded();
        let (lines, line_step, count, step) = match clip.over {
            Extent::Column if shape.is_some() => (columns, 1, rows, columns),
            _ => (rows, columns, columns, 1),
        };
        for line in 0..lines {
            let at = |k: usize| line * line_step + k * step;
            let norm = |x: &[F]| {
                let elements = || (0..count).map(|k| wide(x[at(k)]));
                let root = elements().map(|x| x.powi(2)).sum::<f64>().sqrt();
                // In f64 the square of a finite number may be infinite.
                if root.is_finite() { root } else { elements().fold(0.0, hypot) }
            };
            let factor = F::of(clip.coefficient(norm(&parameter), scale * norm(g)));
            (0..count).for_each(|k| g[at(k)] *= factor);
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn split(self, at: usize) -> (Self, Self) {
        let (a, b) = self.parameter.split_at(at);
        let (ga, gb) = self.gradient.split_at(at);
        let (sa, sb) = self.states.into_iter().map(|s| s.split_at(at)).unzip();
        let part = |parameter, gradient, states| Self { parameter, gradient, states, others: Vec::new() };
        (part(a, ga, sa), part(b, gb, sb))
    }
}

/// One step of one parameter, on all threads.
pub(crate) fn update<R: Rule, F: Real>(rule: &R, job: Job<'_, F>, c: &Coefficients, step: &Step, ratio: f64) {
    let hyper = hyper::<R, F>(rule, step, ratio);
    // Compiled apart, so that who does not use them does not pay for them.
    if F::APART && !c.extras() {
        parallel(&OfRule::<R, F, false>::new(rule, hyper, c), job, c, 0);
    } else {
        parallel(&OfRule::<R, F, true>::new(rule, hyper, c), job, c, 0);
    }
}

/// A rule's loop over a part of a parameter: all that is compiled for each rule by itself.
trait Loop<F>: Sync {
    /// `first` is the part's first element, of the tensor.
    fn run(&self, job: Same<'_, F>, c: &Coefficients, first: usize);
}

impl<R: Rule, F: Real, const EXTRAS: bool> Loop<F> for OfRule<R, F, EXTRAS> {
    fn run(&self, job: Same<'_, F>, c: &Coefficients, first: usize) {
        run(&sized(self), job, c, first);
    }
}

/// The step's coefficients, each rounded once. `ratio` is that of the rule's reduction, if it has one.
fn hyper<R: Rule, F: Real>(rule: &R, step: &Step, ratio: f64) -> R::Hyper<F> {
    let (names, into) = (<R::Hyper<F> as Fields<F>>::NAMES, rule.reduce().map(|reduce| reduce.into));
    let mut rounded = [F::zero(); 32];
    Rule::hyper(rule, step).store(|k, x| rounded[k] = coefficient(if Some(names[k]) == into { ratio } else { x }));
    R::Hyper::<F>::load(|k| rounded[k])
}

/// Halves the job until it is a chunk: rayon balances, and small parameters stay on one thread. `first` is the job's
/// first element.
fn parallel<F: Real>(of_rule: &dyn Loop<F>, job: Job<'_, F>, c: &Coefficients, first: usize) {
    #[cfg(not(target_family = "wasm"))]
    if job.parameter.len() > CHUNK {
        let half = job.parameter.len().div_ceil(CHUNK) / 2 * CHUNK;
        let (a, b) = job.split(half);
        rayon::join(|| parallel(of_rule, a, c, first), || parallel(of_rule, b, c, first + half));
        return;
    }
    let Job { parameter, gradient, states, .. } = job;
    // A vector is not split without a copy.
    let changed;
    let gradient = match gradient {
        Gradient::Changed(g) => {
            changed = g;
            Gradient::Callers(&changed)
        }
        gradient => gradient,
    };
    let all_same = states.iter().all(NumbersMut::is_same) && !gradient.is_half();
    match parameter {
        NumbersMut::Same(parameter) if all_same => {
            let states = states.into_iter().filter_map(NumbersMut::same).collect();
            of_rule.run(Same { parameter, gradient, states }, c, first);
        }
        parameter => {
            let decoded = [&parameter].into_iter().chain(&states).filter(|numbers| !numbers.is_same()).count();
            let parts = decoded + usize::from(gradient.is_half()) + 1;
            with_scratch(parts * PART, |scratch| {
                let update = |same: Same<'_, F>, first| of_rule.run(same, c, first);
                in_parts((parameter, gradient), states, scratch, c, first, &update);
            });
        }
    }
}

/// A part of a parameter's memory, all of it in the parameter's type.
struct Same<'a, F> {
    parameter: &'a mut [F],
    gradient: Gradient<'a, F>,
    states: Vec<&'a mut [F]>,
}

/// Decodes what is stored in another type, part by part, updates, and encodes it. `update` gets the first element of a
/// part.
fn in_parts<'a, F: Real>(
    (parameter, mut rest_of_gradient): (NumbersMut<'a, F>, Gradient<'a, F>),
    states: Vec<NumbersMut<'a, F>>,
    room: &mut [F],
    c: &Coefficients,
    first: usize,
    update: &dyn Fn(Same<'_, F>, usize),
) {
    let len = parameter.len();
    let mut stored: Vec<_> = [parameter].into_iter().chain(states).collect();
    // What is rounded at random is f32, and so has room for them.
    let (hashes, room) = room.split_at_mut(PART);
    let hashes = bytemuck::try_cast_slice_mut::<F, u32>(hashes).unwrap_or_default();
    let hashed = c.encoding == Encoding::Stochastic && stored.iter().any(NumbersMut::is_half);
    for start in (0..len).step_by(PART) {
        let part = start..len.min(start + PART);
        let (mut g, rest) = rest_of_gradient.split_at(part.len());
        rest_of_gradient = rest;
        let mut rooms = room.chunks_mut(PART);
        let decode = |numbers| match numbers {
            &mut NumbersMut::Same(ref mut x) => Some(&mut x[part.clone()]),
            numbers => {
                let room = &mut rooms.next()?[..part.len()];
                widest(
                    #[inline(always)]
                    || numbers.decode(part.clone(), room),
                );
                Some(room)
            }
        };
        let mut decoded = stored.iter_mut().filter_map(decode);
        let Some(parameter) = decoded.next() else { return };
        let states = decoded.collect();
        match rooms.next().filter(|_| g.is_half()) {
            Some(room) => {
                let room = &mut room[..part.len()];
                widest(
                    #[inline(always)]
                    || g.widen(room),
                );
                update(Same { parameter, gradient: Gradient::Callers(room), states }, first + start);
                if c.zero_grad {
                    g.clear();
                }
            }
            None => update(Same { parameter, gradient: g, states }, first + start),
        }
        if hashed {
            let (draws, first) = (c.draws, (first + start) as u32);
            widest(
                #[inline(always)]
                || (0u32..).zip(&mut *hashes).for_each(move |(k, hash)| *hash = draws.hash(first.wrapping_add(k))),
            );
        }
        let encoded = stored.iter_mut().enumerate().filter(|(_, numbers)| !numbers.is_same());
        for ((k, numbers), room) in encoded.zip(room.chunks(PART)) {
            let draws = c.draws.of_state(k.checked_sub(1).map_or(PARAMETER, |state| state as u32));
            widest(
                #[inline(always)]
                || numbers.encode_part(start, &room[..part.len()], c.encoding, (draws, hashes), first + start),
            );
        }
    }
}

/// Not inlined: its one copy serves both callers.
#[inline(never)]
fn run<F: Real, T: Tiles<F> + Clone>(tiles: &T, job: Same<'_, F>, c: &Coefficients, first: usize) {
    widest(
        #[inline(always)]
        || serial(tiles, job, c, first),
    );
}

/// The twin of shaders/update.wgsl.
#[inline(always)]
fn serial<F: Real>(rule: &(impl Tiles<F> + Clone), job: Same<'_, F>, c: &Coefficients, first: usize) {
    let Same { parameter, mut gradient, states } = job;
    let mut states = states.into_iter();
    let mut kept: [Option<&mut [F]>; MAX_STATES] = Default::default();
    for (k, kept) in kept.iter_mut().enumerate().take(rule.states()) {
        *kept = rule.uses(k).then(|| states.next()).flatten();
    }
    let (mut average, rate) = (states.next(), c.average.unwrap_or(0.0));
    let whole = parameter.len() / TILE * TILE;
    {
        // A copy here, within what is compiled for the vector unit: nothing that is written can alias it. (With one
        // that is made outside, rules with four states took five times as long.)
        let rule = rule.clone();
        let mut tiles = kept.each_mut().map(|state| state.as_mut().map(|state| state.as_chunks_mut().0));
        let (w, g) = (parameter.as_chunks_mut().0, gradient.view());
        let mut average = average.as_mut().map(|average| average.as_chunks_mut().0);
        for (at, w) in w.iter_mut().enumerate() {
            let mut tile = [[F::zero(); TILE]; MAX_STATES];
            for k in 0..rule.states() {
                if let Some(state) = &tiles[k] {
                    prefetch(&state[at]);
                    tile[k] = state[at];
                }
            }
            prefetch(w);
            *w = rule.update(*w, g.tile(at), &mut tile, first + at * TILE);
            for k in 0..rule.states() {
                if let Some(state) = &mut tiles[k] {
                    state[at] = tile[k];
                }
            }
            if let Some(average) = &mut average {
                follow::<F, TILE>(&mut average[at], w, rate);
            }
        }
    }
    // What is left, in tiles that it fills in part.
    let rest = &mut parameter[whole..];
    if !rest.is_empty() {
        let padded = |from: &[F]| {
            let mut tile = [F::zero(); TILE];
            tile[..from.len()].copy_from_slice(from);
            tile
        };
        let (len, g) = (rest.len(), gradient.view().rest());
        let mut tile =
            kept.each_ref().map(|state| state.as_ref().map_or([F::zero(); TILE], |state| padded(&state[whole..])));
        let w = rule.update(padded(rest), g, &mut tile, first + whole);
        rest.copy_from_slice(&w[..len]);
        for (state, tile) in kept.iter_mut().zip(&tile) {
            if let Some(state) = state {
                state[whole..].copy_from_slice(&tile[..len]);
            }
        }
        for (average, w) in average.iter_mut().flat_map(|average| &mut average[whole..]).zip(rest) {
            follow(std::array::from_mut(average), std::array::from_ref(w), rate);
        }
    }
    if let (true, Gradient::Ours(g)) = (c.zero_grad, &mut gradient) {
        g.fill(F::zero());
    }
}

/// The average goes towards the parameters; it is them at rate 1, and stays at rate 0.
#[inline(always)]
fn follow<F: Real, const N: usize>(average: &mut [F; N], w: &[F; N], rate: f64) {
    if rate == 1.0 {
        *average = *w;
    } else if rate != 0.0 {
        let rate = F::of(rate);
        for i in 0..N {
            average[i] += rate * (w[i] - average[i]);
        }
    }
}

/// Exchanges parameters in bf16 with their averages, without loss but for the payload of a NaN: the twin of
/// shaders/swap_halves.wgsl.
pub(crate) fn swap_halves(parameter: &mut [u16], average: &mut [f32], back: bool) {
    for (w, average) in parameter.iter_mut().zip(average) {
        let bits = average.to_bits();
        (*w, *average) = if back {
            ((bits >> 16) as u16, remainder::join((*w, bits as u16)))
        } else {
            let (upper, lower) = remainder::split(*average);
            (upper, f32::from_bits(u32::from(*w) << 16 | u32::from(lower)))
        };
    }
}

/// `w ← w + shift·v`: the twin of shaders/look_ahead.wgsl.
pub(crate) fn look_ahead<F: Real>(w: &mut [F], v: &[F], shift: f64) {
    let shift = F::of(shift);
    for (w, &v) in w.iter_mut().zip(v) {
        *w += shift * v;
    }
}

/// `w ← w + shift·(z − w)`: the twin of shaders/toward.wgsl.
pub(crate) fn toward<F: Real>(w: &mut [F], z: &[F], shift: f64) {
    let shift = F::of(shift);
    for (w, &z) in w.iter_mut().zip(z) {
        *w += shift * (z - *w);
    }
}
