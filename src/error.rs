//! The one error type. This file knows no other of the crate.

use std::fmt;

/// What can go wrong between a gradient and an updated parameter.
///
/// Parameters, gradients, state and step counts are then as they were before the call. (A device that is lost, or runs
/// out of memory in the middle of a large write, or a file whose end cannot be read, may have taken a part of it.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter answered.
    #[error("no GPU adapter was found: {reason}")]
    NoAdapter {
        /// What was looked for, and what there was.
        reason: String,
    },
    /// The adapter would not make a device; the reason names the limit or the feature.
    #[error("`{adapter}` refused the device: {reason}")]
    DeviceRefused {
        /// Name of the adapter.
        adapter: String,
        /// wgpu's reason.
        reason: String,
    },
    /// A rule's shader did not compile.
    #[error("the shader of `{rule}` was rejected{}: {message}", line.map(|l| format!(" at line {l}")).unwrap_or_default())]
    Shader {
        /// Name of the rule.
        rule: String,
        /// Line of the rule's own `.wgsl` text, where the compiler named one.
        line: Option<u32>,
        /// The compiler's message.
        message: String,
    },
    /// A slice or a range has another length than the parameter.
    #[error("`{name}` holds {expected} elements but {found} were given")]
    Length {
        /// The parameter.
        name: String,
        /// Elements that the parameter has.
        expected: usize,
        /// Elements that were given.
        found: usize,
    },
    /// No parameter has this name or handle (it may have been removed).
    #[error("there is no parameter {name}")]
    UnknownParameter {
        /// The name, or the handle's number.
        name: String,
    },
    /// The rule of this parameter keeps no such state.
    #[error("`{parameter}` has no state `{state}`, only {known:?}")]
    UnknownState {
        /// The parameter.
        parameter: String,
        /// The state that was asked for.
        state: String,
        /// The states that its rule keeps.
        known: Vec<&'static str>,
    },
    /// The optimizer has no such parameter group.
    #[error("there is no group {index}: the optimizer has {groups}")]
    UnknownGroup {
        /// The group that was asked for.
        index: usize,
        /// How many there are.
        groups: usize,
    },
    /// No rule has this name.
    #[error("there is no rule `{name}`; known: {known}")]
    UnknownRule {
        /// The name that was asked for.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// A caller's buffer lacks a usage flag.
    #[error("the buffer of `{name}` needs {usage:?}, it was created with {found:?}")]
    MissingUsage {
        /// The parameter or gradient.
        name: String,
        /// The flags that are needed.
        usage: wgpu::BufferUsages,
        /// The flags that it has.
        found: wgpu::BufferUsages,
    },
    /// Two ranges of one buffer overlap, and one of them is written.
    #[error("{a} and {b} overlap in one buffer")]
    Overlap {
        /// One range.
        a: String,
        /// The other range.
        b: String,
    },
    /// An offset is no multiple of what the device demands.
    #[error("`{name}` starts at byte {offset}, which is not a multiple of {alignment}")]
    Misaligned {
        /// The parameter or gradient.
        name: String,
        /// Its offset in bytes.
        offset: u64,
        /// The alignment in bytes.
        alignment: u64,
    },
    /// A range ends beyond its buffer.
    #[error("`{name}` ends at byte {end} of a buffer of {size} bytes")]
    OutOfBounds {
        /// The parameter or gradient.
        name: String,
        /// Where the range ends, in bytes.
        end: u64,
        /// Size of the buffer in bytes.
        size: u64,
    },
    /// The device cannot do this within its limits.
    #[error("`{name}` needs {limit} = {needed}, this device has {available}")]
    OverLimit {
        /// The parameter or rule.
        name: String,
        /// wgpu's name of the limit.
        limit: &'static str,
        /// What is needed.
        needed: u64,
        /// What the device has.
        available: u64,
    },
    /// A hyperparameter is outside its range.
    #[error("{name} = {value} is outside {range}")]
    Hyperparameter {
        /// Its name.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The range, in words.
        range: &'static str,
    },
    /// A schedule could not be read.
    #[error("`{text}` is not a schedule: {reason}")]
    Schedule {
        /// What was read.
        text: String,
        /// The mistake and its place.
        reason: String,
    },
    /// Two parameters would have one name.
    #[error("a parameter `{name}` exists already")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A slice of one element type was given where the parameter has another.
    #[error("`{name}` holds {expected}, {found} was given")]
    ElementType {
        /// The parameter.
        name: String,
        /// Type of its elements.
        expected: &'static str,
        /// Type of the slice.
        found: &'static str,
    },
    /// The operation is not for this parameter's kind of memory or device.
    #[error("{operation} is not possible for `{name}`: {reason}")]
    Unsupported {
        /// What was asked for.
        operation: &'static str,
        /// The parameter, rule or group.
        name: String,
        /// Why it cannot be done.
        reason: &'static str,
    },
    /// Too many recorded steps have not finished on the GPU, or their outcomes are needed and not known yet.
    #[error(
        "{limit} recorded steps have not finished on the GPU: submit them, and wait, for a step by `room`, else by `settle`"
    )]
    TooManyStepsInFlight {
        /// How many may be in flight, or how many are not known.
        limit: usize,
    },
    /// The device was lost: a new device, a new optimizer and a checkpoint are needed. Every call that needs the device
    /// returns this; calls that only concern the host, such as [`Optimizer::report`](crate::Optimizer::report), still
    /// answer.
    #[error("the GPU device was lost")]
    DeviceLost,
    /// A file or a stream could not be read or written.
    #[error("{file}: {source}")]
    Io {
        /// Its path.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is no checkpoint, or a damaged one, or one of another version.
    #[error("no checkpoint to load: {reason}")]
    Checkpoint {
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint is of another optimizer than this one.
    #[error("the checkpoint is of another optimizer: {0}")]
    Mismatch(Mismatch),
    /// Reading back from the GPU failed.
    #[error("`{name}` could not be read back: {reason}")]
    ReadBack {
        /// What was read.
        name: String,
        /// wgpu's reason.
        reason: String,
    },
    /// wgpu refused an operation: out of memory, or a buffer that is destroyed or another device's.
    #[error("the GPU refused {operation}: {reason}")]
    Rejected {
        /// What was tried.
        operation: &'static str,
        /// wgpu's message.
        reason: String,
    },
}

impl Error {
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { file: path.display().to_string(), source }
    }

    pub(crate) fn stream(source: std::io::Error) -> Self {
        Self::Io { file: "the checkpoint".into(), source }
    }
}

/// Where a file and an optimizer differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters and tensors that only the optimizer has.
    pub missing: Vec<String>,
    /// Parameters and tensors that only the file has.
    pub unexpected: Vec<String>,
    /// What both have and what does not fit, with a description of both.
    pub different: Vec<String>,
}

impl Mismatch {
    /// Whether file and optimizer agree.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.different.is_empty()
    }

    /// Puts each list in order, without repetitions.
    pub(crate) fn sort(&mut self) {
        for list in [&mut self.missing, &mut self.unexpected, &mut self.different] {
            list.sort();
            list.dedup();
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [("missing", &self.missing), ("unexpected", &self.unexpected), ("different", &self.different)];
        let said: Vec<_> = lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(what, list)| format!("{} {what}: {}", list.len(), list.join(", ")))
            .collect();
        f.write_str(&said.join("; "))
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `Ok` if `inside`, else the [`Error::Hyperparameter`] that names the value: for [`Rule::check`](crate::Rule::check).
///
/// # Errors
/// [`Error::Hyperparameter`].
pub fn require(inside: bool, name: &'static str, value: f64, range: &'static str) -> Result<()> {
    if inside { Ok(()) } else { Err(Error::Hyperparameter { name, value, range }) }
}

/// Whether a number is 0 or normal in f32: a device may flush others to 0.
pub(crate) fn in_f32(x: f64) -> bool {
    x == 0.0 || (x.abs() >= f64::from(f32::MIN_POSITIVE) && x.abs() <= f64::from(f32::MAX))
}

/// [`require`] for a number that is 0, or above 0 and normal in f32.
pub(crate) fn at_least_0(name: &'static str, x: f64) -> Result<()> {
    require(x >= 0.0 && in_f32(x), name, x, "0, or 1.2e-38 to 3.4e38")
}
