// COCOB-Backprop (Orabona & Tommasi 2017, arXiv:1705.07795).
//
//     c = lr·(g + λw)
//     L ← max(L, |c|)
//     A ← A + |c|
//     R ← max(R − c(w − x₀), 0)
//     θ ← θ − c
//     w ← x₀ + θ / (L·max(A + L, αL))·(L + R)
//
// CPU twin: src/rules/cocob.rs.

struct Hyper { lr: f32, alpha: f32, weight_decay: f32, first: f32 }
struct State { x0: Lane, scale: Lane, grad_norm_sum: Lane, reward: Lane, grad_sum: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let x0 = select((*s).x0, w, h.first == 1.0);
    let c = h.lr * (g + h.weight_decay * w);
    let l = largest((*s).scale, abs(c));
    let a = (*s).grad_norm_sum + abs(c);
    let r = largest((*s).reward - c * (w - x0), Lane(0.0));
    let theta = (*s).grad_sum - c;
    (*s).x0 = x0;
    (*s).scale = l;
    (*s).grad_norm_sum = a;
    (*s).reward = r;
    (*s).grad_sum = theta;
    return x0 + theta / l / largest(a + l, h.alpha * l) * (l + r);
}
