// LaProp (Ziyin et al. 2020, arXiv:2002.04839).
//
//     v ← β₂v + (1 − β₂)g²
//     u = g / ((√(v + eps_root) + ε) / √(1 − β₂ᵗ))      centered: v − ḡ² from step 11 on, ḡ ← β₂ḡ + (1 − β₂)g
//     m ← β₁m + (1 − β₁)u
//     w ← (1 − lr·λ)·(w − lr·m̂)                         m̂ = m / (1 − β₁ᵗ)
//
// root is √(1 − β₂ᵗ), centering is 1 from step 11 on, step_size is lr / (1 − β₁ᵗ), decay is lr·λ: from the host, in
// f64. CPU twin: src/rules/laprop.rs.

override CENTERED: bool = false;

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    root: f32,
    centering: f32,
    step_size: f32,
    decay: f32,
    eps_root: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane, grad_avg: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg_sq = v;
    var variance = v;
    if CENTERED {
        let mean = h.beta2 * (*s).grad_avg + h.one_minus_beta2 * g;
        (*s).grad_avg = mean;
        variance = largest(v - h.centering * mean * mean, Lane(0.0));
    }
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * ratio(h.root * g, sqrt(variance + h.eps_root) + h.eps);
    (*s).exp_avg = m;
    let x = w - h.step_size * m;
    return x - h.decay * x;
}
