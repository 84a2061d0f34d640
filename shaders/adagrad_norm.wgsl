// AdaGrad-Norm, scalar AdaGrad (Ward, Wu & Bottou 2019, arXiv:1806.01811): b is one number, for each tensor or for all.
//
//     b² ← b² + ‖g‖²
//     w ← w − lr·g / b
//
// The root of the sum is kept, and taken without squaring what may overflow. CPU twin: src/rules/adagrad_norm.rs.

struct Hyper { lr: f32, trust_ratio: f32 }

fn measure(w: Lane, g: Lane, h: Hyper) -> Lane {
    return g;
}

fn trust(w: f32, g: f32, s: ptr<function, f32>, h: Hyper) -> f32 {
    let largest = max(*s, g);
    if largest == 0.0 {
        return 0.0;
    }
    let parts = vec2(*s, g) / largest;
    *s = largest * sqrt(parts.x * parts.x + parts.y * parts.y);
    return 1.0 / *s;
}

fn update(w: Lane, g: Lane, h: Hyper) -> Lane {
    return w - h.lr * h.trust_ratio * g;
}
