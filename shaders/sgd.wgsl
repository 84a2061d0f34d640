// Stochastic gradient descent (Robbins & Monro 1951).
//
//     w ← w − lr·g
//
// CPU twin: src/rules/sgd.rs.

struct Hyper { lr: f32 }

fn update(w: Lane, g: Lane, h: Hyper) -> Lane {
    return w - h.lr * g;
}
