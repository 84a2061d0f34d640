//! What a rule's step is compared with: its memory traffic without its arithmetic.

use rayon::prelude::*;
use wgpu_optim::{Error, Gpu};

use super::baselines::{Kernel, storage};
use super::clock::checked;

/// Elements that a thread takes at a time, as in the CPU path.
const CHUNK: usize = 1 << 14;

/// On a GPU: a kernel with the reads and writes of a rule with `states` states, one vec4 for each thread. It moves each
/// value one buffer further. A `min` keeps the compiler from dropping a load.
pub(crate) struct GpuCopy {
    parts: Vec<(wgpu::BindGroup, u32)>,
    kernel: Kernel,
}

impl GpuCopy {
    pub(crate) fn new(gpu: &Gpu, len: usize, states: usize) -> Result<Self, Error> {
        checked(gpu, || Self::make(gpu, len, states))
    }

    fn make(gpu: &Gpu, len: usize, states: usize) -> Self {
        let mut text = String::new();
        let mut body = "let w = param[i];\n    var last = grad[i];\n".to_owned();
        for k in 0..states {
            text += &format!("@group(0) @binding({}) var<storage, read_write> s{k}: array<vec4<f32>>;\n", k + 2);
            body += &format!("    let x{k} = s{k}[i];\n");
        }
        for k in 0..states {
            let from = if k == 0 { "w".into() } else { format!("x{}", k - 1) };
            body += &format!("    s{k}[i] = {from};\n");
        }
        let last = if states == 0 { "min(last, w)".to_owned() } else { format!("min(last, x{})", states - 1) };
        let text = format!(
            "@group(0) @binding(0) var<storage, read_write> param: array<vec4<f32>>;\n\
             @group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;\n{text}\
             @compute @workgroup_size(256)\nfn main(@builtin(global_invocation_id) id: vec3<u32>) {{\n    \
             let i = id.x;\n    if i >= arrayLength(&param) {{ return; }}\n    {body}    param[i] = {last};\n}}\n"
        );
        let kernel = Kernel::new(gpu, &text);
        let len = len.next_multiple_of(4);
        let limits = gpu.device().limits();
        let bound = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size) / 4 / 64 * 64;
        let window = bound.min(u64::from(limits.max_compute_workgroups_per_dimension) * 1024);
        let mut parts = Vec::new();
        for start in (0..len as u64).step_by(window as usize) {
            let part = window.min(len as u64 - start);
            let buffers: Vec<_> = (0..2 + states).map(|_| storage(gpu, part as usize)).collect();
            parts.push((kernel.bind(&buffers.iter().collect::<Vec<_>>(), 0..part), part.div_ceil(1024) as u32));
        }
        Self { parts, kernel }
    }

    pub(crate) fn record(&self, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for (group, workgroups) in &self.parts {
            self.kernel.dispatch(&mut pass, group, *workgroups);
        }
        Ok(())
    }
}

/// On the CPU, on all threads: each vector becomes the one before it, as in the kernel. It prefetches as the step does.
pub(crate) struct CpuCopy {
    gradient: Vec<f32>,
    /// The parameter and the states.
    vectors: Vec<Vec<f32>>,
}

impl CpuCopy {
    pub(crate) fn new(len: usize, states: usize) -> Result<Self, Error> {
        let refused =
            |reason| Err(Error::Unsupported { operation: "a copy", name: format!("{states} states"), reason });
        if states > 5 {
            return refused("the benchmark copies at most five");
        }
        Ok(Self { gradient: vec![0.25; len], vectors: vec![vec![0.5; len]; 1 + states] })
    }

    pub(crate) fn run(&mut self) -> Result<(), Error> {
        let (states, len) = (self.vectors.len() - 1, self.gradient.len());
        let mut parts: Vec<Vec<&mut [f32]>> =
            (0..len.div_ceil(CHUNK)).map(|_| Vec::with_capacity(states + 1)).collect();
        for vector in &mut self.vectors {
            parts.iter_mut().zip(vector.chunks_mut(CHUNK)).for_each(|(part, vector)| part.push(vector));
        }
        let of_part = |part: Vec<&mut [f32]>, gradient: &[f32]| {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || match states {
                    0 => rotate::<1>(part, gradient),
                    1 => rotate::<2>(part, gradient),
                    2 => rotate::<3>(part, gradient),
                    3 => rotate::<4>(part, gradient),
                    4 => rotate::<5>(part, gradient),
                    _ => rotate::<6>(part, gradient),
                },
            );
        };
        match parts.len() {
            1 => parts.into_iter().for_each(|part| of_part(part, &self.gradient)),
            _ => parts.into_par_iter().zip(self.gradient.par_chunks(CHUNK)).for_each(|(part, g)| of_part(part, g)),
        }
        Ok(())
    }
}

/// Each of `N` vectors becomes the one before it. The first becomes the sum of the gradient and the last.
#[inline(always)]
fn rotate<const N: usize>(vectors: Vec<&mut [f32]>, gradient: &[f32]) {
    const TILE: usize = 32;
    let Ok(vectors) = <[&mut [f32]; N]>::try_from(vectors) else { return };
    let vectors = vectors.map(|vector| vector.as_chunks_mut::<TILE>());
    let (gradient, rest) = gradient.as_chunks::<TILE>();
    for (at, gradient) in gradient.iter().enumerate() {
        let mut tile = [*gradient; N];
        for k in 0..N {
            prefetch(&vectors[k].0[at]);
            tile[k] = vectors[k].0[at];
        }
        prefetch(gradient);
        let last = tile[N - 1];
        // With one vector a minimum would compile to a conditional store.
        vectors[0].0[at] = std::array::from_fn(|i| last[i] + gradient[i]);
        for k in 1..N {
            vectors[k].0[at] = tile[k - 1];
        }
    }
    for (at, gradient) in rest.iter().enumerate() {
        let last = vectors[N - 1].1[at];
        for k in (1..N).rev() {
            vectors[k].1[at] = vectors[k - 1].1[at];
        }
        vectors[0].1[at] = last + gradient;
    }
}

/// As in src/cpu.rs.
#[inline(always)]
fn prefetch(tile: &[f32; 32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(sse) = pulp::core_arch::x86::Sse::try_new() {
        let ahead = tile.as_ptr().cast::<i8>().wrapping_add(512);
        for line in (0..size_of_val(tile)).step_by(64) {
            sse._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ahead.wrapping_add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = tile;
}
