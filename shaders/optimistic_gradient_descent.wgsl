// Optimistic gradient descent (Mokhtari et al. 2020, arXiv:1901.08511).
//
//     w ← w − lr·((α + β)g − βg_old)       g_old = g at the first step
//
// rate is lr(α + β), previous_rate is lr·β. CPU twin: src/rules/optimistic_gradient_descent.rs.

struct Hyper { rate: f32, previous_rate: f32, first: f32 }
struct State { previous_grad: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let previous = select((*s).previous_grad, g, h.first == 1.0);
    (*s).previous_grad = g;
    return w - (h.rate * g - h.previous_rate * previous);
}
