//! Saving and loading, as one safetensors file: `header.rs` is its head, `configuration.rs` what the head says beside the tensors,
//! `torch.rs` the file that PyTorch exchanges.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use safetensors::Dtype;

use self::header::{Header, Tensor};
use super::access::Part;
use super::{Memory, Optimizer, Scalar, Vectors};
use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::gpu::memory::BufferRange;
use crate::gpu::transfer::PIECE;
use crate::rule::{Real, Scope};

mod configuration;
mod header;
mod torch;

/// What [`Optimizer::save_with`] writes, and whom it tells.
pub struct SaveOptions<'a> {
    /// The parameters' values as well (the default); those in the caller's slices never.
    pub parameters: bool,
    /// Called with the bytes written so far, and those of the whole file.
    pub progress: Option<Progress<'a>>,
}

/// What [`Optimizer::load_with`] reads, and whom it tells.
pub struct LoadOptions<'a> {
    /// The parameters' values as well, where the file has them (the default).
    pub parameters: bool,
    /// Whether file and optimizer must agree in everything (the default); else what fits is loaded.
    pub strict: bool,
    /// Called with the bytes read so far, and those of all tensors to read.
    pub progress: Option<Progress<'a>>,
}

/// Bytes done, and all bytes.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self { parameters: true, progress: None }
    }
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self { parameters: true, strict: true, progress: None }
    }
}

impl fmt::Debug for SaveOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaveOptions").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameters, strict, .. } = self;
        f.debug_struct("LoadOptions").field("parameters", parameters).field("strict", strict).finish_non_exhaustive()
    }
}

/// Where a file and an optimizer differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// What the optimizer has and the file has not: tensors, parameters.
    pub missing: Vec<String>,
    /// What the file has and the optimizer has not.
    pub unexpected: Vec<String>,
    /// What both have and what does not fit, with both sides.
    pub different: Vec<String>,
}

impl Mismatch {
    /// Whether they agree.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.different.is_empty()
    }

    fn sort(&mut self) {
        for list in [&mut self.missing, &mut self.unexpected, &mut self.different] {
            list.sort();
            list.dedup();
        }
    }

    /// Tensors of which one side has another length or type than the other.
    fn compare(&mut self, entry: &Entry, tensor: &Tensor) -> bool {
        // A matrix of as many elements may be another's transpose; what the file has in one row is not told apart.
        let rows = |shape: &[usize]| (shape.len() > 1).then(|| shape[0]);
        let shaped = rows(&tensor.shape).zip(rows(&entry.shape)).is_none_or(|(file, here)| file == here);
        let fits = (tensor.len, tensor.dtype) == (entry.len, entry.dtype) && shaped;
        if !fits {
            let Entry { name, shape, dtype, .. } = entry;
            let Tensor { shape: found, dtype: of, .. } = tensor;
            self.different.push(format!("{name} ({found:?} of {of:?} in the file, {shape:?} of {dtype:?} here)"));
        }
        fits
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

/// A tensor of the file, and where it is here.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    place: Place,
    len: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Part(u64, Part),
    /// The number that a group's rule keeps.
    Group(usize),
    /// Nowhere: what only the file has.
    Number(f32),
}

impl Optimizer {
    /// Saves the optimizer as one safetensors file: parameters, states and averages as tensors `name`, `name.exp_avg`, …; step counts,
    /// rules, settings, options, schedules, averaging, clipping, loss scale and noise seeds in the header, as JSON. Gradients are not
    /// saved. [`Optimizer::load`] goes on exactly where this stopped.
    ///
    /// The file is written beside the old one and takes its place once it is complete. The state is never on the host as a whole: 16 MiB
    /// at a time.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, rules::Adam};
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("adam.safetensors");
    /// let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
    /// adam.add(0, "w", &[1.0f32, 2.0])?;
    /// adam.write_gradient("w", &[0.5f32, -0.5])?;
    /// adam.step()?;
    /// adam.save(&path)?;
    ///
    /// let mut again = Optimizer::new(&Device::Cpu, Adam::default(), 1e-3)?;
    /// again.add(0, "w", &[0.0f32; 2])?;
    /// again.load(&path)?;
    /// assert_eq!((again.lr(0)?, again.steps("w")?), (0.1, 1));
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Unsupported`] while averages are swapped in, at a look-ahead point, or between micro-batches; those of
    /// [`Optimizer::settle`] and [`Optimizer::read`]. The old file is then as it was.
    #[cfg(not(target_family = "wasm"))]
    pub fn save(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.save_with(path, SaveOptions::default())
    }

    /// [`Optimizer::save`] with a choice of what, and with its progress.
    ///
    /// # Errors
    /// As [`Optimizer::save`].
    #[cfg(not(target_family = "wasm"))]
    pub fn save_with(&mut self, path: impl AsRef<std::path::Path>, options: SaveOptions<'_>) -> Result<()> {
        replace(path.as_ref(), |out| pollster::block_on(self.save_to(out, options)))
    }

    /// [`Optimizer::save`] to where the caller wants it: in a browser, to a `Vec<u8>`.
    ///
    /// # Errors
    /// As [`Optimizer::save`].
    pub async fn save_to(&mut self, out: &mut impl Write, options: SaveOptions<'_>) -> Result<()> {
        self.settle().await?;
        self.check_saved()?;
        let entries = self.entries(options.parameters);
        let configuration = self.configuration(options.parameters);
        self.write_tensors(out, entries, ("wgpu-optim", configuration.to_json()?), options.progress).await
    }

    /// Loads what [`Optimizer::save`] has written, on whatever device it was, into an optimizer with the same groups and parameters, and
    /// with it all that the file says: rules' configurations, settings, schedules, clipping. What shall be different is set afterwards.
    ///
    /// Parameters are found by name. Submit what you have recorded before.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`] for a file that is no checkpoint, or damaged; [`Error::Mismatch`] with all that is missing,
    /// unexpected or different; [`Error::Hyperparameter`] for a value outside its range; [`Error::Unsupported`] while averages are swapped
    /// in, or a parameter stands at its look-ahead point or has no place; [`Error::MissingUsage`] for a caller's buffer without
    /// `COPY_DST`. Then nothing has changed. If the file cannot be read to its end, or the device is lost, a part of the tensors has
    /// been loaded, and nothing else.
    #[cfg(not(target_family = "wasm"))]
    pub fn load(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.load_with(path, LoadOptions::default()).map(drop)
    }

    /// [`Optimizer::load`] with a choice of what, and with its progress. Where file and optimizer need not agree, what fits is loaded:
    /// each group's configuration, each parameter's value, each parameter's states with its step count, together or not at all. Returns
    /// what did not fit.
    ///
    /// # Errors
    /// As [`Optimizer::load`].
    #[cfg(not(target_family = "wasm"))]
    pub fn load_with(&mut self, path: impl AsRef<std::path::Path>, options: LoadOptions<'_>) -> Result<Mismatch> {
        let path = path.as_ref();
        let mut file = std::fs::File::open(path).map_err(|source| Error::io(path, source))?;
        self.load_from(&mut file, options)
    }

    /// [`Optimizer::load`] from where the caller has it: in a browser, a `Cursor` over bytes.
    ///
    /// # Errors
    /// As [`Optimizer::load`].
    pub fn load_from(&mut self, file: &mut (impl Read + Seek), options: LoadOptions<'_>) -> Result<Mismatch> {
        let header = Header::read(file)?;
        let configuration = header.configuration()?;
        let with_values = options.parameters && configuration.values;
        let (mut fitting, mut mismatch) = self.compare(&configuration);
        let entries = self.entries(with_values);
        let mut known: HashSet<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        if !options.parameters {
            known.extend(configuration.parameters.keys().map(String::as_str));
        }
        mismatch.unexpected.extend(header.names().into_iter().filter(|name| !known.contains(name.as_str())));
        let mut found = Vec::new();
        for entry in &entries {
            let tensor = header.tensor(&entry.name);
            match tensor {
                Some(tensor) if mismatch.compare(entry, &tensor) => found.push((entry.clone(), tensor)),
                Some(_) => fitting.leave_out(entry.place),
                None => {
                    fitting.leave_out(entry.place);
                    mismatch.missing.push(entry.name.clone());
                }
            }
        }
        mismatch.sort();
        if options.strict && !mismatch.is_empty() {
            return Err(Error::Mismatch(mismatch));
        }
        found.retain(|(entry, _)| fitting.takes(entry.place));
        self.install(&configuration, &fitting, |optimizer| optimizer.read_tensors(file, found, options.progress))?;
        Ok(mismatch)
    }

    /// Nothing that a file could not say.
    fn check_saved(&self) -> Result<()> {
        for group in 0..self.groups.len() {
            self.check_swapped(group, "saving")?;
        }
        for parameter in self.parameters.values() {
            if parameter.shift != 0.0 {
                return Err(parameter.unsupported("saving", "it stands at its look-ahead point: step first"));
            }
            if parameter.is_accumulated() {
                return Err(parameter.unsupported("saving", "its gradient holds micro-batches: step first"));
            }
        }
        Ok(())
    }

    /// All that the optimizer keeps.
    fn entries(&self, parameters: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (&id, parameter) in &self.parameters {
            let dtype = if parameter.element() == f64::NAME { Dtype::F64 } else { Dtype::F32 };
            let shape = parameter.options.shape.map_or(vec![parameter.len], |shape| shape.to_vec());
            let (name, len) = (&parameter.name, parameter.len);
            let mut push = |name: String, part, len, shape| {
                entries.push(Entry { name, place: Place::Part(id, part), len, dtype, shape });
            };
            if parameters && !parameter.in_slice() {
                push(name.clone(), Part::Parameter, len, shape.clone());
            }
            let group = &self.groups[parameter.group];
            for (k, slot) in group.slots().into_iter().enumerate() {
                push(format!("{name}.{slot}"), Part::State(k), len, shape.clone());
            }
            if let (Some(scalar), Some(Scope::Tensor)) = (group.rule.scalar(), group.rule.scope()) {
                push(format!("{name}.{scalar}"), Part::Scalar, 1, Vec::new());
            }
        }
        for (k, group) in self.groups.iter().enumerate() {
            if let (Some(_), Some(scalar)) = (&group.scalar, group.rule.scalar()) {
                let name = format!("group.{k}.{scalar}");
                entries.push(Entry { name, place: Place::Group(k), len: 1, dtype: Dtype::F64, shape: Vec::new() });
            }
        }
        entries
    }

    /// A file of these tensors, with a note in its header.
    async fn write_tensors(
        &self,
        out: &mut impl Write,
        mut entries: Vec<Entry>,
        note: (&str, String),
        mut progress: Option<Progress<'_>>,
    ) -> Result<()> {
        entries.sort_by(|a, b| (b.dtype, &a.name).cmp(&(a.dtype, &b.name)));
        let header = header::encode(&entries, note)?;
        let all = header.len() as u64 + entries.iter().map(Entry::size).sum::<u64>();
        let mut done = header.len() as u64;
        out.write_all(&header).map_err(Error::stream)?;
        for entry in &entries {
            for piece in pieces(entry.len) {
                let bytes = self.take(entry, piece).await?;
                out.write_all(&bytes).map_err(Error::stream)?;
                done += bytes.len() as u64;
                progress.iter_mut().for_each(|progress| progress(done, all));
            }
        }
        Ok(())
    }

    /// A piece of a tensor, as bytes.
    async fn take(&self, entry: &Entry, piece: Range<usize>) -> Result<Cow<'_, [u8]>> {
        match entry.place {
            Place::Group(k) => Ok(Cow::Owned(self.group_scalar(k).await?.to_le_bytes().to_vec())),
            Place::Number(number) => Ok(Cow::Owned(number.to_le_bytes().to_vec())),
            Place::Part(id, part) => {
                let parameter = self.get(super::ParameterId(id))?;
                let vectors: &[u8] = match (&parameter.memory, &self.device) {
                    (Memory::Gpu(_), Device::Gpu(gpu)) => {
                        let values = gpu.read(&self.range(parameter, part)?.part(piece), &parameter.name).await?;
                        return Ok(Cow::Owned(bytemuck::cast_slice(&values).to_vec()));
                    }
                    (Memory::F32(v), _) => bytemuck::cast_slice(&v.part(part, parameter)?[piece]),
                    (Memory::F64(v), _) => bytemuck::cast_slice(&v.part(part, parameter)?[piece]),
                    (Memory::Gpu(_), Device::Cpu) => return Err(Error::DeviceLost),
                };
                Ok(Cow::Borrowed(vectors))
            }
        }
    }

    async fn group_scalar(&self, k: usize) -> Result<f64> {
        match (&self.group(k)?.scalar, &self.device) {
            (Some(Scalar::Gpu(range)), Device::Gpu(gpu)) => Ok(gpu.read(range, "the group's number").await?[0].into()),
            (Some(Scalar::Cpu(number)), _) => Ok(*number),
            _ => Ok(0.0),
        }
    }

    fn read_tensors(
        &mut self,
        file: &mut (impl Read + Seek),
        mut tensors: Vec<(Entry, Tensor)>,
        mut progress: Option<Progress<'_>>,
    ) -> Result<()> {
        // Before anything is written: a caller's buffer that cannot be.
        for (entry, _) in &tensors {
            if let Place::Part(id, part) = entry.place {
                let parameter = self.get(super::ParameterId(id))?;
                if let Memory::Gpu(_) = parameter.memory {
                    self.range(parameter, part)?.check_usage(&parameter.name, wgpu::BufferUsages::COPY_DST)?;
                }
            }
        }
        tensors.sort_by_key(|(_, tensor)| tensor.start);
        let all = tensors.iter().map(|(entry, _)| entry.size()).sum();
        let mut done = 0;
        let mut room = vec![0f64; PIECE.min(tensors.iter().map(|(entry, _)| entry.len).max().unwrap_or(0))];
        for (entry, tensor) in &tensors {
            file.seek(SeekFrom::Start(tensor.start)).map_err(Error::stream)?;
            for piece in pieces(entry.len) {
                let size = piece.len() * entry.width();
                let bytes = &mut bytemuck::cast_slice_mut::<f64, u8>(&mut room)[..size];
                file.read_exact(bytes).map_err(Error::stream)?;
                self.put(entry, piece, bytes)?;
                done += size as u64;
                progress.iter_mut().for_each(|progress| progress(done, all));
            }
        }
        Ok(())
    }

    /// Sets a piece of a tensor from bytes that start where an `f64` may.
    fn put(&mut self, entry: &Entry, piece: Range<usize>, bytes: &[u8]) -> Result<()> {
        match entry.place {
            Place::Group(k) => {
                let number: f64 = bytemuck::cast_slice(bytes)[0];
                match (&mut self.groups[k].scalar, &self.device) {
                    (Some(Scalar::Gpu(range)), Device::Gpu(gpu)) => {
                        gpu.write(range, &[f32::of(number)], "the group's number")?;
                    }
                    (Some(Scalar::Cpu(scalar)), _) => *scalar = number,
                    _ => {}
                }
                Ok(())
            }
            Place::Number(_) => Ok(()),
            Place::Part(id, part) => {
                if let Device::Gpu(gpu) = &self.device {
                    let parameter = self.get(super::ParameterId(id))?;
                    let range = self.range(parameter, part)?.part(piece);
                    return gpu.write(&range, bytemuck::cast_slice(bytes), &parameter.name);
                }
                let memory = self.parameters.get_mut(&id).map(|parameter| &mut parameter.memory);
                match memory {
                    Some(Memory::F32(v)) => v.put(part, piece, bytes),
                    Some(Memory::F64(v)) => v.put(part, piece, bytes),
                    _ => {}
                }
                Ok(())
            }
        }
    }
}

impl Entry {
    /// Bytes an element.
    fn width(&self) -> usize {
        if self.dtype == Dtype::F64 { 8 } else { 4 }
    }

    /// Bytes.
    fn size(&self) -> u64 {
        (self.len * self.width()) as u64
    }
}

impl<F: Real> Vectors<F> {
    fn put(&mut self, part: Part, piece: Range<usize>, bytes: &[u8]) {
        if let Some(vector) = self.part_mut(part) {
            vector[piece].copy_from_slice(bytemuck::cast_slice(bytes));
        }
    }
}

impl BufferRange {
    /// These elements of it.
    fn part(&self, piece: Range<usize>) -> Self {
        Self::new(&self.buffer, self.offset + 4 * piece.start as u64, piece.len())
    }
}

fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(PIECE).map(move |start| start..len.min(start + PIECE))
}

/// Writes a file beside the old one, and puts it in its place once it is complete and on the disk.
#[cfg(not(target_family = "wasm"))]
fn replace(
    path: &std::path::Path,
    write: impl FnOnce(&mut std::io::BufWriter<&std::fs::File>) -> Result<()>,
) -> Result<()> {
    let io = |source| Error::io(path, source);
    let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As any other new file; the process' mask takes from it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(beside).map_err(io)?;
    let mut out = std::io::BufWriter::new(file.as_file());
    write(&mut out)?;
    out.flush().map_err(io)?;
    drop(out);
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}
