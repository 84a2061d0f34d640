// AdaPNM (Xie et al. 2021, arXiv:2103.17182).
//
//     x ← β₁²x + (1 − β₁²)g            x and y: m₊ and m₋ in odd steps, m₋ and m₊ in even ones
//     v ← β₂v + (1 − β₂)g²             amsgrad: v̄ ← max(v̄, v) stands for v below
//     w ← w − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ)·((1 + β₃)x − β₃y) / √((1 + β₃)² + β₃²) / (√(v + eps_root) + ε)
//
// beta1 is β₁²; rate and negative_rate hold the bias corrections and the rest: from the host, in f64. CPU twin:
// src/rules/adapnm.rs.

override AMSGRAD: bool = false;

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    rate: f32,
    negative_rate: f32,
    eps_root: f32,
    eps: f32,
    odd: f32,
}
struct State { exp_avg: Lane, neg_exp_avg: Lane, exp_avg_sq: Lane, max_exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let odd = h.odd == 1.0;
    let x = h.beta1 * select((*s).neg_exp_avg, (*s).exp_avg, odd) + h.one_minus_beta1 * g;
    let y = select((*s).exp_avg, (*s).neg_exp_avg, odd);
    (*s).exp_avg = select((*s).exp_avg, x, odd);
    (*s).neg_exp_avg = select(x, (*s).neg_exp_avg, odd);
    var v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg_sq = v;
    if AMSGRAD {
        v = largest((*s).max_exp_avg_sq, v);
        (*s).max_exp_avg_sq = v;
    }
    return w - ratio(h.rate * x - h.negative_rate * y, sqrt(v + h.eps_root) + h.eps);
}
