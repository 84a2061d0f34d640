// Sophia (Liu et al. 2023, arXiv:2305.14342).
//
//     m ← β₁m + (1 − β₁)g
//     w ← w − lr·min(max(m̂ / max(γh, ε), −ρ), ρ)     m̂ = m / (1 − β₁ᵗ)
//     h ← β₂h + (1 − β₂)·hessian                     at step 1, 1 + k, 1 + 2k, …
//
// In steps between, β₂ is 1. CPU twin: src/rules/sophia.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    correction: f32,
    gamma: f32,
    eps: f32,
    limit: f32,
    lr: f32,
}
struct State { exp_avg: Lane, exp_hessian: Lane, hessian: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let divisor = largest(h.gamma * (*s).exp_hessian, Lane(h.eps));
    let u = within(h.correction * m / divisor, Lane(-h.limit), Lane(h.limit));
    (*s).exp_avg = m;
    (*s).exp_hessian = h.beta2 * (*s).exp_hessian + h.one_minus_beta2 * (*s).hessian;
    return w - h.lr * u;
}
