// An update of ranges that are bound whole, all with the same coefficients: a lane a thread. Behind update.wgsl.

@group(0) @binding(0) var<uniform> coefficients: Coefficients;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = in_range(id.x, arrayLength(&param));
    // Loaded for all threads at once.
    let c = coefficients;
    if at.inside {
        update_lane(at, c);
    }
}
