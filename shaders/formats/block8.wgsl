// Eight bits a number, in blocks of 256 with the largest magnitude of each block: the dynamic map of bitsandbytes
// (Dettmers et al. 2022, arXiv:2110.02861). Rust half: src/formats/block8.rs, which explains the map.

// Four numbers, the first in the lowest byte.
alias Block8Four = u32;

fn codes_of(word: u32) -> vec4<i32> {
    return vec4<i32>((vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u));
}

fn word_of(codes: vec4<i32>) -> u32 {
    let c = vec4<u32>(codes);
    return c.x | (c.y << 8u) | (c.z << 16u) | (c.w << 24u);
}

// What quarters of numbers are multiplied with. Neither the quarter nor its inverse is subnormal.
fn inverse_of(absmax: f32) -> f32 {
    let quarter = 0.25 * absmax;
    return select(0.0, 1.0 / quarter, quarter >= 1.1754944e-38);
}

// The number at place q. Only the last product is rounded, and the one before it from q = 64 on.
fn at_place(q: vec4<i32>, unit: f32) -> vec4<f32> {
    let x = vec4<f32>(q);
    let bits = bitcast<vec4<u32>>(x);
    let n = bitcast<vec4<f32>>(bits & vec4(0xff800000u));
    let e = (bits >> vec4(23u)) + vec4(1u);
    let fives = select(vec4(1.0), vec4(5.0), (e & vec4(1u)) != vec4(0u))
        * select(vec4(1.0), vec4(25.0), (e & vec4(2u)) != vec4(0u))
        * select(vec4(1.0), vec4(625.0), (e & vec4(4u)) != vec4(0u));
    return ((18.0 * x + 9.0) - 16.0 * n) * fives * unit;
}

// The decade of a number y: it has n intervals, and y · a + n · 8/9 is the place of y.
struct Decade { n: vec4<f32>, a: vec4<f32> }

fn beyond(d: Decade, y: vec4<f32>, edge: f32, n: f32, a: f32) -> Decade {
    let up = y > vec4(edge);
    return Decade(select(d.n, vec4(n), up), select(d.a, vec4(a), up));
}

// 8/9, and the least less or more that lets the middle between two numbers go down or, as torchao, up.
const BLOCK8_SHIFT = select(0.88888866, 0.88888913, AS_TORCHAO);

fn block8_signed(word: u32, absmax: f32) -> vec4<f32> {
    let codes = codes_of(word) - vec4(127);
    let q = abs(codes);
    let x = select(at_place(q, 5e-8), vec4(1.0), q == vec4(128));
    let y = select(x, vec4(0.0), q == vec4(0));
    return select(y, -y, codes < vec4(0)) * absmax;
}

fn block8_unsigned(word: u32, absmax: f32) -> vec4<f32> {
    let codes = codes_of(word);
    let x = select(at_place(codes + vec4(1), 5e-9), vec4(1.0), codes == vec4(255));
    return select(x, vec4(0.0), codes == vec4(0)) * absmax;
}

// With WITH_BINS the middle of the bin of a number in [−1, 1], of 65,536 bins: bitsandbytes on the CPU.
fn binned(x: vec4<f32>) -> vec4<f32> {
    if WITH_BINS {
        return 2.0 * trunc((x + 1.0) * 0.5 * 65535.0 + 0.5) / 65535.0 - 1.0;
    }
    return x;
}

// The nearest numbers; their sign is never another.
fn block8_signed_codes(x: vec4<f32>, inverse: f32) -> u32 {
    let scaled = binned(inverse * (0.25 * x));
    let y = abs(scaled);
    var d = Decade(vec4(1.0), vec4(1111111.1));
    d = beyond(d, y, 1.9e-6, 2.0, 222222.22);
    d = beyond(d, y, 1.45e-5, 4.0, 44444.445);
    d = beyond(d, y, 1.225e-4, 8.0, 8888.889);
    d = beyond(d, y, 1.1125e-3, 16.0, 1777.7778);
    d = beyond(d, y, 1.05625e-2, 32.0, 355.55556);
    d = beyond(d, y, 0.1028125, 64.0, 71.111115);
    let place = min(y * d.a + BLOCK8_SHIFT * d.n, 2.0 * d.n - 1.0);
    let inner = select(vec4<i32>(place), vec4(128), y > vec4(0.99648437));
    let q = select(inner, vec4(0), y <= vec4(2.75e-7));
    return word_of(vec4(127) + select(q, -min(q, vec4(127)), scaled < vec4(0.0)));
}

fn block8_unsigned_codes(x: vec4<f32>, inverse: f32, random: vec4<u32>) -> u32 {
    if WITH_RANDOM {
        return block8_unsigned_stochastic(x, inverse, random);
    }
    return block8_unsigned_nearest(x, inverse);
}

// The nearest numbers; a number above 0 never becomes 0.
fn block8_unsigned_nearest(x: vec4<f32>, inverse: f32) -> u32 {
    let y = binned(inverse * (0.25 * x));
    var d = Decade(vec4(2.0), vec4(2222222.2));
    d = beyond(d, y, 1.45e-6, 4.0, 444444.44);
    d = beyond(d, y, 1.225e-5, 8.0, 88888.89);
    d = beyond(d, y, 1.1125e-4, 16.0, 17777.778);
    d = beyond(d, y, 1.05625e-3, 32.0, 3555.5556);
    d = beyond(d, y, 1.028125e-2, 64.0, 711.1111);
    d = beyond(d, y, 0.10140625, 128.0, 142.22223);
    let place = min(y * d.a + BLOCK8_SHIFT * d.n, 2.0 * d.n - 1.0);
    let c = select(vec4<i32>(place) - vec4(1), vec4(255), y > vec4(0.9982422));
    // A bin of bitsandbytes' reaches from 0 to code 7.
    if AS_TORCHAO {
        return word_of(select(c, vec4(0), y < vec4(1.625e-7)));
    }
    return word_of(select(max(c, vec4(1)), vec4(0), (x == vec4(0.0)) & vec4(!WITH_BINS)));
}

// One of the two numbers around each, so that the mean is the number; a number above 0 never becomes 0. `random` has 32
// bits for each.
fn block8_unsigned_stochastic(x: vec4<f32>, inverse: f32, random: vec4<u32>) -> u32 {
    let y = min(inverse * (0.25 * x), vec4(1.0));
    var d = Decade(vec4(2.0), vec4(2222222.2));
    d = beyond(d, y, 2.125e-6, 4.0, 444444.44);
    d = beyond(d, y, 1.5625e-5, 8.0, 88888.89);
    d = beyond(d, y, 1.28125e-4, 16.0, 17777.778);
    d = beyond(d, y, 1.140625e-3, 32.0, 3555.5556);
    d = beyond(d, y, 1.0703125e-2, 64.0, 711.1111);
    d = beyond(d, y, 0.103515625, 128.0, 142.22223);
    // From the last number of a decade to the first of the next it is three intervals; from the last of all to 1, half.
    let last = 2.0 * d.n - 1.0;
    let behind = y * d.a + (0.8888889 * d.n - 0.5) - last;
    let gap = select(vec4(0.33333334), vec4(2.0), d.n == vec4(128.0));
    let place = last + select(behind, gap * behind, behind > vec4(0.0));
    let u = vec4<f32>(vec4<i32>(random >> vec4(8u))) * 5.9604645e-8;
    let c = vec4<i32>(place + u) - vec4(1);
    return word_of(select(clamp(c, vec4(1), vec4(255)), vec4(0), x == vec4(0.0)));
}
