// What the host says about a step that the device decides: a head, an entry for each cohort, and behind them each
// cohort's possible coefficients. Put before prepare.wgsl and lines.wgsl, behind wide.wgsl. Rust half:
// src/gpu/step_log.rs.

@group(0) @binding(0) var<storage, read> inputs: array<u32>;

// The head.
const STEP = 0u;
const POLICY = 1u;
const PARTIALS = 2u;
const CLIP = 3u;
const SCALING = 8u;
const GROWTH = 9u;      // an f64: the upper word, then the lower
const BACKOFF = 11u;    // an f64
const INTERVAL = 13u;
const MIN_SCALE = 14u;
const MEASURES = 15u;
const NAN = 16u;
const COHORTS = 17u;
const MEASURED = 18u;   // 1 if the norm is in `step_log` already
const HEAD = 20u;

// Behind it an entry for each cohort.
const CANDIDATES = 0u;
const WIDTH = 1u;
const WORDS = 2u;
const WEIGHT = 3u;
const TAKEN = 4u;
const SCHEDULED = 8u;
const FIRST = 12u;
const COUNT = 13u;
const WEIGHT_POWER = 14u;
const ENTRY_CLIP = 15u;
const GROUP_FIRST = 20u;
const GROUP_COUNT = 21u;
const GROUP_CLIP = 22u;
const ENTRY = 28u;

// A limit on a norm: kind, maximum, ε, form, a factor on the norm. The form is 1 if it only shrinks, 2 for no limit.
const KIND = 0u;
const MAX_NORM = 1u;
const EPS = 2u;
const FORM = 3u;
const FACTOR = 4u;
const NO_CLIP = 2u;

// What becomes of a step whose gradient is not finite.
const SKIP = 0u;
const ZERO = 2u;

fn number(at: u32) -> f32 {
    return bitcast<f32>(inputs[at]);
}

// What stands before a gradient of this cohort: the host's factor, without its sign.
fn weight(cohort: u32) -> Wide {
    let entry = HEAD + ENTRY * cohort;
    return times(wide(number(entry + WEIGHT)), wide(number(entry + WEIGHT_POWER)));
}
