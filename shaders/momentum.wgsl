// Momentum (Polyak 1964) and Nesterov's accelerated gradient (Sutskever et al. 2013).
//
//     v ← ρv + gain·g
//     w ← w + rate·v                       NESTEROV: w + gradient_rate·g + rate·v
//
// gain and rate hold the form: (1, −lr) has lr outside the velocity, (−lr, 1) inside. `shift` takes back a
// look-ahead (look_ahead.wgsl) before the step. CPU twin: src/rules/momentum.rs.

override NESTEROV: bool = false;

struct Hyper { momentum: f32, gain: f32, rate: f32, gradient_rate: f32, shift: f32 }
struct State { momentum_buffer: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let x = w - h.shift * (*s).momentum_buffer;
    let v = h.momentum * (*s).momentum_buffer + h.gain * g;
    (*s).momentum_buffer = v;
    if NESTEROV {
        return x + h.gradient_rate * g + h.rate * v;
    }
    return x + h.rate * v;
}
