//! What a rule's step is held against: its traffic without its arithmetic.

use rayon::prelude::*;
use wgpu_optim::{Error, Gpu};

use super::baselines::{Kernel, storage};

/// Elements that a thread takes at a time, as the CPU path does.
const CHUNK: usize = 1 << 14;

/// On a GPU: a kernel that reads and writes just what a rule with `slots` states does, one vec4 a thread. What it reads it writes, one
/// buffer further; one `min` keeps it from leaving a load out.
pub(crate) struct GpuCopy {
    parts: Vec<(wgpu::BindGroup, u32)>,
    kernel: Kernel,
}

impl GpuCopy {
    pub(crate) fn new(gpu: &Gpu, len: usize, slots: usize) -> Self {
        let mut text = String::new();
        let mut body = "let w = param[i];\n    var last = grad[i];\n".to_owned();
        for k in 0..slots {
            text += &format!("@group(0) @binding({}) var<storage, read_write> s{k}: array<vec4<f32>>;\n", k + 2);
            body += &format!("    let x{k} = s{k}[i];\n");
        }
        for k in 0..slots {
            let from = if k == 0 { "w".into() } else { format!("x{}", k - 1) };
            body += &format!("    s{k}[i] = {from};\n");
        }
        let last = if slots == 0 { "min(last, w)".to_owned() } else { format!("min(last, x{})", slots - 1) };
        let text = format!(
            "@group(0) @binding(0) var<storage, read_write> param: array<vec4<f32>>;\n\
             @group(0) @binding(1) var<storage, read> grad: array<vec4<f32>>;\n{text}\
             @compute @workgroup_size(256)\nfn main(@builtin(global_invocation_id) id: vec3<u32>) {{\n    \
             let i = id.x;\n    if i >= arrayLength(&param) {{ return; }}\n    {body}    param[i] = {last};\n}}\n"
        );
        let kernel = Kernel::new(gpu, &text);
        let len = len.next_multiple_of(4);
        let buffers: Vec<_> = (0..2 + slots).map(|_| storage(gpu, len)).collect();
        let limits = gpu.device().limits();
        let bound = limits.max_storage_buffer_binding_size / 4 / 64 * 64;
        let window = bound.min(u64::from(limits.max_compute_workgroups_per_dimension) * 1024);
        let mut parts = Vec::new();
        for start in (0..len as u64).step_by(window as usize) {
            let part = start..(len as u64).min(start + window);
            let workgroups = (part.end - part.start).div_ceil(1024) as u32;
            parts.push((kernel.bind(&buffers.iter().collect::<Vec<_>>(), part), workgroups));
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

/// On the CPU, on all threads: every vector becomes the one before it, as in the kernel.
pub(crate) struct CpuCopy {
    gradient: Vec<f32>,
    /// The parameter and the states.
    vectors: Vec<Vec<f32>>,
}

impl CpuCopy {
    pub(crate) fn new(len: usize, slots: usize) -> Self {
        Self { gradient: vec![0.25; len], vectors: vec![vec![0.5; len]; 1 + slots] }
    }

    pub(crate) fn run(&mut self) -> Result<(), Error> {
        let (slots, len) = (self.vectors.len() - 1, self.gradient.len());
        let mut parts: Vec<Vec<&mut [f32]>> = (0..len.div_ceil(CHUNK)).map(|_| Vec::with_capacity(slots + 1)).collect();
        for vector in &mut self.vectors {
            parts.iter_mut().zip(vector.chunks_mut(CHUNK)).for_each(|(part, vector)| part.push(vector));
        }
        let of_part = |part: Vec<&mut [f32]>, gradient: &[f32]| {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || match slots {
                    0 => rotate::<1>(part, gradient),
                    1 => rotate::<2>(part, gradient),
                    2 => rotate::<3>(part, gradient),
                    3 => rotate::<4>(part, gradient),
                    _ => rotate::<5>(part, gradient),
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

/// Of `N` vectors each becomes the one before it; the first, the sum of the gradient and the last.
#[inline(always)]
fn rotate<const N: usize>(vectors: Vec<&mut [f32]>, gradient: &[f32]) {
    const TILE: usize = 32;
    let Ok(vectors) = <[&mut [f32]; N]>::try_from(vectors) else { return };
    let vectors = vectors.map(|vector| vector.as_chunks_mut::<TILE>().0);
    for (at, gradient) in gradient.as_chunks::<TILE>().0.iter().enumerate() {
        let mut tile = [*gradient; N];
        for k in 0..N {
            tile[k] = vectors[k][at];
        }
        let last = tile[N - 1];
        // A minimum would be a store under a condition where there is one vector.
        vectors[0][at] = std::array::from_fn(|i| last[i] + gradient[i]);
        for k in 1..N {
            vectors[k][at] = tile[k - 1];
        }
    }
}
