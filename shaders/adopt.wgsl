// ADOPT (Taniguchi et al. 2024, arXiv:2411.02853).
//
//     v ← g²                                       the first step, which does nothing else
//     u = min(max(g / max(√v, ε), −c), c)          c = (t − clip_from)^¼
//     m ← β₁m + (1 − β₁)u
//     w ← w − lr·m
//     v ← β₂v + (1 − β₂)g²
//
// The first step has β₁ = 1, β₂ = 0 and limit c = 0. CPU twin: src/rules/adopt.rs.

struct Hyper { beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32, limit: f32, eps: f32, lr: f32 }
struct State { exp_avg: Lane, exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let u = within(g / largest(sqrt((*s).exp_avg_sq), Lane(h.eps)), Lane(-h.limit), Lane(h.limit));
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * u;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    return w - h.lr * m;
}
