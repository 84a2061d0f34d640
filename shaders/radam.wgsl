// RAdam (Liu et al. 2020, arXiv:1908.03265).
//
//     m ← β₁m + (1 − β₁)g
//     v ← β₂v + (1 − β₂)g²
//     ρ∞ = 2/(1 − β₂) − 1,  ρ = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ)
//     r = √((ρ − 4)(ρ − 2)ρ∞ / ((ρ∞ − 4)(ρ∞ − 2)ρ))
//     w ← w − lr·r·m̂ / (√(v̂ + eps_root) + ε)    where ρ > 5
//     w ← w − lr·m̂                              where not: m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
//
// step_size holds lr, r and the bias corrections, `rectified` whether ρ > 5: from the host, in f64. CPU twin:
// src/rules/radam.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    correction: f32,
    eps_root: f32,
    eps: f32,
    rectified: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    let root = sqrt(h.correction * v + h.eps_root) + h.eps;
    return w - h.step_size * ratio(m, select(Lane(1.0), root, h.rectified == 1.0));
}
