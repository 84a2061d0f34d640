// ACProp (Zhuang et al. 2021, arXiv:2110.05454).
//
//     w ← w − lr·g / (√ŝ + ε)          ŝ = s / (1 − β₂ᵗ⁻¹) of the steps before, 1 at the first
//     s ← β₂s + (1 − β₂)(g − m)² + eps_root
//     m ← β₁m + (1 − β₁)g
//
// CPU twin: src/rules/acprop.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    correction: f32,
    eps_root: f32,
    eps: f32,
    lr: f32,
    first: f32,
}
struct State { exp_avg: Lane, exp_avg_var: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let variance = select(h.correction * (*s).exp_avg_var, Lane(1.0), h.first == 1.0);
    let difference = g - (*s).exp_avg;
    (*s).exp_avg = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    (*s).exp_avg_var = h.beta2 * (*s).exp_avg_var + h.one_minus_beta2 * difference * difference + h.eps_root;
    return w - h.lr * ratio(g, sqrt(variance) + h.eps);
}
