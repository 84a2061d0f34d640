// Yogi (Zaheer et al. 2018).
//
//     m ← β₁m + (1 − β₁)g
//     v ← v − (1 − β₂)·sign(v − g²)·g²
//     w ← w − lr·m̂ / (√v̂ + ε)         m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
//
// CPU twin: src/rules/yogi.rs.

struct Hyper { beta1: f32, one_minus_beta1: f32, one_minus_beta2: f32, step_size: f32, correction: f32, eps: f32 }
struct State { exp_avg: Lane, exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let before = (*s).exp_avg_sq;
    let square = g * g;
    // Where both are infinite, v stays so.
    let change = select(Lane(0.0), square, before < square);
    let v = before + h.one_minus_beta2 * select(change, -square, before > square);
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    return w - h.step_size * ratio(m, sqrt(h.correction * v) + h.eps);
}
