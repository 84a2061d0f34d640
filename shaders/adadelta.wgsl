// AdaDelta (Zeiler 2012, arXiv:1212.5701).
//
//     v ← ρv + (1 − ρ)g²
//     δ ← √(u + ε) / √(v + ε) · g
//     u ← ρu + (1 − ρ)δ²
//     w ← w − lr·δ
//
// CPU twin: src/rules/adadelta.rs.

struct Hyper { lr: f32, rho: f32, one_minus_rho: f32, eps: f32 }
struct State { square_avg: Lane, acc_delta: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let v = h.rho * (*s).square_avg + h.one_minus_rho * g * g;
    let delta = ratio(sqrt((*s).acc_delta + h.eps), sqrt(v + h.eps)) * g;
    (*s).square_avg = v;
    (*s).acc_delta = h.rho * (*s).acc_delta + h.one_minus_rho * delta * delta;
    return w - h.lr * delta;
}
