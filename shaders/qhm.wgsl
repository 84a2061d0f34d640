// Quasi-hyperbolic momentum (Ma & Yarats 2019, arXiv:1810.06801).
//
//     m ← ρm + (1 − ρ)g
//     w ← w − lr·(νm + (1 − ν)g)
//
// rate is lr·ν, gradient_rate is lr(1 − ν). CPU twin: src/rules/qhm.rs.

struct Hyper { momentum: f32, one_minus_momentum: f32, rate: f32, gradient_rate: f32 }
struct State { momentum_buffer: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.momentum * (*s).momentum_buffer + h.one_minus_momentum * g;
    (*s).momentum_buffer = m;
    return w - (h.rate * m + h.gradient_rate * g);
}
