// Adan (Xie et al. 2022, arXiv:2208.06677).
//
//     d = g − g_old                                   0 at the first step
//     m ← β₁m + (1 − β₁)g
//     b ← β₂b + (1 − β₂)d
//     n ← β₃n + (1 − β₃)(g + κd)²
//     w ← (w − lr·(m̂ + κ·b̂) / (√(n̂ + eps_root) + ε)) / (1 + lr·λ)
//     m̂ = m / (1 − β₁ᵗ),  b̂ = b / (1 − β₂ᵗ),  n̂ = n / (1 − β₃ᵗ)
//
// rate is lr / (1 − β₁ᵗ), difference_rate is lr·κ / (1 − β₂ᵗ), decay is lr·λ, shrink is 1 / (1 + lr·λ): from the host,
// in f64. CPU twin: src/rules/adan.rs.

struct Hyper {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    beta3: f32,
    one_minus_beta3: f32,
    rate: f32,
    difference_rate: f32,
    correction: f32,
    eps_root: f32,
    eps: f32,
    kappa: f32,
    decay: f32,
    shrink: f32,
    first: f32,
}
struct State { exp_avg: Lane, exp_avg_diff: Lane, exp_avg_sq: Lane, previous_grad: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let d = select(g - (*s).previous_grad, Lane(0.0), h.first == 1.0);
    let x = g + h.kappa * d;
    let m = h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g;
    let b = h.beta2 * (*s).exp_avg_diff + h.one_minus_beta2 * d;
    let n = h.beta3 * (*s).exp_avg_sq + h.one_minus_beta3 * x * x;
    (*s).exp_avg = m;
    (*s).exp_avg_diff = b;
    (*s).exp_avg_sq = n;
    (*s).previous_grad = g;
    let u = ratio(h.rate * m + h.difference_rate * b, sqrt(h.correction * n + h.eps_root) + h.eps);
    return h.shrink * (w - h.decay * w - u);
}
