// Signum and sign SGD (Bernstein et al. 2018, arXiv:1802.04434), Tiger (Su 2023).
//
//     m ← ρm + (1 − ρ)g
//     w ← w − lr·sign(m)        ρ = 0: sign(g)
//
// CPU twin: src/rules/signum.rs.

override MOMENTUM: bool = false;

struct Hyper { momentum: f32, one_minus_momentum: f32, lr: f32 }
struct State { momentum_buffer: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    if !MOMENTUM {
        return w - h.lr * sign_of(g);
    }
    let m = h.momentum * (*s).momentum_buffer + h.one_minus_momentum * g;
    (*s).momentum_buffer = m;
    return w - h.lr * sign_of(m);
}
