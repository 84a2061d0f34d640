// Norms of gradients, the first level: a partial result for each block of at most 4,096 elements, in a fixed order.
//
// Padding does not count. Elements that are not finite are left out of the norm where the policy zeroes them.
// Behind block.wgsl, reduce.wgsl, the constants KIND, ZERO and INDICES, and the gradient's accessor, which
// src/gpu/passes.rs generates. CPU twin: cpu::norm.

@group(0) @binding(0) var<storage, read> blocks: array<Block>;
@group(0) @binding(1) var<storage, read_write> partials: array<Partial>;

// The largest |x| of each thread as bits, which order as the numbers do: of what counts, and of all.
var<workgroup> largest: array<vec2<u32>, THREADS>;

// The magnitudes of a lane as bits. Of elements that are not the tensor's they are 0.
fn magnitudes(at: At) -> vec4<u32> {
    return select(vec4(0u), bitcast<vec4<u32>>(load_grad(at)) & vec4(0x7fffffffu), of_tensor(at));
}

// Those that count.
fn counted(bits: vec4<u32>) -> vec4<u32> {
    return select(bits, vec4(0u), vec4(ZERO) & (bits >= vec4(INFINITE)));
}

// What four more elements add, each to a sum of its own.
fn add(sums: vec4<f32>, x: vec4<f32>, kind: u32) -> vec4<f32> {
    return select(sums + select(x, x * x, kind == L2), max(sums, x), kind == MAX);
}

// The largest of ROOT threads beside each other, or that many apart.
fn largest_of(first: u32, step: u32) -> vec2<u32> {
    var all = largest[first];
    for (var k = 1u; k < ROOT; k++) {
        all = max(all, largest[first + step * k]);
    }
    return all;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = blocks[group.x];
    let turns = turns_of(block, THREADS);
    var sums = vec4(0.0);
    // With NaN and ∞ the sum means nothing, and is not used.
    var most_bits = vec4(0u);
    var all_bits = vec4(0u);
    for (var turn = 0u; turn < turns; turn++) {
        let at = in_block(block, nth_lane(lane, turn, turns));
        if at.inside {
            let read = magnitudes(at);
            let bits = counted(read);
            all_bits = max(all_bits, read);
            if ZERO {
                most_bits = max(most_bits, bits);
            }
            sums = add(sums, bitcast<vec4<f32>>(bits), KIND);
        }
    }
    let bad = most_of(all_bits);
    let most = select(bad, most_of(most_bits), ZERO);
    // Each thread has a scale of its own: a barrier costs more than the few sums that are taken twice.
    let scale = scale_of(most);
    if !fits(most) {
        let inverse = bitcast<f32>(0x7f000000u - scale);
        sums = vec4(0.0);
        for (var turn = 0u; turn < turns; turn++) {
            let at = in_block(block, nth_lane(lane, turn, turns));
            if at.inside {
                sums = add(sums, inverse * bitcast<vec4<f32>>(counted(magnitudes(at))), KIND);
            }
        }
    }
    // As `join_all`, with what is largest beside it.
    largest[lane] = vec2(most, bad);
    pairs[lane] = vec4(bitcast<f32>(scale), all_of(sums, KIND), 0.0, 0.0);
    workgroupBarrier();
    if lane < ROOT {
        var all = pairs[lane].xy;
        for (var k = lane + ROOT; k < THREADS; k += ROOT) {
            all = join(all, pairs[k].xy, KIND);
        }
        pairs[lane] = vec4(all, 0.0, 0.0);
        largest[lane] = largest_of(lane, ROOT);
    }
    workgroupBarrier();
    if lane == 0u {
        var all = pairs[0].xy;
        for (var k = 1u; k < ROOT; k++) {
            all = join(all, pairs[k].xy, KIND);
        }
        let found = largest_of(0u, 1u);
        let zeroed = select(0u, 0x80000000u, ZERO && found.y >= INFINITE);
        partials[block.out] = Partial(all.x, all.y, found.x | zeroed, block.cohort);
    }
}
