// Levenberg and Marquardt's method on one problem: which step is taken, and λ. loss.wgsl comes before this.
// src/solve/gpu_least_squares.rs; CPU twin: src/solve/least_squares.rs.

struct Arguments {
    n: u32,
    groups: u32,
    max_iter: u32,
    // 0: undamped, 1: λ·1, 2: λ·diag(JᵀJ).
    damping: u32,
    lambda: f32,
    ftol: f32,
    xtol: f32,
    gtol: f32,
}
// Status: 0 running, 1 gradient, 2 change, 3 not finite, 4 no descent, 5 all iterations, 6 singular.
struct State {
    status: u32,
    // There was no factor.
    failed: u32,
    // r and J are those of a point that was accepted.
    fresh: u32,
    evaluations: u32,
    iterations: u32,
    // The status that is due when the last point's gradient is known.
    last: u32,
    // δ is within its tolerance; 2: it is 0.
    short: u32,
    // The last point that was not accepted was not finite.
    was_not_finite: u32,
    cost: f32,
    gradient: f32,
    lambda: f32,
    nu: f32,
    // The fraction of an undamped step that is taken.
    fraction: f32,
}

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read_write> state: State;
@group(1) @binding(1) var<storage, read> partials: array<f32>;
@group(1) @binding(2) var<storage, read_write> x: array<f32>;
// Five vectors: the last point that was accepted, bounds, the largest diagonal of JᵀJ so far, terms of the model's
// decrease.
@group(1) @binding(3) var<storage, read_write> vectors: array<f32>;
@group(1) @binding(4) var<storage, read> matrix: array<f32>;
@group(1) @binding(5) var<storage, read> g: array<f32>;
@group(1) @binding(6) var<storage, read_write> added: array<f32>;
@group(1) @binding(7) var<storage, read_write> delta: array<f32>;

const HERE = 0u;
const LOWER = 1u;
const UPPER = 2u;
const SCALE = 3u;
const DECREASE = 4u;
// λ stays a number that can grow again.
const LEAST = 1e-30;
const GREATEST = 1e37;

var<workgroup> sums: array<vec2<f32>, 256>;
var<workgroup> flag: u32;
var<workgroup> shared_lambda: f32;

fn at(vector: u32, i: u32) -> u32 {
    return vector * arguments.n + i;
}

fn stopped(lane: u32) -> bool {
    if lane == 0u {
        flag = state.status;
    }
    return workgroupUniformLoad(&flag) != 0u;
}

fn project(i: u32, value: f32) -> f32 {
    // A NaN stays one.
    if value < vectors[at(LOWER, i)] {
        return vectors[at(LOWER, i)];
    }
    if value > vectors[at(UPPER, i)] {
        return vectors[at(UPPER, i)];
    }
    return value;
}

// The sums of all threads, in the first thread.
fn add(lane: u32, mine: vec2<f32>) -> vec2<f32> {
    sums[lane] = mine;
    workgroupBarrier();
    var all = mine;
    if lane < 16u {
        for (var k = lane + 16u; k < 256u; k += 16u) {
            all += sums[k];
        }
        sums[lane] = all;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k++) {
            all += sums[k];
        }
    }
    workgroupBarrier();
    return all;
}

// The larger of two magnitudes. They are compared as integers, in which a NaN is the largest.
fn larger(a: f32, b: f32) -> f32 {
    return bitcast<f32>(max(bitcast<u32>(a) & 0x7fffffffu, bitcast<u32>(b) & 0x7fffffffu));
}

// Starts from x, within its bounds.
@compute @workgroup_size(256)
fn begin(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < arguments.n; i += 256u) {
        x[i] = project(i, x[i]);
        vectors[at(SCALE, i)] = 0.0;
        vectors[at(DECREASE, i)] = 0.0;
    }
    if lane == 0u {
        state = State();
        state.nu = 2.0;
        state.fraction = 1.0;
    }
}

// 1: the point is accepted, 2: it is not.
fn judge(cost: f32, decrease: f32) -> u32 {
    state.fresh = 0u;
    state.evaluations += 1u;
    // A step of 0 says nothing new.
    let finite = select(!not_finite(cost), state.was_not_finite == 0u, state.short == 2u);
    if state.evaluations == 1u {
        state.cost = cost;
        state.gradient = select(cost, 0.0, finite);
        state.status = select(3u, 0u, finite);
        state.fresh = 1u;
        return 1u;
    }
    let sound = state.failed == 0u;
    let actual = state.cost - cost;
    if sound && finite && actual > 0.0 {
        let gain = actual / decrease;
        if state.short != 0u || (actual < arguments.ftol * state.cost && gain > 0.25) {
            state.last = 2u;
        }
        // Cut at a bound, a step may lower the cost where the model rises.
        let bent = 2.0 * max(gain, 0.0) - 1.0;
        let factor = select(max(0.33333334, 1.0 - bent * bent * bent), 0.33333334, not_finite(gain));
        state.lambda = max(LEAST, state.lambda * factor);
        state.nu = 2.0;
        state.fraction = 1.0;
        state.was_not_finite = 0u;
        state.cost = cost;
        state.fresh = 1u;
        return 1u;
    }
    state.was_not_finite = u32(!finite);
    // A model that predicts less than the tolerance cannot lead further. (If it predicts a rise, the step was cut at a
    // bound.)
    if sound && (state.short != 0u || (finite && abs(decrease) < arguments.ftol * state.cost)) {
        state.status = select(3u, 2u, finite);
        return 2u;
    }
    if arguments.damping == 0u {
        state.fraction *= 0.5;
    } else {
        state.lambda *= state.nu;
        state.nu *= 2.0;
    }
    if arguments.damping == 0u && !sound {
        state.status = 6u;
    } else if state.fraction < 1e-7 || state.lambda > GREATEST {
        state.status = select(3u, 4u, finite);
    }
    return 2u;
}

// Accepts or rejects the point that was evaluated.
@compute @workgroup_size(256)
fn decide(@builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    var mine = vec2<f32>();
    for (var k = lane; k < arguments.groups; k += 256u) {
        mine.x += partials[k];
    }
    for (var i = lane; i < arguments.n; i += 256u) {
        mine.y += vectors[at(DECREASE, i)];
    }
    let all = add(lane, mine);
    if lane == 0u {
        flag = judge(all.x, all.y);
    }
    let verdict = workgroupUniformLoad(&flag);
    for (var i = lane; i < arguments.n; i += 256u) {
        if verdict == 1u {
            vectors[at(HERE, i)] = x[i];
        } else {
            x[i] = vectors[at(HERE, i)];
        }
    }
}

// The model around the last point that was accepted: whether that is a minimum, and what is added to JᵀJ.
@compute @workgroup_size(256)
fn assess(@builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    // The gradient, and the largest scale.
    var mine = vec2<f32>();
    for (var i = lane; i < arguments.n; i += 256u) {
        let square = matrix[i * arguments.n + i];
        let here = vectors[at(HERE, i)];
        let held = (here == vectors[at(LOWER, i)] && g[i] > 0.0) || (here == vectors[at(UPPER, i)] && g[i] < 0.0);
        let scale = larger(vectors[at(SCALE, i)], square);
        vectors[at(SCALE, i)] = scale;
        added[i] = select(0.0, -1.0, held);
        mine = vec2(larger(mine.x, select(abs(g[i]), 0.0, held)), larger(mine.y, scale));
    }
    sums[lane] = mine;
    workgroupBarrier();
    if lane < 16u {
        for (var k = lane + 16u; k < 256u; k += 16u) {
            mine = vec2(larger(mine.x, sums[k].x), larger(mine.y, sums[k].y));
        }
        sums[lane] = mine;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k++) {
            mine = vec2(larger(mine.x, sums[k].x), larger(mine.y, sums[k].y));
        }
        state.gradient = mine.x;
        if state.evaluations == 1u {
            state.lambda = max(LEAST, arguments.lambda * select(1.0, mine.y, arguments.damping == 1u));
        }
        if not_finite(mine.x) || not_finite(mine.y) {
            state.status = 3u;
        } else if mine.x <= arguments.gtol {
            state.status = 1u;
        } else if state.last != 0u {
            state.status = state.last;
        } else if state.iterations == arguments.max_iter {
            state.status = 5u;
        } else {
            state.iterations += 1u;
        }
        shared_lambda = state.lambda;
    }
    let lambda = workgroupUniformLoad(&shared_lambda);
    for (var i = lane; i < arguments.n; i += 256u) {
        if added[i] == 0.0 && arguments.damping != 0u {
            let scale = vectors[at(SCALE, i)];
            added[i] = select(lambda, lambda * scale, arguments.damping == 2u && scale > 0.0);
        }
    }
}

// The next point, and the step that leads there.
@compute @workgroup_size(256)
fn advance(@builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    var mine = vec2<f32>();
    let failed = state.failed == 1u;
    for (var i = lane; i < arguments.n; i += 256u) {
        let here = vectors[at(HERE, i)];
        let next = project(i, here + state.fraction * delta[i]);
        x[i] = select(next, here, failed);
        delta[i] = x[i] - here;
        mine += vec2(delta[i] * delta[i], here * here);
    }
    let all = sqrt(add(lane, mine));
    if lane == 0u {
        state.short = select(u32(all.x < arguments.xtol * (arguments.xtol + all.y)), 2u, all.x == 0.0);
    }
}

// The terms −δᵢ·(g + ½JᵀJ·δ)ᵢ of the predicted decrease, one workgroup a row.
@compute @workgroup_size(256)
fn predict(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    let i = group.x;
    var mine = vec2<f32>();
    for (var j = lane; j < arguments.n; j += 256u) {
        mine.x += matrix[i * arguments.n + j] * delta[j];
    }
    let all = add(lane, mine);
    if lane == 0u {
        vectors[at(DECREASE, i)] = -delta[i] * (g[i] + 0.5 * all.x);
    }
}

// Ends with the last point that was accepted.
@compute @workgroup_size(256)
fn finish(@builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    if lane == 0u {
        flag = state.evaluations;
    }
    if workgroupUniformLoad(&flag) == 0u {
        return;
    }
    for (var i = lane; i < arguments.n; i += 256u) {
        x[i] = vectors[at(HERE, i)];
    }
    if lane == 0u {
        state.status = 5u;
    }
}
