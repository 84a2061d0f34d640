// Rprop (Riedmiller & Braun 1993).
//
//     η ← min(max(η·η⁺, step_min), step_max)    where g·g_old > 0,  η⁻ for η⁺ where g·g_old < 0
//     g ← 0                                     where g·g_old < 0
//     w ← w − η·sign(g)
//
// η is lr at the first step. LAGGED: `prev` is the update of the step before, which is applied now. CPU twin:
// src/rules/rprop.rs.

override LAGGED: bool = false;

struct Hyper { eta_minus: f32, eta_plus: f32, step_min: f32, step_max: f32, lr: f32, first: f32 }
struct State { prev: Lane, step_size: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let turned = sign_of(g) * sign_of((*s).prev);
    let eta = select((*s).step_size, Lane(h.lr), h.first == 1.0);
    let factor = select(Lane(1.0), Lane(h.eta_plus), turned > Lane(0.0));
    let step = within(
        eta * select(factor, Lane(h.eta_minus), turned < Lane(0.0)),
        Lane(h.step_min),
        Lane(h.step_max),
    );
    (*s).step_size = step;
    let kept = select(g, Lane(0.0), turned < Lane(0.0));
    if LAGGED {
        let before = select((*s).prev, Lane(0.0), turned < Lane(0.0));
        (*s).prev = step * sign_of(kept);
        return w - before;
    }
    (*s).prev = kept;
    return w - step * sign_of(kept);
}
