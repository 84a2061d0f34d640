// The gradient as every rule gets it: put behind lane.wgsl and before update.wgsl and measure.wgsl. A feature that is
// off leaves no trace in the arithmetic: x + 0.0 is not always x.

fn rule_gradient(at: At, w: Lane, row: Row) -> Lane {
    var g = load_grad(at);
    if !WITH_SETTINGS {
        return g;
    }
    if WITH_TWO_FACTORS {
        g = scaled(g, row);
    } else {
        g = row.grad_scale * g;
    }
    if WITH_ZERO {
        g = only_finite(g);
    }
    if WITH_CLIP {
        g = clip(g, row.clip_value);
    }
    if WITH_NOISE {
        g = g + noise(row, at.first, at.limit);
    }
    return g + row.l2 * w;
}
