// The cost of least squares, JᵀJ and Jᵀr, weighted by the loss. loss.wgsl and block_product.wgsl come before this.
// src/solve/gpu_least_squares.rs.

// The m rows of J are divided into `slices` slices of `slice` rows.
struct Arguments { m: u32, n: u32, slices: u32, slice: u32, kind: u32, c: f32, lanes: u32 }
struct State { status: u32, failed: u32, fresh: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read> state: State;
@group(1) @binding(1) var<storage, read> jacobian: array<f32>;
@group(1) @binding(2) var<storage, read> residuals: array<f32>;
// First the cost of each workgroup; later, for each slice, JᵀJ with Jᵀr in row n.
@group(1) @binding(3) var<storage, read_write> partials: array<f32>;
@group(1) @binding(4) var<storage, read_write> matrix: array<f32>;
@group(1) @binding(5) var<storage, read_write> g: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn cost(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    if state.status != 0u {
        return;
    }
    var sum = 0.0;
    for (var i = group.x * 256u + lane; i < arguments.m; i += 256u * groups.x) {
        sum += weigh(residuals[i], arguments.kind, arguments.c).x;
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane < 16u {
        for (var k = lane + 16u; k < 256u; k += 16u) {
            sum += sums[k];
        }
        sums[lane] = sum;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k++) {
            sum += sums[k];
        }
        partials[group.x] = sum;
    }
}

// An element of [J r], 0 beyond it.
fn element(i: u32, j: u32) -> f32 {
    if j < arguments.n {
        return jacobian[i * arguments.n + j];
    }
    if j == arguments.n {
        return residuals[i];
    }
    return 0.0;
}

// Four columns of a row, weighted.
fn quad(i: u32, end: u32, j: u32) -> vec4<f32> {
    if i >= end || j > arguments.n {
        return vec4<f32>();
    }
    let values = vec4(element(i, j), element(i, j + 1u), element(i, j + 2u), element(i, j + 3u));
    if arguments.kind == 0u {
        return values;
    }
    return values * weigh(residuals[i], arguments.kind, arguments.c).y;
}

fn put(k: u32, q: u32, i: u32, end: u32, top: u32, across: u32) {
    left[k][q] = quad(i + k, end, top + 4u * q);
    right[k][q] = quad(i + k, end, across + 4u * q);
}

fn store(slice: u32, i: u32, j: u32, sum: vec4<f32>) {
    let at = (slice * (arguments.n + 1u) + i) * arguments.n + j;
    for (var k = 0u; k < 4u && j + k < arguments.n && i <= arguments.n; k++) {
        partials[at + k] = sum[k];
    }
}

// [J r]ᵀ·[J r] of a slice. Each workgroup computes a block of 32 × 32 on or below the diagonal.
@compute @workgroup_size(64)
fn normal(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x > group.y || state.fresh == 0u || state.status != 0u {
        return;
    }
    let top = 32u * group.y;
    let across = 32u * group.x;
    let first = group.z * arguments.slice;
    let end = min(arguments.m, first + arguments.slice);
    var sum = mat4x4<f32>();
    for (var i = first; i < end; i += 32u) {
        let k = lane / 8u;
        let q = lane % 8u;
        put(k, q, i, end, top, across);
        put(k + 8u, q, i, end, top, across);
        put(k + 16u, q, i, end, top, across);
        put(k + 24u, q, i, end, top, across);
        workgroupBarrier();
        sum += product(lane);
        workgroupBarrier();
    }
    let i = top + 4u * (lane / 8u);
    let j = across + 4u * (lane % 8u);
    store(group.z, i, j, sum[0]);
    store(group.z, i + 1u, j, sum[1]);
    store(group.z, i + 2u, j, sum[2]);
    store(group.z, i + 3u, j, sum[3]);
}

// Adds the slices up, with `lanes` threads for each element.
@compute @workgroup_size(256)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    if state.fresh == 0u || state.status != 0u {
        return;
    }
    let size = (arguments.n + 1u) * arguments.n;
    let e = (group.y * groups.x + group.x) * (256u / arguments.lanes) + lane / arguments.lanes;
    let i = e / arguments.n;
    let j = e % arguments.n;
    let counts = e < size && j <= i;
    var sum = 0.0;
    for (var p = lane % arguments.lanes; counts && p < arguments.slices; p += arguments.lanes) {
        sum += partials[p * size + e];
    }
    sums[lane] = sum;
    workgroupBarrier();
    if !counts || lane % arguments.lanes != 0u {
        return;
    }
    for (var k = 1u; k < arguments.lanes; k++) {
        sum += sums[lane + k];
    }
    if i == arguments.n {
        g[j] = sum;
    } else {
        matrix[i * arguments.n + j] = sum;
        matrix[j * arguments.n + i] = sum;
    }
}
