// What is done to the gradient of a matrix row by row, or column by column, before anything else; in place. Where the policy zeroes
// elements that are not finite, they count as 0 here, too.
//
//     CENTRALIZE   g ← g − mean(g)
//     ADAPTIVE     g ← g·min(1, clipping·max(‖w‖, ε) / max(‖g‖, 1e-6))
//
// A workgroup has `width` neighbouring units, each of `count` elements that are `step` apart. src/gpu/units.rs makes the jobs.
// CPU twin: `Job::reshape` in src/cpu.rs.

struct Job {
    param: u32,
    grad: u32,
    units: u32,
    unit_step: u32,
    count: u32,
    step: u32,
    width: u32,
    adaptive: u32,
    clipping: f32,
    eps: f32,
    row: u32,
    unused: u32,
}

@group(0) @binding(0) var<storage, read> slot: array<u32>;
@group(1) @binding(0) var<storage, read> job: Job;
@group(1) @binding(1) var<storage, read_write> param: array<f32>;
@group(1) @binding(2) var<storage, read_write> grad: array<f32>;
@group(1) @binding(3) var<storage, read> loss_scale: f32;

// As in prepare.wgsl.
const POLICY = 1u;
const ZERO = 2u;
const SCALING = 8u;
const HEAD = 16u;
const ENTRY = 20u;
const WEIGHT = 3u;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = (group.x + groups.x * group.y) * job.width + lane % job.width;
    let threads = 256u / job.width;
    let inside = unit < job.units;
    let first = lane / job.width;
    var g = vec2(0.0);
    var w = vec2(0.0);
    if inside {
        for (var k = first; k < job.count; k += threads) {
            let at = unit * job.unit_step + k * job.step;
            var x = grad[job.grad + at];
            if slot[POLICY] == ZERO && (bitcast<u32>(x) & INFINITE) == INFINITE {
                x = 0.0;
            }
            if job.adaptive == 1u {
                g = add(g, x);
                w = add(w, param[job.param + at]);
            } else {
                // Divided at once, since a sum might overflow.
                g.y += x / f32(job.count);
            }
        }
    }
    g = join_units(g, lane);
    workgroupBarrier();
    w = join_units(w, lane);
    if !inside {
        return;
    }
    var factor = 1.0;
    var shift = 0.0;
    if job.adaptive == 1u {
        var weight = bitcast<f32>(slot[HEAD + ENTRY * job.row + WEIGHT]);
        if slot[SCALING] == 1u {
            weight /= loss_scale;
        }
        let norm = weight * g.x * sqrt(g.y);
        let limit = job.clipping * max(w.x * sqrt(w.y), job.eps);
        if (bitcast<u32>(norm) & 0x7fffffffu) > INFINITE {
            factor = norm;
        } else if norm >= limit {
            factor = limit / max(norm, 1e-6);
        }
    } else {
        shift = g.y;
    }
    for (var k = first; k < job.count; k += threads) {
        let at = job.grad + unit * job.unit_step + k * job.step;
        grad[at] = factor * grad[at] - shift;
    }
}

// One more element of an L2 norm, as a pair whose scale is a power of two.
fn add(a: vec2<f32>, x: f32) -> vec2<f32> {
    let scale = bitcast<f32>(clamp(bitcast<u32>(x) & INFINITE, 0x00800000u, 0x7e800000u));
    let part = x / scale;
    return join(a, vec2(scale, part * part), L2);
}

// The pairs of each unit's threads, joined in a fixed order; of a sum the scale is 0.
fn join_units(mine: vec2<f32>, lane: u32) -> vec2<f32> {
    pairs[lane] = mine;
    workgroupBarrier();
    for (var n = 128u; n >= job.width; n >>= 1u) {
        if lane < n {
            let a = pairs[lane];
            let b = pairs[lane + n];
            if job.adaptive == 1u {
                pairs[lane] = join(a, b, L2);
            } else {
                pairs[lane].y = a.y + b.y;
            }
        }
        workgroupBarrier();
    }
    return pairs[lane % job.width];
}
