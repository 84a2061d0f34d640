//! Dense equations on the host, by faer.

use faer::prelude::*;
use faer::{Mat, Side};

/// (A + τ·1)⁻¹·b with A symmetric, its rows one after the other, and τ = 0 or the first that makes a Cholesky factor exist:
/// [Nocedal and Wright 2006](https://doi.org/10.1007/978-0-387-40065-5), algorithm 3.3. `None` where A or b are not finite.
pub(super) fn shifted(a: &[f64], b: &[f64]) -> Option<Vec<f64>> {
    let n = b.len();
    if !a.iter().chain(b).all(|x| x.is_finite()) {
        return None;
    }
    let diagonal = || a.iter().step_by(n + 1).copied();
    let norm = a.iter().map(|x| x * x).sum::<f64>().sqrt();
    let least = 1e-3 * if norm > 0.0 { norm } else { 1.0 };
    let smallest = diagonal().fold(f64::INFINITY, f64::min);
    let mut shift = if smallest > 0.0 { 0.0 } else { least - smallest };
    for _ in 0..200 {
        let matrix = Mat::from_fn(n, n, |i, j| a[i * n + j] + if i == j { shift } else { 0.0 });
        if let Ok(factor) = matrix.llt(Side::Lower) {
            let x = factor.solve(Mat::from_fn(n, 1, |i, _| b[i]));
            let x: Vec<_> = x.col(0).iter().copied().collect();
            if x.iter().all(|x| x.is_finite()) {
                return Some(x);
            }
        }
        shift = (2.0 * shift).max(least);
    }
    None
}

/// δ that minimizes ‖J·δ + r‖² + Σ (added(i)·δᵢ)², 0 where it is held: by QR of J with the damping below it, so that JᵀJ is never
/// formed. `None` where that has no full rank.
pub(super) fn damped(jacobian: &[f64], r: &[f64], added: impl Fn(usize) -> f64, held: &[bool]) -> Option<Vec<f64>> {
    let free: Vec<_> = (0..held.len()).filter(|&i| !held[i]).collect();
    let (m, n, columns) = (r.len(), free.len(), held.len());
    let below = (0..columns).any(|i| added(i) > 0.0);
    let rows = m + if below { n } else { 0 };
    if rows < n {
        return None;
    }
    let element = |i: usize, j: usize| match i < m {
        true => jacobian[i * columns + free[j]],
        false if i - m == j => added(free[j]),
        false => 0.0,
    };
    // Columns of one length: the rank is judged whatever the units.
    let length = |j: usize| (0..rows).map(|i| element(i, j).powi(2)).sum::<f64>().sqrt();
    let scales: Vec<_> = (0..n).map(length).map(|length| if length > 0.0 { 1.0 / length } else { 0.0 }).collect();
    let factor = Mat::from_fn(rows, n, |i, j| element(i, j) * scales[j]).qr();
    let corner = factor.thin_R();
    let rank = (0..n).all(|j| corner[(j, j)].abs() > f64::EPSILON * rows as f64);
    if !rank {
        return None;
    }
    let solution = factor.solve_lstsq(Mat::from_fn(rows, 1, |i, _| if i < m { -r[i] } else { 0.0 }));
    let mut delta = vec![0.0; columns];
    for (j, &i) in free.iter().enumerate() {
        delta[i] = solution[(j, 0)] * scales[j];
    }
    delta.iter().all(|d| d.is_finite()).then_some(delta)
}
