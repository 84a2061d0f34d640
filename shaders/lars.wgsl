// LARS (You et al. 2017, arXiv:1708.03888), with g the decayed gradient.
//
//     v ← ρv − lr·η‖w‖/(‖g‖ + ε)·g             the ratio is 1 where a norm is 0
//     w ← w + v                                NESTEROV: w + ρv − lr·ratio·g
//
// CPU twin: src/rules/lars.rs.

override NESTEROV: bool = false;

struct Hyper { momentum: f32, lr: f32, trust_coefficient: f32, eps: f32, trust_ratio: f32 }
struct State { momentum_buffer: Lane }

fn measure(w: Lane, g: Lane, s: State, h: Hyper) -> Lane {
    return g;
}

fn trust(w: f32, g: f32, s: ptr<function, f32>, h: Hyper) -> f32 {
    return select(h.trust_coefficient * w / (g + h.eps), 1.0, w == 0.0 || g == 0.0);
}

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let d = -h.lr * h.trust_ratio * g;
    let v = h.momentum * (*s).momentum_buffer + d;
    (*s).momentum_buffer = v;
    if NESTEROV {
        return w + h.momentum * v + d;
    }
    return w + v;
}
