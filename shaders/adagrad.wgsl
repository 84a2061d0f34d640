// AdaGrad (Duchi, Hazan & Singer 2011).
//
//     s ← s + g²
//     w ← w − lr·g / (√(s + eps_inside) + eps_outside)
//
// One of the two ε is 0. CPU twin: src/rules/adagrad.rs.

struct Hyper { lr: f32, eps_inside: f32, eps_outside: f32 }
struct State { sum: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let sum = (*s).sum + g * g;
    (*s).sum = sum;
    return w - h.lr * ratio(g, sqrt(sum + h.eps_inside) + h.eps_outside);
}
