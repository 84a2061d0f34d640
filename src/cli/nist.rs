//! Models of NIST's [Statistical Reference Datasets](https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml), nonlinear regression.

use std::f64::consts::{PI, TAU};

/// Value of a model at x with parameters b; writes its derivatives by b. NaN where their number is not the model's.
pub(crate) type Model = fn(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64;

/// By the set's name, such as `Misra1a`. Only Nelson, which has two predictors, is not here.
pub(crate) fn model(name: &str) -> Option<Model> {
    Some(match name {
        "Misra1a" | "BoxBOD" => misra1a,
        "Misra1b" => misra1b,
        "Misra1c" => misra1c,
        "Misra1d" => misra1d,
        "Chwirut1" | "Chwirut2" => chwirut,
        "Lanczos1" | "Lanczos2" | "Lanczos3" => lanczos,
        "Gauss1" | "Gauss2" | "Gauss3" => gauss,
        "DanWood" => danwood,
        "Kirby2" => kirby2,
        "Hahn1" | "Thurber" => cubic_by_cubic,
        "MGH09" => mgh09,
        "MGH10" => mgh10,
        "MGH17" => mgh17,
        "Rat42" => rat42,
        "Rat43" => rat43,
        "Eckerle4" => eckerle4,
        "Bennett5" => bennett5,
        "Roszman1" => roszman1,
        "ENSO" => enso,
        _ => return None,
    })
}

/// b1 (1 − exp(−b2 x))
fn misra1a(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2] = b else { return f64::NAN };
    let rise = -(-b2 * x).exp_m1();
    derivatives.copy_from_slice(&[rise, b1 * x * (-b2 * x).exp()]);
    b1 * rise
}

/// b1 (1 − (1 + b2 x / 2)⁻²)
fn misra1b(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2] = b else { return f64::NAN };
    let base = 1.0 + b2 * x / 2.0;
    let rise = 1.0 - base.powi(-2);
    derivatives.copy_from_slice(&[rise, b1 * x * base.powi(-3)]);
    b1 * rise
}

/// b1 (1 − (1 + 2 b2 x)^(−1/2))
fn misra1c(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2] = b else { return f64::NAN };
    let base = 1.0 + 2.0 * b2 * x;
    let rise = 1.0 - base.powf(-0.5);
    derivatives.copy_from_slice(&[rise, b1 * x * base.powf(-1.5)]);
    b1 * rise
}

/// b1 b2 x / (1 + b2 x)
fn misra1d(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2] = b else { return f64::NAN };
    let base = 1.0 + b2 * x;
    derivatives.copy_from_slice(&[b2 * x / base, b1 * x / (base * base)]);
    b1 * b2 * x / base
}

/// exp(−b1 x) / (b2 + b3 x)
fn chwirut(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3] = b else { return f64::NAN };
    let below = b2 + b3 * x;
    let y = (-b1 * x).exp() / below;
    derivatives.copy_from_slice(&[-x * y, -y / below, -x * y / below]);
    y
}

/// b1 exp(−b2 x) + b3 exp(−b4 x) + b5 exp(−b6 x)
fn lanczos(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4, b5, b6] = b else { return f64::NAN };
    let (e2, e4, e6) = ((-b2 * x).exp(), (-b4 * x).exp(), (-b6 * x).exp());
    derivatives.copy_from_slice(&[e2, -x * b1 * e2, e4, -x * b3 * e4, e6, -x * b5 * e6]);
    b1 * e2 + b3 * e4 + b5 * e6
}

/// b1 exp(−b2 x) + b3 exp(−(x − b4)² / b5²) + b6 exp(−(x − b7)² / b8²)
fn gauss(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4, b5, b6, b7, b8] = b else { return f64::NAN };
    let decay = (-b2 * x).exp();
    let (u, v) = ((x - b4) / b5, (x - b7) / b8);
    let (bell_u, bell_v) = ((-u * u).exp(), (-v * v).exp());
    let (slope_u, slope_v) = (2.0 * b3 * bell_u * u / b5, 2.0 * b6 * bell_v * v / b8);
    derivatives.copy_from_slice(&[decay, -x * b1 * decay, bell_u, slope_u, slope_u * u, bell_v, slope_v, slope_v * v]);
    b1 * decay + b3 * bell_u + b6 * bell_v
}

/// b1 x^b2
fn danwood(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2] = b else { return f64::NAN };
    let power = x.powf(b2);
    derivatives.copy_from_slice(&[power, b1 * power * x.ln()]);
    b1 * power
}

/// (b1 + b2 x + b3 x²) / (1 + b4 x + b5 x²)
fn kirby2(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4, b5] = b else { return f64::NAN };
    let below = 1.0 + x * (b4 + x * b5);
    let y = (b1 + x * (b2 + x * b3)) / below;
    let (above1, below1) = (x / below, -y * x / below);
    derivatives.copy_from_slice(&[1.0 / below, above1, above1 * x, below1, below1 * x]);
    y
}

/// (b1 + b2 x + b3 x² + b4 x³) / (1 + b5 x + b6 x² + b7 x³)
fn cubic_by_cubic(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4, b5, b6, b7] = b else { return f64::NAN };
    let below = 1.0 + x * (b5 + x * (b6 + x * b7));
    let y = (b1 + x * (b2 + x * (b3 + x * b4))) / below;
    let (above1, below1) = (x / below, -y * x / below);
    derivatives.copy_from_slice(&[1.0 / below, above1, above1 * x, above1 * x * x, below1, below1 * x, below1 * x * x]);
    y
}

/// b1 (x² + b2 x) / (x² + b3 x + b4)
fn mgh09(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4] = b else { return f64::NAN };
    let below = x * (x + b3) + b4;
    let ratio = x * (x + b2) / below;
    let y = b1 * ratio;
    derivatives.copy_from_slice(&[ratio, b1 * x / below, -y * x / below, -y / below]);
    y
}

/// b1 exp(b2 / (x + b3))
fn mgh10(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3] = b else { return f64::NAN };
    let shifted = x + b3;
    let power = (b2 / shifted).exp();
    let y = b1 * power;
    derivatives.copy_from_slice(&[power, y / shifted, -y * b2 / (shifted * shifted)]);
    y
}

/// b1 + b2 exp(−b4 x) + b3 exp(−b5 x)
fn mgh17(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4, b5] = b else { return f64::NAN };
    let (e4, e5) = ((-b4 * x).exp(), (-b5 * x).exp());
    derivatives.copy_from_slice(&[1.0, e4, e5, -x * b2 * e4, -x * b3 * e5]);
    b1 + b2 * e4 + b3 * e5
}

/// b1 / (1 + exp(b2 − b3 x))
fn rat42(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3] = b else { return f64::NAN };
    let power = (b2 - b3 * x).exp();
    let part = 1.0 / (1.0 + power);
    let y = b1 * part;
    let slope = y * power * part;
    derivatives.copy_from_slice(&[part, -slope, slope * x]);
    y
}

/// b1 / (1 + exp(b2 − b3 x))^(1/b4)
fn rat43(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4] = b else { return f64::NAN };
    let power = (b2 - b3 * x).exp();
    let part = (1.0 + power).powf(-1.0 / b4);
    let y = b1 * part;
    let slope = y * power / ((1.0 + power) * b4);
    derivatives.copy_from_slice(&[part, -slope, slope * x, y * power.ln_1p() / (b4 * b4)]);
    y
}

/// (b1 / b2) exp(−((x − b3) / b2)² / 2)
fn eckerle4(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3] = b else { return f64::NAN };
    let u = (x - b3) / b2;
    let bell = (-0.5 * u * u).exp() / b2;
    let y = b1 * bell;
    derivatives.copy_from_slice(&[bell, y * (u * u - 1.0) / b2, y * u / b2]);
    y
}

/// b1 (b2 + x)^(−1/b3)
fn bennett5(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3] = b else { return f64::NAN };
    let base = b2 + x;
    let power = base.powf(-1.0 / b3);
    let y = b1 * power;
    derivatives.copy_from_slice(&[power, -y / (b3 * base), y * base.ln() / (b3 * b3)]);
    y
}

/// b1 − b2 x − arctan(b3 / (x − b4)) / π
fn roszman1(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4] = b else { return f64::NAN };
    let d = x - b4;
    let square = PI * (d * d + b3 * b3);
    derivatives.copy_from_slice(&[1.0, -x, -d / square, -b3 / square]);
    b1 - b2 * x - (b3 / d).atan() / PI
}

/// b1 + b2 cos(2πx/12) + b3 sin(2πx/12) + b5 cos(2πx/b4) + b6 sin(2πx/b4) + b8 cos(2πx/b7) + b9 sin(2πx/b7)
fn enso(x: f64, b: &[f64], derivatives: &mut [f64]) -> f64 {
    let &[b1, b2, b3, b4, b5, b6, b7, b8, b9] = b else { return f64::NAN };
    let turn = TAU * x;
    let (sin, cos) = (turn / 12.0).sin_cos();
    let (sin4, cos4) = (turn / b4).sin_cos();
    let (sin7, cos7) = (turn / b7).sin_cos();
    derivatives.copy_from_slice(&[
        1.0,
        cos,
        sin,
        (b5 * sin4 - b6 * cos4) * turn / (b4 * b4),
        cos4,
        sin4,
        (b8 * sin7 - b9 * cos7) * turn / (b7 * b7),
        cos7,
        sin7,
    ]);
    b1 + b2 * cos + b3 * sin + b5 * cos4 + b6 * sin4 + b8 * cos7 + b9 * sin7
}
