// A 784-128-10 network: ReLU, then softmax with cross-entropy, or the multiclass SVM's loss. One entry point a pass; each binds what it uses.

const PIXELS = 784u;
const HIDDEN = 128u;
const CLASSES = 10u;
override HINGE: bool = false;
override DROPOUT: f32 = 0.0;

struct Sizes { batch: u32, count: u32 }
// Where the pass stands in `order`, how many batches it has seen, how many samples it has got right;
// and the epoch.
struct Progress { cursor: u32, batches: u32, hits: u32, epoch: u32 }

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read_write> progress: Progress;
@group(0) @binding(2) var<storage, read> images: array<u32>;   // four pixels a word
@group(0) @binding(3) var<storage, read> labels: array<u32>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
@group(0) @binding(5) var<storage, read> w1: array<f32>;       // PIXELS × HIDDEN
@group(0) @binding(6) var<storage, read> b1: array<f32>;
@group(0) @binding(7) var<storage, read> w2: array<f32>;       // HIDDEN × CLASSES
@group(0) @binding(8) var<storage, read> b2: array<f32>;
@group(0) @binding(9) var<storage, read_write> hidden: array<f32>;     // batch × HIDDEN
@group(0) @binding(10) var<storage, read_write> d_hidden: array<f32>;
@group(0) @binding(11) var<storage, read_write> d_logits: array<f32>;  // batch × CLASSES
@group(0) @binding(12) var<storage, read_write> outcome: array<vec2<f32>>; // a sample's loss, and 1 if it is right
@group(0) @binding(13) var<storage, read_write> losses: array<f32>;    // a batch's mean loss
@group(0) @binding(14) var<storage, read_write> g_w1: array<f32>;
@group(0) @binding(15) var<storage, read_write> g_b1: array<f32>;
@group(0) @binding(16) var<storage, read_write> g_w2: array<f32>;
@group(0) @binding(17) var<storage, read_write> g_b2: array<f32>;

// Samples in this batch: the last one may be short.
fn samples() -> u32 {
    return min(sizes.batch, sizes.count - progress.cursor);
}

fn pixel(sample: u32, k: u32) -> f32 {
    let at = order[progress.cursor + sample] * PIXELS + k;
    return f32((images[at / 4u] >> (8u * (at % 4u))) & 255u) / 255.0;
}

// Jarzynski and Olano 2020, section 4.
fn pcg(x: u32) -> u32 {
    let state = x * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

fn keeps(sample: u32, unit: u32) -> bool {
    let step = (progress.epoch << 16u) + progress.batches;
    let image = order[progress.cursor + sample];
    return f32(pcg(pcg(pcg(step) ^ image) ^ unit) >> 8u) / 16777216.0 >= DROPOUT;
}

@compute @workgroup_size(128)
fn forward_hidden(@builtin(global_invocation_id) id: vec3<u32>) {
    let sample = id.y;
    let j = id.x;
    if sample >= samples() || j >= HIDDEN {
        return;
    }
    var sum = b1[j];
    for (var k = 0u; k < PIXELS; k++) {
        sum += pixel(sample, k) * w1[k * HIDDEN + j];
    }
    sum = max(sum, 0.0);
    if DROPOUT > 0.0 {
        sum = select(0.0, sum / (1.0 - DROPOUT), keeps(sample, j));
    }
    hidden[sample * HIDDEN + j] = sum;
}

@compute @workgroup_size(64)
fn forward_loss(@builtin(global_invocation_id) id: vec3<u32>) {
    let sample = id.x;
    if sample >= samples() {
        return;
    }
    let label = labels[order[progress.cursor + sample]];
    var logits: array<f32, CLASSES>;
    var largest = -1e30;
    var guess = 0u;
    for (var c = 0u; c < CLASSES; c++) {
        var sum = b2[c];
        for (var j = 0u; j < HIDDEN; j++) {
            sum += hidden[sample * HIDDEN + j] * w2[j * CLASSES + c];
        }
        logits[c] = sum;
        if sum > largest {
            largest = sum;
            guess = c;
        }
    }
    let right = f32(guess == label);
    if HINGE {
        // Σ max(0, 1 + z − z of the label), of the others.
        var loss = 0.0;
        var beyond = 0.0;
        for (var c = 0u; c < CLASSES; c++) {
            let margin = select(max(logits[c] - logits[label] + 1.0, 0.0), 0.0, c == label);
            loss += margin;
            beyond += f32(margin > 0.0);
            d_logits[sample * CLASSES + c] = f32(margin > 0.0) / f32(samples());
        }
        d_logits[sample * CLASSES + label] = -beyond / f32(samples());
        outcome[sample] = vec2(loss, right);
        return;
    }
    var total = 0.0;
    for (var c = 0u; c < CLASSES; c++) {
        total += exp(logits[c] - largest);
    }
    outcome[sample] = vec2(log(total) + largest - logits[label], right);
    for (var c = 0u; c < CLASSES; c++) {
        let p = exp(logits[c] - largest) / total;
        d_logits[sample * CLASSES + c] = (p - f32(c == label)) / f32(samples());
    }
}

@compute @workgroup_size(128)
fn backward_hidden(@builtin(global_invocation_id) id: vec3<u32>) {
    let sample = id.y;
    let j = id.x;
    if sample >= samples() || j >= HIDDEN {
        return;
    }
    var sum = 0.0;
    for (var c = 0u; c < CLASSES; c++) {
        sum += d_logits[sample * CLASSES + c] * w2[j * CLASSES + c];
    }
    sum /= 1.0 - DROPOUT;
    d_hidden[sample * HIDDEN + j] = select(0.0, sum, hidden[sample * HIDDEN + j] > 0.0);
}

// Row HIDDEN is the bias.
@compute @workgroup_size(64)
fn gradient_output(@builtin(global_invocation_id) id: vec3<u32>) {
    let c = id.x % CLASSES;
    let j = id.x / CLASSES;
    if j > HIDDEN {
        return;
    }
    var sum = 0.0;
    for (var s = 0u; s < samples(); s++) {
        let input = select(hidden[s * HIDDEN + min(j, HIDDEN - 1u)], 1.0, j == HIDDEN);
        sum += d_logits[s * CLASSES + c] * input;
    }
    if j == HIDDEN {
        g_b2[c] = sum;
    } else {
        g_w2[j * CLASSES + c] = sum;
    }
}

// Row PIXELS is the bias.
@compute @workgroup_size(128)
fn gradient_hidden(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    let k = id.y;
    if j >= HIDDEN || k > PIXELS {
        return;
    }
    var sum = 0.0;
    for (var s = 0u; s < samples(); s++) {
        var input = 1.0;
        if k < PIXELS {
            input = pixel(s, k);
        }
        sum += d_hidden[s * HIDDEN + j] * input;
    }
    if k == PIXELS {
        g_b1[j] = sum;
    } else {
        g_w1[k * HIDDEN + j] = sum;
    }
}

// Adds the batch up and goes on to the next one.
@compute @workgroup_size(1)
fn finish() {
    let n = samples();
    var sum = vec2(0.0);
    for (var s = 0u; s < n; s++) {
        sum += outcome[s];
    }
    losses[progress.batches] = sum.x / f32(n);
    progress.batches += 1u;
    progress.hits += u32(sum.y);
    progress.cursor += n;
}
