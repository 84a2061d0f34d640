// Exchanges parameters in bf16 and their averages in f32, without loss but for the payload of a NaN. The parameter
// becomes the nearest to its average, ties away from 0. The average keeps its own lower half, and the parameter as its
// upper half: with BACK these make both what they were. Reads no gradient and no coefficient. CPU twin:
// cpu::swap_halves.

override BACK: bool;

struct Hyper { unused: f32 }
struct State { average: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let half = Bits(16u);
    let kept = bitcast<Bits>((*s).average);
    // Rounded up, a NaN could become 0.
    let is_nan = (kept & Bits(0x7fffffffu)) > Bits(0x7f800000u);
    let bits = select(kept, Bits(0x7fc00000u), is_nan & Mask(!BACK));
    let up = (bits >> Bits(15u)) & Bits(1u);
    let parameter = (bitcast<Bits>(w) >> half) - select(Bits(0u), up, BACK);
    (*s).average = bitcast<Lane>((parameter << half) | (bits & Bits(0xffffu)));
    return bitcast<Lane>(((bits >> half) + select(up, Bits(0u), BACK)) << half);
}
