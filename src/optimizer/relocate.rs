//! Parameters in the caller's memory whose locations change from step to step.

use std::collections::HashMap;

use super::accumulate::Held;
use super::storage::check_gradient_format;
use super::{Change, Memory, Optimizer, Parameter, ParameterId};
use crate::error::{Error, Result};
#[cfg(feature = "burn")]
use crate::gpu::Device;
use crate::gpu::memory::{BufferRange, conflict};

/// Where a parameter in the caller's buffers lies from the next step on, and its gradient; `None` for a missing one.
#[derive(Clone, Debug)]
pub struct Location {
    /// The parameter.
    pub id: ParameterId,
    /// Its values.
    pub parameter: BufferRange,
    /// Its gradient.
    pub gradient: Option<BufferRange>,
}

/// Why a parameter that is unbound is refused.
pub(super) const UNBOUND: &str = "it lies nowhere now: see Optimizer::relocate";

impl Parameter {
    /// Whether it is in the caller's buffer.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(&self.memory, Memory::Gpu(tensor) if !tensor.owned)
    }

    pub(super) fn is_unbound(&self) -> bool {
        matches!(&self.memory, Memory::Gpu(tensor) if tensor.parameter.is_none())
    }
}

impl Optimizer {
    /// Says where parameters in the caller's buffers lie from the next step on: for memory that moves, as that of a
    /// framework's allocator. All at once, since one may move to where another was. Parameters of
    /// [`Optimizer::add_buffer`] that are not named take no part in steps nor look-aheads, and are neither read nor
    /// written, until they are again; their states stay. So do the remainders of an exact master, which belong to the
    /// same values: write others by [`Optimizer::write`]. What has not moved costs nothing.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Unsupported`] for a parameter that is not of [`Optimizer::add_buffer`],
    /// [`Error::Length`]; for the buffers those of [`Optimizer::add_buffer`], with [`Error::Overlap`] among all that
    /// take part. Then nothing has changed.
    pub fn relocate(&mut self, moved: &[Location]) -> Result<()> {
        self.gpu("relocate")?;
        let mut locations = HashMap::new();
        for location in moved {
            let parameter = self.get(location.id)?;
            let foreign = matches!(&parameter.memory, Memory::Gpu(tensor) if !tensor.owned);
            if !foreign || locations.insert(location.id.0, location).is_some() {
                return Err(parameter.unsupported("relocate", "it is not in the caller's buffer, or is named twice"));
            }
            parameter.check_len(location.parameter.len)?;
            location.parameter.check(&parameter.name, self.groups[parameter.group].precision.parameters)?;
            if let Some(gradient) = &location.gradient {
                parameter.check_len(gradient.len)?;
                gradient.check_gradient(&format!("gradient of {}", parameter.name))?;
                let rewritten = self.groups[parameter.group].settings.reshapes();
                check_gradient_format(&parameter.name, gradient.format, rewritten)?;
            }
        }
        let changed = self.parameters.iter().any(|(id, parameter)| match (&parameter.memory, locations.get(id)) {
            (Memory::Gpu(tensor), Some(location)) => {
                let same =
                    tensor.parameter.as_ref() == Some(&location.parameter) && tensor.gradient == location.gradient;
                !same || parameter.has_gradient() != location.gradient.is_some()
            }
            (Memory::Gpu(tensor), None) => !tensor.owned && tensor.parameter.is_some(),
            _ => false,
        });
        if !changed {
            return Ok(());
        }
        self.check_locations(&locations)?;
        for (id, parameter) in &mut self.parameters {
            let Memory::Gpu(tensor) = &mut parameter.memory else { continue };
            match locations.get(id) {
                Some(location) => {
                    parameter.gradient = match (&location.gradient, parameter.gradient) {
                        (None, _) => Held::Nothing,
                        (same, held @ Held::Batches(_)) if tensor.gradient == *same => held,
                        _ => Held::Values,
                    };
                    (tensor.parameter, tensor.gradient) = (Some(location.parameter.clone()), location.gradient.clone());
                }
                // Where it was, something else may be.
                None if !tensor.owned => {
                    (tensor.parameter, tensor.gradient) = (None, None);
                    parameter.gradient = Held::Nothing;
                }
                None => {}
            }
        }
        self.claims = None;
        self.invalidate(Change::Parameters);
        Ok(())
    }

    /// No overlap among what the next step touches, one of the two written.
    fn check_locations(&self, locations: &HashMap<u64, &Location>) -> Result<()> {
        let (mut uses, mut names) = (Vec::new(), Vec::new());
        for (id, parameter) in &self.parameters {
            let Memory::Gpu(tensor) = &parameter.memory else { continue };
            let (at, gradient) = match locations.get(id) {
                Some(location) => (Some(&location.parameter), location.gradient.as_ref()),
                None if tensor.owned => (tensor.parameter.as_ref(), tensor.gradient.as_ref()),
                None => continue,
            };
            let zeroed = self.groups[parameter.group].settings.writes_gradient();
            let ours = tensor.states.iter().map(|state| (state, true, "a state of"));
            let ours = ours.chain(tensor.beside.iter().map(|beside| (beside, true, "what is beside")));
            let all =
                [at.map(|range| (range, true, "parameter")), gradient.map(|range| (range, zeroed, "gradient of"))];
            for (range, written, what) in all.into_iter().flatten().chain(ours) {
                uses.push((range, written));
                names.push((what, &parameter.name));
            }
        }
        let name = |at: usize| format!("{} `{}`", names[at].0, names[at].1);
        match conflict(&uses) {
            Some((a, b)) => Err(Error::Overlap { a: name(a), b: name(b) }),
            None => Ok(()),
        }
    }

    /// Adds parameters of these lengths whose range is not known yet.
    #[cfg(feature = "burn")]
    pub(crate) fn add_elsewhere(&mut self, group: usize, tensors: &[(&str, usize)]) -> Result<Vec<ParameterId>> {
        let Device::Gpu(gpu) = self.device.clone() else { return Ok(Vec::new()) };
        self.check_names(tensors)?;
        self.add_unbound(&gpu, group, tensors, true)
    }

    /// Its elements, if it is here.
    #[cfg(feature = "burn")]
    pub(crate) fn len(&self, id: ParameterId) -> Option<usize> {
        self.parameters.get(&id.0).map(|parameter| parameter.len)
    }

    /// Whether its group's steps write its gradient.
    #[cfg(feature = "burn")]
    pub(crate) fn writes_gradient(&self, id: ParameterId) -> bool {
        self.parameters.get(&id.0).is_some_and(|p| self.groups[p.group].settings.writes_gradient())
    }
}
