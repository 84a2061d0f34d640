// Positive-negative momentum (Xie et al. 2021, arXiv:2103.17182).
//
//     x ← β₁²x + (1 − β₁²)g            x and y: m₊ and m₋ in odd steps, m₋ and m₊ in even ones
//     w ← w − lr·((1 + β₂)x − β₂y) / √((1 + β₂)² + β₂²)
//
// beta1 is β₁²; rate and negative_rate hold the rest. CPU twin: src/rules/pnm.rs.

struct Hyper { beta1: f32, one_minus_beta1: f32, rate: f32, negative_rate: f32, odd: f32 }
struct State { pos_momentum: Lane, neg_momentum: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let odd = h.odd == 1.0;
    let x = h.beta1 * select((*s).neg_momentum, (*s).pos_momentum, odd) + h.one_minus_beta1 * g;
    let y = select((*s).pos_momentum, (*s).neg_momentum, odd);
    (*s).pos_momentum = select((*s).pos_momentum, x, odd);
    (*s).neg_momentum = select(x, (*s).neg_momentum, odd);
    return w - (h.rate * x - h.negative_rate * y);
}
