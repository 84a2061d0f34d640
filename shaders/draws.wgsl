// Random bits for rounding: a hash of counters. Rust half: src/formats/draws.rs.

// 32 bits for each of four elements from `first` on; the upper ones are the better ones. `tensor` is the hash of the
// tensor's name, `state` numbers what is rounded. All of an element's states share one hash.
fn draws(c: Coefficients, tensor: u32, state: u32, first: u32) -> vec4<u32> {
    let keys = c.rounding ^ vec2(tensor, (tensor << 16u) | (tensor >> 16u));
    var x = vec4(first) + vec4(0u, 1u, 2u, 3u) + vec4(keys.x);
    x = ((x ^ (x >> vec4(16u))) * vec4(0x7feb352du)) ^ vec4(keys.y);
    x = (x ^ (x >> vec4(15u))) * vec4(0x846ca68bu);
    return (x ^ (x >> vec4(16u))) * vec4(state * 0x3c6ef372u + 1u);
}
