// Gradient noise: Philox 4x32-10 (Salmon et al. 2011), a counter-based generator, and Box–Muller. Behind lane.wgsl.
//
// The u32 are the same everywhere. The normals are as exact as the device's log, sqrt, cos and sin; WGSL bounds their
// error by 0.003: r ≤ 5.77 times 2⁻¹¹ of cos and sin, for angles within ±π, and at most 2⁻¹⁰ of r, where log is 0 to
// within 2⁻²¹. CPU twin: src/noise.rs.

// The upper and the lower half of a·b.
fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let rest = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return vec2((a >> 16u) * (b >> 16u) + (middle >> 16u) + (rest >> 16u), a * b);
}

fn philox(counter: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
    var x = counter;
    var key = seed;
    for (var round = 0u; round < 10u; round++) {
        let a = product(0xd2511f53u, x.x);
        let b = product(0xcd9e8d57u, x.z);
        x = vec4(b.x ^ x.y ^ key.x, b.y, a.x ^ x.w ^ key.y, a.y);
        key += vec2(0x9e3779b9u, 0xbb67ae85u);
    }
    return x;
}

// Four independent standard normals.
fn normals(x: vec4<u32>) -> vec4<f32> {
    let u = (vec4<f32>(x >> vec4(9u)) + 0.5) * 1.1920929e-7;
    // Of a u near 1 the device's log may be above 0.
    let radius = sqrt(max(-2.0 * log(u.xy), vec2(0.0)));
    let angle = 6.2831855 * select(u.zw, u.zw - 1.0, u.zw > vec2(0.5));
    return vec4(radius * cos(angle), radius * sin(angle));
}

// The noise on lane `at` of a tensor of `limit` elements; none behind its end.
fn noise(c: Coefficients, at: u32, limit: u32) -> Lane {
    let block = select(at, at / 4u, TAIL);
    let four = normals(philox(vec4(block, c.draw.w, c.draw.x, 0u), c.draw.yz));
    let inside = vec4(4u * block) + vec4(0u, 1u, 2u, 3u) < vec4(limit);
    return c.noise * of_four(select(vec4(0.0), four, inside), at);
}
