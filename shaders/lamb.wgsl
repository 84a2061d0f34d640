// LAMB (You et al. 2020, arXiv:1904.00962).
//
//     m ← β₁m + (1 − β₁)g
//     v ← β₂v + (1 − β₂)g²
//     r = m̂ / (√(v̂ + eps_root) + ε) + λw
//     w ← w − decay·w − lr·φ(‖w‖)/(‖r‖ + trust_eps)·r      the ratio is 1 where a norm is 0
//
// φ limits the norm of what is left of w behind the decay. m̂ = c₁m and v̂ = c₂v hold the bias corrections, in f64 from
// the host. CPU twin: src/rules/lamb.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    m_correction: f32,
    v_correction: f32,
    eps_root: f32,
    eps: f32,
    weight_decay: f32,
    lr: f32,
    decay: f32,
    trust_eps: f32,
    max_weight_norm: f32,
    trust_ratio: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane }

fn direction(w: Lane, m: Lane, v: Lane, h: Hyper) -> Lane {
    return ratio(h.m_correction * m, sqrt(h.v_correction * v + h.eps_root) + h.eps) + h.weight_decay * w;
}

fn measure(w: Lane, g: Lane, s: State, h: Hyper) -> Lane {
    let m = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
    return direction(w, m, v, h);
}

fn trust(w: f32, r: f32, s: ptr<function, f32>, h: Hyper) -> f32 {
    let left = abs(w - h.decay * w);
    let weight = select(left, h.max_weight_norm, left > h.max_weight_norm);
    return select(weight / (r + h.trust_eps), 1.0, w == 0.0 || r == 0.0);
}

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    return w - h.decay * w - h.lr * h.trust_ratio * direction(w, m, v, h);
}
