// A part of a tensor, which one workgroup has. Before lane.wgsl and norm.wgsl.

// `start`, `grad` and `state` are where it is in the buffers of the parameter, the gradient and the states. `len`
// counts lanes, and so does `first`, its place in the tensor of `limit` elements. `own` is where it is in the buffers
// of states in blocks of 256, in lanes of four, and `tensor` the hash of the tensor's name.
struct Block {
    start: u32,
    grad: u32,
    state: u32,
    len: u32,
    out: u32,
    cohort: u32,
    first: u32,
    limit: u32,
    own: u32,
    tensor: u32,
}

// Where a lane is in the buffers of the parameter, the gradient and the states, and in its tensor of `limit` elements.
// A format changes the bytes of a lane, but not its index.
struct At {
    param: u32,
    grad: u32,
    state: u32,
    cohort: u32,
    first: u32,
    limit: u32,
    own: u32,
    tensor: u32,
    inside: bool,
}

// How many lanes of a block each of `threads` takes.
fn turns_of(block: Block, threads: u32) -> u32 {
    return (block.len + threads - 1u) / threads;
}

// Which lane a thread takes at this turn. Eight threads beside each other take lanes beside each other, and those
// behind them at the next turn: a core of a CPU reads in the order of memory.
fn nth_lane(thread: u32, turn: u32, turns: u32) -> u32 {
    return 8u * (thread / 8u * turns + turn) + thread % 8u;
}

// Lane k of a block. A lane takes INDICES of a buffer: 4 if its four elements are loaded one by one, otherwise 1.
fn in_block(block: Block, k: u32) -> At {
    let i = INDICES * k;
    let inside = k < block.len;
    return At(
        block.start + i,
        block.grad + i,
        block.state + i,
        block.cohort,
        block.first + k,
        block.limit,
        block.own + k,
        block.tensor,
        inside,
    );
}

// The last element of a lane of four that is its tensor's, 0 to 3.
fn last_of(at: At) -> u32 {
    return min(3u, at.limit - 1u - 4u * at.first);
}

// Which elements of a lane of four are its tensor's: behind them is padding, or what is not ours.
fn of_tensor(at: At) -> vec4<bool> {
    return vec4(0u, 1u, 2u, 3u) <= vec4(last_of(at));
}
