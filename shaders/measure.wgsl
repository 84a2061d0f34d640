// Norms of parameters, and of what a norm-based rule measures: a partial result of each for each block. Nothing is
// stored. Behind a rule, lane.wgsl and reduce.wgsl. CPU twin: cpu::measure.

@group(0) @binding(0) var<storage, read> coefficients: array<Padded>;
@group(0) @binding(1) var<storage, read> blocks: array<Block>;
@group(0) @binding(2) var<storage, read_write> norms: array<vec4<f32>>;

var<workgroup> largest_w: atomic<u32>;
var<workgroup> largest_x: atomic<u32>;

fn measured(block: Block, k: u32) -> vec2<f32> {
    let at = in_block(block, k);
    let c = coefficients[block.cohort].c;
    let w = load_param(at);
    let g = rule_gradient(load_grad(at), w, at, c);
    return vec2(w, rule_measure(w - c.decay * w, g, load_state(at), c.hyper));
}

// Whether squares of numbers up to this one count as they are: none that matters underflows, no sum of 2³² of them
// overflows.
fn fits(largest: u32) -> bool {
    return largest == 0u || (largest >= 0x2b800000u && largest <= 0x57000000u);
}

// 1, or the power of two at or below the largest, 2⁻¹²⁶ … 2¹²⁶.
fn scale_of(largest: u32) -> u32 {
    return select(clamp(largest & INFINITE, 0x00800000u, 0x7e800000u), 0x3f800000u, fits(largest));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = blocks[group.x];
    var most = vec2(0u);
    var sums = vec2(0.0);
    for (var k = lane; k < block.len; k += 256u) {
        let x = measured(block, k);
        most = max(most, bitcast<vec2<u32>>(x) & vec2(0x7fffffffu));
        sums += x * x;
    }
    atomicMax(&largest_w, most.x);
    atomicMax(&largest_x, most.y);
    workgroupBarrier();
    let largest = vec2(atomicLoad(&largest_w), atomicLoad(&largest_x));
    let scale = vec2(scale_of(largest.x), scale_of(largest.y));
    if !(fits(largest.x) && fits(largest.y)) {
        let inverse = bitcast<vec2<f32>>(vec2(0x7f000000u) - scale);
        sums = vec2(0.0);
        for (var k = lane; k < block.len; k += 256u) {
            let x = measured(block, k) * inverse;
            sums += x * x;
        }
    }
    let w = join_all(vec2(bitcast<f32>(scale.x), sums.x), lane, L2);
    workgroupBarrier();
    let x = join_all(vec2(bitcast<f32>(scale.y), sums.y), lane, L2);
    if lane == 0u {
        norms[block.out] = vec4(w, x);
    }
}
