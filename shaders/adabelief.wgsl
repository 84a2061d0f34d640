// AdaBelief (Zhuang et al. 2020, arXiv:2010.07468).
//
//     m ← β₁m + (1 − β₁)g
//     s ← β₂s + (1 − β₂)(g − m)² + eps_root
//     w ← w − lr·m̂ / (√ŝ + ε)         m̂ = m / (1 − β₁ᵗ),  ŝ = s / (1 − β₂ᵗ)
//
// step_size holds the bias corrections, and RAdam's rectification; `rectified` is 0 while that has no step: from the
// host, in f64. CPU twin: src/rules/adabelief.rs.

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
struct State { exp_avg: Lane, exp_avg_var: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * (*s).exp_avg_var + h.one_minus_beta2 * (g - m) * (g - m) + h.eps_root;
    (*s).exp_avg = m;
    (*s).exp_avg_var = v;
    let root = sqrt(h.correction * v) + h.eps;
    return w - h.step_size * ratio(m, select(Lane(1.0), root, h.rectified == 1.0));
}
