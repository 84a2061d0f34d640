// AdaMax (Kingma & Ba 2015, arXiv:1412.6980, section 7.1).
//
//     m ← β₁m + (1 − β₁)g
//     u ← max(β₂u, |g| + eps_inside)
//     w ← w − lr / (1 − β₁ᵗ) · m / (u + eps_outside)
//
// At most one ε is not 0; the paper has none. CPU twin: src/rules/adamax.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    step_size: f32,
    eps_inside: f32,
    eps_outside: f32,
}
struct State { exp_avg: Lane, exp_inf: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let u = largest(h.beta2 * (*s).exp_inf, abs(g) + h.eps_inside);
    (*s).exp_avg = m;
    (*s).exp_inf = u;
    return w - h.step_size * ratio(m, u + h.eps_outside);
}
