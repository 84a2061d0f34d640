// Norms of parameters, and of what a norm-based rule measures: a partial result of each for each block. Nothing is
// stored. Behind a rule, lane.wgsl and reduce.wgsl. CPU twin: cpu::measure.

@group(0) @binding(0) var<storage, read> coefficients: array<Padded>;
@group(0) @binding(1) var<storage, read> blocks: array<Block>;
@group(0) @binding(2) var<storage, read_write> norms: array<vec4<f32>>;

// A lane of the parameter, and of what is measured. Elements that are not the tensor's are 0.
struct Measured { w: Lane, x: Lane }

fn measured(at: At, c: Coefficients) -> Measured {
    var w = Lane(0.0);
    if WITH_PARAMETER || c.l2 != 0.0 {
        w = load_param(at);
    }
    let g = rule_gradient(load_grad(at), w, at, c);
    let x = rule_measure(w - c.decay * w, g, load_state(at, load_scales(at)), c.hyper);
    let counts = of_tensor(at);
    return Measured(select(Lane(0.0), w, counts & vec4(WITH_PARAMETER)), select(Lane(0.0), x, counts));
}

fn magnitudes(x: Lane) -> Bits {
    return bitcast<Bits>(x) & Bits(0x7fffffffu);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = blocks[group.x];
    let c = coefficients[block.cohort].c;
    let turns = turns_of(block, THREADS);
    var most_w = Bits(0u);
    var most_x = Bits(0u);
    var w = Lane(0.0);
    var x = Lane(0.0);
    for (var turn = 0u; turn < turns; turn++) {
        let at = in_block(block, nth_lane(lane, turn, turns));
        if at.inside {
            let m = measured(at, c);
            most_w = max(most_w, magnitudes(m.w));
            most_x = max(most_x, magnitudes(m.x));
            w += m.w * m.w;
            x += m.x * m.x;
        }
    }
    // Each thread has a scale of its own: a barrier costs more than the few sums that are taken twice.
    let largest = vec2(most_of(most_w), most_of(most_x));
    let scale = vec2(scale_of(largest.x), scale_of(largest.y));
    if !(fits(largest.x) && fits(largest.y)) {
        let inverse = bitcast<vec2<f32>>(vec2(0x7f000000u) - scale);
        w = Lane(0.0);
        x = Lane(0.0);
        for (var turn = 0u; turn < turns; turn++) {
            let at = in_block(block, nth_lane(lane, turn, turns));
            if at.inside {
                let m = measured(at, c);
                w += (inverse.x * m.w) * (inverse.x * m.w);
                x += (inverse.y * m.x) * (inverse.y * m.x);
            }
        }
    }
    let scales = bitcast<vec2<f32>>(scale);
    let both = join_all(vec4(scales.x, all_of(w, L2), scales.y, all_of(x, L2)), lane, L2);
    if lane == 0u {
        norms[block.out] = both;
    }
}
