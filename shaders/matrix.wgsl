// The matrix of BFGS: products, and updates. src/solve/device.rs.

struct Arguments { len: u32, scale: f32, scalar: u32, pad0: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read_write> matrix: array<f32>;
@group(1) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(3) var<storage, read> scalars: array<f32>;

var<workgroup> sums: array<f32, 64>;

// out ← scale·H·x, one workgroup a row.
@compute @workgroup_size(64)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = group.x;
    var sum = 0.0;
    for (var j = lane; j < arguments.len; j += 64u) {
        sum += matrix[i * arguments.len + j] * x[j];
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 64u; k++) {
            sum += sums[k];
        }
        out[i] = arguments.scale * sum;
    }
}

// H ← scale·1
@compute @workgroup_size(64)
fn identity(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arguments.len {
        matrix[id.y * arguments.len + id.x] = select(0.0, arguments.scale, id.x == id.y);
    }
}

// H ← H − ρ(s·hᵀ + h·sᵀ) + ρ(1 + ρ·scalar)·s·sᵀ with s in x, h in out, ρ in scale.
@compute @workgroup_size(64)
fn rank_two(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y;
    let j = id.x;
    if j >= arguments.len {
        return;
    }
    let both = arguments.scale * (1.0 + arguments.scale * scalars[arguments.scalar]);
    matrix[i * arguments.len + j] += both * x[i] * x[j] - arguments.scale * (x[i] * out[j] + out[i] * x[j]);
}
