// a·b: a partial sum for each workgroup, in a fixed order. shaders/total.wgsl adds them up.

struct Arguments { len: u32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read> a: array<f32>;
@group(1) @binding(1) var<storage, read> b: array<f32>;
@group(1) @binding(2) var<storage, read_write> partials: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn dot_main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    var sum = 0.0;
    for (var i = group.x * 256u + lane; i < arguments.len; i += 256u * groups.x) {
        sum += a[i] * b[i];
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane < 16u {
        for (var k = lane + 16u; k < 256u; k += 16u) {
            sum += sums[k];
        }
        sums[lane] = sum;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < 16u; k++) {
            sum += sums[k];
        }
        partials[group.x] = sum;
    }
}
