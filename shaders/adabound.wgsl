// AdaBound (Luo et al. 2019, arXiv:1902.09843).
//
//     m ← β₁m + (1 − β₁)g
//     v ← β₂v + (1 − β₂)g²                                     amsbound: v̄ ← max(v̄, v) stands for v below
//     η = lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) / (√(v + eps_root) + ε)
//     w ← w − min(max(η, final_lr·(1 − 1/(γt + 1))), final_lr·(1 + 1/(γt)))·m
//
// step_size is lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ); low and high are the bounds: from the host, in f64. CPU twin:
// src/rules/adabound.rs.

override AMSBOUND: bool = false;

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    low: f32,
    high: f32,
    eps_root: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane, max_exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    var v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    if AMSBOUND {
        v = largest((*s).max_exp_avg_sq, v);
        (*s).max_exp_avg_sq = v;
    }
    let rate = ratio(Lane(h.step_size), sqrt(v + h.eps_root) + h.eps);
    return w - within(rate, Lane(h.low), Lane(h.high)) * m;
}
