// Norms of gradients, the first level: a partial result for each block of at most 4,096 elements, in a fixed order.
//
// Padding is not read. Elements that are not finite are left out of the norm where the policy zeroes them.
// Behind reduce.wgsl, the constants KIND and ZERO, and the gradient's accessor, which src/gpu/passes.rs generates. CPU
// twin: cpu::norm.

struct Block { start: u32, grad: u32, state: u32, len: u32, out: u32, cohort: u32, first: u32, limit: u32 }

@group(0) @binding(0) var<storage, read> blocks: array<Block>;
@group(0) @binding(1) var<storage, read_write> partials: array<Partial>;

// The largest |x| of each thread as bits, which order as the numbers do: of what counts, and of all.
var<workgroup> largest: array<vec2<u32>, 256>;

// What one more element adds.
fn add(sum: f32, x: f32, kind: u32) -> f32 {
    return select(sum + select(x, x * x, kind == L2), max(sum, x), kind == MAX);
}

// The largest of 16 threads beside each other, or 16 apart.
fn largest_of(first: u32, step: u32) -> vec2<u32> {
    var all = largest[first];
    for (var k = 1u; k < 16u; k++) {
        all = max(all, largest[first + step * k]);
    }
    return all;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = blocks[group.x];
    var sum = 0.0;
    // With NaN and ∞ the sum means nothing, and is not used.
    var most = 0u;
    var bad = 0u;
    for (var i = block.start + lane; i < block.start + block.len; i += 256u) {
        var bits = bitcast<u32>(load_grad(i)) & 0x7fffffffu;
        bad = max(bad, bits);
        if ZERO && bits >= INFINITE {
            bits = 0u;
        }
        most = max(most, bits);
        sum = add(sum, bitcast<f32>(bits), KIND);
    }
    // Each thread has a scale of its own: a barrier costs more than the few sums that are taken twice.
    let scale = scale_of(most);
    if !fits(most) {
        let inverse = bitcast<f32>(0x7f000000u - scale);
        sum = 0.0;
        for (var i = block.start + lane; i < block.start + block.len; i += 256u) {
            let bits = bitcast<u32>(load_grad(i)) & 0x7fffffffu;
            sum = add(sum, inverse * bitcast<f32>(select(bits, 0u, ZERO && bits >= INFINITE)), KIND);
        }
    }
    // As `join_all`, with what is largest beside it.
    largest[lane] = vec2(most, bad);
    pairs[lane] = vec4(bitcast<f32>(scale), sum, 0.0, 0.0);
    workgroupBarrier();
    if lane < 16u {
        var all = pairs[lane].xy;
        for (var k = lane + 16u; k < 256u; k += 16u) {
            all = join(all, pairs[k].xy, KIND);
        }
        pairs[lane] = vec4(all, 0.0, 0.0);
        largest[lane] = largest_of(lane, 16u);
    }
    workgroupBarrier();
    if lane == 0u {
        var all = pairs[0].xy;
        for (var k = 1u; k < 16u; k++) {
            all = join(all, pairs[k].xy, KIND);
        }
        let found = largest_of(0u, 1u);
        let zeroed = select(0u, 0x80000000u, ZERO && found.y >= INFINITE);
        partials[block.out] = Partial(all.x, all.y, found.x | zeroed, block.cohort);
    }
}
