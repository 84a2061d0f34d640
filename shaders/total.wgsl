// Joins the partial results of dot.wgsl and probe.wgsl, one workgroup for each column, in a fixed order.

// Columns before `maxima` are sums, the others maxima. With `add` 1 the result is added to the scalar.
struct Arguments { groups: u32, scalar: u32, maxima: u32, add: u32, scale: f32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read> partials: array<f32>;
@group(1) @binding(1) var<storage, read_write> scalars: array<f32>;

var<workgroup> results: array<f32, 16>;

fn join(column: u32, a: f32, b: f32) -> f32 {
    // Maxima are of numbers that are not negative. They are compared as integers, in which a NaN is the largest.
    return select(a + b, bitcast<f32>(max(bitcast<u32>(a), bitcast<u32>(b))), column >= arguments.maxima);
}

@compute @workgroup_size(16)
fn total(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x;
    var all = 0.0;
    for (var k = lane; k < arguments.groups; k += 16u) {
        all = join(column, all, partials[column * arguments.groups + k]);
    }
    results[lane] = all;
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k++) {
            all = join(column, all, results[k]);
        }
        let before = select(0.0, scalars[arguments.scalar + column], arguments.add == 1u);
        scalars[arguments.scalar + column] = before + arguments.scale * all;
    }
}
