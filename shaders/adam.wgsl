// Adam (Kingma & Ba 2015, arXiv:1412.6980); AMSGrad (Reddi et al. 2018, arXiv:1904.09237).
//
//     m ← β₁m + (1 − β₁)g
//     v ← β₂v + (1 − β₂)g²                 AMSGRAD: v̄ ← max(v̄, c·v) stands for v below
//     w ← w − α·m / (√(d·v + eps_root) + ε)
//
// α, c and d hold the bias corrections, in f64 from the host: α = lr / (1 − β₁ᵗ), c = 1, d = 1 / (1 − β₂ᵗ) is
// PyTorch's form. CPU twin: src/rules/adam.rs.

override AMSGRAD: bool = false;

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    max_correction: f32,
    correction: f32,
    eps_root: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane, max_exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    var v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    if AMSGRAD {
        v = largest((*s).max_exp_avg_sq, h.max_correction * v);
        (*s).max_exp_avg_sq = v;
    }
    return w - h.step_size * ratio(m, sqrt(h.correction * v + h.eps_root) + h.eps);
}
