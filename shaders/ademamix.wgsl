// AdEMAMix (Pagliardini et al. 2024, arXiv:2409.03137).
//
//     m₁ ← β₁m₁ + (1 − β₁)g
//     m₂ ← β₃m₂ + (1 − β₃)g
//     v  ← β₂v + (1 − β₂)g²
//     w  ← w − (rate·m₁ + slow_rate·m₂) / (√(correction·v + eps_root) + ε)
//
// rate is lr / (1 − β₁ᵗ), slow_rate is lr·α, correction is 1 / (1 − β₂ᵗ): in f64 from the host. CPU twin:
// src/rules/ademamix.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    beta3: f32,
    one_minus_beta3: f32,
    rate: f32,
    slow_rate: f32,
    correction: f32,
    eps_root: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_slow: Lane, exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let slow = h.beta3 * (*s).exp_avg_slow + h.one_minus_beta3 * g;
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg = m;
    (*s).exp_avg_slow = slow;
    (*s).exp_avg_sq = v;
    return w - ratio(h.rate * m + h.slow_rate * slow, sqrt(h.correction * v + h.eps_root) + h.eps);
}
