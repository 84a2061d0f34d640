//! What a rule's step is held against: its traffic without its arithmetic.

use rayon::prelude::*;
use wgpu_optim::{Error, Gpu};

use super::baselines::{Kernel, storage};

/// Elements that a thread takes at a time, as the CPU path does.
const CHUNK: usize = 1 << 14;
/// Elements that stay in L1 meanwhile.
const BLOCK: usize = 1 << 10;

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
        let last = if slots == 0 { "last".to_owned() } else { format!("min(last, x{})", slots - 1) };
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

/// On the CPU, on all threads: the gradient is copied to the parameter, and the parameter swapped with each state.
pub(crate) struct CpuCopy {
    parameter: Vec<f32>,
    gradient: Vec<f32>,
    states: Vec<Vec<f32>>,
}

impl CpuCopy {
    pub(crate) fn new(len: usize, slots: usize) -> Self {
        Self { parameter: vec![0.5; len], gradient: vec![0.25; len], states: vec![vec![0.125; len]; slots] }
    }

    pub(crate) fn run(&mut self) -> Result<(), Error> {
        let mut parts: Vec<Vec<&mut [f32]>> = self.parameter.chunks_mut(CHUNK).map(|part| vec![part]).collect();
        for state in &mut self.states {
            parts.iter_mut().zip(state.chunks_mut(CHUNK)).for_each(|(part, state)| part.push(state));
        }
        parts.into_par_iter().zip(self.gradient.par_chunks(CHUNK)).for_each(|(mut part, gradient)| {
            for start in (0..gradient.len()).step_by(BLOCK) {
                let block = start..gradient.len().min(start + BLOCK);
                let Some((parameter, states)) = part.split_first_mut() else { return };
                parameter[block.clone()].copy_from_slice(&gradient[block.clone()]);
                for state in states {
                    parameter[block.clone()].swap_with_slice(&mut state[block.clone()]);
                }
            }
        });
        Ok(())
    }
}
