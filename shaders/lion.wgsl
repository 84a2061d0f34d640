// Lion (Chen et al. 2023, arXiv:2302.06675).
//
//     w ← w − lr·sign(β₁m + (1 − β₁)g)
//     m ← β₂m + (1 − β₂)g
//
// The sign of 0 is 0. CPU twin: src/rules/lion.rs.

struct Hyper { beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32, lr: f32 }
struct State { exp_avg: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = (*s).exp_avg;
    (*s).exp_avg = h.beta2 * m + h.one_minus_beta2 * g;
    return w - h.lr * sign_of(h.beta1 * m + h.one_minus_beta1 * g);
}
