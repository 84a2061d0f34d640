// What is done to the gradient of a matrix row by row, or column by column, before anything else; in place. Where the
// policy zeroes elements that are not finite, they count as 0 here, too.
//
//     CENTRALIZE   g ← g − mean(g)
//     ADAPTIVE     g ← g·min(1, clipping·max(‖w‖, ε) / max(‖g‖, 1e-6))
//
// A workgroup has `width` neighbouring lines, each of `count` elements that are `step` apart. A longer line is cut into
// parts, a workgroup each: `sums` measures them, `combine` joins them in order, `apply` rewrites the gradient. A line
// of one part needs `main` alone. No thread takes more than some thousand turns: some drivers end loops after 32,768.
// `parts` holds of each part of each line the pairs of g and of w; behind them, for each line, what `change` returns.
//
// Behind reduce.wgsl, wide.wgsl, step_input.wgsl, and the other bindings of group 1, which src/gpu/passes.rs generates.
// CPU twin: `Job::reshape` in src/cpu.rs.

struct Job {
    param: u32,
    grad: u32,
    lines: u32,
    line_step: u32,
    count: u32,
    step: u32,
    width: u32,
    adaptive: u32,
    clipping: f32,
    eps: f32,
    cohort: u32,
    parts: u32,
    turns: u32,            // of each thread in a part
}

@group(1) @binding(0) var<storage, read> job: Job;

// A thread's share of a part of a line: elements from `first` to below `end`.
struct Share { line: u32, part: u32, first: u32, end: u32, stride: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let share = share_of(group, groups, lane);
    let found = join_lines(measure(share), lane);
    rewrite(share, change(found));
}

@compute @workgroup_size(256)
fn sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let share = share_of(group, groups, lane);
    let found = join_lines(measure(share), lane);
    if lane < job.width && share.line < job.lines {
        parts[share.line * job.parts + share.part] = found;
    }
}

@compute @workgroup_size(256)
fn combine(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let line = (group.x + groups.x * group.y) * job.width + lane % job.width;
    var mine = vec4(0.0);
    if line < job.lines {
        for (var k = lane / job.width; k < job.parts; k += 256u / job.width) {
            mine = joined(mine, parts[line * job.parts + k]);
        }
    }
    let found = join_lines(mine, lane);
    if lane < job.width && line < job.lines {
        parts[job.lines * job.parts + line] = vec4(change(found), 0.0);
    }
}

@compute @workgroup_size(256)
fn apply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let share = share_of(group, groups, lane);
    if share.line < job.lines {
        rewrite(share, parts[job.lines * job.parts + share.line].xyz);
    }
}

fn share_of(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> Share {
    let at = group.x + groups.x * group.y;
    let line = at / job.parts * job.width + lane % job.width;
    let part = at % job.parts;
    let threads = 256u / job.width;
    let start = part * job.turns * threads;
    let end = select(0u, min(job.count, start + job.turns * threads), line < job.lines);
    return Share(line, part, start + lane / job.width, end, threads);
}

// The pairs of g and of w.
fn measure(share: Share) -> vec4<f32> {
    var g = vec2(0.0);
    var w = vec2(0.0);
    for (var k = share.first; k < share.end; k += share.stride) {
        let at = share.line * job.line_step + k * job.step;
        var x = load_grad(job.grad + at);
        if inputs[POLICY] == ZERO && (bitcast<u32>(x) & INFINITE) == INFINITE {
            x = 0.0;
        }
        if job.adaptive == 1u {
            g = add(g, x);
            w = add(w, load_param(job.param + at));
        } else {
            // Divided at once, since a sum might overflow.
            g.y += x / f32(job.count);
        }
    }
    return vec4(g, w);
}

// What is done to a line: two factors, as of `factors`, and what is subtracted.
fn change(found: vec4<f32>) -> vec3<f32> {
    if job.adaptive == 0u {
        return vec3(1.0, 1.0, found.y);
    }
    var factor = weight(job.cohort);
    if inputs[SCALING] == 1u {
        factor = over(factor, wide(loss_scale));
    }
    let norm = times(times(factor, wide(found.x)), wide(sqrt(found.y)));
    let limit = times(wide(job.clipping), larger(times(wide(found.z), wide(sqrt(found.w))), wide(job.eps)));
    if (bitcast<u32>(norm.m) & 0x7fffffffu) > INFINITE {
        return vec3(norm.m, 1.0, 0.0);
    }
    if less(norm, limit) {
        return vec3(1.0, 1.0, 0.0);
    }
    return vec3(factors(over(limit, larger(norm, wide(1e-6)))), 0.0);
}

fn larger(a: Wide, b: Wide) -> Wide {
    if less(a, b) {
        return b;
    }
    return a;
}

fn rewrite(share: Share, change: vec3<f32>) {
    for (var k = share.first; k < share.end; k += share.stride) {
        let at = job.grad + share.line * job.line_step + k * job.step;
        let g = load_grad(at);
        store_grad(at, change.x * select(change.y * g, g, change.y == 1.0) - change.z);
    }
}

// One more element of an L2 norm, as a pair whose scale is a power of two.
fn add(a: vec2<f32>, x: f32) -> vec2<f32> {
    let scale = bitcast<f32>(clamp(bitcast<u32>(x) & INFINITE, 0x00800000u, 0x7e800000u));
    let part = x / scale;
    return join(a, vec2(scale, part * part), L2);
}

// Pairs of g and of w; of a sum the scale is 0.
fn joined(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    if job.adaptive == 0u {
        return vec4(0.0, a.y + b.y, 0.0, 0.0);
    }
    return vec4(join(a.xy, b.xy, L2), join(a.zw, b.zw, L2));
}

var<workgroup> shared_pairs: array<vec4<f32>, 256>;

// The pairs of each line's threads, joined in a fixed order.
fn join_lines(mine: vec4<f32>, lane: u32) -> vec4<f32> {
    shared_pairs[lane] = mine;
    workgroupBarrier();
    for (var n = 128u; n >= job.width; n >>= 1u) {
        if lane < n {
            shared_pairs[lane] = joined(shared_pairs[lane], shared_pairs[lane + n]);
        }
        workgroupBarrier();
    }
    return shared_pairs[lane % job.width];
}
