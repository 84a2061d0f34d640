// Accelerated SGD (Kidambi et al. 2018, arXiv:1803.05591).
//
//     α = 1 − ξc²/κ,  β = 1 − α,  ζ = c/(c + β)
//     b ← (1 − β)b + β(w − lr·κ/c·g)
//     w ← ζ(w − lr·g) + (1 − ζ)b
//
// long_rate is lr·κ/c, decay is lr·λ. CPU twin: src/rules/accsgd.rs.

struct Hyper {
    beta: f32,
    one_minus_beta: f32,
    long_rate: f32,
    zeta: f32,
    one_minus_zeta: f32,
    lr: f32,
    decay: f32,
    first: f32,
}
struct State { momentum_buffer: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let x = w - h.decay * w;
    let before = select((*s).momentum_buffer, w, h.first == 1.0);
    let b = h.one_minus_beta * before + h.beta * (x - h.long_rate * g);
    (*s).momentum_buffer = b;
    return h.zeta * (x - h.lr * g) + h.one_minus_zeta * b;
}
