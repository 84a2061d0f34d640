// The driver: appended to a rule, it loads, calls `update` and stores. Everything that no rule owns happens here, once.
// src/gpu/kernel.rs puts `Lane`, `Bits`, `Mask` and `TAIL` before the rule, and fills in the lines marked `//:`.

struct Row {
    grad_scale: f32,            // neutral 1; negative to maximize
    l2: f32,                    // neutral 0; λ of g + λw
    decay: f32,                 // neutral 0; lr·λ of w − lr·λ·w
    average: f32,               // how far the average goes towards w
    clip_value: f32,            // the largest magnitude that a gradient may have
    skip: u32,                  // neutral 0; 1 to leave everything as it is
    noise: f32,                 // standard deviation of the noise on the gradient
    noise_step: u32,            // its counter, with the tensor and the element
    noise_seed: vec2<u32>,
    noise_tensor: u32,
    @align(16) hyper: Hyper,
}

@group(0) @binding(0) var<uniform> row: Row;
//: bindings

// 0 where b is 0: with ε = 0, until a gradient's square is above 0.
fn ratio(a: Lane, b: Lane) -> Lane {
    return select(a / b, Lane(0.0), b == Lane(0.0));
}

// On the exponent bits, since a compiler may assume that there is no NaN and no ∞.
fn finite(x: Lane) -> Mask {
    return (bitcast<Bits>(x) & Bits(0x7f800000u)) != Bits(0x7f800000u);
}

fn only_finite(x: Lane) -> Lane {
    return select(Lane(0.0), x, finite(x));
}

// To ±limit. NaN passes, where `clamp` may drop it.
fn clip(x: Lane, limit: f32) -> Lane {
    let is_nan = (bitcast<Bits>(x) & Bits(0x7fffffffu)) > Bits(0x7f800000u);
    return select(clamp(x, Lane(-limit), Lane(limit)), x, is_nan);
}

// The larger; NaN and ∞ pass through, where `max` may drop a NaN.
fn largest(a: Lane, b: Lane) -> Lane {
    return select(b, select(a, max(a, b), finite(a)), finite(b));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var i = id.x;
    if TAIL {
        i += arrayLength(&param) & ~3u;
    }
    if i >= arrayLength(&param) {
        return;
    }
    if row.skip == 1u {
        //: skipped
        return;
    }
    let w = param[i];
    //: load
    let p = /*: update */;
    param[i] = p;
    //: store
}
