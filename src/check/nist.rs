//! Models of NIST's [Statistical Reference Datasets](https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml),
//! nonlinear regression.
//!
//! Each is written once, in the words that Rust and WGSL share: the host computes it in f64, the device in f32.

use std::f64::consts::PI;

use crate::Real;
use crate::solve;

/// Something that is done with a model of any type.
pub trait WithModel {
    type Out;
    fn with<M: solve::Model>(self) -> Self::Out;
}

/// What the models are made of, by WGSL's names.
mod words {
    pub(super) fn exp(x: f64) -> f64 {
        x.exp()
    }
    pub(super) fn expm1(x: f64) -> f64 {
        x.exp_m1()
    }
    pub(super) fn log(x: f64) -> f64 {
        x.ln()
    }
    pub(super) fn log1p(x: f64) -> f64 {
        x.ln_1p()
    }
    pub(super) fn pow(x: f64, y: f64) -> f64 {
        x.powf(y)
    }
    pub(super) fn sin(x: f64) -> f64 {
        x.sin()
    }
    pub(super) fn cos(x: f64) -> f64 {
        x.cos()
    }
    pub(super) fn atan(x: f64) -> f64 {
        x.atan()
    }
}

/// The models. `x` is the first predictor and `z` the last one, `b` are the parameters, `d` becomes the derivatives by
/// them, and the value is behind `=>`.
macro_rules! models {
    ($($(#[$doc:meta])* $type:ident: $($set:literal)|+, $parameters:literal of $predictors:literal
        |$x:ident, $z:ident, $b:ident, $d:ident| { $($let:tt)* } => $value:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            struct $type;

            impl solve::Model for $type {
                const UNKNOWNS: usize = $parameters;
                const COLUMNS: usize = $predictors + 1;
                const SHADER: &'static str = concat!(
                    "
                    const PI = 3.14159265358979323846;
                    fn expm1(x: f32) -> f32 { return exp(x) - 1.0; }
                    fn log1p(x: f32) -> f32 { return log(1.0 + x); }
                    fn residual(b_: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
                        let ", stringify!($b), " = b_;
                        let ", stringify!($x), " = data[0];
                        let ", stringify!($z), " = data[COLUMNS - 2u];
                        var ", stringify!($d), " = array<f32, N>();
                        ", stringify!($($let)*), "
                        *jacobian = ", stringify!($d), ";
                        return (", stringify!($value), ") - data[COLUMNS - 1u];
                    }"
                );

                #[allow(unused_imports, unused_variables, reason = "not every model uses z and all words")]
                fn residual<F: Real>(unknowns: &[F], data: &[F], jacobian: &mut [F]) -> F {
                    use words::*;
                    let wide = |x: &F| x.to_f64().unwrap_or(f64::NAN);
                    let mut $b = [f64::NAN; $parameters];
                    $b.iter_mut().zip(unknowns).for_each(|(b, x)| *b = wide(x));
                    let ($x, $z) = (wide(&data[0]), wide(&data[$predictors - 1]));
                    let mut $d = [0.0; $parameters];
                    $($let)*
                    jacobian.iter_mut().zip($d).for_each(|(j, d)| *j = F::of(d));
                    F::of($value - wide(&data[$predictors]))
                }
            }
        )*

        /// Does it with the model of this set; `None` if there is none.
        pub(crate) fn with_model<W: WithModel>(set: &str, what: W) -> Option<W::Out> {
            match set {
                $($($set)|+ => Some(what.with::<$type>()),)*
                _ => None,
            }
        }
    };
}

models! {
    Misra1a: "Misra1a" | "BoxBOD", 2 of 1 |x, z, b, d| {
        let fall = expm1(-b[1] * x);
        d[0] = -fall;
        d[1] = b[0] * x * exp(-b[1] * x);
    } => -b[0] * fall;

    Misra1b: "Misra1b", 2 of 1 |x, z, b, d| {
        let base = 1.0 + b[1] * x / 2.0;
        d[0] = 1.0 - 1.0 / (base * base);
        d[1] = b[0] * x / (base * base * base);
    } => b[0] * d[0];

    Misra1c: "Misra1c", 2 of 1 |x, z, b, d| {
        let base = 1.0 + 2.0 * b[1] * x;
        d[0] = 1.0 - pow(base, -0.5);
        d[1] = b[0] * x * pow(base, -1.5);
    } => b[0] * d[0];

    Misra1d: "Misra1d", 2 of 1 |x, z, b, d| {
        let base = 1.0 + b[1] * x;
        d[0] = b[1] * x / base;
        d[1] = b[0] * x / (base * base);
    } => b[0] * d[0];

    Chwirut: "Chwirut1" | "Chwirut2", 3 of 1 |x, z, b, d| {
        let below = b[1] + b[2] * x;
        let y = exp(-b[0] * x) / below;
        d[0] = -x * y;
        d[1] = -y / below;
        d[2] = -x * y / below;
    } => y;

    Lanczos: "Lanczos1" | "Lanczos2" | "Lanczos3", 6 of 1 |x, z, b, d| {
        d[0] = exp(-b[1] * x);
        d[1] = -x * b[0] * d[0];
        d[2] = exp(-b[3] * x);
        d[3] = -x * b[2] * d[2];
        d[4] = exp(-b[5] * x);
        d[5] = -x * b[4] * d[4];
    } => b[0] * d[0] + b[2] * d[2] + b[4] * d[4];

    Gauss: "Gauss1" | "Gauss2" | "Gauss3", 8 of 1 |x, z, b, d| {
        let u = (x - b[3]) / b[4];
        let v = (x - b[6]) / b[7];
        d[0] = exp(-b[1] * x);
        d[1] = -x * b[0] * d[0];
        d[2] = exp(-u * u);
        d[3] = 2.0 * b[2] * d[2] * u / b[4];
        d[4] = d[3] * u;
        d[5] = exp(-v * v);
        d[6] = 2.0 * b[5] * d[5] * v / b[7];
        d[7] = d[6] * v;
    } => b[0] * d[0] + b[2] * d[2] + b[5] * d[5];

    DanWood: "DanWood", 2 of 1 |x, z, b, d| {
        d[0] = pow(x, b[1]);
        d[1] = b[0] * d[0] * log(x);
    } => b[0] * d[0];

    Kirby2: "Kirby2", 5 of 1 |x, z, b, d| {
        let below = 1.0 + x * (b[3] + x * b[4]);
        let y = (b[0] + x * (b[1] + x * b[2])) / below;
        d[0] = 1.0 / below;
        d[1] = x / below;
        d[2] = x * x / below;
        d[3] = -y * x / below;
        d[4] = d[3] * x;
    } => y;

    CubicByCubic: "Hahn1" | "Thurber", 7 of 1 |x, z, b, d| {
        let below = 1.0 + x * (b[4] + x * (b[5] + x * b[6]));
        let y = (b[0] + x * (b[1] + x * (b[2] + x * b[3]))) / below;
        d[0] = 1.0 / below;
        d[1] = x / below;
        d[2] = d[1] * x;
        d[3] = d[2] * x;
        d[4] = -y * x / below;
        d[5] = d[4] * x;
        d[6] = d[5] * x;
    } => y;

    Mgh09: "MGH09", 4 of 1 |x, z, b, d| {
        let below = x * (x + b[2]) + b[3];
        d[0] = x * (x + b[1]) / below;
        let y = b[0] * d[0];
        d[1] = b[0] * x / below;
        d[2] = -y * x / below;
        d[3] = -y / below;
    } => y;

    Mgh10: "MGH10", 3 of 1 |x, z, b, d| {
        let shifted = x + b[2];
        d[0] = exp(b[1] / shifted);
        let y = b[0] * d[0];
        d[1] = y / shifted;
        d[2] = -y * b[1] / (shifted * shifted);
    } => y;

    Mgh17: "MGH17", 5 of 1 |x, z, b, d| {
        d[0] = 1.0;
        d[1] = exp(-b[3] * x);
        d[2] = exp(-b[4] * x);
        d[3] = -x * b[1] * d[1];
        d[4] = -x * b[2] * d[2];
    } => b[0] + b[1] * d[1] + b[2] * d[2];

    Rat42: "Rat42", 3 of 1 |x, z, b, d| {
        let power = exp(b[1] - b[2] * x);
        d[0] = 1.0 / (1.0 + power);
        d[1] = -b[0] * d[0] * power * d[0];
        d[2] = -d[1] * x;
    } => b[0] * d[0];

    Rat43: "Rat43", 4 of 1 |x, z, b, d| {
        let power = exp(b[1] - b[2] * x);
        d[0] = pow(1.0 + power, -1.0 / b[3]);
        let y = b[0] * d[0];
        d[1] = -y * power / ((1.0 + power) * b[3]);
        d[2] = -d[1] * x;
        d[3] = y * log1p(power) / (b[3] * b[3]);
    } => y;

    Eckerle4: "Eckerle4", 3 of 1 |x, z, b, d| {
        let u = (x - b[2]) / b[1];
        d[0] = exp(-0.5 * u * u) / b[1];
        let y = b[0] * d[0];
        d[1] = y * (u * u - 1.0) / b[1];
        d[2] = y * u / b[1];
    } => y;

    Bennett5: "Bennett5", 3 of 1 |x, z, b, d| {
        let base = b[1] + x;
        d[0] = pow(base, -1.0 / b[2]);
        let y = b[0] * d[0];
        d[1] = -y / (b[2] * base);
        d[2] = y * log(base) / (b[2] * b[2]);
    } => y;

    Roszman1: "Roszman1", 4 of 1 |x, z, b, d| {
        let u = x - b[3];
        let square = PI * (u * u + b[2] * b[2]);
        d[0] = 1.0;
        d[1] = -x;
        d[2] = -u / square;
        d[3] = -b[2] / square;
    } => b[0] - b[1] * x - atan(b[2] / u) / PI;

    Enso: "ENSO", 9 of 1 |x, z, b, d| {
        let turn = 2.0 * PI * x;
        d[0] = 1.0;
        d[1] = cos(turn / 12.0);
        d[2] = sin(turn / 12.0);
        d[4] = cos(turn / b[3]);
        d[5] = sin(turn / b[3]);
        d[7] = cos(turn / b[6]);
        d[8] = sin(turn / b[6]);
        d[3] = (b[4] * d[5] - b[5] * d[4]) * turn / (b[3] * b[3]);
        d[6] = (b[7] * d[8] - b[8] * d[7]) * turn / (b[6] * b[6]);
    } => b[0] + b[1] * d[1] + b[2] * d[2] + b[4] * d[4] + b[5] * d[5] + b[7] * d[7] + b[8] * d[8];

    /// Of the logarithm of the response, which the files have.
    Nelson: "Nelson", 3 of 2 |x, z, b, d| {
        let fall = exp(-b[2] * z);
        d[0] = 1.0;
        d[1] = -x * fall;
        d[2] = b[1] * x * z * fall;
    } => b[0] - b[1] * x * fall;
}
