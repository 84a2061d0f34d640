// An update of states in blocks of 256, each of which 64 threads share. No barrier is behind a branch. Behind
// update.wgsl; block_a_thread.wgsl is the other form, with the same bits.

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let block = blocks[group.x];
    let c = load_coefficients(block.cohort);
    for (var turn = 0u; turn < 4u; turn++) {
        let k = 256u * turn + thread;
        let at = in_block(block, k);
        let steps = at.inside && c.skip != 1u;
        var s: Kept;
        var p = Lane(0.0);
        if steps {
            s = load_state(at, load_scales(at));
            p = new_lane(at, c, &s);
            share_scales(k / 64u, scales_of(s, at));
        }
        workgroupBarrier();
        let most = shared_scales(k / 64u);
        if steps {
            store_lane(at, c, p);
            store_state(at, s, most, c);
            if k % 64u == 0u {
                store_scales(at, most);
            }
        } else if at.inside {
            zero_grad(at);
        }
    }
}
