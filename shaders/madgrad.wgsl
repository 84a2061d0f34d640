// MADGRAD (Defazio & Jelassi 2022, arXiv:2101.11075).
//
//     a = (lr + ε)·√t                                   0 where lr is 0
//     n ← n + a·g²
//     q ← q + a·g
//     w ← ρw + (1 − ρ)(x₀ − q / (∛n + ε)) − lr·λ·w
//
// gain is a, decay is lr·λ. CPU twin: src/rules/madgrad.rs.

struct Hyper { gain: f32, momentum: f32, one_minus_momentum: f32, eps: f32, decay: f32, first: f32 }
struct State { grad_sum_sq: Lane, grad_sum: Lane, x0: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let x0 = select((*s).x0, w, h.first == 1.0);
    let n = (*s).grad_sum_sq + h.gain * g * g;
    let q = (*s).grad_sum + h.gain * g;
    (*s).x0 = x0;
    (*s).grad_sum_sq = n;
    (*s).grad_sum = q;
    return h.momentum * w + h.one_minus_momentum * (x0 - ratio(q, cube_root(n) + h.eps)) - h.decay * w;
}

// Of numbers that are not negative: the third of the exponent, and Newton's method, which ends at a rounding.
fn cube_root(x: Lane) -> Lane {
    var y = bitcast<Lane>(bitcast<Bits>(x) / 3u + Bits(0x2a5119f2u));
    for (var k = 0; k < 3; k++) {
        y = y - (y - x / (y * y)) * (1.0 / 3.0);
    }
    return select(y, x, (x == Lane(0.0)) | !finite(x));
}
