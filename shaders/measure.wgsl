// Norms of parameters, and of what a norm-based rule measures: a partial result of each for each block. Nothing is
// stored. Behind a rule, lane.wgsl and reduce.wgsl. CPU twin: cpu::measure.

@group(0) @binding(0) var<storage, read> coefficients: array<Padded>;
@group(0) @binding(1) var<storage, read> blocks: array<Block>;
@group(0) @binding(2) var<storage, read_write> norms: array<vec4<f32>>;

fn measured(block: Block, k: u32, c: Coefficients) -> vec2<f32> {
    let at = in_block(block, k);
    let w = load_param(at);
    let g = rule_gradient(load_grad(at), w, at, c);
    return vec2(w, rule_measure(w - c.decay * w, g, load_state(at), c.hyper));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = blocks[group.x];
    let c = coefficients[block.cohort].c;
    var largest = vec2(0u);
    var sums = vec2(0.0);
    for (var k = lane; k < block.len; k += 256u) {
        let x = measured(block, k, c);
        largest = max(largest, bitcast<vec2<u32>>(x) & vec2(0x7fffffffu));
        sums += x * x;
    }
    // Each thread has a scale of its own: a barrier costs more than the few sums that are taken twice.
    let scale = vec2(scale_of(largest.x), scale_of(largest.y));
    if !(fits(largest.x) && fits(largest.y)) {
        let inverse = bitcast<vec2<f32>>(vec2(0x7f000000u) - scale);
        sums = vec2(0.0);
        for (var k = lane; k < block.len; k += 256u) {
            let x = measured(block, k, c) * inverse;
            sums += x * x;
        }
    }
    let scales = bitcast<vec2<f32>>(scale);
    let both = join_all(vec4(scales.x, sums.x, scales.y, sums.y), lane, L2);
    if lane == 0u {
        norms[block.out] = both;
    }
}
