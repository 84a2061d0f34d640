//! Comparing vectors: scaled error and displacement as the golden README defines them. NaN equals nothing.

use libtest_mimic::{Failed, Trial};

/// Between f32 on a GPU and the same text in f32 or f64 on the CPU, for up to 20 steps: what the golden README gives
/// for rules with their bias corrections computed on the host. (Each step rounds about 10 times; 20 · 10 · 2⁻²⁴ is
/// 1.2e-5 in the worst case, and a GPU's division and root are 2.5 ulp.)
pub(crate) const TOLERANCE: f64 = 5e-6;

/// `|x − b| ≤ tolerance · max(scale, |b|)` for every element. A parameter's scale is the largest magnitude that it has
/// had. Infinities are equal to themselves alone.
pub(crate) fn close(what: &str, x: &[f32], b: &[f32], scale: &[f32], tolerance: f64) -> Result<(), Failed> {
    if x.len() != b.len() || b.len() != scale.len() {
        return Err(format!("{what}: {} elements against {}, scale {}", x.len(), b.len(), scale.len()).into());
    }
    let (mut worst, mut at) = (0.0, 0);
    for (i, ((&x, &b), &scale)) in x.iter().zip(b).zip(scale).enumerate() {
        let scale = f64::from(b.abs().max(scale.abs()));
        let error = if x == b { 0.0 } else { (f64::from(x) - f64::from(b)).abs() / scale };
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst {
            (worst, at) = (error, i);
        }
    }
    if worst <= tolerance {
        return Ok(());
    }
    let (x, b) = (x[at], b[at]);
    Err(format!(
        "{what}[{at}]: {x:e} against {b:e}, {} ulp, scaled error {worst:.1e} above {tolerance:.1e}",
        ulps(x, b)
    )
    .into())
}

/// `‖x − b‖ / ‖b − start‖`: a wrong update of a large parameter shows here. Of elements that have always been below 1e6
/// (`scale` is the largest magnitude): others come back from there with what rounding has left of them.
pub(crate) fn displaced(
    what: &str,
    x: &[f32],
    b: &[f32],
    start: &[f32],
    scale: &[f32],
    tolerance: f64,
) -> Result<(), Failed> {
    let (mut off, mut moved, mut rounding) = (0.0f64, 0.0f64, 0.0f64);
    for (((&x, &b), &start), _) in x.iter().zip(b).zip(start).zip(scale).filter(|(_, scale)| **scale < 1e6) {
        off += (f64::from(x) - f64::from(b)).powi(2);
        moved += (f64::from(b) - f64::from(start)).powi(2);
        // A parameter that rounds the other way in the last place is no wrong update.
        rounding += (f64::from(b.abs().max(start.abs())) * 2f64.powi(-23)).powi(2);
    }
    let allowed = tolerance * moved.sqrt() + 4.0 * rounding.sqrt();
    if off.sqrt() <= allowed {
        return Ok(());
    }
    Err(format!("{what}: displacement off by {:.1e} of {:.1e}, allowed {allowed:.1e}", off.sqrt(), moved.sqrt()).into())
}

/// The same bits.
pub(crate) fn same(what: &str, x: &[f32], b: &[f32]) -> Result<(), Failed> {
    if x.len() != b.len() {
        return Err(format!("{what}: {} elements against {}", x.len(), b.len()).into());
    }
    match x.iter().zip(b).position(|(x, b)| x.to_bits() != b.to_bits()) {
        None => Ok(()),
        Some(i) => Err(format!("{what}[{i}]: {:e} against {:e}, {} ulp", x[i], b[i], ulps(x[i], b[i])).into()),
    }
}

pub(crate) fn ensure(holds: bool, what: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

/// Steps of the float grid from one to the other.
fn ulps(a: f32, b: f32) -> i64 {
    let key = |x: f32| {
        let bits = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -bits } else { bits }
    };
    (key(a) - key(b)).abs()
}

/// The helpers fail where they must.
pub(crate) fn trials() -> Vec<Trial> {
    let fails = |name: &str, run: fn() -> Result<(), Failed>| {
        Trial::test(format!("compare::fails::{name}"), move || ensure(run().is_err(), "this comparison must fail"))
    };
    vec![
        fails("close_nan", || close("x", &[f32::NAN], &[f32::NAN], &[1.0], 1e9)),
        fails("close_one_nan", || close("x", &[0.0, f32::NAN], &[0.0, 1.0], &[1.0; 2], 1e9)),
        fails("close_one_element", || close("x", &[1.0, 1.0, 1.00001], &[1.0; 3], &[1.0; 3], TOLERANCE)),
        fails("close_infinite", || close("x", &[1e30], &[f32::INFINITY], &[1.0], TOLERANCE)),
        fails("close_length", || close("x", &[1.0], &[1.0, 1.0], &[1.0, 1.0], TOLERANCE)),
        fails("displaced_hidden_by_scale", || {
            displaced("x", &[1000.0; 9], &[1000.01; 9], &[1000.0; 9], &[1000.01; 9], TOLERANCE)
        }),
        fails("same_nan_payload", || same("x", &[0.0], &[-0.0])),
        Trial::test("compare::a_small_update_of_a_large_parameter_passes_close", || {
            close("x", &[1000.0; 9], &[1000.001; 9], &[1000.0; 9], TOLERANCE)
        }),
        Trial::test("compare::ulps", || ensure(ulps(1.0, 1.0 + f32::EPSILON) == 1 && ulps(-0.0, 0.0) == 0, "ulps")),
    ]
}
