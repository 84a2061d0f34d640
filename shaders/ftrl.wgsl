// FTRL-Proximal (McMahan et al. 2013).
//
//     n' = n + g²
//     z ← z + g + 2·l2_shrinkage·w − (√n' − √n)/lr·w,  n ← n'
//     w ← (min(max(z, −l1), l1) − z) / ((√n + β)/lr + l2)
//
// shrinkage is 2·l2_shrinkage. CPU twin: src/rules/ftrl.rs.

struct Hyper { lr: f32, inverse_lr: f32, l1: f32, l2: f32, shrinkage: f32, beta: f32 }
struct State { accumulator: Lane, linear: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    if h.lr == 0.0 {
        return w;
    }
    let n = (*s).accumulator + g * g;
    // (√n' − √n)/lr, without a difference, and without a square that may overflow.
    let sigma = h.inverse_lr * (abs(g) * ratio(abs(g), sqrt(n) + sqrt((*s).accumulator)));
    let z = (*s).linear + (g + h.shrinkage * w) - sigma * w;
    (*s).accumulator = n;
    (*s).linear = z;
    return ratio(within(z, Lane(-h.l1), Lane(h.l1)) - z, h.inverse_lr * (sqrt(n) + h.beta) + h.l2);
}
