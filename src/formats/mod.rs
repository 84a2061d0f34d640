//! How a number is stored, and what one stored number belongs to.

use serde::{Deserialize, Serialize};

/// How a number is stored. Arithmetic is always f32, and f64 on the CPU where parameters are f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64: on the CPU, and for what a group keeps there.
    F64,
}

impl Format {
    /// Bytes of a number.
    pub const fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// What one stored number belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Extent {
    /// One element of a parameter.
    Element,
    /// A row of a matrix.
    Row,
    /// A column of a matrix.
    Column,
    /// A parameter's whole tensor.
    Tensor,
    /// All parameters of a group.
    Group,
}

/// One kind of memory that a rule keeps: a state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Storage {
    /// The state's name, as PyTorch's `state_dict` has it.
    pub name: &'static str,
    /// What one of its numbers belongs to.
    pub extent: Extent,
    /// How its numbers are stored on a GPU.
    pub format: Format,
    /// What they start from.
    pub initial: f64,
}
