//! What norm-based rules measure: the twin of shaders/measure.wgsl.

use std::ops::Range;

use super::gradient::View;
use super::{
    CHUNK, Driver, Job, LANES, MAX_STATES, NumbersMut, OfRule, TILE, Tiles, hyper, map, prefetch, sized, widest,
    with_scratch,
};
use crate::rule::{Description, Fields, Real, Rule, Step};
use crate::settings::Coefficients;

/// Tiles whose measured numbers are kept until they are squared.
const TILES: usize = 16;

/// The memory of a parameter that is measured. States that the rule does not measure are `None`.
struct Whole<'a, F> {
    parameter: &'a NumbersMut<'a, F>,
    gradient: View<'a, F>,
    states: [Option<&'a NumbersMut<'a, F>>; MAX_STATES],
    /// How many of these are stored in another type.
    decoded: usize,
}

/// A part of it, in the parameter's type.
struct Measured<'a, F> {
    parameter: &'a [F],
    gradient: View<'a, F>,
    states: [Option<&'a [F]>; MAX_STATES],
}

impl<'a, F: Real> Whole<'a, F> {
    fn new<R: Rule>(rule: &R, job: &'a Job<'_, F>) -> Self {
        let names = <R::State<F> as Fields<F>>::NAMES;
        let reads = rule.reduce().map_or(&[][..], |reduce| reduce.reads);
        let mut states = [None; MAX_STATES];
        let kept = (0..names.len()).filter(|&k| Rule::uses(rule, names[k])).zip(&job.states);
        for (k, state) in kept.filter(|(k, _)| reads.contains(&names[*k])) {
            states[k] = Some(state);
        }
        let all = states.iter().flatten().copied().chain([&job.parameter]);
        let decoded = all.filter(|numbers| !numbers.is_same()).count();
        Self { parameter: &job.parameter, gradient: job.gradient.view(), states, decoded }
    }

    /// This part, with room for what is to be decoded.
    fn part<'b>(&'b self, part: Range<usize>, room: &'b mut [F]) -> Measured<'b, F> {
        let mut rooms = room.chunks_mut(part.len().max(1));
        let mut decode = |numbers: &'b NumbersMut<'a, F>| match numbers {
            NumbersMut::Same(x) => Some(&x[part.clone()]),
            numbers => {
                let room = rooms.next()?;
                widest(
                    #[inline(always)]
                    || numbers.decode(part.clone(), room),
                );
                Some(&*room)
            }
        };
        let (parameter, states) = (decode(self.parameter).unwrap_or_default(), self.states.map(|state| decode(state?)));
        Measured { parameter, gradient: self.gradient.part(part), states }
    }
}

/// L2 norms of the parameter, or 0 if the rule does not need it, and of what the rule measures.
pub(crate) fn measure<R: Rule, F: Real>(rule: &R, job: &Job<'_, F>, c: &Coefficients, step: &Step) -> [f64; 2] {
    let needed = rule.reduce().is_some_and(|reduce| reduce.parameter);
    let reads = needed || Driver::<F>::of(c).l2 != F::zero();
    let (hyper, whole) = (hyper::<R, F>(rule, step, 1.0), Whole::new(rule, job));
    // Compiled apart, so that who does not use them does not pay for them.
    let [w, x] = if F::APART && !c.extras() {
        apart(&sized(&OfRule::<R, F, false>::new(rule, hyper, c)), &whole, reads)
    } else {
        apart(&sized(&OfRule::<R, F, true>::new(rule, hyper, c)), &whole, reads)
    };
    [if needed { w } else { 0.0 }, x]
}

fn apart<F: Real, T: Tiles<F> + Clone>(tiles: &T, whole: &Whole<'_, F>, reads: bool) -> [f64; 2] {
    match reads {
        true => on_all_threads::<F, T, true>(tiles, whole),
        false => on_all_threads::<F, T, false>(tiles, whole),
    }
}

/// `READS`: whether the parameter is read. Elsewhere it counts as 0.
fn on_all_threads<F: Real, T: Tiles<F> + Clone, const READS: bool>(tiles: &T, whole: &Whole<'_, F>) -> [f64; 2] {
    let len = whole.parameter.len();
    let of_part = |start: usize| {
        let part = start..len.min(start + CHUNK);
        with_scratch(whole.decoded * part.len(), |scratch| {
            let part = whole.part(part, scratch);
            widest(
                #[inline(always)]
                || squares::<F, READS>(tiles, &part, start),
            )
        })
    };
    // From the last part on: the update then starts where the memory is still in the caches.
    let parts = map((0..len).step_by(CHUNK).rev().collect(), of_part);
    parts.iter().rev().fold([0.0; 2], |[w, x], part| [w + part[0], x + part[1]]).map(f64::sqrt)
}

/// Sums of squares of a part, whose first element is the parameter's element `first`.
#[inline(always)]
fn squares<F: Real, const READS: bool>(
    rule: &(impl Tiles<F> + Clone),
    part: &Measured<'_, F>,
    first: usize,
) -> [f64; 2] {
    // A copy, which stays in registers.
    let rule = rule.clone();
    let (w, w_rest) = part.parameter.as_chunks::<TILE>();
    let states = part.states.map(|state| state.map(<[F]>::as_chunks::<TILE>));
    let (mut sums, mut x) = ([[0.0; LANES]; 2], [[F::zero(); TILE]; TILES]);
    let mut converted = [F::zero(); TILE];
    for (before, w) in (0..).step_by(TILES).zip(w.chunks(TILES)) {
        // Squares have a loop of their own: f64 takes half as many lanes.
        for (k, (w, x)) in w.iter().zip(&mut x).enumerate() {
            let at = before + k;
            let mut tile = [[F::zero(); TILE]; MAX_STATES];
            for k in 0..rule.states() {
                if let Some((state, _)) = &states[k] {
                    prefetch(&state[at]);
                    tile[k] = state[at];
                }
            }
            if READS {
                prefetch(w);
            }
            let w = if READS { *w } else { [F::zero(); TILE] };
            *x = rule.measure(&w, part.gradient.tile_in(at, &mut converted), &tile, first + at * TILE);
        }
        if READS {
            add_squares(&mut sums[0], w);
        }
        add_squares(&mut sums[1], &x[..w.len()]);
    }
    // What is left, in a tile that it fills in part.
    let mut rest = [0.0; 2];
    if !w_rest.is_empty() {
        let padded = |from: &[F]| {
            let mut tile = [F::zero(); TILE];
            tile[..from.len()].copy_from_slice(from);
            tile
        };
        let tile = states.map(|state| state.map_or([F::zero(); TILE], |(_, rest)| padded(rest)));
        let at = first + w.len() * TILE;
        let w = if READS { padded(w_rest) } else { [F::zero(); TILE] };
        let x = rule.measure(&w, &part.gradient.rest(), &tile, at);
        for (&w, &x) in w_rest.iter().zip(&x) {
            rest[0] += square(w);
            rest[1] += square(x);
        }
    }
    [0, 1].map(|k| sums[k].iter().sum::<f64>() + rest[k])
}

/// Adds the squares of tiles to the sums beside each other. The square of an f32 is exact in f64: it neither overflows
/// nor underflows.
#[inline(always)]
fn add_squares<F: Real>(sums: &mut [f64; LANES], tiles: &[[F; TILE]]) {
    // A copy, which stays in registers.
    let mut lanes = *sums;
    for some in tiles.as_flattened().as_chunks::<LANES>().0 {
        for i in 0..LANES {
            lanes[i] += square(some[i]);
        }
    }
    *sums = lanes;
}

#[inline(always)]
fn square<F: Real>(x: F) -> f64 {
    let x = x.to_f64().unwrap_or(f64::NAN);
    x * x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Gradient;
    use crate::formats::Encoding;
    use crate::formats::draws::Draws;
    use crate::rules::{AdaGradNorm, Lars};

    /// What the rule measures of a parameter and its gradient, without decay or with λ = 1.
    fn norms<F: Real>(rule: &impl Rule, w: &[F], g: &[F], l2: f64) -> [f64; 2] {
        let mut w = w.to_vec();
        let (parameter, gradient) = (NumbersMut::Same(&mut w), Gradient::Callers(g));
        let job = Job { parameter, gradient, states: Vec::new(), others: Vec::new() };
        let c = Coefficients {
            grad_scale: 1.0,
            clip_value: None,
            l2,
            decay: 0.0,
            zero_grad: false,
            zero_non_finite: false,
            average: None,
            noise: None,
            encoding: Encoding::Nearest,
            draws: Draws::default(),
        };
        let step = Step { t: 1, lr: 1.0, momentum: None, weight_decay: 0.0, look_ahead: 0.0 };
        measure(rule, &job, &c, &step)
    }

    /// Sums of whole numbers are exact in any order.
    #[test]
    fn every_element_counts_once() {
        for len in [0, 1, 31, 32, 33, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 45] {
            let numbers = |n: usize| (0..len).map(move |i| (i % n) as f32).collect::<Vec<_>>();
            let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x * x)).sum::<f64>().sqrt();
            let (w, g) = (numbers(7), numbers(5));
            assert_eq!(norms(&Lars::default(), &w, &g, 0.0), [norm(&w), norm(&g)], "{len} elements");
            // A rule that does not need the parameter reads it for the decay alone.
            let (rule, decayed): (_, Vec<_>) = (AdaGradNorm::default(), g.iter().zip(&w).map(|(g, w)| g + w).collect());
            assert_eq!(norms(&rule, &w, &g, 0.0), [0.0, norm(&g)], "{len} elements");
            assert_eq!(norms(&rule, &w, &g, 1.0), [0.0, norm(&decayed)], "{len} elements");
        }
    }

    /// The sum of 64 equal squares is exact in f64.
    #[test]
    fn the_largest_and_the_least_number_count() {
        let least = f32::from_bits(1);
        let expected = [f32::MAX, least].map(|x| 8.0 * f64::from(x));
        assert_eq!(norms(&Lars::default(), &[f32::MAX; 64], &[least; 64], 0.0), expected);
    }
}
