// y = Σ xᵢ·tⁱ
fn residual(x: array<f32, N>, data: array<f32, COLUMNS>, jacobian: ptr<function, array<f32, N>>) -> f32 {
    var coefficients = x;
    var power = 1.0;
    var sum = -data[1];
    for (var i = 0u; i < N; i++) {
        (*jacobian)[i] = power;
        sum += coefficients[i] * power;
        power *= data[0];
    }
    return sum;
}
