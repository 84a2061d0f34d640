// The step itself: loads what a lane has, calls the rule, and stores. Everything that no rule owns happens here, once.
// Before it stand the rule, lane.wgsl, and the bindings, accessors and constants of this configuration, which
// src/gpu/wgsl.rs generates; behind it range.wgsl or blocks.wgsl. CPU twin: cpu::update.

fn update_lane(at: At, c: Coefficients) {
    if c.skip == 1u {
        zero_grad(at);
        return;
    }
    var w = load_param(at);
    let g = rule_gradient(load_grad(at), w, at, c);
    var s = load_state(at);
    if WITH_SETTINGS {
        w = w - c.decay * w;
    }
    let p = rule_update(w, g, &s, c.hyper);
    store_param(at, p);
    store_state(at, s);
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
