// Averaged SGD (Polyak & Juditsky 1992; Xu 2011, arXiv:1107.2490).
//
//     ηₜ = lr / (1 + λ·lr·(t − 1))^α
//     w  ← w − ληₜw − ηₜg
//     ax ← ax + μₜ(w − ax)             μₜ = 1 / max(1, t − 1 − t0)
//
// shrink is λη. CPU twin: src/rules/asgd.rs.

struct Hyper { shrink: f32, eta: f32, mu: f32 }
struct State { ax: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let x = w - h.shrink * w - h.eta * g;
    (*s).ax = select((*s).ax + h.mu * (x - (*s).ax), x, h.mu == 1.0);
    return x;
}
