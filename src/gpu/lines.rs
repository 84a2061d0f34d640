//! Lines, which are the rows or the columns of a gradient: what is done to them before anything else.

use super::Gpu;
use super::memory::BufferRange;
use super::passes::LINE_ENTRIES;
use super::recording::{Dispatch, Group};
use crate::clipping::AdaptiveClip;
use crate::error::{Error, Result};
use crate::formats::Extent;
use crate::rule::{Reduce, Stage};

/// Columns that a workgroup takes beside each other.
const WIDTH: u32 = 64;
/// Elements of a part that a thread takes one after the other, unless the parts become too many for `combine`.
const TURNS: u32 = 1024;
/// Parts that a thread of `combine` takes at most.
const MOST_PARTS: u32 = 4096;

/// `Job` of shaders/lines.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Job {
    pub(crate) param: u32,
    pub(crate) grad: u32,
    pub(crate) lines: u32,
    pub(crate) line_step: u32,
    pub(crate) count: u32,
    pub(crate) step: u32,
    pub(crate) width: u32,
    pub(crate) adaptive: u32,
    pub(crate) clipping: f32,
    pub(crate) eps: f32,
    pub(crate) cohort: u32,
    pub(crate) parts: u32,
    pub(crate) turns: u32,
}

impl Job {
    /// Cuts long lines into parts.
    fn cut(self) -> Self {
        let threads = 256 / self.width;
        let parts = |turns: u32| self.count.div_ceil(turns * threads).max(1);
        let mut turns = TURNS;
        while parts(turns) > MOST_PARTS * threads {
            turns *= 2;
        }
        Self { parts: parts(turns), turns, ..self }
    }
}

/// What is to be done to one gradient.
#[derive(Debug)]
pub(crate) struct Shaped<'a> {
    pub(crate) name: &'a str,
    pub(crate) parameter: &'a BufferRange,
    pub(crate) gradient: &'a BufferRange,
    /// Rows and columns, of a matrix.
    pub(crate) shape: Option<[usize; 2]>,
    pub(crate) cohort: usize,
    pub(crate) centralize: bool,
    pub(crate) adaptive: Option<AdaptiveClip>,
}

/// The stages that rewrite these gradients.
pub(crate) fn stages(gpu: &Gpu, log: &wgpu::Buffer, shaped: &[Shaped<'_>]) -> Result<Vec<(Stage, Vec<Dispatch>)>> {
    let mut dispatches = Vec::new();
    let limits = gpu.device().limits();
    let most = limits.max_compute_workgroups_per_dimension;
    for part in shaped.iter().filter(|part| part.gradient.len > 0) {
        let (mut w, mut at) = part.parameter.aligned();
        let (mut g, mut at_g) = part.gradient.aligned();
        let shared = w.overlaps(&g);
        if shared {
            let both = w.around(&g);
            at += (w.first() - both.first()) as u32;
            at_g += (g.first() - both.first()) as u32;
            (w, g) = (both.clone(), both);
        }
        let (needed, available) = (w.size().max(g.size()), limits.max_storage_buffer_binding_size);
        if needed > available {
            let (name, limit) = (part.name.into(), "max_storage_buffer_binding_size");
            return Err(Error::OverLimit { name, limit, needed, available });
        }
        let mut push = |job: Job| -> Result<()> {
            let job = job.cut();
            let long = job.parts > 1;
            let blocks = job.lines.div_ceil(job.width);
            let (table, sums) = gpu.scoped("a job", || {
                let usage = wgpu::BufferUsages::STORAGE;
                let sums = wgpu::BufferDescriptor {
                    label: Some("wgpu-optim parts of lines"),
                    size: 16 * u64::from(job.lines) * (u64::from(job.parts) + 1),
                    usage,
                    mapped_at_creation: false,
                };
                let table = gpu.buffer_of("wgpu-optim job", bytemuck::bytes_of(&job), usage);
                (table, long.then(|| gpu.device().create_buffer(&sums)))
            })?;
            for &entry in if long { &LINE_ENTRIES[1..] } else { &LINE_ENTRIES[..1] } {
                let pass = gpu.lines_pass(shared, entry)?;
                // In two dimensions, since a dispatch takes only so many in one.
                let workgroups = if entry == "combine" { blocks } else { blocks * job.parts };
                let size = [workgroups.min(most), workgroups.div_ceil(most), 1];
                let group = gpu.scoped("a job", || {
                    let scale = BufferRange::new(log, 0, 1);
                    let mut bound = vec![table.as_entire_binding(), w.binding(), g.binding(), scale.binding()];
                    bound.extend(sums.as_ref().map(wgpu::Buffer::as_entire_binding));
                    if shared {
                        bound.remove(1);
                    }
                    pass.bind(gpu, 1, &bound)
                })?;
                let groups = vec![Group::Step, Group::Bound(group)];
                dispatches.push(Dispatch { kernel: pass, groups, workgroups: size });
            }
            Ok(())
        };
        let of = |over: Option<Extent>| {
            let [rows, columns] = part.shape.unwrap_or([1, part.gradient.len]).map(|n| n as u32);
            let (cohort, param, grad) = (part.cohort as u32, at, at_g);
            match over {
                Some(Extent::Column) => Job {
                    lines: columns,
                    line_step: 1,
                    count: rows,
                    step: columns,
                    width: WIDTH,
                    cohort,
                    param,
                    grad,
                    ..Job::default()
                },
                _ => Job {
                    lines: rows,
                    line_step: columns,
                    count: columns,
                    step: 1,
                    width: 1,
                    cohort,
                    param,
                    grad,
                    ..Job::default()
                },
            }
        };
        if part.centralize && part.shape.is_some() {
            push(of(Some(Extent::Row)))?;
        }
        if let Some(AdaptiveClip { clipping, eps, over }) = part.adaptive {
            let (clipping, eps) = (clipping as f32, eps as f32);
            push(Job { adaptive: 1, clipping, eps, ..of(part.shape.map(|_| over)) })?;
        }
    }
    // Only its name is used.
    let reduce =
        Reduce { over: Extent::Row, parameter: true, reads: &[], keeps: None, into: "rows and columns of gradients" };
    Ok((!dispatches.is_empty()).then_some((Stage::Reduce(reduce), dispatches)).into_iter().collect())
}
