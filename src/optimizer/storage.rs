//! What a group keeps: the list of its storage, and where each of it is.

use super::{Arenas, Group, HostMemory, Memory, Parameter};
use crate::any_rule::AnyRule;
use crate::cpu::Numbers;
use crate::error::{Error, Result};
use crate::formats::{Extent, Format, Storage};
use crate::gpu::arena::{Arena, Kind};
use crate::gpu::kernel::{self, MIRROR, REMAINDER};
use crate::gpu::memory::BufferRange;
use crate::precision::Precision;
use crate::rule::Real;
use crate::settings::Settings;

/// Which memory of a parameter a storage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Parameter,
    Gradient,
    /// What 16 bits are beside the parameter on a GPU: its mirror, or what a parameter in bf16 lacks of f32.
    Beside,
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
        self.is_state() || self.role == Role::Beside
    }
}

/// The average of a parameter: the last of its states. Which one that is depends on the others.
pub(super) const AVERAGE: Stored = Stored { role: Role::State(usize::MAX), storage: of_elements(kernel::AVERAGE) };

const fn of_elements(name: &'static str) -> Storage {
    Storage { name, extent: Extent::Element, format: Format::F32, initial: 0.0 }
}

/// All storage of a group: parameter, gradient, what is beside the parameter, the rule's states, the average. States of
/// elements have the format of a long parameter's, and those that are no moments f32.
pub(super) fn stored(rule: &AnyRule, averages: bool, precision: Precision) -> Vec<Stored> {
    let parameter = Storage { format: precision.parameters, ..of_elements("parameter") };
    let parameter = Stored { role: Role::Parameter, storage: parameter };
    let gradient = Storage { format: precision.gradients, ..of_elements("gradient") };
    let gradient = Stored { role: Role::Gradient, storage: gradient };
    let beside = |format| {
        let name = if format == Format::Remainder { REMAINDER } else { MIRROR };
        Stored { role: Role::Beside, storage: Storage { format, ..of_elements(name) } }
    };
    let average = averages.then_some(AVERAGE.storage);
    let (mut states, mut shared) = (0.., 0..);
    let state = |storage: Storage| {
        let role = match storage.extent {
            Extent::Group => Role::Shared(shared.next().unwrap_or_default()),
            _ => Role::State(states.next().unwrap_or_default()),
        };
        Stored { role, storage }
    };
    let of_rule = rule.storage().into_iter().enumerate().map(|(k, storage)| match storage.extent {
        Extent::Element if rule.description().is_moment(storage.name) => {
            Storage { format: precision.of_state(k, rule.description().signed(storage.name)), ..storage }
        }
        _ => storage,
    });
    let beside = precision.beside().map(beside);
    [parameter, gradient].into_iter().chain(beside).chain(of_rule.chain(average).map(state)).collect()
}

/// How an update's ranges are stored, in the order in which it binds them.
pub(crate) fn formats(rule: &AnyRule, averages: bool, precision: Precision) -> Vec<Format> {
    let storage = stored(rule, averages, precision);
    let elements = storage.iter().filter(|stored| stored.is_of_elements() && stored.role != Role::Beside);
    elements.map(|stored| stored.storage.format).chain(precision.beside()).collect()
}

/// How the ranges are stored that a norm-based rule measures.
pub(crate) fn measured_formats(rule: &AnyRule, precision: Precision) -> Vec<Format> {
    let storage = stored(rule, false, precision);
    let reads = rule.reduce().map_or(&[][..], |reduce| reduce.reads);
    let states = storage.iter().filter(|stored| stored.is_state() && reads.contains(&stored.storage.name));
    let remainder = precision.beside().filter(|format| *format == Format::Remainder);
    let both = [precision.parameters, precision.gradients].into_iter();
    both.chain(states.map(|stored| stored.storage.format)).chain(remainder).collect()
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
    pub(super) fn kind(&self, Stored { role, storage }: &Stored, narrow: bool) -> Kind {
        let format = if storage.format.is_scaled() && !narrow { Format::F32 } else { storage.format };
        let whole = format.size() < 4 && !matches!(role, Role::Parameter | Role::Gradient);
        Kind { label: format!("{} {}", self.rule.name(), storage.name), format, whole }
    }

    /// Arenas, while there is no parameter in them: a buffer for each storage of elements, and an arena for each other
    /// storage.
    pub(super) fn make_arenas(&mut self) {
        let arena = |narrow: bool, of: &dyn Fn(&Stored) -> bool| {
            let elements = self.storage.iter().filter(|stored| stored.is_of_elements() && of(stored));
            Arena::new(elements.map(|stored| self.kind(stored, narrow)).collect())
        };
        let arenas = [false, true]
            .map(|narrow| Arenas { owned: arena(narrow, &|_| true), states: arena(narrow, &Stored::is_beside) });
        let others = self.storage.iter().filter(|stored| !stored.is_of_elements());
        let others = others.map(|stored| Arena::new(vec![self.kind(stored, false)])).collect();
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
            Role::Beside => tensor.beside.as_ref(),
            Role::State(k) => tensor.states.get(k),
            Role::Shared(_) => None,
        }
    }

    /// How what has this role is stored; `None` for what is in the caller's slice.
    pub(super) fn format(&self, role: Role) -> Option<Format> {
        match (self, role) {
            (Self::Gpu(_), _) => self.range(role).map(|range| range.format),
            (Self::F32(vectors), _) => vectors.numbers(role).map(Numbers::format),
            (Self::F64(vectors), _) => vectors.numbers(role).map(Numbers::format),
        }
    }

    /// How many numbers it has of this role; `None` for what is elsewhere.
    fn len(&self, role: Role) -> Option<usize> {
        match self {
            Self::Gpu(_) => self.range(role).map(|range| range.len),
            Self::F32(vectors) => vectors.numbers(role).map(Numbers::len),
            Self::F64(vectors) => vectors.numbers(role).map(Numbers::len),
        }
    }
}

/// Refuses settings that these formats do not have.
pub(super) fn check_formats(precision: Precision, settings: &Settings) -> Result<()> {
    check_gradient_format("the group", precision.gradients, settings.reshapes())?;
    match settings.adaptive_clip.is_some() && precision.parameters != Format::F32 {
        true => {
            let (name, reason) = ("the group".into(), "parameters in bf16 have no adaptive_clip");
            Err(Error::Unsupported { operation: "adaptive_clip", name, reason })
        }
        false => Ok(()),
    }
}

/// Refuses to write numbers to gradients in 16 bits; a step may clear them.
pub(super) fn check_gradient_format(name: &str, format: Format, rewritten: bool) -> Result<()> {
    if !rewritten || format == Format::F32 {
        return Ok(());
    }
    let reason = "a gradient in 16 bits is read or cleared: centralize, adaptive_clip and accumulation need f32";
    Err(Error::Unsupported { operation: "writing a gradient in a step", name: name.into(), reason })
}

impl<F: Real> HostMemory<F> {
    /// Of this role; `None` for what is in the caller's slice.
    pub(super) fn numbers(&self, role: Role) -> Option<&Numbers<F>> {
        match (role, &self.own) {
            (Role::State(k), _) => self.states.get(k),
            (Role::Parameter, Some(own)) => Some(&own.parameter),
            (Role::Gradient, Some(own)) => Some(&own.gradient),
            _ => None,
        }
    }

    pub(super) fn numbers_mut(&mut self, role: Role) -> Option<&mut Numbers<F>> {
        match (role, &mut self.own) {
            (Role::State(k), _) => self.states.get_mut(k),
            (Role::Parameter, Some(own)) => Some(&mut own.parameter),
            (Role::Gradient, Some(own)) => Some(&mut own.gradient),
            _ => None,
        }
    }

    /// Sets all of it to this number.
    pub(super) fn fill(&mut self, role: Role, value: f64) {
        self.numbers_mut(role).into_iter().for_each(|numbers| numbers.fill(value));
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
        let novograd = [("exp_avg", Role::State(0)), ("exp_avg_sq", Role::State(1)), (kernel::AVERAGE, Role::State(2))];
        assert_eq!(listed(NovoGrad::default().into()), novograd);
        assert_eq!(listed(AdaGradNorm::default().into()), [("b", Role::Shared(0)), (kernel::AVERAGE, Role::State(0))]);
        let tensor = AdaGradNorm { over: Extent::Tensor, ..AdaGradNorm::default() };
        assert_eq!(listed(tensor.into()), [("b", Role::State(0)), (kernel::AVERAGE, Role::State(1))]);
    }
}
