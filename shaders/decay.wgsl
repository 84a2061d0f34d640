// y = a·exp(−b·t) + c
fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
    let fallen = exp(-x[1] * data[0]);
    *jacobian = array<f32, N>(fallen, -x[0] * data[0] * fallen, 1.0);
    return x[0] * fallen + x[2] - data[1];
}
