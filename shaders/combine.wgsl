// Sums and quotients of a solver's vectors; src/solve/device.rs.

struct Arguments { len: u32, a: f32, a_scalar: u32, b: f32, b_scalar: u32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read> scalars: array<f32>;
@group(1) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(3) var<storage, read> y: array<f32>;

const NONE = 0xffffffffu;

fn scale(factor: f32, scalar: u32) -> f32 {
    if scalar == NONE {
        return factor;
    }
    return factor * scalars[scalar];
}

// A factor of 0 gives 0, even with NaN.
fn times(factor: f32, value: f32) -> f32 {
    return select(factor * value, 0.0, factor == 0.0);
}

// out ← a·x + b·y
@compute @workgroup_size(256)
fn combine(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let a = scale(arguments.a, arguments.a_scalar);
    let b = scale(arguments.b, arguments.b_scalar);
    for (var i = id.x; i < arguments.len; i += 256u * groups.x) {
        out[i] = times(a, x[i]) + times(b, y[i]);
    }
}

// out ← a·x + b·out
@compute @workgroup_size(256)
fn add(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let a = scale(arguments.a, arguments.a_scalar);
    let b = scale(arguments.b, arguments.b_scalar);
    for (var i = id.x; i < arguments.len; i += 256u * groups.x) {
        out[i] = times(a, x[i]) + times(b, out[i]);
    }
}

// out ← x / y
@compute @workgroup_size(256)
fn divide(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < arguments.len; i += 256u * groups.x) {
        out[i] = x[i] / y[i];
    }
}
