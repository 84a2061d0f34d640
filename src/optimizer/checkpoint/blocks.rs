//! States in blocks of 256 in a file: codes as bytes under the state's name, and the largest magnitude of each block. A
//! file is also loaded where states are stored in another way: they are decoded, and rounded to the nearest.

use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use safetensors::Dtype;

use super::configuration::Configuration;
use super::header::{Header, Tensor};
use super::{Entry, Target, numbers};
use crate::bitsandbytes;
use crate::cpu::Numbers;
use crate::error::{Error, Result};
use crate::formats::{BLOCK, Format};
use crate::optimizer::storage::Role;
use crate::optimizer::{Memory, Optimizer};

/// What follows a state's name where its blocks' largest magnitudes are.
pub(super) const ABSMAX: &str = "_absmax";

/// How a file has a state in blocks.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    map: Mapping,
    absmax: Tensor,
}

/// What its codes mean.
#[derive(Clone, Debug)]
enum Mapping {
    Format(Format),
    /// Of another library: the number of each code, where the largest magnitude is 1.
    Codes(Vec<f32>),
}

impl Mapping {
    /// That of a file's map: ours, if it is within two units in the last place. Others compute it in f32, with
    /// roundings that differ between machines.
    fn of(map: Vec<f32>) -> Self {
        let near = |(a, b): (&f32, &f32)| a == b || (a.to_bits().abs_diff(b.to_bits()) <= 2);
        let ours = [Format::Block8Signed, Format::Block8Unsigned];
        match ours.into_iter().find(|format| format.map().iter().zip(&map).all(near)) {
            Some(format) => Self::Format(format),
            None => Self::Codes(map),
        }
    }

    fn decode(&self, codes: &[u8], absmax: &[f32]) -> Vec<f32> {
        match self {
            Self::Format(format) => format.decode(codes, absmax).into_owned(),
            Self::Codes(map) => {
                let of = |(at, code): (usize, &u8)| map[usize::from(*code)] * absmax[at / BLOCK];
                codes.iter().enumerate().map(of).collect()
            }
        }
    }
}

impl Blocks {
    /// Finds largest magnitudes that are none, before anything of a file is loaded.
    pub(super) fn check(&self, file: &mut (impl Read + Seek), name: &str) -> Result<()> {
        file.seek(SeekFrom::Start(self.absmax.start)).map_err(Error::stream)?;
        let mut room = vec![0u32; self.absmax.len.min(1 << 16)];
        for start in (0..self.absmax.len).step_by(1 << 16) {
            let bits = &mut room[..(self.absmax.len - start).min(1 << 16)];
            file.read_exact(bytemuck::cast_slice_mut(bits)).map_err(Error::stream)?;
            if bits.iter().any(|bits| *bits >= f32::INFINITY.to_bits()) {
                let reason = format!("a largest magnitude of {name} is below 0 or not finite");
                return Err(Error::Checkpoint { reason });
            }
        }
        Ok(())
    }
}

impl Entry {
    /// The largest magnitudes of this state in blocks.
    pub(super) fn absmax(&self) -> Option<Self> {
        let Target::Of(id, role) = self.target else { return None };
        let len = self.len.div_ceil(BLOCK);
        let name = format!("{}{ABSMAX}", self.name);
        Some(Self { name, target: Target::Absmax(id, role), len, dtype: Dtype::F32, shape: vec![len] })
    }
}

impl Optimizer {
    /// How the file has a tensor of codes; `None` if it does not say all that is needed.
    pub(super) fn blocks_of(&self, entry: &Entry, header: &Header, file: &Configuration) -> Option<Blocks> {
        let Target::Of(id, role) = entry.target else { return None };
        let parameter = self.parameters.get(&id)?;
        let state = self.groups[parameter.group].storage_of(role)?.name;
        let format = file.format(parameter.group, state).filter(|format| format.is_scaled())?;
        let absmax = header.tensor(&format!("{}{ABSMAX}", entry.name))?;
        let fits = absmax.len == entry.len.div_ceil(BLOCK) && absmax.dtype == Dtype::F32;
        fits.then_some(Blocks { map: Mapping::Format(format), absmax })
    }

    /// A state as bitsandbytes has it, of the parameter that it calls so. `two_rows`: its first state is AdEMAMix'.
    pub(super) fn bitsandbytes_state(
        file: &mut (impl Read + Seek),
        header: &Header,
        parameter: &str,
        (state, len, two_rows): (&str, usize, bool),
    ) -> Result<Option<(Tensor, Option<Blocks>)>> {
        let Some((number, row)) = bitsandbytes::place(state) else { return Ok(None) };
        let tensor = |of: &str| {
            let name = format!("{parameter}.{of}{number}");
            let (first, slow) = (header.tensor(&name), header.tensor(&format!("{name}{}", bitsandbytes::SLOW)));
            match (two_rows && number == 1, slow) {
                (true, Some(slow)) => {
                    if row == 1 {
                        Some(slow)
                    } else {
                        first
                    }
                }
                (true, None) => first?.row(row),
                (false, _) => first,
            }
        };
        let Some(found) = tensor("state") else { return Ok(None) };
        if found.dtype != Dtype::U8 {
            return Ok(Some((found, None)));
        }
        let absmax = tensor("absmax").filter(|absmax| absmax.dtype == Dtype::F32);
        let map = header.tensor(&format!("{parameter}.qmap{number}"));
        let map = map.filter(|map| (map.dtype, map.len) == (Dtype::F32, 256));
        let (Some(absmax), Some(map)) = (absmax.filter(|absmax| absmax.len == len.div_ceil(BLOCK)), map) else {
            return Ok(Some((found, None)));
        };
        let mut numbers = vec![0f32; 256];
        file.seek(SeekFrom::Start(map.start)).map_err(Error::stream)?;
        file.read_exact(bytemuck::cast_slice_mut(&mut numbers)).map_err(Error::stream)?;
        if let Some(wrong) = numbers.iter().find(|x| !x.is_finite()) {
            return Err(Error::Checkpoint { reason: format!("{parameter}.qmap{number} has {wrong}") });
        }
        Ok(Some((found, Some(Blocks { map: Mapping::of(numbers), absmax }))))
    }

    /// The entry as what the file has of it is loaded: codes as codes only into the same format.
    pub(super) fn loaded_as(&self, entry: &Entry, blocks: Option<&Blocks>) -> Entry {
        let here = self.format_here(entry);
        let same = |blocks: &Blocks| matches!(blocks.map, Mapping::Format(format) if Some(format) == here);
        let same = blocks.is_some_and(same);
        let dtype = if entry.dtype == Dtype::U8 && !same { Dtype::F32 } else { entry.dtype };
        Entry { dtype, ..entry.clone() }
    }

    /// How the state is stored here.
    fn format_here(&self, entry: &Entry) -> Option<Format> {
        let (memory, role) = self.memory(entry.target)?;
        memory.format(role)
    }

    /// Codes or largest magnitudes of a piece of a state in blocks.
    pub(super) async fn take_blocks(&self, entry: &Entry, piece: Range<usize>) -> Result<Cow<'_, [u8]>> {
        if let Some((Memory::F32(vectors), Role::State(k))) = self.memory(entry.target) {
            let reason = "it is not stored in blocks";
            return match (vectors.states.get(k), entry.target) {
                (Some(Numbers::Blocks { absmax, .. }), Target::Absmax(..)) => {
                    Ok(Cow::Borrowed(bytemuck::cast_slice(&absmax[piece])))
                }
                (Some(Numbers::Blocks { codes, .. }), _) => Ok(Cow::Borrowed(&codes[piece])),
                _ => Err(Error::Unsupported { operation: "saving", name: entry.name.clone(), reason }),
            };
        }
        let (range, gpu) = self.range_of(entry)?;
        let elements = piece.start as u64..piece.end as u64;
        let bytes = match entry.target {
            Target::Absmax(..) => {
                let absmax = range.absmax().map(|absmax| absmax.part(elements));
                gpu.read_bytes(absmax.as_ref().unwrap_or(range), &entry.name).await?
            }
            _ => gpu.read_bytes(&range.part(elements), &entry.name).await?,
        };
        Ok(Cow::Owned(bytes))
    }

    /// Sets a piece of a state from a file's codes.
    pub(super) fn put_codes(
        &mut self,
        file: &mut (impl Read + Seek),
        (entry, blocks): (&Entry, &Blocks),
        piece: Range<usize>,
        codes: &[u8],
    ) -> Result<()> {
        let first = piece.start / BLOCK;
        let mut absmax = vec![0f32; piece.len().div_ceil(BLOCK)];
        file.seek(SeekFrom::Start(blocks.absmax.start + 4 * first as u64)).map_err(Error::stream)?;
        file.read_exact(bytemuck::cast_slice_mut(&mut absmax)).map_err(Error::stream)?;
        if entry.dtype != Dtype::U8 {
            let values = blocks.map.decode(codes, &absmax);
            return match entry.dtype {
                Dtype::F64 => {
                    let wide = numbers::widen::<f64>(bytemuck::cast_slice(&values), Dtype::F32);
                    self.put(entry, piece, bytemuck::cast_slice(&wide))
                }
                _ => self.put(entry, piece, bytemuck::cast_slice(&values)),
            };
        }
        if let Target::Of(id, Role::State(k)) = entry.target
            && let Some(Memory::F32(vectors)) = self.parameters.get_mut(&id).map(|parameter| &mut parameter.memory)
        {
            if let Some(Numbers::Blocks { codes: to, absmax: largest, .. }) = vectors.states.get_mut(k) {
                to[piece].copy_from_slice(codes);
                largest[first..first + absmax.len()].copy_from_slice(&absmax);
            }
            return Ok(());
        }
        let (range, gpu) = self.range_of(entry)?;
        gpu.write_blocks(&range.part(piece.start as u64..piece.end as u64), codes, &absmax, &entry.name)
    }
}
