// The cost of a residual (x), and the factor √ρ′ of the residual and its row of the Jacobian (y). Comes before
// fit.wgsl, normal.wgsl and least_squares.wgsl.
// CPU twin: Loss::weigh in src/solve/least_squares.rs.

fn weigh(r: f32, kind: u32, c: f32) -> vec2<f32> {
    let z = (r / c) * (r / c);
    let root = sqrt(1.0 + z);
    switch kind {
        case 1u: {
            if z <= 1.0 {
                return vec2(0.5 * r * r, 1.0);
            }
            return vec2(0.5 * c * c * (2.0 * sqrt(z) - 1.0), inverseSqrt(sqrt(z)));
        }
        // Neither form has a sum or a difference in which a small z would vanish.
        case 2u: { return vec2(c * c * z / (root + 1.0), inverseSqrt(root)); }
        case 3u: {
            let series = z * (1.0 - z * (0.5 - z * (0.33333334 - z * 0.25)));
            return vec2(0.5 * c * c * select(log(1.0 + z), series, z < 0.01), 1.0 / root);
        }
        default: { return vec2(0.5 * r * r, 1.0); }
    }
}

// NaN or ∞.
fn not_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u;
}
