// LᵀR of two blocks of 32 rows and 32 columns in workgroup memory, by 8 × 8 threads with 4 × 4 elements each. Comes
// before normal.wgsl and cholesky.wgsl.

// Row k, columns 4q to 4q + 3; the ninth vector keeps rows in different memory banks.
var<workgroup> left: array<array<vec4<f32>, 9>, 32>;
var<workgroup> right: array<array<vec4<f32>, 9>, 32>;

fn outer(k: u32, lane: u32) -> mat4x4<f32> {
    let a = left[k][lane / 8u];
    let b = right[k][lane % 8u];
    return mat4x4<f32>(a.x * b, a.y * b, a.z * b, a.w * b);
}

// Element [i][j] is that of row 4·(lane / 8) + i and column 4·(lane mod 8) + j. The loop is
// unrolled by hand: naga bounds each loop by a counter, which keeps drivers from unrolling it.
fn product(lane: u32) -> mat4x4<f32> {
    var sum = mat4x4<f32>();
    for (var k = 0u; k < 32u; k += 4u) {
        sum += outer(k, lane) + outer(k + 1u, lane) + outer(k + 2u, lane) + outer(k + 3u, lane);
    }
    return sum;
}
