// Between the norms and the update: the whole gradient's norm, clipping, overflow, loss scale; then each row of coefficients.
//
// `prepare` (one workgroup) decides about the step and writes `control`; `rows` (a workgroup a row) picks the coefficients for the
// step count that the device has reached, out of those that the host has computed for every count it may have reached.
// src/optimizer/guard.rs lays out `slot`. CPU twin: `Guard::decide` in src/scaling.rs.

struct Control {
    scale: f32,            // of the loss
    growth_tracker: u32,   // good steps since it last changed
    skipped: u32,          // steps skipped so far
    bad: u32,              // of the last step that measured: 0 finite, 1 an ∞, 2 a NaN; and 4 where they count as 0
    norm: vec2<f32>,       // of that step: the norm is their product
    coefficient: f32,      // of the last step: clipping, and 1 / scale
    last: u32,             // the last step's outcome, as below
    outcomes: array<u32, 128>, // of step n at n mod 128: 2n, 2n + 1 if it was skipped
}

@group(0) @binding(0) var<storage, read> slot: array<u32>;
@group(1) @binding(0) var<storage, read> partials: array<Partial>;
@group(1) @binding(1) var<storage, read_write> control: Control;
@group(1) @binding(2) var<storage, read_write> rows: array<u32>;

// The head of the slot.
const STEP = 0u;
const POLICY = 1u;
const PARTIALS = 2u;
const CLIP = 3u;
const SCALING = 8u;
const GROWTH = 9u;
const BACKOFF = 10u;
const INTERVAL = 11u;
const NAN = 12u;
const MEASURES = 13u;
const HEAD = 16u;

// Behind it an entry for each row.
const CANDIDATES = 0u;
const WIDTH = 1u;
const WORDS = 2u;
const WEIGHT = 3u;
const TAKEN = 4u;
const SCHEDULED = 8u;
const FIRST = 12u;
const COUNT = 13u;
const ENTRY_CLIP = 15u;
const ENTRY = 20u;

// A limit on a norm: kind, maximum, ε, 1 if it only shrinks (2 for none), a factor on the norm.
const KIND = 0u;
const MAX_NORM = 1u;
const EPS = 2u;
const FORM = 3u;
const FACTOR = 4u;
const NO_CLIP = 2u;

const SKIP = 0u;
const ZERO = 2u;
const ZEROED = 4u;
const ROW = 64u;
const ROW_SKIP = 5u;

var<workgroup> untaken: array<atomic<u32>, 4>;

fn number(at: u32) -> f32 {
    return bitcast<f32>(slot[at]);
}

// What clipping multiplies a gradient of this norm by.
fn limited(clip: u32, norm: vec2<f32>, bad: u32) -> f32 {
    if slot[clip + FORM] == NO_CLIP {
        return 1.0;
    }
    if bad > 0u && slot[POLICY] != ZERO {
        return select(0.0, number(NAN), bad == 2u);
    }
    // Both divided by a large scale, so that neither overflows.
    let scale = max(norm.x, 1.0);
    let above = number(clip + MAX_NORM) / scale;
    let below = norm.y * (norm.x / scale) + number(clip + EPS) / scale;
    if slot[clip + FORM] == 1u && above >= below {
        return 1.0;
    }
    return select(above / below, 0.0, below == 0.0);
}

// The norm of some partial results, as a product.
fn norm_of(first: u32, count: u32, kind: u32, lane: u32) -> vec2<f32> {
    var mine = vec2(0.0);
    var bad = 0u;
    for (var i = first + lane; i < first + count; i += 256u) {
        let part = partials[i];
        let weight = number(HEAD + ENTRY * part.row + WEIGHT);
        mine = join(mine, vec2(weight * part.scale, part.sum), kind);
        bad = max(bad, part.bad);
    }
    atomicMax(&worst, bad);
    let all = join_all(mine, lane, kind);
    return vec2(all.x, select(all.y, sqrt(all.y), kind == L2));
}

@compute @workgroup_size(256)
fn prepare(@builtin(local_invocation_index) lane: u32) {
    var norm = norm_of(0u, slot[PARTIALS], slot[CLIP + KIND], lane);
    if lane != 0u {
        return;
    }
    let bad = atomicLoad(&worst);
    var inverse_scale = 1.0;
    if slot[SCALING] == 1u {
        inverse_scale = 1.0 / control.scale;
        if bad > 0u {
            // Not below the smallest normal number: its inverse must be one, too.
            control.scale = max(control.scale * number(BACKOFF), 1.1754944e-38);
            control.growth_tracker = 0u;
        } else if control.growth_tracker + 1u >= slot[INTERVAL] {
            let grown = control.scale * number(GROWTH);
            if (bitcast<u32>(grown) & INFINITE) != INFINITE {
                control.scale = grown;
            }
            control.growth_tracker = 0u;
        } else {
            control.growth_tracker += 1u;
        }
    }
    norm.x *= inverse_scale * number(CLIP + FACTOR);
    let skip = u32(bad > 0u && slot[POLICY] == SKIP);
    if slot[MEASURES] == 1u {
        control.bad = bad | select(0u, ZEROED, slot[POLICY] == ZERO);
        control.norm = norm;
    }
    control.coefficient = inverse_scale * limited(CLIP, norm, bad);
    control.skipped += skip;
    control.last = 2u * slot[STEP] + skip;
    control.outcomes[slot[STEP] % 128u] = control.last;
}

// How many of the steps in this set were not taken.
fn count(steps: u32) -> u32 {
    var n = 0u;
    for (var k = 0u; k < 4u; k++) {
        n += countOneBits(slot[steps + k] & atomicLoad(&untaken[k]));
    }
    return n;
}

@compute @workgroup_size(256)
fn rows_main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let entry = HEAD + ENTRY * group.x;
    if lane < 128u {
        // The last step before this one that has this place among the outcomes.
        let before = slot[STEP] - 1u;
        let step = before - ((before - lane) & 127u);
        if control.outcomes[lane] != 2u * step {
            atomicOr(&untaken[lane / 32u], 1u << (lane % 32u));
        }
    }
    let clip = entry + ENTRY_CLIP;
    // With its own limit a row has its own norm; the loss scale and the sign belong to its coefficient.
    let norm = norm_of(slot[entry + FIRST], slot[entry + COUNT], slot[clip + KIND], lane);
    let unscaled = vec2(norm.x * control.coefficient * number(clip + FACTOR), norm.y);
    let factor = limited(clip, unscaled, atomicLoad(&worst));
    let candidate = count(entry + TAKEN) * slot[entry + WIDTH] + select(0u, count(entry + SCHEDULED), slot[entry + WIDTH] > 1u);
    let words = slot[entry + WORDS];
    let first = slot[entry + CANDIDATES] + candidate * words;
    if lane < words {
        var word = slot[first + lane];
        if lane == 0u {
            word = bitcast<u32>(bitcast<f32>(word) * (control.coefficient * factor));
        } else if lane == ROW_SKIP {
            word = control.last & 1u;
        }
        rows[ROW * group.x + lane] = word;
    }
}
