// (A + diag(added))·δ = −g by Cholesky's factor, in panels of 32 columns; tile.wgsl comes before this. src/solve/cholesky.rs.
//
// −g is one more row below the matrix, row n: what makes L of the others makes L⁻¹·(−g) of it.

struct Row { n: u32, panel: u32 }

@group(0) @binding(0) var<uniform> row: Row;
// Not 0: there is nothing to do. Then, whether there is no factor.
@group(1) @binding(0) var<storage, read_write> control: array<u32>;
// n + 1 rows of n; on the diagonal, blocks as they were before they were factored.
@group(1) @binding(1) var<storage, read_write> factor: array<f32>;
// Their factors.
@group(1) @binding(2) var<storage, read_write> blocks: array<f32>;
@group(1) @binding(3) var<storage, read_write> delta: array<f32>;
@group(1) @binding(4) var<storage, read> matrix: array<f32>;
@group(1) @binding(5) var<storage, read> g: array<f32>;
// Negative: this unknown is held.
@group(1) @binding(6) var<storage, read> added: array<f32>;

const WIDTH = 32u;
// Rows of a panel that a workgroup has.
const ROWS = 64u;

var<workgroup> stop: u32;
var<workgroup> block: array<array<f32, WIDTH + 1u>, WIDTH>;
var<workgroup> rows: array<array<f32, WIDTH + 1u>, ROWS>;
var<workgroup> solved: array<f32, WIDTH>;

fn stopped(lane: u32) -> bool {
    if lane == 0u {
        stop = control[0];
    }
    return workgroupUniformLoad(&stop) != 0u;
}

// What is to be factored, from its lower triangle.
@compute @workgroup_size(64)
fn load(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y;
    let j = id.x;
    if j >= row.n || j > i || control[0] != 0u {
        return;
    }
    if i == row.n {
        factor[i * row.n + j] = select(-g[j], 0.0, added[j] < 0.0);
        if j == 0u {
            control[1] = 0u;
        }
    } else if min(added[i], added[j]) < 0.0 {
        factor[i * row.n + j] = select(0.0, 1.0, i == j);
    } else {
        factor[i * row.n + j] = matrix[i * row.n + j] + select(0.0, added[i], i == j);
    }
}

// A block on the diagonal (each workgroup for itself), and the rows below it.
@compute @workgroup_size(64)
fn panel(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    let n = row.n;
    let start = row.panel * WIDTH;
    let width = min(WIDTH, n - start);
    for (var e = lane; e < WIDTH * WIDTH; e += 64u) {
        let i = e / WIDTH;
        let j = e % WIDTH;
        var element = select(0.0, 1.0, i == j);
        if i < width && j <= i {
            element = factor[(start + i) * n + start + j];
        }
        block[i][j] = element;
    }
    workgroupBarrier();
    for (var c = 0u; c < width; c++) {
        let pivot = block[c][c];
        // Not a NaN, not ∞.
        let sound = pivot > 0.0 && pivot <= 3.4028235e38;
        let root = select(1.0, sqrt(pivot), sound);
        workgroupBarrier();
        if lane == 0u && group.x == 0u && !sound {
            control[1] = 1u;
        }
        if lane == c {
            block[c][c] = root;
        } else if lane > c && lane < WIDTH {
            block[lane][c] /= root;
        }
        workgroupBarrier();
        for (var e = lane; e < WIDTH * WIDTH; e += 64u) {
            let i = e / WIDTH;
            let j = e % WIDTH;
            if j > c && j <= i {
                block[i][j] -= block[i][c] * block[j][c];
            }
        }
        workgroupBarrier();
    }
    let first = min(start + WIDTH, n) + ROWS * group.x;
    for (var e = lane; e < ROWS * WIDTH; e += 64u) {
        let i = e / WIDTH;
        let j = e % WIDTH;
        var element = 0.0;
        if first + i <= n && j < width {
            element = factor[(first + i) * n + start + j];
        }
        rows[i][j] = element;
    }
    workgroupBarrier();
    for (var c = 0u; c < width; c++) {
        var element = rows[lane][c];
        for (var p = 0u; p < c; p++) {
            element -= rows[lane][p] * block[c][p];
        }
        rows[lane][c] = element / block[c][c];
    }
    workgroupBarrier();
    for (var e = lane; e < ROWS * WIDTH; e += 64u) {
        let i = e / WIDTH;
        let j = e % WIDTH;
        if first + i <= n && j < width {
            factor[(first + i) * n + start + j] = rows[i][j];
        }
        if group.x == 0u && i < WIDTH {
            blocks[start * WIDTH + e] = block[i][j];
        }
    }
}

fn subtract(i: u32, j: u32, product: vec4<f32>) {
    for (var k = 0u; k < 4u && j + k < row.n && i <= row.n; k++) {
        factor[i * row.n + j + k] -= product[k];
    }
}

fn quad(top: u32, q: u32, column: u32) -> vec4<f32> {
    var values = vec4<f32>();
    for (var k = 0u; k < 4u && top + 4u * q + k <= row.n; k++) {
        values[k] = factor[(top + 4u * q + k) * row.n + column];
    }
    return values;
}

// What is right of the panel, less the product of its rows.
@compute @workgroup_size(64)
fn trail(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x > group.y {
        return;
    }
    if stopped(lane) {
        return;
    }
    let start = row.panel * WIDTH;
    let top = start + WIDTH * (1u + group.y);
    let across = start + WIDTH * (1u + group.x);
    for (var e = lane; e < 8u * WIDTH; e += 64u) {
        let k = e % WIDTH;
        left[k][e / WIDTH] = quad(top, e / WIDTH, start + k);
        right[k][e / WIDTH] = quad(across, e / WIDTH, start + k);
    }
    workgroupBarrier();
    let mine = product(lane);
    let i = top + 4u * (lane / 8u);
    let j = across + 4u * (lane % 8u);
    subtract(i, j, mine[0]);
    subtract(i + 1u, j, mine[1]);
    subtract(i + 2u, j, mine[2]);
    subtract(i + 3u, j, mine[3]);
}

// Lᵀ·δ = row n, by one workgroup.
@compute @workgroup_size(256)
fn back(@builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    let n = row.n;
    for (var i = lane; i < n; i += 256u) {
        delta[i] = factor[n * n + i];
    }
    for (var after = (n + WIDTH - 1u) / WIDTH; after > 0u; after--) {
        let start = (after - 1u) * WIDTH;
        let width = min(WIDTH, n - start);
        storageBarrier();
        if lane < WIDTH {
            solved[lane] = 0.0;
            if lane < width {
                solved[lane] = delta[start + lane];
            }
        }
        workgroupBarrier();
        for (var c = width; c > 0u; c--) {
            let at = start * WIDTH + (c - 1u) * WIDTH;
            let value = solved[c - 1u] / blocks[at + c - 1u];
            workgroupBarrier();
            if lane == c - 1u {
                solved[lane] = value;
            } else if lane < c - 1u {
                solved[lane] -= blocks[at + lane] * value;
            }
            workgroupBarrier();
        }
        for (var j = lane; j < start; j += 256u) {
            var sum = 0.0;
            for (var i = 0u; i < width; i++) {
                sum += factor[(start + i) * n + j] * solved[i];
            }
            delta[j] -= sum;
        }
        if lane < width {
            delta[start + lane] = solved[lane];
        }
    }
}
