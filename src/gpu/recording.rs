//! Dispatches that are made once and recorded as often as they are wanted: the optimizer's passes and the solvers'.

use std::sync::Arc;

use super::passes::Pass;

/// What a group of a dispatch is bound to.
#[derive(Clone, Debug)]
pub(crate) enum Group {
    /// What stays.
    Bound(wgpu::BindGroup),
    /// The inputs of the step that is recorded.
    Step,
    /// These coefficients, by number, of all that the recording gets.
    Coefficients(usize),
}

/// A kernel with what it binds, and its workgroups.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    pub(crate) kernel: Arc<Pass>,
    pub(crate) groups: Vec<Group>,
    pub(crate) workgroups: [u32; 3],
}

/// What changes between two times that a recording is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// For [`Group::Step`].
    pub(crate) step: Option<&'a wgpu::BindGroup>,
    /// For [`Group::Coefficients`]: a uniform at a dynamic offset, and the bytes from one to the next.
    pub(crate) coefficients: (&'a wgpu::BindGroup, u32),
}

/// Records these dispatches, in order.
pub(crate) fn record(dispatches: &[Dispatch], inputs: Inputs<'_>, pass: &mut wgpu::ComputePass<'_>) {
    let mut current: Option<&Arc<Pass>> = None;
    for Dispatch { kernel, groups, workgroups: [x, y, z] } in dispatches {
        if !current.is_some_and(|current| Arc::ptr_eq(current, kernel)) {
            pass.set_pipeline(&kernel.pipeline);
            current = Some(kernel);
        }
        for (index, group) in (0..).zip(groups) {
            match group {
                Group::Bound(group) => pass.set_bind_group(index, group, &[]),
                Group::Step => pass.set_bind_group(index, inputs.step, &[]),
                Group::Coefficients(k) => {
                    let (group, stride) = inputs.coefficients;
                    pass.set_bind_group(index, group, &[stride * *k as u32]);
                }
            }
        }
        pass.dispatch_workgroups(*x, *y, *z);
    }
}
