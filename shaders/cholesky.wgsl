// (A + diag(added))·δ = −g by Cholesky's factor, in panels of 32 columns; block_product.wgsl comes before this.
// src/solve/cholesky.rs.
//
// −g is row n, below the matrix. The elimination that turns the other rows into L turns this one into L⁻¹·(−g).

// `count`: the panels that a dispatch of `back` takes, from `panel` down.
struct Arguments { n: u32, panel: u32, count: u32 }

@group(0) @binding(0) var<uniform> arguments: Arguments;
// DONE: not 0 if there is nothing to do. FAILED: 1 if there is no factor, or no finite solution.
@group(1) @binding(0) var<storage, read_write> status: array<u32>;
// n + 1 rows of n. Blocks on the diagonal stay as they were before they were factored.
@group(1) @binding(1) var<storage, read_write> factor: array<f32>;
// The factors of the blocks on the diagonal.
@group(1) @binding(2) var<storage, read_write> blocks: array<f32>;
@group(1) @binding(3) var<storage, read_write> delta: array<f32>;
@group(1) @binding(4) var<storage, read> matrix: array<f32>;
@group(1) @binding(5) var<storage, read> g: array<f32>;
// Negative for an unknown that is held.
@group(1) @binding(6) var<storage, read> added: array<f32>;

const DONE = 0u;
const FAILED = 1u;
const WIDTH = 32u;
// Rows below a block that a workgroup eliminates beside it.
const ROWS = 96u;

var<workgroup> stop: u32;
// A block on the diagonal. `panel` has each column as it is when its turn comes, `back` has the factor.
var<workgroup> square: array<array<f32, WIDTH>, WIDTH>;
var<workgroup> solved: array<f32, WIDTH>;

fn stopped(lane: u32) -> bool {
    if lane == 0u {
        stop = status[DONE];
    }
    return workgroupUniformLoad(&stop) != 0u;
}

// Loads the lower triangle of the matrix that is factored, and −g.
@compute @workgroup_size(64)
fn load(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y;
    let j = id.x;
    if j >= arguments.n || j > i || status[DONE] != 0u {
        return;
    }
    if i == arguments.n {
        factor[i * arguments.n + j] = select(-g[j], 0.0, added[j] < 0.0);
        if j == 0u {
            status[FAILED] = 0u;
        }
    } else if min(added[i], added[j]) < 0.0 {
        factor[i * arguments.n + j] = select(0.0, 1.0, i == j);
    } else {
        factor[i * arguments.n + j] = matrix[i * arguments.n + j] + select(0.0, added[i], i == j);
    }
}

fn is_pivot(p: f32) -> bool {
    // By its bits: positive and normal, no NaN, not ∞.
    let bits = bitcast<u32>(p);
    return bits >= 0x00800000u && bits < 0x7f800000u;
}

fn pivot(c: u32) -> f32 {
    return select(1.0, square[c][c], is_pivot(square[c][c]));
}

// An element of a thread's row. The row has `has` elements; beyond them it is the identity's.
fn take(at: u32, c: u32, has: u32, one: u32) -> f32 {
    if c < has {
        return factor[at + c];
    }
    return select(0.0, 1.0, c == one);
}

fn keep(at: u32, c: u32, has: u32, in_block: bool, x: f32) {
    if c >= has {
        return;
    }
    if in_block {
        blocks[at + c] = x / sqrt(pivot(c));
    } else {
        factor[at + c] = x / sqrt(pivot(c));
    }
}

// Eliminates a block on the diagonal (in each workgroup) and rows below it, column by column, one row a thread. A line
// with C stands for 32 lines, one a column: src/solve/cholesky.rs writes them out, so that rows stay in registers.
@compute @workgroup_size(128)
fn panel(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    let n = arguments.n;
    let start = arguments.panel * WIDTH;
    let width = min(WIDTH, n - start);
    let in_block = lane < WIDTH;
    let below = min(start + WIDTH, n) + ROWS * group.x + lane - WIDTH;
    let i = select(below, start + lane, in_block);
    let has = select(select(0u, width, below <= n), min(lane + 1u, width), in_block && lane < width);
    let own = select(has, 0u, in_block && lane >= width);
    let at = i * n + start;
    //GET var xC = take(at, C, own, lane);
    //STEP if in_block { square[C][lane] = xC; }
    //STEP workgroupBarrier();
    //STEP let tC = xC / pivot(C);
    //STEP EACH xJ -= tC * square[C][J];
    if in_block && group.x == 0u && !is_pivot(square[lane][lane]) {
        status[FAILED] = 1u;
    }
    let to = select(at, (start + lane) * WIDTH, in_block);
    let keeps = select(own, 0u, in_block && group.x > 0u);
    //PUT keep(to, C, keeps, in_block, xC);
}

fn subtract(i: u32, j: u32, product: vec4<f32>) {
    for (var k = 0u; k < 4u && j + k < arguments.n && i <= arguments.n; k++) {
        factor[i * arguments.n + j + k] -= product[k];
    }
}

fn element(i: u32, column: u32) -> f32 {
    return select(0.0, factor[min(i, arguments.n) * arguments.n + column], i <= arguments.n);
}

fn quad(i: u32, column: u32) -> vec4<f32> {
    return vec4(element(i, column), element(i + 1u, column), element(i + 2u, column), element(i + 3u, column));
}

fn fetch(q: u32, k: u32, start: u32, top: u32, across: u32) {
    left[k][q] = quad(top + 4u * q, start + k);
    right[k][q] = quad(across + 4u * q, start + k);
}

// Subtracts the product of the panel's rows from what is right of the panel.
@compute @workgroup_size(64)
fn trail(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x > group.y {
        return;
    }
    if stopped(lane) {
        return;
    }
    let start = arguments.panel * WIDTH;
    let top = start + WIDTH * (1u + group.y);
    let across = start + WIDTH * (1u + group.x);
    let q = lane / WIDTH;
    let k = lane % WIDTH;
    fetch(q, k, start, top, across);
    fetch(q + 2u, k, start, top, across);
    fetch(q + 4u, k, start, top, across);
    fetch(q + 6u, k, start, top, across);
    workgroupBarrier();
    let mine = product(lane);
    let i = top + 4u * (lane / 8u);
    let j = across + 4u * (lane % 8u);
    subtract(i, j, mine[0]);
    subtract(i + 1u, j, mine[1]);
    subtract(i + 2u, j, mine[2]);
    subtract(i + 3u, j, mine[3]);
}

fn term(i: u32, j: u32, start: u32) -> f32 {
    // Beyond the last row `solved` is 0.
    return factor[min(start + i, arguments.n - 1u) * arguments.n + j] * solved[i];
}

// Solves Lᵀ·δ = row n in one workgroup. Panels are divided among dispatches, so that no thread's loops have too many
// turns.
@compute @workgroup_size(256)
fn back(@builtin(local_invocation_index) lane: u32) {
    if stopped(lane) {
        return;
    }
    let n = arguments.n;
    if arguments.panel == (n + WIDTH - 1u) / WIDTH {
        for (var i = lane; i < n; i += 256u) {
            delta[i] = factor[n * n + i];
        }
    }
    for (var after = arguments.panel; after > arguments.panel - arguments.count; after--) {
        let start = (after - 1u) * WIDTH;
        let width = min(WIDTH, n - start);
        storageBarrier();
        if lane < WIDTH {
            solved[lane] = 0.0;
            if lane < width {
                solved[lane] = delta[start + lane];
            }
        }
        for (var e = lane; e < WIDTH * WIDTH; e += 256u) {
            square[e / WIDTH][e % WIDTH] = blocks[start * WIDTH + e];
        }
        workgroupBarrier();
        for (var c = width; c > 0u; c--) {
            let value = solved[c - 1u] / square[c - 1u][c - 1u];
            workgroupBarrier();
            if lane == c - 1u {
                solved[lane] = value;
            } else if lane < c - 1u {
                solved[lane] -= square[c - 1u][lane] * value;
            }
            workgroupBarrier();
        }
        for (var j = lane; j < start; j += 256u) {
            var sum = vec4<f32>();
            for (var i = 0u; i < width; i += 8u) {
                sum += vec4(term(i, j, start), term(i + 1u, j, start), term(i + 2u, j, start), term(i + 3u, j, start));
                sum += vec4(
                    term(i + 4u, j, start), term(i + 5u, j, start), term(i + 6u, j, start), term(i + 7u, j, start),
                );
            }
            delta[j] -= sum.x + sum.y + sum.z + sum.w;
        }
        if lane < width {
            delta[start + lane] = solved[lane];
        }
    }
    if arguments.panel > arguments.count {
        return;
    }
    storageBarrier();
    for (var i = lane; i < n; i += 256u) {
        // NaN or ∞.
        if (bitcast<u32>(delta[i]) & 0x7f800000u) == 0x7f800000u {
            status[FAILED] = 1u;
        }
    }
}
