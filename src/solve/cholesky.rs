//! Cholesky's factor on the device.

use super::device::buffer;
use super::replay::{Call, TURNS};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;
use crate::gpu::own::OwnBuffer;

/// Columns of a panel, and rows below its block that a workgroup eliminates: the constants of shaders/cholesky.wgsl.
const WIDTH: usize = 32;
const ROWS: usize = 96;

/// The WGSL. Lines of `panel` with C are written out for each column C, and lines with J for each column J after C.
pub(super) fn text() -> String {
    let mut text = include_str!("../../shaders/block_product.wgsl").to_owned();
    let mut step = Vec::new();
    for line in include_str!("../../shaders/cholesky.wgsl").lines() {
        if let Some(line) = line.trim().strip_prefix("//STEP ") {
            step.push(line);
            continue;
        }
        for c in (0..WIDTH).filter(|_| !step.is_empty()) {
            for line in &step {
                let of = |line: &str| line.replace("xC", &format!("x{c}")).replace("tC", &format!("t{c}"));
                let of = |line: &str| of(line).replace("[C]", &format!("[{c}]")).replace("(C)", &format!("({c}u)"));
                match line.strip_prefix("EACH ") {
                    Some(each) => (c + 1..WIDTH).for_each(|j| text += &(of(&each.replace('J', &j.to_string())) + "\n")),
                    None => text += &(of(line) + "\n"),
                }
            }
        }
        step.clear();
        match line.trim().strip_prefix("//GET ").or(line.trim().strip_prefix("//PUT ")) {
            Some(each) => {
                let of = |c: usize| each.replace("xC", &format!("x{c}")).replace(" C,", &format!(" {c}u,")) + "\n";
                text.extend((0..WIDTH).map(of));
            }
            None => text += &(line.to_owned() + "\n"),
        }
    }
    text
}

/// The equations (A + diag(added))·δ = −g.
#[derive(Debug)]
pub(super) struct Equations<'a> {
    /// n × n; only the lower triangle is read.
    pub(super) matrix: &'a BufferRange,
    pub(super) g: &'a BufferRange,
    /// Negative where δ is 0.
    pub(super) added: &'a BufferRange,
    pub(super) delta: &'a BufferRange,
    /// Two u32: not 0 if there is nothing to do; 1 if there was no factor, or no finite solution.
    pub(super) status: &'a BufferRange,
}

/// The dispatches that solve the equations: a little more than 2·n/32, with n³/3 multiplications and additions.
pub(super) fn calls(gpu: &Gpu, own: &mut Vec<OwnBuffer>, equations: &Equations<'_>) -> Result<Vec<Call>> {
    let n = equations.g.len;
    let panels = n.div_ceil(WIDTH);
    let factor = buffer(gpu, own, "a Cholesky factor", (n as u64 + 1).saturating_mul(n as u64))?;
    let blocks = buffer(gpu, own, "blocks of a Cholesky factor", (panels * WIDTH * WIDTH) as u64)?;
    let Equations { matrix, g, added, delta, status } = equations;
    let pass = |entry| {
        gpu.pass_with("cholesky", text(), entry, &[&[], &[false, false, false, false, true, true, true]], false)
    };
    let [load, panel, trail, back] = [pass("load")?, pass("panel")?, pass("trail")?, pass("back")?];
    let group = gpu.scoped("a factor's bind group", || {
        load.bind(gpu, 1, &[status, &factor, &blocks, delta, matrix, g, added].map(BufferRange::binding))
    })?;
    let call_of = |kernel: &std::sync::Arc<_>, panel: usize, count: usize, workgroups| Call {
        kernel: std::sync::Arc::clone(kernel),
        group: group.clone(),
        arguments: vec![n as u32, panel as u32, count as u32],
        workgroups,
    };
    let call = |kernel, panel, workgroups| call_of(kernel, panel, 0, workgroups);
    let mut calls = vec![call(&load, 0, [n.div_ceil(64), n + 1, 1])];
    for k in 0..panels {
        let next = ((k + 1) * WIDTH).min(n);
        calls.push(call(&panel, k, [(n + 1 - next).div_ceil(ROWS), 1, 1]));
        if next < n {
            calls.push(call(&trail, k, [(n - next).div_ceil(WIDTH), (n + 1 - next).div_ceil(WIDTH), 1]));
        }
    }
    let mut panel = panels;
    while panel > 0 {
        // Turns of a thread's loops for a panel: 4 to copy its block, 33 for its columns, 5 for each 256 rows above it.
        let turns = 40 + 5 * (panel * WIDTH).div_ceil(256);
        let count = (TURNS / turns).clamp(1, panel);
        calls.push(call_of(&back, panel, count, [1, 1, 1]));
        panel -= count;
    }
    Ok(calls)
}
