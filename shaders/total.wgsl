// Partial results of dot.wgsl and probe.wgsl, added up: a workgroup a column, in a fixed order.

struct Row { groups: u32, slot: u32, sums: u32, keep: u32, scale: f32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> row: Row;
@group(1) @binding(0) var<storage, read> partials: array<f32>;
@group(1) @binding(1) var<storage, read_write> slots: array<f32>;

var<workgroup> parts: array<f32, 16>;

// Columns from `sums` on: the largest of numbers that are not negative, as integers, so that a NaN is seen.
fn join(column: u32, a: f32, b: f32) -> f32 {
    return select(a + b, bitcast<f32>(max(bitcast<u32>(a), bitcast<u32>(b))), column >= row.sums);
}

@compute @workgroup_size(16)
fn total(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x;
    var all = 0.0;
    for (var k = lane; k < row.groups; k += 16u) {
        all = join(column, all, partials[column * row.groups + k]);
    }
    parts[lane] = all;
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k++) {
            all = join(column, all, parts[k]);
        }
        let before = select(0.0, slots[row.slot + column], row.keep == 1u);
        slots[row.slot + column] = before + row.scale * all;
    }
}
