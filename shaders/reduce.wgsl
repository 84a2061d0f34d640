// Sums that neither overflow nor depend on the order of threads: put before lines.wgsl, norm.wgsl, measure.wgsl,
// prepare.wgsl and trust.wgsl. src/gpu/passes.rs generates THREADS, those of a workgroup, and ROOT, the square root.
//
// A norm is a pair (scale, sum): ‖x‖₁ = scale·sum, ‖x‖₂ = scale·√sum, max|x| = scale·sum. In a partial result the scale
// is 1, or where squares would overflow or underflow a power of two, so that the norm of finite elements is finite. CPU
// twins: src/cpu/norm.rs and src/cpu/measure.rs.

const L1 = 0u;
const L2 = 1u;
const MAX = 2u;
const INFINITE = 0x7f800000u;

// `largest` holds the bits of the largest |x|, which order as the numbers do: ∞ is above all numbers, NaN above ∞.
// Where elements that are not finite count as 0 it is the largest of the others, with the sign bit set if there were
// any.
struct Partial { scale: f32, sum: f32, largest: u32, cohort: u32 }

// What is wrong with a gradient whose largest element has these bits: 0 nothing, 1 an ∞, 2 a NaN.
fn fault(largest: u32) -> u32 {
    return select(0u, select(1u, 2u, largest > INFINITE), largest >= INFINITE);
}

// Whether squares of numbers up to this one count as they are: none that matters underflows, no sum of 2³² of them
// overflows.
fn fits(largest: u32) -> bool {
    return largest == 0u || (largest >= 0x2b800000u && largest <= 0x57000000u);
}

// 1, or the power of two at or below the largest, but 2⁻¹²⁶ … 2¹²⁶, whose inverse is a normal number, too. Of nothing
// but zeros it is 0: their scale must not be the larger one where pairs are joined.
fn scale_of(largest: u32) -> u32 {
    let scale = select(clamp(largest & INFINITE, 0x00800000u, 0x7e800000u), 0x3f800000u, fits(largest));
    return select(scale, 0u, largest == 0u);
}

// What four sums are together, and the largest of four.
fn all_of(sums: vec4<f32>, kind: u32) -> f32 {
    let two = select(sums.xy + sums.zw, max(sums.xy, sums.zw), kind == MAX);
    return select(two.x + two.y, max(two.x, two.y), kind == MAX);
}

fn most_of(bits: vec4<u32>) -> u32 {
    let two = max(bits.xy, bits.zw);
    return max(two.x, two.y);
}

fn join(a: vec2<f32>, b: vec2<f32>, kind: u32) -> vec2<f32> {
    let scale = max(a.x, b.x);
    if scale == 0.0 {
        return vec2(0.0);
    }
    var part = vec2(a.x, b.x) / scale;
    if kind == L2 {
        part *= part;
    }
    part *= vec2(a.y, b.y);
    return vec2(scale, select(part.x + part.y, max(part.x, part.y), kind == MAX));
}

// Two pairs.
fn join_both(a: vec4<f32>, b: vec4<f32>, kind: u32) -> vec4<f32> {
    return vec4(join(a.xy, b.xy, kind), join(a.zw, b.zw, kind));
}

var<workgroup> pairs: array<vec4<f32>, THREADS>;

// Two pairs of all threads, joined in a fixed order: for thread 0. Two barriers, since they cost more than a few steps.
fn join_all(mine: vec4<f32>, lane: u32, kind: u32) -> vec4<f32> {
    pairs[lane] = mine;
    workgroupBarrier();
    var all = mine;
    if lane < ROOT {
        for (var k = lane + ROOT; k < THREADS; k += ROOT) {
            all = join_both(all, pairs[k], kind);
        }
        pairs[lane] = all;
    }
    workgroupBarrier();
    if lane == 0u {
        for (var k = 1u; k < ROOT; k++) {
            all = join_both(all, pairs[k], kind);
        }
    }
    return all;
}
