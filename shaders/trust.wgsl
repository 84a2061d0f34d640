// What a norm-based rule makes of its norms, once for each tensor or group: one number for the update, and one that it
// may keep. Behind a rule, lane.wgsl and reduce.wgsl. CPU twin: `trust` in src/optimizer/cpu_step.rs.

struct Owner { first: u32, count: u32, cohort: u32, cohorts: u32, kept: u32, unused: array<u32, 3> }

@group(0) @binding(0) var<storage, read> owners: array<Owner>;
@group(0) @binding(1) var<storage, read> norms: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> coefficients: array<Padded>;

var<workgroup> of_owner: f32;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let owner = owners[group.x];
    var both = vec4(0.0);
    for (var i = owner.first + lane; i < owner.first + owner.count; i += THREADS) {
        both = join_both(both, norms[i], L2);
    }
    both = join_all(both, lane, L2);
    let taken = coefficients[owner.cohort].c.skip != 1u;
    if lane == 0u && taken {
        var s = load_kept(owner.kept);
        of_owner = trust(both.x * sqrt(both.y), both.z * sqrt(both.w), &s, coefficients[owner.cohort].c.hyper);
        store_kept(owner.kept, s);
    }
    workgroupBarrier();
    // Every thread some: there may be as many cohorts as workgroups in a dispatch, and some drivers end loops after
    // 32,768 turns.
    if taken {
        for (var k = owner.cohort + lane; k < owner.cohort + owner.cohorts; k += THREADS) {
            store_coefficient(k, of_owner);
        }
    }
}
