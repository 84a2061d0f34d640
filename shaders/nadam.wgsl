// NAdam: Adam with Nesterov momentum (Dozat 2016).
//
//     m ← β₁m + (1 − β₁)g
//     v ← β₂v + (1 − β₂)g²
//     w ← w − (gradient_rate·g + momentum_rate·m) / (√(v / (1 − β₂ᵗ) + eps_root) + ε)
//
// The two rates hold lr, the momentum schedule μₜ and its products. CPU twin: src/rules/nadam.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    gradient_rate: f32,
    momentum_rate: f32,
    correction: f32,
    eps_root: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    let step = h.gradient_rate * g + h.momentum_rate * m;
    return w - ratio(step, sqrt(h.correction * v + h.eps_root) + h.eps);
}
