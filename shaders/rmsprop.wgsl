// RMSProp (Hinton 2012); CENTERED and MOMENTUM as Graves 2013, eq. 38–45.
//
//     v ← αv + (1 − α)g²
//     ḡ ← αḡ + (1 − α)g                    CENTERED: v − ḡ² stands for v below
//     d ← g / (√(v + eps_inside) + eps_outside)
//     w ← w − rate·d                       MOMENTUM: b ← μb + gain·d;  w ← w − rate·b
//
// One of the two ε is 0. (gain, rate) is (1, lr) or (lr, 1). CPU twin: src/rules/rmsprop.rs.

override CENTERED: bool = false;
override MOMENTUM: bool = false;

struct Hyper {
    alpha: f32,
    one_minus_alpha: f32,
    eps_inside: f32,
    eps_outside: f32,
    momentum: f32,
    gain: f32,
    rate: f32,
}
struct State { square_avg: Lane, momentum_buffer: Lane, grad_avg: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let v = h.alpha * (*s).square_avg + h.one_minus_alpha * g * g;
    (*s).square_avg = v;
    var variance = v;
    if CENTERED {
        let mean = h.alpha * (*s).grad_avg + h.one_minus_alpha * g;
        (*s).grad_avg = mean;
        // v − ḡ² can round below 0, and is ∞ − ∞ once v has overflowed: no gradient history makes a NaN of it.
        variance = select(v, max(v - mean * mean, Lane(0.0)), finite(v));
    }
    let d = ratio(g, sqrt(variance + h.eps_inside) + h.eps_outside);
    if MOMENTUM {
        let b = h.momentum * (*s).momentum_buffer + h.gain * d;
        (*s).momentum_buffer = b;
        return w - h.rate * b;
    }
    return w - h.rate * d;
}
