//! What a group keeps: the list of its storage, and where each of it is.

use super::{Arenas, Group, HostMemory, Memory, Parameter};
use crate::any_rule::AnyRule;
use crate::cpu::Numbers;
use crate::error::{Error, Result};
use crate::formats::{Extent, Format, Storage};
use crate::gpu::kernel::{AVERAGE, MIRROR};
use crate::gpu::memory::{Arena, BufferRange, Kind};
use crate::precision::Precision;
use crate::rule::Real;

/// Which memory of a parameter a storage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Parameter,
    Gradient,
    /// The parameter in 16 bits, on a GPU.
    Mirror,
    /// A state of the parameter: its index among those.
    State(usize),
    /// A state of the group, which all of its parameters share: its index among those.
    Shared(usize),
}

/// A storage of a group, and which one it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) role: Role,
    pub(super) storage: Storage,
}

impl Stored {
    /// What kernels bind element by element.
    pub(super) fn is_of_elements(&self) -> bool {
        self.storage.extent == Extent::Element
    }

    pub(super) fn is_state(&self) -> bool {
        matches!(self.role, Role::State(_) | Role::Shared(_))
    }

    /// What is ours beside a parameter of the caller's.
    fn is_beside(&self) -> bool {
        self.is_state() || self.role == Role::Mirror
    }
}

/// The average of a parameter: the last of its states.
pub(super) const AVERAGE_STORAGE: Storage = of_elements(AVERAGE);

const fn of_elements(name: &'static str) -> Storage {
    Storage { name, extent: Extent::Element, format: Format::F32, initial: 0.0 }
}

/// All storage of a group: parameter, gradient, mirror, the rule's states, the average. States of elements have the
/// format of a long parameter's.
pub(super) fn stored(rule: &AnyRule, averages: bool, precision: Precision) -> Vec<Stored> {
    let parameter = Stored { role: Role::Parameter, storage: of_elements("parameter") };
    let gradient = Storage { format: precision.gradients, ..of_elements("gradient") };
    let gradient = Stored { role: Role::Gradient, storage: gradient };
    let mirror = |format| Stored { role: Role::Mirror, storage: Storage { format, ..of_elements(MIRROR) } };
    let average = averages.then_some(AVERAGE_STORAGE);
    let (mut states, mut shared) = (0.., 0..);
    let state = |storage: Storage| {
        let role = match storage.extent {
            Extent::Group => Role::Shared(shared.next().unwrap_or_default()),
            _ => Role::State(states.next().unwrap_or_default()),
        };
        Stored { role, storage }
    };
    let of_rule = rule.storage().into_iter().enumerate().map(|(k, storage)| match storage.extent {
        Extent::Element => {
            Storage { format: precision.of_state(k, rule.description().signed(storage.name)), ..storage }
        }
        _ => storage,
    });
    let mirror = precision.mirror.map(mirror);
    [parameter, gradient].into_iter().chain(mirror).chain(of_rule.chain(average).map(state)).collect()
}

impl Group {
    /// Lists its storage, after its rule or its averaging has changed.
    pub(super) fn list_storage(&mut self) {
        self.storage = stored(&self.rule, self.averaging.is_some(), self.precision);
    }

    /// The states that its rule keeps, and the average.
    pub(super) fn states(&self) -> impl Iterator<Item = &Stored> {
        self.storage.iter().filter(|stored| stored.is_state())
    }

    /// Its state of this name.
    pub(super) fn state(&self, name: &str) -> Option<&Stored> {
        self.states().find(|stored| stored.storage.name == name)
    }

    /// The storage of this role.
    pub(super) fn storage_of(&self, role: Role) -> Option<&Storage> {
        self.storage.iter().find(|stored| stored.role == role).map(|stored| &stored.storage)
    }

    /// The states that each of its parameters has, in the order of [`Role::State`].
    pub(super) fn states_of_parameters(&self) -> impl Iterator<Item = &Storage> {
        self.storage.iter().filter(|stored| matches!(stored.role, Role::State(_))).map(|stored| &stored.storage)
    }

    /// The states that are its own, in the order of [`Role::Shared`].
    pub(super) fn shared_states(&self) -> impl Iterator<Item = &Storage> {
        self.storage.iter().filter(|stored| matches!(stored.role, Role::Shared(_))).map(|stored| &stored.storage)
    }

    /// The states of each element, as kernels bind them: the index of each among the parameter's, and its name.
    pub(super) fn states_of_elements(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let states = self.states_of_parameters().enumerate();
        states.filter(|(_, state)| state.extent == Extent::Element).map(|(k, state)| (k, state.name))
    }

    /// What the elements' storage starts from: with parameter and gradient in front, or the states alone.
    pub(super) fn initial(&self, owned: bool) -> Vec<f64> {
        let elements = self.storage.iter().filter(|stored| stored.is_of_elements());
        elements.filter(|stored| owned || stored.is_beside()).map(|stored| stored.storage.initial).collect()
    }

    /// Whether a parameter of this length has states in blocks.
    pub(super) fn narrows(&self, len: usize) -> bool {
        self.precision.narrows(len) && self.storage.iter().any(|stored| stored.storage.format.is_scaled())
    }

    /// How a new parameter of this length stores it.
    pub(super) fn format_of(&self, storage: &Storage, len: usize) -> Format {
        if storage.format.is_scaled() && !self.narrows(len) { Format::F32 } else { storage.format }
    }

    /// What an arena's buffers of a storage are called and how they are stored: in blocks, if they are `narrow`.
    pub(super) fn kind(&self, storage: &Storage, narrow: bool) -> Kind {
        let format = if storage.format.is_scaled() && !narrow { Format::F32 } else { storage.format };
        let whole = format.is_scaled() || storage.name == MIRROR;
        Kind { label: format!("{} {}", self.rule.name(), storage.name), format, whole }
    }

    /// Arenas, while there is no parameter in them: a buffer for each storage of elements, and an arena for each other
    /// storage.
    pub(super) fn make_arenas(&mut self) {
        let arena = |narrow: bool, of: &dyn Fn(&Stored) -> bool| {
            let elements = self.storage.iter().filter(|stored| stored.is_of_elements() && of(stored));
            Arena::new(elements.map(|stored| self.kind(&stored.storage, narrow)).collect())
        };
        let arenas = [false, true]
            .map(|narrow| Arenas { owned: arena(narrow, &|_| true), states: arena(narrow, &Stored::is_beside) });
        let others = self.storage.iter().filter(|stored| !stored.is_of_elements());
        let others = others.map(|stored| Arena::new(vec![self.kind(&stored.storage, false)])).collect();
        (self.arenas, self.others) = (arenas, others);
    }

    /// The memory that has what this role is to a parameter, and its role there.
    pub(super) fn memory<'a>(&'a self, parameter: &'a Parameter, role: Role) -> (&'a Memory, Role) {
        match role {
            Role::Shared(k) => (&self.shared, Role::State(k)),
            _ => (&parameter.memory, role),
        }
    }

    /// A parameter's memory of this role on a GPU.
    pub(super) fn range<'a>(&'a self, parameter: &'a Parameter, role: Role) -> Option<&'a BufferRange> {
        let (memory, role) = self.memory(parameter, role);
        memory.range(role)
    }

    /// A state of its own on a GPU.
    pub(super) fn shared_range(&self, role: Role) -> Option<&BufferRange> {
        if let Role::Shared(k) = role { self.shared.range(Role::State(k)) } else { None }
    }

    /// The state that its rule's reduction keeps.
    pub(super) fn kept(&self) -> Option<Role> {
        let name = self.rule.reduce()?.keeps?;
        self.state(name).map(|stored| stored.role)
    }

    /// How many numbers of this role a parameter has.
    pub(super) fn len_of(&self, parameter: &Parameter, role: Role) -> usize {
        let (memory, role) = self.memory(parameter, role);
        memory.len(role).unwrap_or(parameter.len)
    }
}

impl Memory {
    /// Of this role, on a GPU.
    pub(super) fn range(&self, role: Role) -> Option<&BufferRange> {
        let Self::Gpu(tensor) = self else { return None };
        match role {
            Role::Parameter => tensor.parameter.as_ref(),
            Role::Gradient => tensor.gradient.as_ref(),
            Role::Mirror => tensor.mirror.as_ref(),
            Role::State(k) => tensor.states.get(k),
            Role::Shared(_) => None,
        }
    }

    /// How what has this role is stored; `None` for what is in the caller's slice.
    pub(super) fn format(&self, role: Role) -> Option<Format> {
        match (self, role) {
            (Self::Gpu(_), _) => self.range(role).map(|range| range.format),
            (Self::F32(vectors), Role::State(k)) => vectors.states.get(k).map(Numbers::format),
            (Self::F32(_), _) => Some(Format::F32),
            (Self::F64(_), _) => Some(Format::F64),
        }
    }

    /// How many numbers it has of this role; `None` for what is elsewhere, and for a gradient in 16 bits.
    fn len(&self, role: Role) -> Option<usize> {
        match self {
            Self::Gpu(_) => self.range(role).map(|range| range.len),
            Self::F32(vectors) => vectors.len(role),
            Self::F64(vectors) => vectors.len(role),
        }
    }
}

/// Refuses to write gradients that are only read.
pub(super) fn check_gradient_format(name: &str, format: Format, written: bool) -> Result<()> {
    if !written || format == Format::F32 {
        return Ok(());
    }
    let reason = "a gradient in 16 bits is only read: zero_grad, centralize, adaptive_clip and accumulation need f32";
    Err(Error::Unsupported { operation: "writing a gradient in a step", name: name.into(), reason })
}

impl<F: Real> HostMemory<F> {
    fn len(&self, role: Role) -> Option<usize> {
        if let Role::State(k) = role { self.states.get(k).map(Numbers::len) } else { self.of(role).map(<[F]>::len) }
    }

    /// Sets all of a state to this number.
    pub(super) fn fill(&mut self, role: Role, value: f64) {
        if let Role::State(k) = role
            && let Some(state) = self.states.get_mut(k)
        {
            *state = Numbers::filled(state.format(), state.len(), value);
        }
    }

    /// Of this role; `None` for what is in the caller's slice, or stored in blocks.
    pub(super) fn of(&self, role: Role) -> Option<&[F]> {
        match (role, &self.own) {
            (Role::State(k), _) => return self.states.get(k)?.same(),
            (Role::Parameter, Some(own)) => Some(&own.parameter),
            (Role::Gradient, Some(own)) if own.halves.is_none() => Some(&own.gradient),
            _ => None,
        }
        .map(Vec::as_slice)
    }

    pub(super) fn of_mut(&mut self, role: Role) -> Option<&mut [F]> {
        match (role, &mut self.own) {
            (Role::State(k), _) => self.states.get_mut(k)?.same_mut(),
            (Role::Parameter, Some(own)) => Some(&mut own.parameter),
            (Role::Gradient, Some(own)) if own.halves.is_none() => Some(&mut own.gradient),
            _ => None,
        }
        .map(Vec::as_mut_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{AdaGradNorm, NovoGrad};

    #[test]
    fn states_are_numbered_by_owner_in_the_order_of_the_list() {
        let listed = |rule: AnyRule| {
            let all =
                stored(&rule, true, Precision::block8()).into_iter().map(|stored| (stored.storage.name, stored.role));
            all.skip(2).collect::<Vec<_>>()
        };
        let novograd = [("exp_avg", Role::State(0)), ("exp_avg_sq", Role::State(1)), (AVERAGE, Role::State(2))];
        assert_eq!(listed(NovoGrad::default().into()), novograd);
        assert_eq!(listed(AdaGradNorm::default().into()), [("b", Role::Shared(0)), (AVERAGE, Role::State(0))]);
        let tensor = AdaGradNorm { over: Extent::Tensor, ..AdaGradNorm::default() };
        assert_eq!(listed(tensor.into()), [("b", Role::State(0)), (AVERAGE, Role::State(1))]);
    }
}
