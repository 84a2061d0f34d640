// Behind each rule and block.wgsl, and before its driver: the coefficients of a cohort, and what every lane needs.
// src/gpu/wgsl.rs generates `Lane`, `Bits`, `Mask`, and the constants.

struct Coefficients {
    grad_scale: f32,            // neutral 1; negative to maximize
    l2: f32,                    // neutral 0; λ of g + λw
    decay: f32,                 // neutral 0; lr·λ of w − lr·λ·w
    average: f32,               // how far the average goes towards w
    clip_value: f32,            // the largest magnitude that a gradient may have
    skip: u32,                  // neutral 0; 1 to leave everything as it is
    noise: f32,                 // standard deviation of the noise on the gradient
    grad_power: f32,            // neutral 1; a power of two beside grad_scale, where their product is no normal number
    draw: vec4<u32>,            // the noise's: step, both halves of the seed, tensor
    rounding: vec2<u32>,        // keys of this step's random bits for rounding
    unused: vec2<u32>,
    @align(16) hyper: Hyper,
}

// One cohort's in the table of coefficients: 256 bytes, by a member and not by an attribute, which naga's GLSL would
// drop.
struct Padded { c: Coefficients, padding: array<vec4<f32>, PADDING> }

// In ranges that are bound whole. `len` counts lanes. A tail is behind the last whole four.
fn in_range(k: u32, len: u32) -> At {
    let i = k + select(0u, len & ~3u, TAIL);
    return At(i, i, i, 0u, i, len, i, 0u, i < len);
}

// The gradient with both factors. The `select` keeps them apart: a compiler may join a product of three.
fn scaled(g: Lane, c: Coefficients) -> Lane {
    return c.grad_scale * select(c.grad_power * g, g, c.grad_power == 1.0);
}

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

// To low … high. NaN passes, where `clamp`, and on GL a comparison, may drop it.
fn within(x: Lane, low: Lane, high: Lane) -> Lane {
    let is_nan = (bitcast<Bits>(x) & Bits(0x7fffffffu)) > Bits(0x7f800000u);
    return select(clamp(x, low, high), x, is_nan);
}

// The larger; NaN and ∞ pass through, where `max` may drop a NaN.
fn largest(a: Lane, b: Lane) -> Lane {
    return select(b, select(a, max(a, b), finite(a)), finite(b));
}

// 1, −1, or 0; NaN passes.
fn sign_of(x: Lane) -> Lane {
    return select(select(x, Lane(-1.0), x < Lane(0.0)), Lane(1.0), x > Lane(0.0));
}

// The gradient as the rule gets it. A feature that is off leaves no trace in the arithmetic: x + 0.0 is not always x.
fn rule_gradient(read: Lane, w: Lane, at: At, c: Coefficients) -> Lane {
    if !WITH_SETTINGS {
        return read;
    }
    var g = read;
    if WITH_TWO_FACTORS {
        g = scaled(g, c);
    } else {
        g = c.grad_scale * g;
    }
    if WITH_ZERO {
        g = only_finite(g);
    }
    if WITH_CLIP {
        g = clip(g, c.clip_value);
    }
    if WITH_NOISE {
        g = g + noise(c, at.first, at.limit);
    }
    return g + c.l2 * w;
}
