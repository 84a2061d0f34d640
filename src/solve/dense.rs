//! Dense equations on the host, by faer.

use faer::prelude::*;
use faer::{Mat, Side};

/// (A + τ·1)⁻¹·b for a symmetric A, given row by row. τ is 0, or the first shift for which there is a Cholesky factor:
/// [Nocedal and Wright 2006](https://doi.org/10.1007/978-0-387-40065-5), algorithm 3.3. `None` if A or b is not finite.
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

/// δ that minimizes ‖J·δ + r‖², by QR of J, so that JᵀJ is never formed. δ is 0 for unknowns that are held. Returns
/// `None` if J does not have full rank.
pub(super) fn gauss_newton(jacobian: &[f64], r: &[f64], held: &[bool]) -> Option<Vec<f64>> {
    let free: Vec<_> = (0..held.len()).filter(|&i| !held[i]).collect();
    let (m, n, columns) = (r.len(), free.len(), held.len());
    if m < n {
        return None;
    }
    // Columns are scaled to one length, so that the rank does not depend on units.
    let length = |&j: &usize| (0..m).map(|i| jacobian[i * columns + j].powi(2)).sum::<f64>().sqrt();
    let scales: Vec<_> = free.iter().map(length).map(|length| if length > 0.0 { 1.0 / length } else { 0.0 }).collect();
    let factor = Mat::from_fn(m, n, |i, j| jacobian[i * columns + free[j]] * scales[j]).qr();
    let corner = factor.thin_R();
    let rank = (0..n).all(|j| corner[(j, j)].abs() > f64::EPSILON * m as f64);
    if !rank {
        return None;
    }
    let solution = factor.solve_lstsq(Mat::from_fn(m, 1, |i, _| -r[i]));
    let mut delta = vec![0.0; columns];
    for (j, &i) in free.iter().enumerate() {
        delta[i] = solution[(j, 0)] * scales[j];
    }
    delta.iter().all(|d| d.is_finite()).then_some(delta)
}
