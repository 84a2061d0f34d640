// Between the norms and the update: the whole gradient's norm, clipping, overflow, loss scale; then the
// coefficients of each cohort.
//
// `prepare` (one workgroup) decides about the step and writes `step_log`; `choose` (a workgroup a cohort) picks the
// coefficients for the step count that the device has reached, out of those that the host has computed for every count
// it may have reached. Behind reduce.wgsl, wide.wgsl and step_input.wgsl. CPU twin: `Safeguards::decide` in
// src/scaling.rs.

struct StepLog {
    scale: f32,            // of the loss
    growth_tracker: u32,   // good steps since it last changed
    skipped: u32,          // steps skipped so far
    bad: u32,              // of the last step that measured: 0 finite, 1 an ∞, 2 a NaN; and ZEROED, OVERFLOW
    norm: vec2<f32>,       // of that step: the norm is their product,
    norm_exponent: i32,    // times two to this
    last: u32,             // the last step's outcome, as below
    outcomes: array<u32, 128>, // of step n at n mod 128: 2n, 2n + 1 if it was skipped
    coefficient: f32,      // of the last step: clipping, and 1 / scale: a `Wide`
    coefficient_exponent: i32,
    unused: array<u32, 54>,
    measured: Measured,    // of all gradients, where the step is recorded in two halves
}

// What `Optimizer::encode_measure` leaves: the norm is scale · 2^exponent · sum.
struct Measured {
    scale: f32,
    exponent: i32,
    sum: f32,
    fault: u32,
    reach: i32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

@group(1) @binding(0) var<storage, read> partials: array<Partial>;
@group(1) @binding(1) var<storage, read_write> step_log: StepLog;
@group(1) @binding(2) var<storage, read_write> coefficients: array<u32>;

// In `bad`: elements that are not finite count as 0; a finite element becomes ∞ by the factors on it.
const ZEROED = 4u;
const OVERFLOW = 8u;
const STRIDE = 64u;
const GRAD_SCALE = 0u;
const SKIPPED = 5u;
const GRAD_POWER = 7u;
// The scale does not grow beyond 2¹²⁶, whose inverse is a normal number.
const MOST_SCALE = 0x7e800000u;

// ‖x‖₁ = scale·sum, ‖x‖₂ = scale·√sum, max|x| = scale·sum, as in reduce.wgsl.
struct Norm { scale: Wide, sum: f32 }

var<workgroup> norms: array<Norm, THREADS>;
var<workgroup> worst: atomic<u32>;
var<workgroup> untaken: array<atomic<u32>, 4>;
// The exponent of the largest finite element with its weight, but 0 or more.
var<workgroup> reach: atomic<i32>;
var<workgroup> overflows: atomic<u32>;
var<workgroup> chosen: Wide;

// Whether its own limit, or its group's, keeps a cohort's gradient finite. `ClipNorm::check` sees to it that any limit
// does.
fn limits_itself(cohort: u32) -> bool {
    let entry = HEAD + ENTRY * cohort;
    return inputs[entry + ENTRY_CLIP + FORM] != NO_CLIP || inputs[entry + GROUP_CLIP + FORM] != NO_CLIP;
}

// What clipping multiplies a gradient of this norm by.
fn limited(clip: u32, norm: Wide, bad: u32) -> Wide {
    if inputs[clip + FORM] == NO_CLIP {
        return wide(1.0);
    }
    if bad > 0u && inputs[POLICY] != ZERO {
        return wide(select(0.0, number(NAN), bad == 2u));
    }
    let above = wide(number(clip + MAX_NORM));
    let below = plus(norm, wide(number(clip + EPS)));
    if inputs[clip + FORM] == 1u && !less(above, below) {
        return wide(1.0);
    }
    if below.m == 0.0 {
        return wide(0.0);
    }
    return over(above, below);
}

fn join_norms(a: Norm, b: Norm, kind: u32) -> Norm {
    // Most threads have none.
    if b.scale.m == 0.0 {
        return a;
    }
    var scale = a.scale;
    if less(a.scale, b.scale) {
        scale = b.scale;
    }
    var part = vec2(narrow(over(a.scale, scale)), narrow(over(b.scale, scale)));
    if kind == L2 {
        part *= part;
    }
    part *= vec2(a.sum, b.sum);
    return Norm(scale, select(part.x + part.y, max(part.x, part.y), kind == MAX));
}

// The norm of some partial results, with their weights; √sum instead of the sum of squares. For thread 0.
//
// Some drivers end loops after 32,768 turns: of 64 threads these are the blocks of 2³³ elements.
fn norm_of(first: u32, count: u32, kind: u32, lane: u32) -> Norm {
    let none = Norm(wide(0.0), 0.0);
    var mine = none;
    for (var i = first + lane; i < first + count; i += THREADS) {
        let part = partials[i];
        let before = weight(part.cohort);
        atomicMax(&worst, part.largest);
        if part.sum != 0.0 {
            mine = join_norms(mine, Norm(times(before, wide(part.scale)), part.sum), kind);
        }
        if !limits_itself(part.cohort) {
            atomicMax(&reach, times(before, wide(bitcast<f32>(part.largest & 0x7fffffffu))).e);
        }
    }
    norms[lane] = mine;
    workgroupBarrier();
    var all = mine;
    if lane < ROOT {
        for (var k = lane + ROOT; k < THREADS; k += ROOT) {
            all = join_norms(all, norms[k], kind);
        }
        norms[lane] = all;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < ROOT; k++) {
            all = join_norms(all, norms[k], kind);
        }
    }
    all.sum = select(all.sum, sqrt(all.sum), kind == L2);
    return all;
}

@compute @workgroup_size(THREADS)
fn total(@builtin(local_invocation_index) lane: u32) {
    let norm = norm_of(0u, inputs[PARTIALS], inputs[CLIP + KIND], lane);
    if lane == 0u {
        let bad = fault(atomicLoad(&worst));
        step_log.measured = Measured(norm.scale.m, norm.scale.e, norm.sum, bad, atomicLoad(&reach), 0u, 0u, 0u);
    }
}

@compute @workgroup_size(THREADS)
fn prepare(@builtin(local_invocation_index) lane: u32) {
    let measured = step_log.measured;
    var norm = Norm(normal(measured.scale, measured.exponent), measured.sum);
    var bad = measured.fault;
    var reached = measured.reach;
    if inputs[MEASURED] == 0u {
        norm = norm_of(0u, inputs[PARTIALS], inputs[CLIP + KIND], lane);
        bad = fault(atomicLoad(&worst));
        reached = atomicLoad(&reach);
    }
    if lane == 0u {
        var inverse_scale = wide(1.0);
        if inputs[SCALING] == 1u {
            inverse_scale = over(inverse_scale, wide(step_log.scale));
        }
        norm.scale = times(norm.scale, times(inverse_scale, wide(number(CLIP + FACTOR))));
        chosen = times(inverse_scale, limited(CLIP, times(norm.scale, wide(norm.sum)), bad));
    }
    workgroupBarrier();
    // What the rule gets, if it comes near the largest f32: with the rule's own roundings. Who shares a norm shares
    // `reach` alone, which says enough to skip the same steps.
    if inputs[MEASURED] == 1u {
        if reached + chosen.e >= 127 {
            atomicOr(&overflows, 1u);
        }
    } else if reached + chosen.e >= 126 {
        for (var i = lane; i < inputs[PARTIALS]; i += THREADS) {
            let part = partials[i];
            let largest = wide(bitcast<f32>(part.largest & 0x7fffffffu));
            if !limits_itself(part.cohort) && times(times(weight(part.cohort), chosen), largest).e > 127 {
                atomicOr(&overflows, 1u);
            }
        }
    }
    workgroupBarrier();
    if lane == 0u {
        decide(norm, bad, select(0u, OVERFLOW, atomicLoad(&overflows) == 1u));
    }
}

fn decide(norm: Norm, bad: u32, overflow: u32) {
    let failed = (bad | overflow) > 0u;
    if inputs[SCALING] == 1u {
        if failed {
            // Where it stands below the least one already, it stays.
            step_log.scale = max(scaled_by(step_log.scale, BACKOFF), min(number(MIN_SCALE), step_log.scale));
            step_log.growth_tracker = 0u;
        } else if step_log.growth_tracker + 1u >= inputs[INTERVAL] {
            let grown = scaled_by(step_log.scale, GROWTH);
            if bitcast<u32>(grown) <= MOST_SCALE {
                step_log.scale = grown;
            }
            step_log.growth_tracker = 0u;
        } else {
            step_log.growth_tracker += 1u;
        }
    }
    let skip = u32(failed && inputs[POLICY] == SKIP);
    if inputs[MEASURES] == 1u {
        step_log.bad = bad | overflow | select(0u, ZEROED, inputs[POLICY] == ZERO);
        step_log.norm = vec2(norm.scale.m, norm.sum);
        step_log.norm_exponent = norm.scale.e;
    }
    step_log.coefficient = chosen.m;
    step_log.coefficient_exponent = chosen.e;
    step_log.skipped += skip;
    step_log.last = 2u * inputs[STEP] + skip;
    step_log.outcomes[inputs[STEP] % 128u] = step_log.last;
}

// How many of the steps in this set were not taken.
fn count(steps: u32) -> u32 {
    var n = 0u;
    for (var k = 0u; k < 4u; k++) {
        n += countOneBits(inputs[steps + k] & atomicLoad(&untaken[k]));
    }
    return n;
}

@compute @workgroup_size(THREADS)
fn choose(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + groups.x * group.y;
    if index >= inputs[COHORTS] {
        return;
    }
    let entry = HEAD + ENTRY * index;
    for (var k = lane; k < 128u; k += THREADS) {
        // The last step before this one that has this place among the outcomes.
        let before = inputs[STEP] - 1u;
        let step = before - ((before - k) & 127u);
        if step_log.outcomes[k] != 2u * step {
            atomicOr(&untaken[k / 32u], 1u << (k % 32u));
        }
    }
    let clip = entry + ENTRY_CLIP;
    // With its own limit a cohort has its own norm; the loss scale and the sign belong to its coefficient.
    var norm = Norm(wide(0.0), 0.0);
    if inputs[entry + COUNT] > 0u {
        norm = norm_of(inputs[entry + FIRST], inputs[entry + COUNT], inputs[clip + KIND], lane);
    }
    let bad = fault(atomicLoad(&worst));
    workgroupBarrier();
    // So has its group. What is bad in the cohort is bad in the group.
    let group_clip = entry + GROUP_CLIP;
    var of_group = Norm(wide(0.0), 0.0);
    if inputs[entry + GROUP_COUNT] > 0u {
        of_group = norm_of(inputs[entry + GROUP_FIRST], inputs[entry + GROUP_COUNT], inputs[group_clip + KIND], lane);
    }
    let width = inputs[entry + WIDTH];
    let candidate = count(entry + TAKEN) * width + select(0u, count(entry + SCHEDULED), width > 1u);
    let words = inputs[entry + WORDS];
    let first = inputs[entry + CANDIDATES] + candidate * words;
    let cohort = STRIDE * index;
    if lane == 0u {
        var coefficient = Wide(step_log.coefficient, step_log.coefficient_exponent);
        let group_scale = times(of_group.scale, times(coefficient, wide(number(group_clip + FACTOR))));
        let group_norm = times(group_scale, wide(of_group.sum));
        coefficient = times(coefficient, limited(group_clip, group_norm, fault(atomicLoad(&worst))));
        let scale = times(norm.scale, times(coefficient, wide(number(clip + FACTOR))));
        let factor = times(coefficient, limited(clip, times(scale, wide(norm.sum)), bad));
        let host = times(wide(number(first + GRAD_SCALE)), wide(number(first + GRAD_POWER)));
        let pair = factors(times(host, factor));
        coefficients[cohort + GRAD_SCALE] = bitcast<u32>(pair.x);
        coefficients[cohort + GRAD_POWER] = bitcast<u32>(pair.y);
        coefficients[cohort + SKIPPED] = step_log.last & 1u;
    } else if lane < words && lane != SKIPPED && lane != GRAD_POWER {
        coefficients[cohort + lane] = inputs[first + lane];
    }
}

// The scale times an f64, rounded to f64 and then to f32, as PyTorch has it: in integers. Above the largest f32 it is
// infinite.
fn scaled_by(scale: f32, factor: u32) -> f32 {
    let upper = inputs[factor];
    let bits = bitcast<u32>(scale);
    let exponent = i32(bits >> 23u) - 150 + i32((upper >> 20u) & 0x7ffu) - 1075;
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    // 24 times 53 bits: 76 or 77.
    let low = product(mantissa, inputs[factor + 1u]);
    let high = product(mantissa, (upper & 0xfffffu) | 0x100000u);
    var x = add(vec3(low.y, low.x, 0u), vec3(0u, high.y, high.x));
    x = rounded(x, bits_of(x) - 53u);
    // The bits that a rounding drops are 0 afterwards.
    let dropped = bits_of(x) - 24u;
    x = rounded(x, dropped);
    let more = bits_of(x) - 24u - dropped;
    let kept = ((x.y >> (dropped - 32u)) | (x.z << (64u - dropped))) >> more;
    let biased = exponent + i32(dropped + more) + 150;
    if biased <= 0 {
        return 0.0;
    }
    return bitcast<f32>(select((u32(biased) << 23u) | (kept & 0x7fffffu), INFINITE, biased >= 255));
}

// The upper and the lower half of a·b.
fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let rest = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return vec2((a >> 16u) * (b >> 16u) + (middle >> 16u) + (rest >> 16u), a * b);
}

// Of 96 bits, the lowest word first.
fn add(a: vec3<u32>, b: vec3<u32>) -> vec3<u32> {
    let x = a.x + b.x;
    let y = a.y + b.y;
    let z = y + u32(x < a.x);
    return vec3(x, z, a.z + b.z + u32(y < a.y) + u32(z < y));
}

// The number of bits up to the highest 1, of which one is above the 64th.
fn bits_of(x: vec3<u32>) -> u32 {
    return 96u - countLeadingZeros(x.z);
}

// To a multiple of 2ⁿ, 0 < n < 64, half to even.
fn rounded(x: vec3<u32>, n: u32) -> vec3<u32> {
    var mask = vec3((1u << (n % 32u)) - 1u, 0u, 0u);
    var one = vec3(1u << (n % 32u), 0u, 0u);
    var middle = vec3(1u << ((n + 31u) % 32u), 0u, 0u);
    if n > 32u {
        middle = vec3(0u, middle.x, 0u);
    }
    if n >= 32u {
        mask = vec3(0xffffffffu, mask.x, 0u);
        one = vec3(0u, one.x, 0u);
    }
    let rest = x & mask;
    let above = rest.y > middle.y || (rest.y == middle.y && rest.x > middle.x);
    let odd = any((x & one) != vec3(0u));
    if above || (all(rest == middle) && odd) {
        return add(x & ~mask, one);
    }
    return x & ~mask;
}
