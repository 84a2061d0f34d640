// Fromage (Bernstein et al. 2020, arXiv:2002.03432).
//
//     w ← (w − lr·‖w‖/‖g‖·g) / √(1 + lr²)       the ratio is 1 where a norm is 0
//
// shrink is 1 / √(1 + lr²), rate is lr·shrink. CPU twin: src/rules/fromage.rs.

struct Hyper { rate: f32, shrink: f32, min_norm: f32, trust_ratio: f32 }

fn measure(w: Lane, g: Lane, h: Hyper) -> Lane {
    return g;
}

fn trust(w: f32, g: f32, s: ptr<function, f32>, h: Hyper) -> f32 {
    let weight = max(w, h.min_norm);
    let gradient = max(g, h.min_norm);
    let ratio = select(weight / gradient, 1.0, weight == 0.0 || gradient == 0.0);
    // A maximum may drop a NaN.
    let bits = bitcast<vec2<u32>>(vec2(w, g)) & vec2(0x7fffffffu);
    return select(ratio, w + g, any(bits > vec2(0x7f800000u)));
}

fn update(w: Lane, g: Lane, h: Hyper) -> Lane {
    return h.shrink * w - h.rate * h.trust_ratio * g;
}
