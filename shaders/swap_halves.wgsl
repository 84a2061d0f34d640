// Exchanges parameters in bf16 and their averages in f32, without loss but for the payload of a NaN. The parameter
// becomes the upper half of its average (see remainder.wgsl, which stands behind this). The average keeps its
// remainder, and the parameter as its upper half: with BACK these make both what they were. Reads no gradient and no
// coefficient. CPU twin: cpu::swap_halves.

override BACK: bool;

struct Hyper { unused: f32 }
struct State { average: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let average = (*s).average;
    if BACK {
        let bits = bitcast<vec4<u32>>(average);
        (*s).average = joined(w, words_of(bits & vec4(0xffffu)));
        return bitcast<vec4<f32>>(bits & vec4(0xffff0000u));
    }
    let remainder = whole_bits(average) & vec4(0xffffu);
    (*s).average = bitcast<vec4<f32>>(bitcast<vec4<u32>>(w) | remainder);
    return bf16_four(upper_words(average));
}
