//! How a number is stored, and what one stored number belongs to.

pub(crate) mod bf16;
pub(crate) mod block8;
pub(crate) mod draws;
mod f16;
mod f32;
mod halves;
mod relative8;
pub(crate) mod remainder;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub(crate) use block8::BLOCK;
pub use block8::Encoding;
pub(crate) use halves::store_halves;

/// How a number is stored. Arithmetic is always f32, and f64 on the CPU where parameters are f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64: on the CPU, and for what a group keeps there.
    F64,
    /// IEEE 754 binary16: of gradients and mirrors of parameters.
    F16,
    /// bfloat16, the upper half of an f32: of gradients, mirrors of parameters, parameters and states.
    Bf16,
    /// The lower 16 bits of an f32 parameter, beside its upper half in [`Format::Bf16`]: see
    /// [`Precision::exact_master`](crate::Precision::exact_master).
    Remainder,
    /// Eight bits for a signed state, in blocks of 256 elements from its tensor's start, each with its largest
    /// magnitude: the signed dynamic map of [bitsandbytes](https://arxiv.org/abs/2110.02861).
    Block8Signed,
    /// Eight bits for a state that is never below 0, with bitsandbytes' unsigned map.
    Block8Unsigned,
    /// Eight bits for a state that is never below 0, as the logarithm of what it is of its block's largest.
    Relative8,
}

impl Format {
    /// Bytes of a number of the smallest format.
    pub(crate) const SMALLEST: u64 = 1;

    /// Bytes of a number, without what is kept for its block.
    pub const fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
            Self::F16 | Self::Bf16 | Self::Remainder => 2,
            Self::Block8Signed | Self::Block8Unsigned | Self::Relative8 => 1,
        }
    }

    /// Whether its numbers are in blocks of 256, whose largest magnitudes are kept beside them as `f32`.
    pub const fn is_scaled(self) -> bool {
        matches!(self, Self::Block8Signed | Self::Block8Unsigned | Self::Relative8)
    }

    /// Bytes of a buffer for this many numbers, in whole blocks. The largest magnitudes lie behind all numbers.
    pub(crate) const fn bytes(self, len: u64) -> u64 {
        self.size() * len + if self.is_scaled() { 4 * len.div_ceil(BLOCK as u64) } else { 0 }
    }

    /// How many numbers a buffer of this many bytes holds, in whole words and blocks.
    pub(crate) const fn numbers(self, bytes: u64) -> u64 {
        match self.is_scaled() {
            true => bytes / self.bytes(BLOCK as u64) * BLOCK as u64,
            false => bytes / 4 * 4 / self.size(),
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Remainder => "remainder",
            Self::Block8Signed => "block8_signed",
            Self::Block8Unsigned => "block8_unsigned",
            Self::Relative8 => "relative8",
        }
    }

    /// A number of 16 bits, exactly.
    #[inline(always)]
    pub(crate) fn wide(self, half: u16) -> f32 {
        if self == Self::F16 { f16::wide(half) } else { bf16::wide(half) }
    }

    /// The nearest number of 16 bits, half to even.
    pub(crate) fn nearest(self, x: f64) -> u16 {
        if self == Self::F16 { f16::nearest(x) } else { bf16::nearest(x) }
    }

    /// The numbers of these codes and largest magnitudes, from the start of a block on.
    #[inline(always)]
    pub(crate) fn decode_blocks(self, codes: &[u8], absmax: &[f32], to: &mut [f32]) {
        for ((codes, to), &absmax) in codes.chunks(BLOCK).zip(to.chunks_mut(BLOCK)).zip(absmax) {
            match self {
                Self::Relative8 => relative8::decode(codes, absmax, to),
                _ => block8::decode(self == Self::Block8Signed, codes, absmax, to),
            }
        }
    }

    /// Finds codes and largest magnitudes of numbers, from the start of a block on. `random` gives 32 bits for each
    /// number.
    #[inline(always)]
    pub(crate) fn encode_blocks(
        self,
        from: &[f32],
        encoding: Encoding,
        random: impl Fn(usize) -> u32,
        codes: &mut [u8],
        absmax: &mut [f32],
    ) {
        let blocks = from.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)).zip(absmax);
        for (start, ((from, codes), absmax)) in (0..).step_by(BLOCK).zip(blocks) {
            let random = |k: usize| random(start + k);
            *absmax = match self {
                Self::Relative8 => relative8::encode(from, encoding, random, codes),
                _ => block8::encode(self == Self::Block8Signed, from, encoding, random, codes),
            };
        }
    }

    /// Of [blocks](Self::is_scaled): the number of each code, where the largest magnitude is 1.
    pub(crate) fn map(self) -> Vec<f32> {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        self.decode(&codes, &[1.0]).into_owned()
    }

    /// These numbers as they are stored, each the nearest; of blocks, the codes and the largest magnitudes.
    pub(crate) fn encode(self, values: &[f32]) -> (Cow<'_, [u8]>, Vec<f32>) {
        let bytes = match self {
            Self::F32 => Cow::Borrowed(bytemuck::cast_slice(values)),
            Self::F64 => Cow::Owned(values.iter().flat_map(|&x| f64::from(x).to_ne_bytes()).collect()),
            Self::F16 => Cow::Owned(f16::encode(values)),
            Self::Bf16 => Cow::Owned(bf16::encode(values)),
            Self::Remainder => Cow::Owned(remainder::lowers(values)),
            Self::Block8Signed | Self::Block8Unsigned | Self::Relative8 => {
                let (mut codes, mut absmax) = (vec![0; values.len()], vec![0.0; values.len().div_ceil(BLOCK)]);
                self.encode_blocks(values, Encoding::Nearest, |_| 0, &mut codes, &mut absmax);
                return (Cow::Owned(codes), absmax);
            }
        };
        (bytes, Vec::new())
    }

    /// Stored numbers, each rounded to `f32` once; `absmax` are the largest magnitudes of blocks.
    pub(crate) fn decode<'a>(self, bytes: &'a [u8], absmax: &[f32]) -> Cow<'a, [f32]> {
        match self {
            Self::F32 => {
                let aligned = bytemuck::try_cast_slice(bytes).map(Cow::Borrowed);
                aligned.unwrap_or_else(|_| Cow::Owned(bytemuck::pod_collect_to_vec(bytes)))
            }
            Self::F64 => bytemuck::pod_collect_to_vec::<_, f64>(bytes).into_iter().map(|x| x as f32).collect(),
            Self::F16 => Cow::Owned(f16::decode(bytes)),
            Self::Bf16 => Cow::Owned(bf16::decode(bytes)),
            // Without their upper halves, which are elsewhere.
            Self::Remainder => Cow::Owned(remainder::joined(&vec![0; bytes.len()], bytes)),
            Self::Block8Signed | Self::Block8Unsigned | Self::Relative8 => {
                let mut values = vec![0.0; bytes.len()];
                self.decode_blocks(bytes, absmax, &mut values);
                Cow::Owned(values)
            }
        }
    }

    /// Its WGSL. No shader has f64: on a GPU all numbers are f32 unless they are narrower.
    fn wgsl(self) -> &'static Wgsl {
        match self {
            Self::F32 | Self::F64 => &f32::WGSL,
            Self::F16 => &f16::WGSL,
            Self::Bf16 => &bf16::WGSL,
            Self::Remainder => &remainder::WGSL,
            Self::Block8Signed => &block8::SIGNED_WGSL,
            Self::Block8Unsigned => &block8::UNSIGNED_WGSL,
            Self::Relative8 => &relative8::WGSL,
        }
    }

    /// The texts that define what a buffer of this format holds, and how a lane of it is decoded.
    pub(crate) fn shader(self) -> &'static [&'static str] {
        self.wgsl().texts
    }

    /// What a buffer holds for a lane.
    pub(crate) fn lane_type(self, lane: Lane) -> &'static str {
        match lane {
            Lane::Four => self.wgsl().four,
            Lane::Tail | Lane::Gathered => self.wgsl().one,
        }
    }

    /// The expression that loads lane `at` of this buffer. That of [`Lane::Gathered`] stands in a function with
    /// `at: At`, and `at` here is one of its fields.
    pub(crate) fn load(self, lane: Lane, buffer: &str, at: &str) -> String {
        let one = |k: u32| (self.wgsl().load)(Lane::Tail, buffer, &format!("{at} + min({k}u, last_of(at))"));
        match lane {
            Lane::Gathered => format!("vec4({})", [0, 1, 2, 3].map(one).join(", ")),
            _ => (self.wgsl().load)(lane, buffer, at),
        }
    }

    /// Of [blocks](Self::is_scaled): the expression of four numbers of this word, of a block with this largest
    /// magnitude.
    pub(crate) fn load_block(self, word: &str, absmax: &str) -> String {
        (self.wgsl().load)(Lane::Four, word, absmax)
    }

    /// Of [blocks](Self::is_scaled): the statement that stores `x` in this word. `random` is a variable there.
    pub(crate) fn store_block(self, word: &str, absmax: &str, x: &str) -> String {
        (self.wgsl().store)(Lane::Four, word, absmax, x)
    }

    /// The statements that store `x` in lane `at` of this buffer; of [`Lane::Gathered`], the elements that are the
    /// tensor's.
    pub(crate) fn store(self, lane: Lane, buffer: &str, at: &str, x: &str) -> String {
        let one = |k: u32| {
            let store = (self.wgsl().store)(Lane::Tail, buffer, &format!("{at} + {k}u"), &format!("{x}[{k}]"));
            format!("if {k}u <= last_of(at) {{ {store} }}")
        };
        match (lane, self) {
            (Lane::Gathered, Self::F32 | Self::F64) => [0, 1, 2, 3].map(one).join(" "),
            _ => (self.wgsl().store)(lane, buffer, at, x),
        }
    }
}

/// A format in WGSL.
struct Wgsl {
    /// `shaders/formats/*.wgsl`.
    texts: &'static [&'static str],
    /// What a buffer holds for four numbers, and for one.
    four: &'static str,
    one: &'static str,
    load: fn(Lane, &str, &str) -> String,
    store: fn(Lane, &str, &str, &str) -> String,
}

/// Elements that a thread takes at a time: four, or one of the up to three that are left at the end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// `vec4<f32>`.
    Four,
    /// `f32`, for the elements behind the last whole four.
    Tail,
    /// `vec4<f32>` whose elements are loaded and stored one by one, and may begin anywhere: in passes that measure, and
    /// beside states in blocks.
    Gathered,
}

impl Lane {
    /// How many elements it is.
    pub(crate) const fn elements(self) -> u64 {
        if matches!(self, Self::Tail) { 1 } else { 4 }
    }

    /// How many indices of a buffer it takes.
    pub(crate) const fn indices(self) -> u64 {
        if matches!(self, Self::Gathered) { 4 } else { 1 }
    }

    /// The index of a buffer at which this element lies.
    pub(crate) const fn index(self, element: u64) -> u32 {
        (element * self.indices() / self.elements()) as u32
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

impl Extent {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Element => "element",
            Self::Row => "row",
            Self::Column => "column",
            Self::Tensor => "tensor",
            Self::Group => "group",
        }
    }

    /// How many numbers there are for a tensor of this many elements and this shape, rows and columns. A tensor without
    /// a shape is one row.
    pub fn len(self, elements: usize, shape: Option<[usize; 2]>) -> usize {
        let [rows, columns] = shape.unwrap_or([1, elements]);
        match self {
            Self::Element => elements,
            Self::Row => rows,
            Self::Column => columns,
            Self::Tensor | Self::Group => 1,
        }
    }
}

/// One kind of memory of a group: its parameters, their gradients, a state that its rule keeps, or the average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Storage {
    /// Its name. A state has that of PyTorch's `state_dict`.
    pub name: &'static str,
    /// What one of its numbers belongs to.
    pub extent: Extent,
    /// How its numbers are stored on a GPU. On the CPU they have the parameter's type, and those of a group are `f64`.
    pub format: Format,
    /// What they start from.
    pub initial: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_has_as_many_numbers_as_there_are_of_it() {
        let of = |extent: Extent| [None, Some([2, 3]), Some([6, 1])].map(|shape| extent.len(6, shape));
        assert_eq!(of(Extent::Element), [6, 6, 6]);
        assert_eq!(of(Extent::Row), [1, 2, 6]);
        assert_eq!(of(Extent::Column), [6, 3, 1]);
        assert_eq!((of(Extent::Tensor), of(Extent::Group)), ([1; 3], [1; 3]));
    }

    #[test]
    fn numbers_are_stored_and_come_back() {
        let values = [0.1, -0.0, f32::MAX, f32::INFINITY, f32::MIN_POSITIVE / 2.0];
        // Those that have eight bits.
        let short = [1.5, -0.0, 0.5078125, f32::INFINITY, f32::MIN_POSITIVE / 2.0];
        let half = [1.5, -0.0, 0.5078125, f32::INFINITY, 2f32.powi(-24)];
        for (format, values) in
            [(Format::F32, values), (Format::F64, values), (Format::Bf16, short), (Format::F16, half)]
        {
            let (bytes, _) = format.encode(&values);
            assert!(format.size() >= Format::SMALLEST);
            assert_eq!(bytes.len() as u64, format.size() * values.len() as u64);
            let bits = |x: &f32| x.to_bits();
            assert!(format.decode(&bytes, &[]).iter().map(bits).eq(values.iter().map(bits)), "{}", format.name());
        }
    }

    /// What a checkpoint says is the name.
    #[test]
    fn names_are_those_of_files() {
        let narrow = [
            Format::F16,
            Format::Bf16,
            Format::Remainder,
            Format::Block8Signed,
            Format::Block8Unsigned,
            Format::Relative8,
        ];
        for format in [Format::F32, Format::F64].into_iter().chain(narrow) {
            assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{}\"", format.name()));
        }
        for extent in [Extent::Element, Extent::Row, Extent::Column, Extent::Tensor, Extent::Group] {
            assert_eq!(serde_json::to_string(&extent).unwrap(), format!("\"{}\"", extent.name()));
        }
    }
}
