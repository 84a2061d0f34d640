// The step itself: loads what a lane has, calls the rule, and stores. Everything that no rule owns happens here, once.
// Before it stand the rule, lane.wgsl, and the bindings, accessors and constants of this configuration, which
// src/gpu/wgsl.rs generates; behind it the entry point. CPU twin: cpu::update.

// A lane's new parameters and states.
fn new_lane(at: At, c: Coefficients, s: ptr<function, Kept>) -> Lane {
    var w = load_param(at);
    let g = rule_gradient(load_grad(at), w, at, c);
    if WITH_SETTINGS {
        w = w - c.decay * w;
    }
    return rule_update(w, g, s, c.hyper);
}

// Everything but the states.
fn store_lane(at: At, c: Coefficients, p: Lane) {
    store_param(at, p, c);
    if WITH_AVERAGE {
        if c.average == 1.0 {
            store_average(at, p);
        } else if c.average != 0.0 {
            let average = load_average(at);
            store_average(at, average + c.average * (p - average));
        }
    }
    zero_grad(at);
}

fn update_lane(at: At, c: Coefficients) {
    if c.skip == 1u {
        zero_grad(at);
        return;
    }
    var s = load_state(at, load_scales(at));
    let p = new_lane(at, c, &s);
    store_lane(at, c, p);
    store_state(at, s, no_scales(), c);
}
