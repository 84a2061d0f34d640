// Numbers with an exponent of their own, m·2^e with 1 ≤ |m| < 2: put before prepare.wgsl and lines.wgsl.
//
// Products and quotients are rounded as those of f32 are, but do not overflow, and do not become subnormal, which a
// device may flush to 0. CPU twin: f64; of `factors`, src/scaling.rs.

struct Wide { m: f32, e: i32 }

// The exponents of 0, and of ∞ and NaN: less, and more, than any other.
const LEAST = -4096;
const MOST = 4096;

fn normal(m: f32, e: i32) -> Wide {
    let bits = bitcast<u32>(m);
    let exponent = bits & INFINITE;
    if exponent == 0u {
        return Wide(0.0, LEAST);
    }
    if exponent == INFINITE {
        return Wide(m, MOST);
    }
    return Wide(bitcast<f32>((bits & 0x807fffffu) | 0x3f800000u), e + i32(exponent >> 23u) - 127);
}

fn wide(x: f32) -> Wide {
    return normal(x, 0);
}

// 2^e, for e from −126 to 127.
fn power(e: i32) -> f32 {
    return bitcast<f32>(u32(e + 127) << 23u);
}

// As f32, of at most 1 in magnitude; 0 where it would be subnormal.
fn narrow(a: Wide) -> f32 {
    return select(a.m * power(max(a.e, -126)), 0.0, a.e < -126);
}

fn times(a: Wide, b: Wide) -> Wide {
    return normal(a.m * b.m, a.e + b.e);
}

// b is not 0.
fn over(a: Wide, b: Wide) -> Wide {
    return normal(a.m / b.m, a.e - b.e);
}

// Of numbers that are not negative.
fn less(a: Wide, b: Wide) -> bool {
    return a.e < b.e || (a.e == b.e && a.m < b.m);
}

// Of numbers that are not negative.
fn plus(a: Wide, b: Wide) -> Wide {
    let e = max(a.e, b.e);
    return normal(narrow(Wide(a.m, a.e - e)) + narrow(Wide(b.m, b.e - e)), e);
}

// The number as x·y, y a power of two: 1 if x is then a normal f32. Otherwise both are on the same side of 1, so that
// x·(y·g) is 0 or infinite only if the exact product is (below 2⁻¹²⁶, or above the largest f32).
fn factors(a: Wide) -> vec2<f32> {
    if a.e == MOST {
        return vec2(a.m, 1.0);
    }
    if a.e < -252 {
        return vec2(0.0, 1.0);
    }
    if a.e >= -126 && a.e <= 127 {
        return vec2(a.m * power(a.e), 1.0);
    }
    let e = min(a.e, 254);
    return vec2(a.m * power(e / 2), power(e - e / 2));
}
