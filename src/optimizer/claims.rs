//! Which parameter uses which bytes of which buffer: an overlap is found without a look at every parameter.

use std::collections::{BTreeMap, HashMap};

use super::storage::check_gradient_format;
use super::{Memory, Optimizer, Parameter, ParameterId};
use crate::error::{Error, Result};
use crate::gpu::memory::BufferRange;

/// What a range is bound as: a parameter is written, a gradient read, a zeroed gradient both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Parameter,
    Gradient,
    Zeroed,
}

/// What a parameter uses bytes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Parameter,
    State,
    Gradient,
}

/// All ranges that steps write, and those that they only read.
#[derive(Debug, Default)]
pub(super) struct Claims {
    written: Ranges,
    read: Ranges,
}

/// Ranges in order: (offset, parameter, use) → end, in bytes.
type InOrder = BTreeMap<(u64, u64, Use), u64>;

/// Ranges by buffer and by the power of two at or below their length.
#[derive(Debug, Default)]
struct Ranges(HashMap<wgpu::Buffer, BTreeMap<u32, InOrder>>);

impl Ranges {
    fn insert(&mut self, range: &BufferRange, id: u64, of: Use) {
        if range.len > 0 {
            let class = self.0.entry(range.buffer.clone()).or_default().entry(range.size().ilog2()).or_default();
            class.insert((range.offset, id, of), range.end());
        }
    }

    fn remove(&mut self, range: &BufferRange, id: u64, of: Use) {
        let Some(classes) = self.0.get_mut(&range.buffer).filter(|_| range.len > 0) else { return };
        let class = range.size().ilog2();
        if let Some(ranges) = classes.get_mut(&class) {
            ranges.remove(&(range.offset, id, of));
            if ranges.is_empty() {
                classes.remove(&class);
            }
        }
        if classes.is_empty() {
            // The map must not keep a buffer alive.
            self.0.remove(&range.buffer);
        }
    }

    /// A range that shares bytes with this one, but for the gradient of `myself`.
    fn overlap(&self, range: &BufferRange, myself: Option<u64>) -> Option<(u64, Use)> {
        let classes = self.0.get(&range.buffer).filter(|_| range.len > 0)?;
        classes.iter().find_map(|(&class, ranges)| {
            // A range of this class that starts earlier ends before this one starts.
            let from = range.offset.saturating_sub((2 << class) - 1);
            let near = ranges.range((from, 0, Use::Parameter)..(range.end(), 0, Use::Parameter));
            let reaches = |&(&(_, id, of), &end): &(&(u64, u64, Use), &u64)| {
                end > range.offset && !(of == Use::Gradient && myself == Some(id))
            };
            near.into_iter().find(reaches).map(|(&(_, id, of), _)| (id, of))
        })
    }
}

impl Claims {
    /// Adds or removes what a parameter uses; `zeroed` says whether its gradient is written.
    fn each(parameter: &Parameter, zeroed: bool, mut f: impl FnMut(bool, &BufferRange, Use)) {
        let Memory::Gpu(tensor) = &parameter.memory else { return };
        tensor.parameter.iter().for_each(|range| f(true, range, Use::Parameter));
        tensor.states.iter().chain(&tensor.beside).for_each(|range| f(true, range, Use::State));
        tensor.gradient.iter().for_each(|range| f(zeroed, range, Use::Gradient));
    }

    fn of(&mut self, written: bool) -> &mut Ranges {
        if written { &mut self.written } else { &mut self.read }
    }
}

impl Optimizer {
    /// Whether a step would write what it reads or writes elsewhere, if this range were bound in this role.
    pub(super) fn check_overlap(
        &mut self,
        id: Option<ParameterId>,
        name: &str,
        range: &BufferRange,
        role: Binding,
    ) -> Result<()> {
        let claims = match self.claims.take() {
            Some(claims) => claims,
            None => self.make_claims(),
        };
        let myself = id.map(|id| id.0);
        let read = || claims.read.overlap(range, myself).filter(|_| role != Binding::Gradient);
        let found = claims.written.overlap(range, myself).or_else(read);
        self.claims = Some(claims);
        let Some((other, of)) = found else { return Ok(()) };
        let what = match of {
            Use::Parameter => "parameter",
            Use::State => "a state of",
            Use::Gradient => "gradient of",
        };
        let role = if role == Binding::Parameter { "parameter" } else { "gradient of" };
        let other = self.parameters.get(&other).map_or("", |parameter| parameter.name.as_str());
        Err(Error::Overlap { a: format!("{role} `{name}`"), b: format!("{what} `{other}`") })
    }

    /// No gradient of these parameters, written by steps, is used elsewhere.
    pub(super) fn check_gradients(&mut self, of: impl Fn(&Parameter) -> bool, rewritten: bool) -> Result<()> {
        let ours: Vec<_> = self.parameters.iter().filter(|(_, parameter)| of(parameter)).map(|(id, _)| *id).collect();
        self.check_gradients_of(&ours, rewritten)
    }

    /// `rewritten`: not only cleared.
    pub(super) fn check_gradients_of(&mut self, ids: &[u64], rewritten: bool) -> Result<()> {
        for &id in ids {
            let Some(parameter) = self.parameters.get(&id) else { continue };
            // Also where a caller's buffer has the gradient now: `Gradient::Own` may come back.
            let own_format = self.groups[parameter.group].precision.gradients;
            check_gradient_format(&parameter.name, own_format, rewritten && !parameter.is_foreign())?;
            let Memory::Gpu(tensor) = &parameter.memory else { continue };
            if let Some(gradient) = tensor.gradient.clone() {
                let name = parameter.name.clone();
                check_gradient_format(&name, gradient.format, rewritten)?;
                self.check_overlap(Some(ParameterId(id)), &name, &gradient, Binding::Zeroed)?;
            }
        }
        Ok(())
    }

    fn make_claims(&self) -> Claims {
        let mut claims = Claims::default();
        for (&id, parameter) in &self.parameters {
            let zeroed = self.groups[parameter.group].settings.writes_gradient();
            Claims::each(parameter, zeroed, |written, range, of| claims.of(written).insert(range, id, of));
        }
        claims
    }

    /// After a parameter is there, or uses other ranges.
    pub(super) fn claim(&mut self, id: ParameterId) {
        let (Some(claims), Some(parameter)) = (&mut self.claims, self.parameters.get(&id.0)) else { return };
        let zeroed = self.groups[parameter.group].settings.writes_gradient();
        Claims::each(parameter, zeroed, |written, range, of| claims.of(written).insert(range, id.0, of));
    }

    /// Before a parameter goes, or uses other ranges.
    pub(super) fn unclaim(&mut self, id: ParameterId) {
        let (Some(claims), Some(parameter)) = (&mut self.claims, self.parameters.get(&id.0)) else { return };
        let zeroed = self.groups[parameter.group].settings.writes_gradient();
        Claims::each(parameter, zeroed, |written, range, of| claims.of(written).remove(range, id.0, of));
    }
}
