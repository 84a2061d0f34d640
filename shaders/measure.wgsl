// Norms of parameters, and of what a norm-based rule measures: a partial result of each for each tile. Nothing is stored.
// Behind a rule, lane.wgsl and reduce.wgsl; src/gpu/kernel.rs fills in the lines marked `//:`. CPU twin: cpu::measure.

@group(0) @binding(0) var<storage, read> rows: array<Slot>;
@group(0) @binding(1) var<storage, read> tiles: array<Tile>;
@group(0) @binding(2) var<storage, read_write> norms: array<vec4<f32>>;
//: bindings

var<workgroup> largest_w: atomic<u32>;
var<workgroup> largest_x: atomic<u32>;

fn measured(tile: Tile, k: u32) -> vec2<f32> {
    let row = rows[tile.row].row;
    //: place
    let w = param[i];
    //: load
    return vec2(w, /*: measure */);
}

// The power of two at or below the largest, 2⁻¹²⁶ … 2¹²⁶.
fn scale_of(largest: u32) -> u32 {
    return clamp(largest & INFINITE, 0x00800000u, 0x7e800000u);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tiles[group.x];
    var most = vec2(0u);
    for (var k = lane; k < tile.len; k += 256u) {
        most = max(most, bitcast<vec2<u32>>(measured(tile, k)) & vec2(0x7fffffffu));
    }
    atomicMax(&largest_w, most.x);
    atomicMax(&largest_x, most.y);
    workgroupBarrier();
    let scales = vec2(scale_of(atomicLoad(&largest_w)), scale_of(atomicLoad(&largest_x)));
    let inverse = bitcast<vec2<f32>>(vec2(0x7f000000u) - scales);
    var sums = vec2(0.0);
    for (var k = lane; k < tile.len; k += 256u) {
        let x = measured(tile, k) * inverse;
        sums += x * x;
    }
    let scale = bitcast<vec2<f32>>(scales);
    let w = join_all(vec2(scale.x, sums.x), lane, L2);
    workgroupBarrier();
    let x = join_all(vec2(scale.y, sums.y), lane, L2);
    if lane == 0u {
        norms[tile.out] = vec4(w, x);
    }
}
