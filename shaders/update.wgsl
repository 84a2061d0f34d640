// The driver: behind a rule and lane.wgsl, it loads, calls `update` and stores. Everything that no rule owns happens
// here, once. src/gpu/kernel.rs fills in the lines marked `//:`.

//: bindings

@compute @workgroup_size(256)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    //: place
    //: skipped
    if inside & (row.skip != 1u) {
        let w = param[i];
        //: load
        let p = /*: update */;
        param[i] = p;
        //: store
    }
}
