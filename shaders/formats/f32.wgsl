// IEEE 754 binary32, as rules compute with it: nothing is decoded. Rust half: src/formats/f32.rs.

// What a buffer holds for a lane of four numbers, and for one number.
alias F32Four = vec4<f32>;
alias F32One = f32;
