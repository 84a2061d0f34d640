// An update of states in blocks of 256, each of which one thread has: for adapters on a CPU, which pay a barrier for
// each thread. The states are computed twice: for the largest, and for their codes. Behind update.wgsl;
// shared_blocks.wgsl is the other form, with the same bits.

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let block = blocks[group.x];
    let c = load_coefficients(block.cohort);
    let first = 64u * thread;
    let end = min(first + 64u, block.len);
    let scales = load_scales(in_block(block, first));
    var most = no_scales();
    if c.skip != 1u {
        for (var k = first; k < end; k++) {
            let at = in_block(block, k);
            var s = load_state(at, scales);
            new_lane(at, c, &s);
            most = largest_scales(most, scales_of(s, at));
        }
    }
    for (var k = first; k < end; k++) {
        let at = in_block(block, k);
        if c.skip == 1u {
            zero_grad(at);
        } else {
            var s = load_state(at, scales);
            let p = new_lane(at, c, &s);
            store_lane(at, c, p);
            store_state(at, s, most, c);
        }
    }
    if first < end && c.skip != 1u {
        store_scales(in_block(block, first), most);
    }
}
