//! Test problems of [Moré, Garbow and Hillstrom, 1981](https://doi.org/10.1145/355934.355936): sums of squares, with
//! their standard starts.

use std::f64::consts::TAU;

/// f(x) = Σ rᵢ(x)².
pub(crate) struct Problem {
    pub(crate) name: &'static str,
    /// How many residuals.
    pub(crate) residuals: usize,
    /// The standard start.
    pub(crate) start: &'static [f64],
    /// Known (local) minimum values of f, the global one first.
    pub(crate) minima: &'static [f64],
    /// Writes the residuals, and the Jacobian ∂rᵢ/∂xⱼ (residuals × unknowns, row by row).
    pub(crate) at: fn(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]),
}

pub(crate) const PROBLEMS: &[Problem] = &[
    Problem { name: "Rosenbrock", residuals: 2, start: &[-1.2, 1.0], minima: &[0.0], at: rosenbrock },
    Problem {
        name: "Freudenstein and Roth",
        residuals: 2,
        start: &[0.5, -2.0],
        minima: &[0.0, 48.984253679],
        at: freudenstein_roth,
    },
    Problem { name: "Powell badly scaled", residuals: 2, start: &[0.0, 1.0], minima: &[0.0], at: powell_badly_scaled },
    Problem { name: "Brown badly scaled", residuals: 3, start: &[1.0, 1.0], minima: &[0.0], at: brown_badly_scaled },
    Problem { name: "Beale", residuals: 3, start: &[1.0, 1.0], minima: &[0.0], at: beale },
    Problem {
        name: "Jennrich and Sampson",
        residuals: 10,
        start: &[0.3, 0.4],
        minima: &[124.36218236],
        at: jennrich_sampson,
    },
    Problem { name: "Helical valley", residuals: 3, start: &[-1.0, 0.0, 0.0], minima: &[0.0], at: helical_valley },
    // The second where x₂ and x₃ go to −∞.
    Problem {
        name: "Bard",
        residuals: 15,
        start: &[1.0, 1.0, 1.0],
        minima: &[8.2148773066e-3, 17.428693333],
        at: bard,
    },
    Problem { name: "Gaussian", residuals: 15, start: &[0.4, 1.0, 0.0], minima: &[1.1279327696e-8], at: gaussian },
    Problem { name: "Meyer", residuals: 16, start: &[0.02, 4000.0, 250.0], minima: &[87.945855171], at: meyer },
    Problem { name: "Gulf", residuals: 10, start: &[5.0, 2.5, 0.15], minima: &[0.0], at: gulf },
    Problem {
        name: "Box three-dimensional",
        residuals: 10,
        start: &[0.0, 10.0, 20.0],
        minima: &[0.0],
        at: box_three_dimensional,
    },
    Problem {
        name: "Powell singular",
        residuals: 4,
        start: &[3.0, -1.0, 0.0, 1.0],
        minima: &[0.0],
        at: powell_singular,
    },
    Problem { name: "Wood", residuals: 6, start: &[-3.0, -1.0, -3.0, -1.0], minima: &[0.0], at: wood },
    // The second where x₁ goes to ∞, x₃ and x₄ to −∞.
    Problem {
        name: "Kowalik and Osborne",
        residuals: 11,
        start: &[0.25, 0.39, 0.415, 0.39],
        minima: &[3.0750560385e-4, 1.0273430487e-3],
        at: kowalik_osborne,
    },
    Problem {
        name: "Brown and Dennis",
        residuals: 20,
        start: &[25.0, 5.0, -5.0, -1.0],
        minima: &[85822.201626],
        at: brown_dennis,
    },
    Problem {
        name: "Osborne 1",
        residuals: 33,
        start: &[0.5, 1.5, -1.0, 0.01, 0.02],
        minima: &[5.4648946975e-5],
        at: osborne_1,
    },
    Problem {
        name: "Biggs EXP6",
        residuals: 13,
        start: &[1.0, 2.0, 1.0, 1.0, 1.0, 1.0],
        minima: &[0.0, 5.655649925e-3],
        at: biggs_exp6,
    },
    Problem {
        name: "Osborne 2",
        residuals: 65,
        start: &[1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5],
        minima: &[4.0137736294e-2],
        at: osborne_2,
    },
    Problem { name: "Watson", residuals: 31, start: &[0.0; 6], minima: &[2.2876700536e-3], at: watson },
    Problem {
        name: "Extended Rosenbrock",
        residuals: 10,
        start: &[-1.2, 1.0, -1.2, 1.0, -1.2, 1.0, -1.2, 1.0, -1.2, 1.0],
        minima: &[0.0],
        at: extended_rosenbrock,
    },
    Problem {
        name: "Variably dimensioned",
        residuals: 12,
        start: &[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
        minima: &[0.0],
        at: variably_dimensioned,
    },
    Problem {
        name: "Trigonometric",
        residuals: 10,
        start: &[0.1; 10],
        minima: &[0.0, 2.7950561219e-5],
        at: trigonometric,
    },
    Problem { name: "Broyden tridiagonal", residuals: 10, start: &[-1.0; 10], minima: &[0.0], at: broyden_tridiagonal },
];

fn rosenbrock(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    residuals.copy_from_slice(&[10.0 * (x[1] - x[0] * x[0]), 1.0 - x[0]]);
    jacobian.copy_from_slice(&[-20.0 * x[0], 10.0, -1.0, 0.0]);
}

fn freudenstein_roth(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let y = x[1];
    residuals.copy_from_slice(&[-13.0 + x[0] + ((5.0 - y) * y - 2.0) * y, -29.0 + x[0] + ((y + 1.0) * y - 14.0) * y]);
    jacobian.copy_from_slice(&[1.0, (10.0 - 3.0 * y) * y - 2.0, 1.0, (3.0 * y + 2.0) * y - 14.0]);
}

fn powell_badly_scaled(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let (e0, e1) = ((-x[0]).exp(), (-x[1]).exp());
    residuals.copy_from_slice(&[1e4 * x[0] * x[1] - 1.0, e0 + e1 - 1.0001]);
    jacobian.copy_from_slice(&[1e4 * x[1], 1e4 * x[0], -e0, -e1]);
}

fn brown_badly_scaled(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    residuals.copy_from_slice(&[x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2.0]);
    jacobian.copy_from_slice(&[1.0, 0.0, 0.0, 1.0, x[1], x[0]]);
}

fn beale(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let (a, b) = (x[0], x[1]);
    residuals.copy_from_slice(&[1.5 - a * (1.0 - b), 2.25 - a * (1.0 - b * b), 2.625 - a * (1.0 - b * b * b)]);
    jacobian.copy_from_slice(&[b - 1.0, a, b * b - 1.0, 2.0 * a * b, b * b * b - 1.0, 3.0 * a * b * b]);
}

fn jennrich_sampson(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(2)).enumerate() {
        let t = (i + 1) as f64;
        let (e0, e1) = ((t * x[0]).exp(), (t * x[1]).exp());
        *r = 2.0 + 2.0 * t - (e0 + e1);
        row.copy_from_slice(&[-t * e0, -t * e1]);
    }
}

fn helical_valley(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let square = x[0] * x[0] + x[1] * x[1];
    let radius = square.sqrt();
    // From −1/4 to 3/4 of a turn: `atan2` would cut at x₁ < 0, where the start lies.
    let turn = (x[1] / x[0]).atan() / TAU + if x[0] < 0.0 { 0.5 } else { 0.0 };
    residuals.copy_from_slice(&[10.0 * (x[2] - 10.0 * turn), 10.0 * (radius - 1.0), x[2]]);
    let by_turn = 100.0 / (TAU * square);
    jacobian.copy_from_slice(&[
        by_turn * x[1],
        -by_turn * x[0],
        10.0,
        10.0 * x[0] / radius,
        10.0 * x[1] / radius,
        0.0,
        0.0,
        0.0,
        1.0,
    ]);
}

fn bard(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    const Y: [f64; 15] = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.1, 4.39];
    for (i, ((r, row), y)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(3)).zip(Y).enumerate() {
        let u = (i + 1) as f64;
        let v = 16.0 - u;
        let w = u.min(v);
        let below = v * x[1] + w * x[2];
        *r = y - (x[0] + u / below);
        row.copy_from_slice(&[-1.0, u * v / (below * below), u * w / (below * below)]);
    }
}

fn gaussian(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    const Y: [f64; 15] = [
        0.0009, 0.0044, 0.0175, 0.054, 0.1295, 0.242, 0.3521, 0.3989, 0.3521, 0.242, 0.1295, 0.054, 0.0175, 0.0044,
        0.0009,
    ];
    for (i, ((r, row), y)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(3)).zip(Y).enumerate() {
        let d = (7.0 - i as f64) / 2.0 - x[2];
        let bell = (-x[1] * d * d / 2.0).exp();
        *r = x[0] * bell - y;
        row.copy_from_slice(&[bell, -x[0] * bell * d * d / 2.0, x[0] * bell * x[1] * d]);
    }
}

fn meyer(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    const Y: [f64; 16] = [
        34780.0, 28610.0, 23650.0, 19630.0, 16370.0, 13720.0, 11540.0, 9744.0, 8261.0, 7030.0, 6005.0, 5147.0, 4427.0,
        3820.0, 3307.0, 2872.0,
    ];
    for (i, ((r, row), y)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(3)).zip(Y).enumerate() {
        let below = 50.0 + 5.0 * i as f64 + x[2];
        let power = (x[1] / below).exp();
        *r = x[0] * power - y;
        row.copy_from_slice(&[power, x[0] * power / below, -x[0] * power * x[1] / (below * below)]);
    }
}

fn gulf(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(3)).enumerate() {
        let t = (i + 1) as f64 / 100.0;
        let d = 25.0 + (-50.0 * t.ln()).powf(2.0 / 3.0) - x[1];
        let power = d.abs().powf(x[2]) / x[0];
        let e = (-power).exp();
        *r = e - t;
        row.copy_from_slice(&[e * power / x[0], e * power * x[2] / d, -e * power * d.abs().ln()]);
    }
}

fn box_three_dimensional(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(3)).enumerate() {
        let t = (i + 1) as f64 / 10.0;
        let (e0, e1) = ((-t * x[0]).exp(), (-t * x[1]).exp());
        let difference = (-t).exp() - (-10.0 * t).exp();
        *r = e0 - e1 - x[2] * difference;
        row.copy_from_slice(&[-t * e0, t * e1, -difference]);
    }
}

fn powell_singular(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let (root5, root10) = (5.0_f64.sqrt(), 10.0_f64.sqrt());
    let (u, v) = (x[1] - 2.0 * x[2], x[0] - x[3]);
    residuals.copy_from_slice(&[x[0] + 10.0 * x[1], root5 * (x[2] - x[3]), u * u, root10 * v * v]);
    #[rustfmt::skip]
    jacobian.copy_from_slice(&[
        1.0, 10.0, 0.0, 0.0,
        0.0, 0.0, root5, -root5,
        0.0, 2.0 * u, -4.0 * u, 0.0,
        2.0 * root10 * v, 0.0, 0.0, -2.0 * root10 * v,
    ]);
}

fn wood(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let (root10, root90) = (10.0_f64.sqrt(), 90.0_f64.sqrt());
    residuals.copy_from_slice(&[
        10.0 * (x[1] - x[0] * x[0]),
        1.0 - x[0],
        root90 * (x[3] - x[2] * x[2]),
        1.0 - x[2],
        root10 * (x[1] + x[3] - 2.0),
        (x[1] - x[3]) / root10,
    ]);
    #[rustfmt::skip]
    jacobian.copy_from_slice(&[
        -20.0 * x[0], 10.0, 0.0, 0.0,
        -1.0, 0.0, 0.0, 0.0,
        0.0, 0.0, -2.0 * root90 * x[2], root90,
        0.0, 0.0, -1.0, 0.0,
        0.0, root10, 0.0, root10,
        0.0, 1.0 / root10, 0.0, -1.0 / root10,
    ]);
}

fn kowalik_osborne(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    const Y: [f64; 11] = [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246];
    const U: [f64; 11] = [4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625];
    for ((r, row), (y, u)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(4)).zip(Y.into_iter().zip(U)) {
        let below = u * (u + x[2]) + x[3];
        let ratio = u * (u + x[1]) / below;
        let value = x[0] * ratio;
        *r = y - value;
        row.copy_from_slice(&[-ratio, -x[0] * u / below, value * u / below, value / below]);
    }
}

fn brown_dennis(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(4)).enumerate() {
        let t = (i + 1) as f64 / 5.0;
        let u = x[0] + t * x[1] - t.exp();
        let v = x[2] + x[3] * t.sin() - t.cos();
        *r = u * u + v * v;
        row.copy_from_slice(&[2.0 * u, 2.0 * u * t, 2.0 * v, 2.0 * v * t.sin()]);
    }
}

fn osborne_1(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    const Y: [f64; 33] = [
        0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.85, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628, 0.603,
        0.58, 0.558, 0.538, 0.522, 0.506, 0.49, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.42, 0.414, 0.411,
        0.406,
    ];
    for (i, ((r, row), y)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(5)).zip(Y).enumerate() {
        let t = 10.0 * i as f64;
        let (e3, e4) = ((-t * x[3]).exp(), (-t * x[4]).exp());
        *r = y - (x[0] + x[1] * e3 + x[2] * e4);
        row.copy_from_slice(&[-1.0, -e3, -e4, t * x[1] * e3, t * x[2] * e4]);
    }
}

fn biggs_exp6(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(6)).enumerate() {
        let t = (i + 1) as f64 / 10.0;
        let y = (-t).exp() - 5.0 * (-10.0 * t).exp() + 3.0 * (-4.0 * t).exp();
        let (e0, e1, e4) = ((-t * x[0]).exp(), (-t * x[1]).exp(), (-t * x[4]).exp());
        *r = x[2] * e0 - x[3] * e1 + x[5] * e4 - y;
        row.copy_from_slice(&[-t * x[2] * e0, t * x[3] * e1, e0, -e1, -t * x[5] * e4, e4]);
    }
}

fn osborne_2(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    const Y: [f64; 65] = [
        1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608, 0.655, 0.616, 0.606,
        0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495, 0.5, 0.423,
        0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668,
        0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.71, 0.729, 0.72, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098,
        0.054,
    ];
    for (i, ((r, row), y)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(11)).zip(Y).enumerate() {
        let t = i as f64 / 10.0;
        let decay = (-t * x[4]).exp();
        *r = y - x[0] * decay;
        row[0] = -decay;
        row[4] = t * x[0] * decay;
        for j in 1..4 {
            let (height, width, d) = (x[j], x[j + 4], t - x[j + 7]);
            let bell = (-d * d * width).exp();
            *r -= height * bell;
            row[j] = -bell;
            row[j + 4] = height * bell * d * d;
            row[j + 7] = -2.0 * height * bell * width * d;
        }
    }
}

fn watson(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let n = x.len();
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(n)).enumerate() {
        let t = (i + 1) as f64 / 29.0;
        // tʲ first, then the derivative.
        let mut power = 1.0;
        let (mut sum, mut slope) = (0.0, 0.0);
        for (j, (entry, x)) in row.iter_mut().zip(x).enumerate() {
            *entry = power;
            sum += x * power;
            slope += j as f64 * x * power / t;
            power *= t;
        }
        *r = slope - sum * sum - 1.0;
        for (j, entry) in row.iter_mut().enumerate() {
            *entry *= j as f64 / t - 2.0 * sum;
        }
    }
    residuals[29] = x[0];
    residuals[30] = x[1] - x[0] * x[0] - 1.0;
    let last = &mut jacobian[29 * n..];
    last.fill(0.0);
    last[0] = 1.0;
    last[n] = -2.0 * x[0];
    last[n + 1] = 1.0;
}

fn extended_rosenbrock(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    jacobian.fill(0.0);
    for i in (0..x.len()).step_by(2) {
        residuals[i] = 10.0 * (x[i + 1] - x[i] * x[i]);
        residuals[i + 1] = 1.0 - x[i];
        let at = i * x.len() + i;
        jacobian[at] = -20.0 * x[i];
        jacobian[at + 1] = 10.0;
        jacobian[at + x.len()] = -1.0;
    }
}

fn variably_dimensioned(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let n = x.len();
    let sum: f64 = x.iter().enumerate().map(|(j, x)| (j + 1) as f64 * (x - 1.0)).sum();
    jacobian.fill(0.0);
    for (j, x) in x.iter().enumerate() {
        let weight = (j + 1) as f64;
        residuals[j] = x - 1.0;
        jacobian[j * n + j] = 1.0;
        jacobian[n * n + j] = weight;
        jacobian[(n + 1) * n + j] = 2.0 * sum * weight;
    }
    residuals[n] = sum;
    residuals[n + 1] = sum * sum;
}

fn trigonometric(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let n = x.len();
    let sum: f64 = x.iter().map(|x| 1.0 - x.cos()).sum();
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(n)).enumerate() {
        let weight = (i + 1) as f64;
        let (sin, cos) = x[i].sin_cos();
        *r = sum + weight * (1.0 - cos) - sin;
        for (entry, x) in row.iter_mut().zip(x) {
            *entry = x.sin();
        }
        row[i] += weight * sin - cos;
    }
}

fn broyden_tridiagonal(x: &[f64], residuals: &mut [f64], jacobian: &mut [f64]) {
    let n = x.len();
    for (i, (r, row)) in residuals.iter_mut().zip(jacobian.chunks_exact_mut(n)).enumerate() {
        *r = (3.0 - 2.0 * x[i]) * x[i] + 1.0;
        row.fill(0.0);
        row[i] = 3.0 - 4.0 * x[i];
        if i > 0 {
            *r -= x[i - 1];
            row[i - 1] = -1.0;
        }
        if i + 1 < n {
            *r -= 2.0 * x[i + 1];
            row[i + 1] = -2.0;
        }
    }
}
