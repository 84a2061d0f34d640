// diffGrad (Dubey et al. 2020, arXiv:1909.11015).
//
//     m ← β₁m + (1 − β₁)g
//     v ← β₂v + (1 − β₂)g²
//     f = 1 / (1 + exp(−|g_old − g|))
//     w ← w − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ)·f·m / (√(v + eps_root) + ε)
//
// step_size is lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ): from the host, in f64. CPU twin: src/rules/diffgrad.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    eps_root: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane, previous_grad: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    let friction = 1.0 / (1.0 + exp(-abs((*s).previous_grad - g)));
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    (*s).previous_grad = g;
    return w - h.step_size * ratio(friction * m, sqrt(v + h.eps_root) + h.eps);
}
