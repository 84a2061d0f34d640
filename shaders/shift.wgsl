// The shift τ of Newton's matrix: 0, or what is tried next (Nocedal and Wright, algorithm 3.3). src/solve/newton.rs.
// CPU twin: `shifted` in src/solve/dense.rs.

struct Arguments { n: u32, attempt: u32, scalar: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
// One of them is ‖A‖².
@group(1) @binding(0) var<storage, read> scalars: array<f32>;
@group(1) @binding(1) var<storage, read> matrix: array<f32>;
@group(1) @binding(2) var<storage, read_write> added: array<f32>;
// The two words of cholesky.wgsl, then τ.
@group(1) @binding(3) var<storage, read_write> status: array<u32>;

const SHIFT = 2u;

var<workgroup> smallest: array<f32, 256>;

@compute @workgroup_size(256)
fn shift(@builtin(local_invocation_index) lane: u32) {
    var low = 3.4e38;
    for (var i = lane; i < arguments.n; i += 256u) {
        low = min(low, matrix[i * arguments.n + i]);
    }
    smallest[lane] = low;
    workgroupBarrier();
    for (var k = 0u; k < 256u; k++) {
        low = min(low, smallest[k]);
    }
    let norm = sqrt(scalars[arguments.scalar]);
    let least = 1e-3 * select(1.0, norm, norm > 0.0);
    var tau = max(2.0 * bitcast<f32>(status[SHIFT]), least);
    if arguments.attempt == 0u {
        tau = select(least - low, 0.0, low > 0.0);
    }
    workgroupBarrier();
    storageBarrier();
    for (var i = lane; i < arguments.n; i += 256u) {
        added[i] = tau;
    }
    if lane == 0u {
        status[SHIFT] = bitcast<u32>(tau);
    }
}
