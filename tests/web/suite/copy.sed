# What the copies of src and tests/suite have otherwise than these.

# The native branches are compiled. But a lost device is told by a callback, which in a browser displaces nobody's.
s/cfg!(target_family = "wasm")\.then(/true.then(/
s/cfg(not(target_family = "wasm"))/cfg(all())/
s/cfg(target_family = "wasm")/cfg(any())/
s/cfg!(target_family = "wasm")/false/

# What std lacks in wasm, and who suspends the stack where another would block the thread.
s/\b\(pollster\|tempfile\|libtest_mimic\)::/host::/g
s/\bstd::fs\b/host::fs/g
s/\bstd::thread\b/host::thread/g
s/use std::time::{Duration, Instant};/use host::Instant;\nuse std::time::Duration;/
s/\bstd::time::Instant\b/host::Instant/

# Sizes that 32 bits hold, and that a browser takes: integers up to 2^53.
s/\b1 << 62, 4, tiny/usize::MAX \/ 2, 4, tiny/
s/\bsize: u64::MAX \/ 2, usage: storage/size: 1 << 50, usage: storage/
s/\bmax_buffer_size: u64::MAX\b/max_buffer_size: 1 << 50/

# A browser has its own name of the limit.
s/text\.contains("max_buffer_size")/text.contains("maxBufferSize")/

# A browser calls back about an error once the page goes on.
/create_buffer(&nonsense)/a\    _ = callers.device().poll(wgpu::PollType::wait_indefinitely());
