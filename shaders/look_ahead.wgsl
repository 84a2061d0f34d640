// Nesterov's look-ahead point, where the next gradient is to be taken. Reads no gradient.
//
//     y ← x + shift·v
//
// The next step of momentum.wgsl takes the shift back. CPU twin: cpu::look_ahead.

struct Hyper { shift: f32 }
struct State { momentum_buffer: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    return w + h.shift * (*s).momentum_buffer;
}
