// PID (An et al. 2018).
//
//     i ← ρi + (1 − dampening)g
//     d ← ρd + (1 − ρ)(g − g_old)          ρd at the first step
//     w ← w − lr·(g + k_i·i + k_d·d)
//
// CPU twin: src/rules/pid.rs.

struct Hyper { momentum: f32, gain: f32, change_gain: f32, lr: f32, integral_rate: f32, derivative_rate: f32 }
struct State { grad_buffer: Lane, i_buffer: Lane, d_buffer: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let i = h.momentum * (*s).i_buffer + h.gain * g;
    let d = h.momentum * (*s).d_buffer + h.change_gain * (g - (*s).grad_buffer);
    (*s).i_buffer = i;
    (*s).d_buffer = d;
    (*s).grad_buffer = g;
    return w - (h.lr * g + h.integral_rate * i + h.derivative_rate * d);
}
