// Norms of gradients, the first level: a partial result for each block of at most 4,096 elements, in a fixed order.
//
// Padding is not read. Elements that are not finite are left out of the norm where the policy zeroes them.
// Behind reduce.wgsl, the constants KIND and ZERO, and the gradient's accessor, which src/gpu/passes.rs generates. CPU
// twin: cpu::norm.

struct Block { start: u32, grad: u32, state: u32, len: u32, out: u32, cohort: u32, first: u32, limit: u32 }

@group(0) @binding(0) var<storage, read> blocks: array<Block>;
@group(0) @binding(1) var<storage, read_write> partials: array<Partial>;

var<workgroup> largest: atomic<u32>;

// What one more element adds.
fn add(sum: f32, x: f32, kind: u32) -> f32 {
    return select(sum + select(x, x * x, kind == L2), max(sum, x), kind == MAX);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = blocks[group.x];
    var sum = 0.0;
    // |x| as bits, which order as the numbers do. With NaN and ∞ the sum means nothing, and is not used.
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
    atomicMax(&largest, most);
    atomicMax(&worst, bad);
    workgroupBarrier();
    most = atomicLoad(&largest);
    var scale = 1.0;
    // Below 2⁻⁴⁰ squares that count would underflow, above 2⁴⁷ those of 2³² elements overflow: then by the power of two
    // at or below the largest, but 2⁻¹²⁶ … 2¹²⁶, whose inverse is a normal number, too.
    if most < 0x2b800000u || most > 0x57000000u {
        let exponent = clamp(most & INFINITE, 0x00800000u, 0x7e800000u);
        let inverse = bitcast<f32>(0x7f000000u - exponent);
        scale = bitcast<f32>(exponent);
        sum = 0.0;
        for (var i = block.start + lane; i < block.start + block.len; i += 256u) {
            let bits = bitcast<u32>(load_grad(i)) & 0x7fffffffu;
            sum = add(sum, inverse * bitcast<f32>(select(bits, 0u, ZERO && bits >= INFINITE)), KIND);
        }
    }
    let joined = join_all(vec2(scale, sum), lane, KIND);
    if lane == 0u {
        let zeroed = select(0u, 0x80000000u, ZERO && atomicLoad(&worst) >= INFINITE);
        partials[block.out] = Partial(joined.x, joined.y, most | zeroed, block.cohort);
    }
}
