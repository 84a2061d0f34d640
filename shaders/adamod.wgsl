// AdaMod (Ding et al. 2019, arXiv:1910.12249).
//
//     m ← β₁m + (1 − β₁)g
//     v ← β₂v + (1 − β₂)g²
//     η = lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) / (√v + ε)
//     s ← β₃s + (1 − β₃)η
//     w ← w − min(η, s)·m
//
// step_size is lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ): from the host, in f64. CPU twin: src/rules/adamod.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    beta3: f32,
    one_minus_beta3: f32,
    step_size: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane, exp_avg_lr: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    let eta = ratio(Lane(h.step_size), sqrt(v) + h.eps);
    let mean = h.beta3 * (*s).exp_avg_lr + h.one_minus_beta3 * eta;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    (*s).exp_avg_lr = mean;
    return w - within(eta, Lane(0.0), mean) * m;
}
