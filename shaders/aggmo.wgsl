// Aggregated momentum (Lucas et al. 2019, arXiv:1804.00325).
//
//     vᵢ ← βᵢvᵢ + g
//     w  ← w − lr/3·(v₁ + v₂ + v₃)
//
// rate is lr/3. CPU twin: src/rules/aggmo.rs.

struct Hyper { beta1: f32, beta2: f32, beta3: f32, rate: f32 }
struct State { momentum_buffer_1: Lane, momentum_buffer_2: Lane, momentum_buffer_3: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let first = h.beta1 * (*s).momentum_buffer_1 + g;
    let second = h.beta2 * (*s).momentum_buffer_2 + g;
    let third = h.beta3 * (*s).momentum_buffer_3 + g;
    (*s).momentum_buffer_1 = first;
    (*s).momentum_buffer_2 = second;
    (*s).momentum_buffer_3 = third;
    return w - h.rate * (first + second + third);
}
