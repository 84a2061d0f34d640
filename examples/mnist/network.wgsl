// Dense layers with ReLU, then softmax with cross-entropy, or the multiclass SVM's loss. One entry point a pass,
// dispatched for each layer; each binds what it uses. Matrices have a row a sample; weights are inputs × outputs. What
// the optimizer holds lies in one buffer, some of which is written: all of it is bound to be.

const PIXELS = 784u;
const CLASSES = 10u;
// PyTorch's.
const EPS = 1e-5;
const MOMENTUM = 0.1;
override HINGE: bool = false;
override DROPOUT: f32 = 0.0;

// The layer's `bias` is 0 where the biases come in behind the normalization.
struct Layer { batch: u32, count: u32, inputs: u32, outputs: u32, index: u32, bias: u32 }
// Where the pass stands in `order`, how many batches it has seen, how many samples it has got right;
// and the epoch.
struct Progress { cursor: u32, batches: u32, hits: u32, epoch: u32 }

@group(0) @binding(0) var<uniform> layer: Layer;
@group(0) @binding(1) var<storage, read_write> progress: Progress;
@group(0) @binding(2) var<storage, read> images: array<u32>;   // four pixels a word
@group(0) @binding(3) var<storage, read> labels: array<u32>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
@group(0) @binding(5) var<storage, read_write> input: array<f32>;
@group(0) @binding(6) var<storage, read_write> w: array<f32>;
@group(0) @binding(7) var<storage, read_write> b: array<f32>;
@group(0) @binding(8) var<storage, read_write> scale: array<f32>;
@group(0) @binding(9) var<storage, read_write> z: array<f32>;  // before the activation; once it is normalized, without scale and bias
@group(0) @binding(10) var<storage, read_write> mean: array<f32>;
@group(0) @binding(11) var<storage, read_write> variance: array<f32>;
@group(0) @binding(12) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(13) var<storage, read_write> running_variance: array<f32>;
@group(0) @binding(14) var<storage, read_write> output: array<f32>;
@group(0) @binding(15) var<storage, read_write> d: array<f32>;         // of z, or before `normalize_back` of what it was normalized to
@group(0) @binding(16) var<storage, read_write> d_input: array<f32>;   // the same of the layer before
@group(0) @binding(17) var<storage, read_write> g_w: array<f32>;
@group(0) @binding(18) var<storage, read_write> g_b: array<f32>;
@group(0) @binding(19) var<storage, read_write> g_scale: array<f32>;
@group(0) @binding(20) var<storage, read_write> outcome: array<vec2<f32>>; // a sample's loss, and 1 if it is right
@group(0) @binding(21) var<storage, read_write> losses: array<f32>;    // a batch's mean loss

// Samples in this batch: the last one may be short.
fn samples() -> u32 {
    return min(layer.batch, layer.count - progress.cursor);
}

@compute @workgroup_size(64)
fn unpack(@builtin(global_invocation_id) id: vec3<u32>) {
    let k = id.x;
    let sample = id.y;
    if sample >= samples() || k >= PIXELS {
        return;
    }
    let at = order[progress.cursor + sample] * PIXELS + k;
    input[sample * PIXELS + k] = f32((images[at / 4u] >> (8u * (at % 4u))) & 255u) / 255.0;
}

@compute @workgroup_size(64)
fn dense(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    let sample = id.y;
    if sample >= samples() || j >= layer.outputs {
        return;
    }
    var sum = select(0.0, b[j], layer.bias == 1u);
    for (var k = 0u; k < layer.inputs; k++) {
        sum += input[sample * layer.inputs + k] * w[k * layer.outputs + j];
    }
    z[sample * layer.outputs + j] = sum;
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
    return f32(pcg(pcg(pcg(step) ^ image) ^ ((layer.index << 16u) + unit)) >> 8u) / 16777216.0 >= DROPOUT;
}

// NaN or ∞, which max() may hide.
fn wild(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u;
}

fn activation(y: f32, sample: u32, unit: u32) -> f32 {
    if wild(y) {
        return y;
    }
    let positive = max(y, 0.0);
    if DROPOUT > 0.0 {
        return select(0.0, positive / (1.0 - DROPOUT), keeps(sample, unit));
    }
    return positive;
}

@compute @workgroup_size(64)
fn activate(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    let sample = id.y;
    if sample >= samples() || j >= layer.outputs {
        return;
    }
    let at = sample * layer.outputs + j;
    output[at] = activation(z[at], sample, j);
}

// Of one unit over the batch; the running ones go on by the unbiased variance.
@compute @workgroup_size(64)
fn statistics(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    if j >= layer.outputs {
        return;
    }
    let n = samples();
    var sum = 0.0;
    for (var s = 0u; s < n; s++) {
        sum += z[s * layer.outputs + j];
    }
    let middle = sum / f32(n);
    var squares = 0.0;
    for (var s = 0u; s < n; s++) {
        let apart = z[s * layer.outputs + j] - middle;
        squares += apart * apart;
    }
    mean[j] = middle;
    variance[j] = squares / f32(n);
    running_mean[j] += MOMENTUM * (middle - running_mean[j]);
    running_variance[j] += MOMENTUM * (squares / f32(max(n - 1u, 1u)) - running_variance[j]);
}

@compute @workgroup_size(64)
fn normalize(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    let sample = id.y;
    if sample >= samples() || j >= layer.outputs {
        return;
    }
    let at = sample * layer.outputs + j;
    let x = (z[at] - mean[j]) / sqrt(variance[j] + EPS);
    z[at] = x;
    output[at] = activation(scale[j] * x + b[j], sample, j);
}

// z are the logits.
@compute @workgroup_size(64)
fn loss(@builtin(global_invocation_id) id: vec3<u32>) {
    let sample = id.x;
    if sample >= samples() {
        return;
    }
    let first = sample * CLASSES;
    let label = labels[order[progress.cursor + sample]];
    var largest = -1e30;
    var guess = 0u;
    for (var c = 0u; c < CLASSES; c++) {
        if z[first + c] > largest {
            largest = z[first + c];
            guess = c;
        }
    }
    let right = f32(guess == label);
    if HINGE {
        // Σ max(0, 1 + z − z of the label), of the others.
        var loss = 0.0;
        var all = 0.0;
        var beyond = 0.0;
        for (var c = 0u; c < CLASSES; c++) {
            let margin = select(max(z[first + c] - z[first + label] + 1.0, 0.0), 0.0, c == label);
            loss += margin;
            all += z[first + c];
            beyond += f32(margin > 0.0);
            d[first + c] = f32(margin > 0.0) / f32(samples());
        }
        d[first + label] = -beyond / f32(samples());
        if wild(all) {
            loss = all;
        }
        outcome[sample] = vec2(loss, right);
        return;
    }
    var total = 0.0;
    for (var c = 0u; c < CLASSES; c++) {
        total += exp(z[first + c] - largest);
    }
    outcome[sample] = vec2(log(total) + largest - z[first + label], right);
    for (var c = 0u; c < CLASSES; c++) {
        let p = exp(z[first + c] - largest) / total;
        d[first + c] = (p - f32(c == label)) / f32(samples());
    }
}

// Through one unit's normalization (Ioffe and Szegedy 2015, section 3).
@compute @workgroup_size(64)
fn normalize_back(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    if j >= layer.outputs {
        return;
    }
    let n = samples();
    var sum = 0.0;
    var product = 0.0;
    for (var s = 0u; s < n; s++) {
        let at = s * layer.outputs + j;
        sum += d[at];
        product += d[at] * z[at];
    }
    g_b[j] = sum;
    g_scale[j] = product;
    let factor = scale[j] / sqrt(variance[j] + EPS);
    for (var s = 0u; s < n; s++) {
        let at = s * layer.outputs + j;
        d[at] = factor * (d[at] - (sum + z[at] * product) / f32(n));
    }
}

// Row `inputs` is the bias.
@compute @workgroup_size(64)
fn gradient(@builtin(global_invocation_id) id: vec3<u32>) {
    let j = id.x;
    let k = id.y;
    if j >= layer.outputs || k >= layer.inputs + layer.bias {
        return;
    }
    var sum = 0.0;
    for (var s = 0u; s < samples(); s++) {
        let x = select(input[s * layer.inputs + min(k, layer.inputs - 1u)], 1.0, k == layer.inputs);
        sum += d[s * layer.outputs + j] * x;
    }
    if k == layer.inputs {
        g_b[j] = sum;
    } else {
        g_w[k * layer.outputs + j] = sum;
    }
}

// To the layer before, through its dropout and ReLU.
@compute @workgroup_size(64)
fn back(@builtin(global_invocation_id) id: vec3<u32>) {
    let k = id.x;
    let sample = id.y;
    if sample >= samples() || k >= layer.inputs {
        return;
    }
    var sum = 0.0;
    for (var j = 0u; j < layer.outputs; j++) {
        sum += d[sample * layer.outputs + j] * w[k * layer.outputs + j];
    }
    let at = sample * layer.inputs + k;
    d_input[at] = select(0.0, sum / (1.0 - DROPOUT), input[at] > 0.0);
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
