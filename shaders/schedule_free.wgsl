// Schedule-Free SGD and AdamW (Defazio et al. 2024, arXiv:2405.15682).
//
//     u = g                                   Schedule-Free SGD
//     u = g / (√(v̂ + eps_root) + ε)           AdamW: v ← β₂v + (1 − β₂)g²,  v̂ = v / (1 − β₂ᵗ)
//     u ← u + λw
//     w ← w + c(z − w) − lrₜ(1 − β(1 − c))·u  c = aₜ / (a₁ + … + aₜ)
//     z ← z − lrₜ·u
//
// average is c, rate is lrₜ(1 − β(1 − c)), z_rate is lrₜ, correction is 1 / (1 − β₂ᵗ): from the host, in f64. CPU twin:
// src/rules/schedule_free.rs.

override ADAPTIVE: bool = false;

struct Hyper {
    average: f32,
    rate: f32,
    z_rate: f32,
    beta2: f32,
    one_minus_beta2: f32,
    correction: f32,
    eps_root: f32,
    eps: f32,
    weight_decay: f32,
    first: f32,
}
struct State { z: Lane, exp_avg_sq: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let z = select((*s).z, w, h.first == 1.0);
    var u = g;
    if ADAPTIVE {
        let v = h.beta2 * (*s).exp_avg_sq + h.one_minus_beta2 * g * g;
        (*s).exp_avg_sq = v;
        u = ratio(g, sqrt(h.correction * v + h.eps_root) + h.eps);
    }
    u = u + h.weight_decay * w;
    (*s).z = z - h.z_rate * u;
    return w + h.average * (z - w) - h.rate * u;
}
