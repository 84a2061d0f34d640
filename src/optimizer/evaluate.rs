//! For rules that train at one point and are evaluated at another, as Schedule-Free.

use super::{Memory, Optimizer, Parameter};
use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::gpu::kernel::ITERATE;
use crate::rule::Real;
use crate::settings::COEFFICIENT_HEAD;

impl Optimizer {
    /// Moves parameters to where the model is to be evaluated, saved for use, and deployed, if its rule trains at
    /// another point: [`ScheduleFree`](crate::rules::ScheduleFree)'s x. Groups with other rules stay, and so do
    /// parameters without a step. If it is called twice, the second call does nothing. `optimizer.eval()` in the
    /// authors' code.
    ///
    /// ```text
    /// x = w + (1 − β)/β·(w − z)        evaluate
    /// w = x + (1 − β)·(z − x)          train
    /// ```
    /// In between no step is possible, nor a change to these groups' parameters and states; a checkpoint is, and one
    /// that is loaded stands where it was saved. Each way takes one pass of 12 bytes an element, and rounds the
    /// parameter once. Waits until it is known which steps were skipped; a browser cannot: call [`Optimizer::settle`]
    /// first.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, rules::ScheduleFree};
    /// let mut sgd = Optimizer::new(&Device::Cpu, ScheduleFree::sgd(), 1.0)?;
    /// let w = sgd.add(0, "w", &[4.0f64])?;
    /// for gradient in [1.0f64, 2.0] {
    ///     sgd.write_gradient(w, &[gradient])?;
    ///     sgd.step()?; // z = 3, then 1
    /// }
    /// sgd.evaluate()?; // x is the mean of both
    /// assert!((sgd.read_blocking::<f64>(w)?[0] - 2.0).abs() < 1e-15);
    /// assert!(sgd.step().is_err());
    /// sgd.train()?;
    /// sgd.step()?;
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] if a parameter of such a group is in the caller's slices, unbound, or in bf16 without
    /// [`Precision::exact_master`](crate::Precision::exact_master), which would round it twice; on a GPU those of
    /// [`Optimizer::step`].
    pub fn evaluate(&mut self) -> Result<()> {
        self.stand(true)
    }

    /// Takes [`Optimizer::evaluate`] back: parameters move to where the rule trains. If they stand there, it does
    /// nothing.
    ///
    /// # Errors
    /// As [`Optimizer::evaluate`].
    pub fn train(&mut self) -> Result<()> {
        self.stand(false)
    }

    fn stand(&mut self, evaluating: bool) -> Result<()> {
        let moves = self.groups.iter().map(|group| (group.evaluating != evaluating, group.rule.0.evaluation()));
        // How far towards z, of the groups that move.
        let shifts: Vec<_> =
            moves.map(|(moves, c)| c.filter(|_| moves).map(|c| if evaluating { -c } else { c / (1.0 + c) })).collect();
        if shifts.iter().all(Option::is_none) {
            return Ok(());
        }
        for (k, _) in shifts.iter().enumerate().filter(|(_, shift)| shift.is_some()) {
            self.check_swapped(k, if evaluating { "evaluate" } else { "train" })?;
        }
        let shift_of = |parameter: &Parameter| shifts[parameter.group].filter(|_| parameter.recorded() > 0);
        for parameter in self.parameters.values().filter(|parameter| shifts[parameter.group].is_some()) {
            let reason = match () {
                () if parameter.in_slice() => "it is in the caller's slice",
                () if parameter.is_unbound() => "it is unbound: see Optimizer::relocate",
                () if self.groups[parameter.group].precision.rounds_parameters() => {
                    "a parameter in bf16 would be rounded twice: see Precision::exact_master"
                }
                () => continue,
            };
            return Err(parameter.unsupported(if evaluating { "evaluate" } else { "train" }, reason));
        }
        if let Device::Gpu(gpu) = self.device.clone() {
            self.settle_here()?;
            let members: Vec<_> =
                self.parameters.iter().filter(|(_, p)| shift_of(p).is_some()).map(|(id, _)| *id).collect();
            self.submit(&gpu, |optimizer, encoder| {
                let program = optimizer.make_toward_program(&gpu, &members)?;
                let words = |parameter: &Parameter, _: &_, words: &mut Vec<u32>| {
                    words.extend([0; COEFFICIENT_HEAD]);
                    words.push(f32::of(shift_of(parameter).unwrap_or(0.0)).to_bits());
                };
                optimizer.record(&gpu, &program, encoder, words).map(drop)
            })?;
        }
        for parameter in self.parameters.values_mut() {
            let Some(shift) = shift_of(parameter) else { continue };
            let z = parameter.state_named(&self.groups, ITERATE);
            match &mut parameter.memory {
                Memory::Gpu(_) => {}
                Memory::F32(vectors) => vectors.toward(z, shift),
                Memory::F64(vectors) => vectors.toward(z, shift),
            }
        }
        for (group, shift) in self.groups.iter_mut().zip(&shifts) {
            group.evaluating ^= shift.is_some();
        }
        Ok(())
    }

    /// No change to parameters that stand where the model is evaluated.
    pub(super) fn check_training(&self, group: usize, operation: &'static str) -> Result<()> {
        if !self.group(group)?.evaluating {
            return Ok(());
        }
        let reason = "its parameters stand where the model is evaluated: call Optimizer::train first";
        Err(Error::Unsupported { operation, name: format!("group {group}"), reason })
    }
}
