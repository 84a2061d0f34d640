//! How a number is stored, and what one stored number belongs to.

mod f32;

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

    /// Its WGSL. No shader has f64: on a GPU all numbers are f32 unless they are narrower.
    fn wgsl(self) -> &'static Wgsl {
        match self {
            Self::F32 | Self::F64 => &f32::WGSL,
        }
    }

    /// The text that defines what a buffer of this format holds, and how a lane of it is decoded.
    pub(crate) fn shader(self) -> &'static str {
        self.wgsl().text
    }

    /// What a buffer holds for a lane.
    pub(crate) fn lane_type(self, lane: Lane) -> &'static str {
        match lane {
            Lane::Four => self.wgsl().four,
            Lane::Tail => self.wgsl().one,
        }
    }

    /// The expression that loads lane `at` of this buffer.
    pub(crate) fn load(self, lane: Lane, buffer: &str, at: &str) -> String {
        (self.wgsl().load)(lane, buffer, at)
    }

    /// The statement that stores `x` in lane `at` of this buffer.
    pub(crate) fn store(self, lane: Lane, buffer: &str, at: &str, x: &str) -> String {
        (self.wgsl().store)(lane, buffer, at, x)
    }
}

/// A format in WGSL.
struct Wgsl {
    /// `shaders/formats/*.wgsl`.
    text: &'static str,
    /// What a buffer holds for four numbers, and for one.
    four: &'static str,
    one: &'static str,
    load: fn(Lane, &str, &str) -> String,
    store: fn(Lane, &str, &str, &str) -> String,
}

/// Elements that a thread updates: four, or one of the up to three that are left at the end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// `vec4<f32>`.
    Four,
    /// `f32`, for the elements behind the last whole four.
    Tail,
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
