// Exchanges parameters and their averages. Reads no gradient and no coefficient.
//
// CPU twin: Vectors::swap.

struct Hyper { unused: f32 }
struct State { average: Lane }

fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
    let average = (*s).average;
    (*s).average = w;
    return average;
}
