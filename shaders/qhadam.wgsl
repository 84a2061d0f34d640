// QHAdam (Ma & Yarats 2019, arXiv:1810.06801).
//
//     m ← running mean of g, with weights of β₁: m + (g − m)·(1 − β₁)/(1 − β₁ᵗ)
//     v ← running mean of g², with weights of β₂
//     w ← w − lr·(ν₁m + (1 − ν₁)g) / (√(ν₂v + (1 − ν₂)g²) + ε)
//
// one_minus_beta1 is (1 − β₁)/(1 − β₁ᵗ), and beta1 is 1 minus it; rate is lr·ν₁, gradient_rate is lr(1 − ν₁): from the
// host, in f64. CPU twin: src/rules/qhadam.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    nu2: f32,
    one_minus_nu2: f32,
    rate: f32,
    gradient_rate: f32,
    eps: f32,
}
struct State { exp_avg: Lane, exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
    (*s).exp_avg = m;
    (*s).exp_avg_sq = v;
    return w - ratio(h.rate * m + h.gradient_rate * g, sqrt(h.nu2 * v + h.one_minus_nu2 * g * g) + h.eps);
}
