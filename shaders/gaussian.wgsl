// y = a·exp(−½((t − μ)/σ)²) + c
fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
    let z = (data[0] - x[1]) / x[2];
    let bell = exp(-0.5 * z * z);
    *jacobian = array<f32, N>(bell, x[0] * bell * z / x[2], x[0] * bell * z * z / x[2], 1.0);
    return x[0] * bell + x[3] - data[1];
}
