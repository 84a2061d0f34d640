// Thousands of small least-squares problems, each by Levenberg and Marquardt's method, wholly on the device.
//
// Before this come a model's text (shaders/decay.wgsl and its neighbours), loss.wgsl, and the constants N (unknowns),
// COLUMNS (numbers a sample), LANES (threads a problem) and PROBLEMS (problems a workgroup), which
// src/solve/fit_device.rs writes. CPU twin: src/solve/fit.rs.
//
// One dispatch does all where a thread's loops may have any number of turns. Mesa's llvmpipe leaves them after 65,535:
// there a dispatch does some rounds (points at which residuals are computed), or a part of the rows of one, and
// problems lie in `states` in between.

struct Arguments {
    problems: u32,
    rows: u32,
    max_iter: u32,
    kind: u32,
    lambda: f32,
    ftol: f32,
    xtol: f32,
    gtol: f32,
    c: f32,
    identity: u32,
    unknowns: u32,
    // The rows of this dispatch, and its rounds: 1 if these are not all rows.
    first_row: u32,
    end_row: u32,
    rounds: u32,
    // 1 in the first dispatch.
    begin: u32,
    // 1 if there is one dispatch.
    only: u32,
}
// Status: 0 not done, 1 gradient, 2 change, 3 not finite, 4 no descent, 5 all iterations.
struct Outcome { cost: f32, gradient: f32, status: u32, iterations: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read> samples: array<f32>;
@group(1) @binding(1) var<storage, read_write> unknowns: array<f32>;
@group(1) @binding(2) var<storage, read_write> outcomes: array<Outcome>;
// The problems, between two dispatches.
@group(1) @binding(3) var<storage, read_write> states: array<Problem>;

// λ stays a number that can grow again.
const LEAST = 1e-30;
const TRIANGLE = N * (N + 1u) / 2u;

// JᵀJ (its lower triangle by rows), Jᵀr, and the cost.
struct Normal { a: array<f32, TRIANGLE>, g: array<f32, N>, cost: f32 }
struct Problem {
    here: Normal,
    there: Normal,
    x: array<f32, N>,
    trial: array<f32, N>,
    // The largest diagonal of JᵀJ so far.
    scale: array<f32, N>,
    lambda: f32,
    nu: f32,
    decrease: f32,
    length: f32,
    gradient: f32,
    status: u32,
    iterations: u32,
    running: u32,
    // Whether the start has been judged; whether there was a factor.
    begun: u32,
    sound: u32,
}

var<workgroup> problems: array<Problem, PROBLEMS>;
// A row of J and its residual, of each thread.
var<workgroup> rows: array<array<f32, N + 1u>, PROBLEMS * LANES>;
var<workgroup> running: atomic<u32>;
var<workgroup> still: u32;
var<workgroup> cut: atomic<u32>;

// The number of unknowns: a constant where loops are short enough to be unrolled.
fn n() -> u32 {
    if N > 6u {
        return arguments.unknowns;
    }
    return N;
}

fn together() {
    if LANES > 1u {
        workgroupBarrier();
    }
}

// The normal equations at `trial`, into `there`: each thread makes a row, then adds up its share of the sums over all
// rows.
fn linearize(problem: u32, lane: u32, first: u32) {
    let mine = problem * LANES + lane;
    if arguments.first_row == 0u {
        for (var e = lane; e < n() * (n() + 1u) / 2u; e += LANES) {
            problems[problem].there.a[e] = 0.0;
        }
        for (var e = lane; e < n(); e += LANES) {
            problems[problem].there.g[e] = 0.0;
        }
        if lane == 0u {
            problems[problem].there.cost = 0.0;
        }
    }
    var x = problems[problem].trial;
    for (var chunk = arguments.first_row; chunk < arguments.end_row; chunk += LANES) {
        let sample = chunk + lane;
        var row = array<f32, N + 1u>();
        var cost = 0.0;
        if sample < arguments.end_row {
            var columns = array<f32, COLUMNS>();
            for (var c = 0u; c < COLUMNS; c++) {
                columns[c] = samples[(first + sample) * COLUMNS + c];
            }
            var jacobian = array<f32, N>();
            let r = residual(x, columns, &jacobian);
            let weight = weigh(r, arguments.kind, arguments.c);
            cost = weight.x;
            for (var i = 0u; i < n(); i++) {
                row[i] = weight.y * jacobian[i];
            }
            row[N] = weight.y * r;
        }
        if LANES == 1u {
            var e = 0u;
            for (var i = 0u; i < n(); i++) {
                for (var j = 0u; j <= i; j++) {
                    problems[problem].there.a[e] += row[i] * row[j];
                    e++;
                }
                problems[problem].there.g[i] += row[i] * row[N];
            }
            problems[problem].there.cost += cost;
            continue;
        }
        rows[mine] = row;
        together();
        var e = 0u;
        for (var i = 0u; i < n(); i++) {
            for (var j = 0u; j <= i; j++) {
                if e % LANES == lane {
                    var sum = 0.0;
                    for (var k = problem * LANES; k < (problem + 1u) * LANES; k++) {
                        sum += rows[k][i] * rows[k][j];
                    }
                    problems[problem].there.a[e] += sum;
                }
                e++;
            }
            if i % LANES == lane {
                var sum = 0.0;
                for (var k = problem * LANES; k < (problem + 1u) * LANES; k++) {
                    sum += rows[k][i] * rows[k][N];
                }
                problems[problem].there.g[i] += sum;
            }
        }
        together();
        rows[mine][0] = cost;
        together();
        if lane == 0u {
            var sum = 0.0;
            for (var k = problem * LANES; k < (problem + 1u) * LANES; k++) {
                sum += rows[k][0];
            }
            problems[problem].there.cost += sum;
        }
        together();
    }
}

// `there` becomes `here`: the next step starts from it.
fn arrive(problem: u32) {
    problems[problem].here = problems[problem].there;
    problems[problem].x = problems[problem].trial;
    var gradient = 0.0;
    for (var i = 0u; i < n(); i++) {
        let square = problems[problem].here.a[i * (i + 3u) / 2u];
        problems[problem].scale[i] = max(problems[problem].scale[i], square);
        gradient = max(gradient, abs(problems[problem].here.g[i]));
    }
    problems[problem].gradient = gradient;
}

// Whether something of `there` is NaN or ∞.
fn there_is_not_finite(problem: u32) -> bool {
    var found = not_finite(problems[problem].there.cost);
    for (var e = 0u; e < n() * (n() + 1u) / 2u; e++) {
        found = found || not_finite(problems[problem].there.a[e]);
    }
    for (var i = 0u; i < n(); i++) {
        found = found || not_finite(problems[problem].there.g[i]);
    }
    return found;
}

fn stop(problem: u32, status: u32) {
    problems[problem].status = status;
    problems[problem].running = 0u;
}

// What is added to element i of the diagonal.
fn damping(problem: u32, i: u32) -> f32 {
    let scale = problems[problem].scale[i];
    return problems[problem].lambda * select(select(1.0, scale, scale > 0.0), 1.0, arguments.identity == 1u);
}

// δ by Cholesky's factor of JᵀJ and the damping, and the trial point; `false` where there is none.
fn solve(problem: u32) -> bool {
    var l = problems[problem].here.a;
    var delta = array<f32, N>();
    var diagonal = array<f32, N>();
    for (var i = 0u; i < n(); i++) {
        let row = i * (i + 1u) / 2u;
        var sum = -problems[problem].here.g[i];
        for (var j = 0u; j <= i; j++) {
            let column = j * (j + 1u) / 2u;
            var element = l[row + j];
            for (var k = 0u; k < j; k++) {
                element -= l[row + k] * l[column + k];
            }
            if j < i {
                l[row + j] = element / diagonal[j];
                sum -= l[row + j] * delta[j];
            } else {
                element += damping(problem, i);
                if not_finite(element) || element <= 0.0 {
                    return false;
                }
                diagonal[i] = sqrt(element);
            }
        }
        delta[i] = sum / diagonal[i];
    }
    for (var back = 0u; back < n(); back++) {
        let i = n() - 1u - back;
        var sum = delta[i];
        for (var k = i + 1u; k < n(); k++) {
            sum -= l[k * (k + 1u) / 2u + i] * delta[k];
        }
        delta[i] = sum / diagonal[i];
    }
    var length = 0.0;
    var decrease = 0.0;
    for (var i = 0u; i < n(); i++) {
        length += delta[i] * delta[i];
        decrease += 0.5 * delta[i] * (damping(problem, i) * delta[i] - problems[problem].here.g[i]);
        problems[problem].trial[i] = problems[problem].x[i] + delta[i];
    }
    problems[problem].length = sqrt(length);
    problems[problem].decrease = decrease;
    return !not_finite(length);
}

fn reject(problem: u32) {
    problems[problem].lambda *= problems[problem].nu;
    problems[problem].nu *= 2.0;
    if problems[problem].lambda > 1e30 {
        stop(problem, 4u);
    }
}

// Whether the trial is the next point, and whether it is the last.
fn decide(problem: u32) {
    let before = problems[problem].here.cost;
    let actual = before - problems[problem].there.cost;
    let decrease = problems[problem].decrease;
    var size = 0.0;
    for (var i = 0u; i < n(); i++) {
        size += problems[problem].x[i] * problems[problem].x[i];
    }
    let short = problems[problem].length < arguments.xtol * (arguments.xtol + sqrt(size));
    let failed = there_is_not_finite(problem);
    if !failed && actual > 0.0 {
        let gain = actual / decrease;
        let bent = 2.0 * gain - 1.0;
        problems[problem].lambda = max(LEAST, problems[problem].lambda * max(1.0 / 3.0, 1.0 - bent * bent * bent));
        problems[problem].nu = 2.0;
        arrive(problem);
        if problems[problem].gradient <= arguments.gtol {
            stop(problem, 1u);
        } else if short || (actual < arguments.ftol * before && gain > 0.25) {
            stop(problem, 2u);
        }
        return;
    }
    // A model that predicts less than the tolerance cannot lead further.
    if short || (decrease < arguments.ftol * before && !failed) {
        stop(problem, select(2u, 3u, failed));
        return;
    }
    reject(problem);
}

// Judges the start.
fn start(problem: u32) {
    problems[problem].begun = 1u;
    let failed = there_is_not_finite(problem);
    arrive(problem);
    var most = 0.0;
    for (var i = 0u; i < n(); i++) {
        most = max(most, problems[problem].scale[i]);
    }
    problems[problem].lambda = max(LEAST, arguments.lambda * select(1.0, most, arguments.identity == 1u));
    if failed {
        stop(problem, 3u);
    } else if problems[problem].gradient <= arguments.gtol {
        stop(problem, 1u);
    }
}

// Goes on to the next trial.
fn advance(problem: u32) {
    if problems[problem].iterations == arguments.max_iter {
        stop(problem, 5u);
        return;
    }
    problems[problem].iterations += 1u;
    problems[problem].sound = 1u;
    if !solve(problem) {
        // More damping at the next try.
        problems[problem].sound = 0u;
        reject(problem);
    }
}

// Whether a loop still has its second turn. The number of turns is not a constant, so that a compiler cannot unroll it.
fn turns() -> bool {
    var turns = 0u;
    for (var k = 0u; k < min(arguments.rounds, 1u) + 1u; k++) {
        turns += 1u;
    }
    return turns == 2u;
}

@compute @workgroup_size(PROBLEMS * LANES)
fn fit(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let problem = index / LANES;
    let lane = index % LANES;
    let number = (group.y * groups.x + group.x) * PROBLEMS + problem;
    let exists = number < arguments.problems;
    let existing = min(number, arguments.problems - 1u);
    let first = existing * arguments.rows;
    if lane == 0u {
        if arguments.begin == 0u {
            problems[problem] = states[existing];
        } else {
            for (var i = 0u; i < n(); i++) {
                problems[problem].trial[i] = unknowns[existing * N + i];
                problems[problem].x[i] = problems[problem].trial[i];
                problems[problem].scale[i] = 0.0;
            }
            problems[problem].status = 0u;
            problems[problem].iterations = 0u;
            problems[problem].nu = 2.0;
            problems[problem].begun = 0u;
            problems[problem].sound = 1u;
            problems[problem].running = 1u;
        }
        if !exists {
            problems[problem].running = 0u;
        }
    }
    if index == 0u {
        atomicStore(&cut, 0u);
    }
    workgroupBarrier();
    for (var k = 0u; k < arguments.rounds; k++) {
        atomicStore(&running, 0u);
        workgroupBarrier();
        if lane == 0u && problems[problem].running == 1u {
            atomicAdd(&running, 1u);
        }
        workgroupBarrier();
        if index == 0u {
            still = atomicLoad(&running);
        }
        if workgroupUniformLoad(&still) == 0u {
            break;
        }
        linearize(problem, lane, first);
        together();
        if lane == 0u && problems[problem].running == 1u && arguments.end_row == arguments.rows {
            if problems[problem].begun == 0u {
                start(problem);
            } else if problems[problem].sound == 1u {
                decide(problem);
            }
            if problems[problem].running == 1u {
                advance(problem);
            }
        }
    }
    // If a loop was left early, its results are wrong.
    if !turns() {
        atomicStore(&cut, 1u);
    }
    workgroupBarrier();
    if lane == 0u && exists {
        var wrong = atomicLoad(&cut) == 1u;
        if !wrong {
            for (var i = 0u; i < n(); i++) {
                unknowns[number * N + i] = problems[problem].x[i];
            }
            wrong = !turns();
        }
        if wrong {
            stop(problem, 0u);
        }
        let p = &problems[problem];
        outcomes[number] = Outcome((*p).here.cost, (*p).gradient, (*p).status, (*p).iterations);
        if arguments.only == 0u {
            states[number] = problems[problem];
        }
    }
}
