// Norms of gradients, the first level: a partial result for each tile of at most 4,096 elements, in a fixed order.
//
// Padding is not read. Non-finite elements are counted, and left out of the norm where the policy zeroes them.
// src/gpu/norm.rs makes the tiles. CPU twin: cpu::norm.

struct Tile { start: u32, len: u32, out: u32, row: u32, kind: u32, zero: u32, first: u32, limit: u32 }

@group(0) @binding(0) var<storage, read> tiles: array<Tile>;
@group(0) @binding(1) var<storage, read> grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<Partial>;

var<workgroup> largest: atomic<u32>;

// |x| as bits, which order as the numbers do; 0 for what does not count.
fn magnitude(tile: Tile, i: u32) -> u32 {
    let bits = bitcast<u32>(grad[tile.start + i]) & 0x7fffffffu;
    return select(bits, 0u, tile.zero == 1u && bits >= INFINITE);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tiles[group.x];
    var mine = 0u;
    var bad = 0u;
    for (var i = lane; i < tile.len; i += 256u) {
        let bits = bitcast<u32>(grad[tile.start + i]) & 0x7fffffffu;
        bad = max(bad, select(0u, select(1u, 2u, bits > INFINITE), bits >= INFINITE));
        mine = max(mine, magnitude(tile, i));
    }
    atomicMax(&largest, mine);
    atomicMax(&worst, bad);
    workgroupBarrier();
    // The power of two at or below the largest, 2⁻¹²⁶ … 2¹²⁶: then its inverse is a normal number, too.
    let exponent = clamp(atomicLoad(&largest) & INFINITE, 0x00800000u, 0x7e800000u);
    let inverse = bitcast<f32>(0x7f000000u - exponent);
    var sum = 0.0;
    for (var i = lane; i < tile.len; i += 256u) {
        let x = bitcast<f32>(magnitude(tile, i)) * inverse;
        if tile.kind == MAX {
            sum = max(sum, x);
        } else {
            sum += select(x, x * x, tile.kind == L2);
        }
    }
    let scale = bitcast<f32>(exponent);
    let joined = join_all(vec2(scale, sum), lane, tile.kind);
    if lane == 0u {
        partials[tile.out] = Partial(joined.x, joined.y, atomicLoad(&worst), tile.row);
    }
}
