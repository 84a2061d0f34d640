//! The header of a safetensors file: which tensors it has, and where.

use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::Entry;
use super::configuration::Configuration;
use crate::error::{Error, Result};

/// The safetensors format: bytes of the header's length, which comes first, and the longest header.
const LENGTH: u64 = 8;
const LONGEST: u64 = 100_000_000;

#[derive(Debug)]
pub(super) struct Header {
    metadata: Metadata,
    /// Where the tensors start.
    start: u64,
}

/// A tensor in the file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) len: usize,
    /// Its first byte in the file.
    pub(super) start: u64,
}

impl Tensor {
    /// Bytes of a number.
    pub(super) fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        (self.len * self.width()) as u64
    }

    /// A row of two.
    pub(super) fn row(self, row: usize) -> Option<Self> {
        let len = self.len / 2;
        let start = self.start + (row * len * self.width()) as u64;
        (self.shape.first() == Some(&2)).then(|| Self { shape: self.shape[1..].to_vec(), len, start, ..self })
    }
}

fn damaged(reason: impl Into<String>) -> Error {
    Error::Checkpoint { reason: reason.into() }
}

impl Header {
    /// Reads the header, and proves that each tensor lies within the file and overlaps no other. Allocates no more than
    /// in proportion to the header's real size, whatever the file claims.
    pub(super) fn read(file: &mut (impl Read + Seek)) -> Result<Self> {
        let size = file.seek(SeekFrom::End(0)).map_err(Error::stream)?;
        file.seek(SeekFrom::Start(0)).map_err(Error::stream)?;
        if size < LENGTH {
            return Err(damaged(format!("it has {size} bytes, fewer than a header")));
        }
        let mut length = [0; LENGTH as usize];
        file.read_exact(&mut length).map_err(Error::stream)?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST.min(size - LENGTH) {
            return Err(damaged(format!(
                "its header claims {length} bytes, of a file of {size} and at most {LONGEST}"
            )));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(Error::stream)?;
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|e| damaged(format!("its header is wrong: {e}")))?;
        let start = LENGTH + length;
        let end = start.saturating_add(metadata.data_len() as u64);
        if end != size {
            return Err(damaged(format!("it has {size} bytes, its tensors end at {end}")));
        }
        Ok(Self { metadata, start })
    }

    /// The metadata under this key.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    pub(super) fn configuration(&self) -> Result<Configuration> {
        match self.note("wgpu-optim") {
            Some(text) => Configuration::from_json(text),
            None if self.note("torch").is_some() => Err(damaged("it is PyTorch's: use Optimizer::load_torch")),
            None => Err(damaged("its header has no entry `wgpu-optim`")),
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<Tensor> {
        let TensorInfo { dtype, shape, data_offsets } = self.metadata.info(name)?;
        let start = self.start + data_offsets.0 as u64;
        Some(Tensor { dtype: *dtype, shape: shape.clone(), len: shape.iter().product(), start })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }
}

/// The header of a file with these tensors, in this order.
pub(super) fn encode(entries: &[Entry], (key, text): (&str, String)) -> Result<Vec<u8>> {
    let mut names = HashSet::new();
    let mut end = 0;
    let mut tensors = Vec::new();
    for entry in entries {
        if !names.insert(&entry.name) || entry.name == "__metadata__" {
            let reason = "another tensor of the file, or its header, has this name: rename a parameter";
            return Err(Error::Unsupported { operation: "saving", name: entry.name.clone(), reason });
        }
        let start = end;
        end += entry.size() as usize;
        let info = TensorInfo { dtype: entry.dtype, shape: entry.shape.clone(), data_offsets: (start, end) };
        tensors.push((entry.name.clone(), info));
    }
    let failed = |e: &dyn std::fmt::Display| damaged(format!("its header cannot be written: {e}"));
    let notes = Some([(key.to_owned(), text)].into_iter().collect());
    let metadata = Metadata::new(notes, tensors).map_err(|e| failed(&e))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| failed(&e))?;
    // Tensors start at multiples of 8 bytes.
    json.resize(json.len().next_multiple_of(LENGTH as usize), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.extend(json);
    Ok(head)
}
