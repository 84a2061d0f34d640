// What a method asks of a point: one pass over the gradient, the gradient before, and the direction. y = g − g₀. Each
// workgroup writes a partial result for each column; shaders/total.wgsl adds them up. The columns are the fields of
// `Probe` in src/solve/vectors.rs, without the value.

struct Arguments { len: u32, t: f32, pad0: u32, pad1: u32 }

const COLUMNS = 9u;
// Columns from here on are maxima, the others sums.
const MAXIMA = 7u;

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(1) @binding(0) var<storage, read> g: array<f32>;
@group(1) @binding(1) var<storage, read> g0: array<f32>;
@group(1) @binding(2) var<storage, read> d: array<f32>;
@group(1) @binding(3) var<storage, read_write> partials: array<f32>;

var<workgroup> results: array<array<f32, COLUMNS>, 256>;

fn join(column: u32, a: f32, b: f32) -> f32 {
    // Compared as integers, in which a NaN is the largest.
    return select(a + b, bitcast<f32>(max(bitcast<u32>(a), bitcast<u32>(b))), column >= MAXIMA);
}

@compute @workgroup_size(256)
fn probe(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    var mine = array<f32, COLUMNS>();
    for (var i = group.x * 256u + lane; i < arguments.len; i += 256u * groups.x) {
        let y = g[i] - g0[i];
        let here = array<f32, COLUMNS>(
            g[i] * d[i], g0[i] * d[i], y * (arguments.t * d[i]), y * y, g[i] * g[i], g[i] * y,
            abs(g[i]), abs(g[i]), abs(d[i]),
        );
        for (var c = 0u; c < COLUMNS; c++) {
            mine[c] = join(c, mine[c], here[c]);
        }
    }
    results[lane] = mine;
    workgroupBarrier();
    let column = lane / 16u;
    if column < COLUMNS {
        var all = results[lane % 16u][column];
        for (var k = lane % 16u + 16u; k < 256u; k += 16u) {
            all = join(column, all, results[k][column]);
        }
        results[lane % 16u][column] = all;
    }
    workgroupBarrier();
    if lane < COLUMNS {
        var all = results[0][lane];
        for (var k = 1u; k < 16u; k++) {
            all = join(lane, all, results[k][lane]);
        }
        partials[lane * groups.x + group.x] = all;
    }
}
