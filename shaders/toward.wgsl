// From where Schedule-Free trains to where it is evaluated, and back. Reads no gradient.
//
//     w ← w + shift·(z − w)
//
// CPU twin: cpu::toward.

struct Hyper { shift: f32 }
struct State { z: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    return w + h.shift * ((*s).z - w);
}
