// An update of blocks anywhere in what is bound, a workgroup each. What a thread loads of its block and of the
// coefficients is for several lanes. Behind update.wgsl.

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = blocks[group.x];
    let c = load_coefficients(block.cohort);
    let turns = turns_of(block, 256u);
    for (var turn = 0u; turn < turns; turn++) {
        let at = in_block(block, nth_lane(lane, turn, turns));
        if at.inside {
            update_lane(at, c);
        }
    }
}
