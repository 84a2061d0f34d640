// What a norm-based rule makes of its norms, once for each tensor or group: one number for the update, and one that it
// may keep. Behind a rule, lane.wgsl and reduce.wgsl. CPU twin: `trust` in src/optimizer/vectors.rs.

struct Unit { first: u32, count: u32, row: u32, rows: u32, scalar: u32, unused: array<u32, 3> }

@group(0) @binding(0) var<storage, read> units: array<Unit>;
@group(0) @binding(1) var<storage, read> norms: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> rows: array<Slot>;

var<workgroup> of_unit: f32;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = units[group.x];
    var w = vec2(0.0);
    var x = vec2(0.0);
    for (var i = unit.first + lane; i < unit.first + unit.count; i += 256u) {
        w = join(w, norms[i].xy, L2);
        x = join(x, norms[i].zw, L2);
    }
    w = join_all(w, lane, L2);
    workgroupBarrier();
    x = join_all(x, lane, L2);
    let taken = rows[unit.row].row.skip != 1u;
    if lane == 0u && taken {
        var s = load_kept(unit.scalar);
        of_unit = trust(w.x * sqrt(w.y), x.x * sqrt(x.y), &s, rows[unit.row].row.hyper);
        store_kept(unit.scalar, s);
    }
    workgroupBarrier();
    // Every thread some: there may be as many rows as workgroups in a dispatch, and some drivers end loops after 32,768
    // turns.
    if taken {
        for (var k = unit.row + lane; k < unit.row + unit.rows; k += 256u) {
            store_coefficient(k, of_unit);
        }
    }
}
