// NovoGrad (Ginsburg et al. 2019, arXiv:1905.11286): v is one number a tensor.
//
//     v ← β₂v + (1 − β₂)‖g‖²                   ‖g‖² at the first step
//     m ← β₁m + gain·(g / (√(v + eps_root) + ε) + λw)
//     w ← w − lr·m
//
// CPU twin: src/rules/novograd.rs.

struct Hyper {
    beta1: f32,
    gain: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps_root: f32,
    eps: f32,
    weight_decay: f32,
    lr: f32,
    trust_ratio: f32,
}
struct State { exp_avg: Lane }

fn measure(w: Lane, g: Lane, s: State, h: Hyper) -> Lane {
    return g;
}

fn trust(w: f32, g: f32, s: ptr<function, f32>, h: Hyper) -> f32 {
    let v = h.beta2 * *s + h.one_minus_beta2 * g * g;
    *s = v;
    let root = sqrt(v + h.eps_root) + h.eps;
    return select(1.0 / root, 0.0, root == 0.0);
}

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.gain * (h.trust_ratio * g + h.weight_decay * w);
    (*s).exp_avg = m;
    return w - h.lr * m;
}
