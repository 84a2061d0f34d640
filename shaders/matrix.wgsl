// The matrix of BFGS: products, and updates. src/solve/device.rs.

struct Row { len: u32, scale: f32, scalar: u32, pad0: u32 }

@group(0) @binding(0) var<uniform> row: Row;
@group(1) @binding(0) var<storage, read_write> matrix: array<f32>;
@group(1) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(3) var<storage, read> scalars: array<f32>;

var<workgroup> sums: array<f32, 64>;

// out ← scale·H·x, a workgroup a row.
@compute @workgroup_size(64)
fn multiply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = group.x;
    var sum = 0.0;
    for (var j = lane; j < row.len; j += 64u) {
        sum += matrix[i * row.len + j] * x[j];
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 64u; k++) {
            sum += sums[k];
        }
        out[i] = row.scale * sum;
    }
}

// H ← scale·1
@compute @workgroup_size(64)
fn identity(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < row.len {
        matrix[id.y * row.len + id.x] = select(0.0, row.scale, id.x == id.y);
    }
}

// H ← H − ρ(s·hᵀ + h·sᵀ) + ρ(1 + ρ·scalar)·s·sᵀ with s in x, h in out, ρ in scale.
@compute @workgroup_size(64)
fn rank_two(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y;
    let j = id.x;
    if j >= row.len {
        return;
    }
    let both = row.scale * (1.0 + row.scale * scalars[row.scalar]);
    matrix[i * row.len + j] += both * x[i] * x[j] - row.scale * (x[i] * out[j] + out[i] * x[j]);
}
