//! Saves and loads an optimizer as one safetensors file. `header.rs` reads and writes the file's header,
//! `configuration.rs` the part of it that is not about tensors; `file.rs` replaces an old file. For PyTorch's
//! optimizers, `torch.rs` loads a file, `matching.rs` finds its parameters and groups here, `numbers.rs` widens its
//! numbers, and `export.rs` writes a file.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use safetensors::Dtype;

use self::blocks::Blocks;
use self::header::{Header, Tensor};
use super::relocate::UNBOUND;
use super::storage::{Role, Stored};
use super::{HostMemory, Memory, Optimizer, ParameterId};
use crate::error::{Error, Mismatch, Result};
use crate::formats::{Extent, Format};
use crate::gpu::kernel::AVERAGE;
use crate::gpu::memory::BufferRange;
use crate::gpu::transfer::PIECE;
use crate::gpu::{Device, Gpu};
use crate::rule::Real;

mod blocks;
mod configuration;
mod export;
#[cfg(not(target_family = "wasm"))]
mod file;
mod header;
mod matching;
mod numbers;
mod torch;

pub use torch::TorchOptions;

/// Options of [`Optimizer::save_with`].
pub struct SaveOptions<'a> {
    /// Whether to save the parameters' values, too (the default). Values in the caller's slices are never saved.
    pub parameters: bool,
    /// Called with the bytes written so far and the bytes of the whole file.
    pub progress: Option<Progress<'a>>,
}

/// Options of [`Optimizer::load_with`].
pub struct LoadOptions<'a> {
    /// Whether to load the parameters' values, too, if the file has them (the default).
    pub parameters: bool,
    /// Whether any mismatch is an error (the default). If not, what fits is loaded.
    pub strict: bool,
    /// Called with the bytes read so far and the bytes of all tensors to read.
    pub progress: Option<Progress<'a>>,
}

/// Called with the bytes done and the bytes in total.
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

/// A tensor of the file, and where it is here.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    target: Target,
    len: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// Whether the file's tensor can be loaded: its length is the entry's, and the entry's type takes the file's. Notes it
/// if not.
fn fits(entry: &Entry, tensor: &Tensor, takes: impl Fn(Dtype, Dtype) -> bool, mismatch: &mut Mismatch) -> bool {
    // A matrix of as many elements may be another's transpose; what the file has in one row is not told apart.
    let rows = |shape: &[usize]| (shape.len() > 1).then(|| shape[0]);
    let shaped = rows(&tensor.shape).zip(rows(&entry.shape)).is_none_or(|(file, here)| file == here);
    let fits = tensor.len == entry.len && takes(tensor.dtype, entry.dtype) && shaped;
    if !fits {
        let Entry { name, shape, dtype, .. } = entry;
        let Tensor { shape: found, dtype: of, .. } = tensor;
        mismatch.different.push(format!("{name} ({found:?} of {of:?} in the file, {shape:?} of {dtype:?} here)"));
    }
    fits
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    Of(u64, Role),
    /// The largest magnitudes of a state in blocks.
    Absmax(u64, Role),
    /// A state of a group: which group, and which of its own states.
    Group(usize, usize),
    /// A number that only the file has.
    Number(f32),
    /// The map of a format in blocks.
    Map(Format),
}

impl Optimizer {
    /// Saves the optimizer as one safetensors file, from which [`Optimizer::load`] goes on exactly.
    ///
    /// Parameters, states and averages are tensors `name`, `name.exp_avg`, …. The header holds the rest as JSON: step
    /// counts, rules, settings, options, schedules, averaging, clipping, loss scale and noise seeds. Gradients are not
    /// saved.
    ///
    /// The new file replaces an old one once it is complete, with the old file's permissions. If the path is a symbolic
    /// link, the file that it points to is replaced. At most 16 MiB of the state are on the host at a time.
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
    /// [`Error::Io`]; [`Error::Unsupported`] while averages are swapped in, at a look-ahead point, and between
    /// micro-batches; the errors of [`Optimizer::settle`] and [`Optimizer::read`]. An old file is then unchanged.
    #[cfg(not(target_family = "wasm"))]
    pub fn save(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.save_with(path, SaveOptions::default())
    }

    /// [`Optimizer::save`] with options.
    ///
    /// # Errors
    /// As [`Optimizer::save`].
    #[cfg(not(target_family = "wasm"))]
    pub fn save_with(&mut self, path: impl AsRef<std::path::Path>, options: SaveOptions<'_>) -> Result<()> {
        file::replace(path.as_ref(), |out| pollster::block_on(self.save_to(out, options)))
    }

    /// [`Optimizer::save`] into a writer: in a browser, into a `Vec<u8>`.
    ///
    /// # Errors
    /// As [`Optimizer::save`].
    pub async fn save_to(&mut self, out: &mut impl Write, options: SaveOptions<'_>) -> Result<()> {
        self.settle().await?;
        self.check_saved()?;
        let entries = self.entries(options.parameters, true);
        let configuration = self.configuration(options.parameters);
        self.write_tensors(out, entries, ("wgpu-optim", configuration.to_json()?), options.progress).await
    }

    /// Loads a file of [`Optimizer::save`] into an optimizer with the same groups and parameters.
    ///
    /// The file may come from another device. It sets everything that it holds: rules' configurations, settings,
    /// schedules and clipping, too. Change afterwards what you want to be different. Parameters are found by name.
    /// Submit your recorded steps before you load.
    ///
    /// # Errors
    /// - [`Error::Io`]
    /// - [`Error::Checkpoint`] for a file that is damaged or no checkpoint
    /// - [`Error::Mismatch`] with a list of all that is missing, unexpected or different
    /// - [`Error::Hyperparameter`] for a value outside its range
    /// - [`Error::Unsupported`] while averages are swapped in, and if a parameter stands at its look-ahead point or has
    ///   no place
    /// - [`Error::MissingUsage`] for a caller's buffer without `COPY_DST`
    ///
    /// Nothing has changed then, with one exception: if the end of the file cannot be read, or if the device is lost,
    /// some tensors have been loaded.
    #[cfg(not(target_family = "wasm"))]
    pub fn load(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.load_with(path, LoadOptions::default()).map(drop)
    }

    /// [`Optimizer::load`] with options. Returns what did not fit.
    ///
    /// If `strict` is off, these are loaded where they fit: each group's configuration, each parameter's value, and
    /// each parameter's states together with its step count. If one state is missing or does not fit, none of that
    /// parameter's are loaded. An average is an exception: one that the file lacks is listed, and begins anew with the
    /// parameter's next step.
    ///
    /// # Errors
    /// As [`Optimizer::load`]; [`Error::Mismatch`] only if `strict` is on.
    #[cfg(not(target_family = "wasm"))]
    pub fn load_with(&mut self, path: impl AsRef<std::path::Path>, options: LoadOptions<'_>) -> Result<Mismatch> {
        let path = path.as_ref();
        let mut file = std::fs::File::open(path).map_err(|source| Error::io(path, source))?;
        self.load_from(&mut file, options)
    }

    /// [`Optimizer::load_with`] from a reader: in a browser, a `Cursor` over bytes.
    ///
    /// # Errors
    /// As [`Optimizer::load`].
    pub fn load_from(&mut self, file: &mut (impl Read + Seek), options: LoadOptions<'_>) -> Result<Mismatch> {
        let header = Header::read(file)?;
        let configuration = header.configuration()?;
        let with_values = options.parameters && configuration.values;
        let (mut fitting, mut mismatch) = self.compare(&configuration);
        let entries = self.entries(with_values, true);
        let mut known: HashSet<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        if !options.parameters {
            known.extend(configuration.parameters.keys().cloned());
        }
        let (mut found, mut averages) = (Vec::new(), Vec::new());
        for entry in entries.iter().filter(|entry| !matches!(entry.target, Target::Absmax(..))) {
            let tensor = header.tensor(&entry.name);
            let blocks = tensor.as_ref().filter(|tensor| tensor.dtype == Dtype::U8);
            let blocks = blocks.and_then(|_| self.blocks_of(entry, &header, &configuration));
            known.extend(blocks.is_some().then(|| format!("{}{}", entry.name, blocks::ABSMAX)));
            let entry = &self.loaded_as(entry, blocks.as_ref());
            let takes = |file, here| file == here || (file == Dtype::U8 && blocks.is_some());
            match tensor {
                Some(tensor) if fits(entry, &tensor, takes, &mut mismatch) => {
                    found.push((entry.clone(), tensor, blocks));
                    continue;
                }
                Some(_) => {}
                None => mismatch.missing.push(entry.name.clone()),
            }
            match self.averaged(entry.target) {
                Some(id) => {
                    fitting.averages.insert(id);
                    averages.push(entry.clone());
                }
                None => fitting.leave_out(entry.target),
            }
        }
        mismatch.unexpected.extend(header.names().into_iter().filter(|name| !known.contains(name)));
        mismatch.sort();
        if options.strict && !mismatch.is_empty() {
            return Err(Error::Mismatch(mismatch));
        }
        found.retain(|(entry, ..)| fitting.takes(entry.target));
        averages.retain(|entry| fitting.takes(entry.target));
        for (entry, _, blocks) in &found {
            blocks.as_ref().map_or(Ok(()), |blocks| blocks.check(file, &entry.name))?;
        }
        self.install(&configuration, &fitting, options.parameters, |optimizer| {
            optimizer.read_tensors(file, found, options.progress)?;
            averages.iter().try_for_each(|average| optimizer.begin(average))
        })?;
        self.warn_of_small_lr();
        Ok(mismatch)
    }

    /// The parameter whose average this is, if it is an average.
    fn averaged(&self, target: Target) -> Option<u64> {
        let Target::Of(id, role) = target else { return None };
        let group = &self.groups[self.parameters.get(&id)?.group];
        group.state(AVERAGE).is_some_and(|average| average.role == role).then_some(id)
    }

    /// Refuses what a file cannot hold.
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

    /// All tensors that the optimizer keeps; states in blocks as they are stored, or as numbers.
    fn entries(&self, parameters: bool, as_stored: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (&id, parameter) in &self.parameters {
            let dtype = if parameter.element() == f64::NAME { Dtype::F64 } else { Dtype::F32 };
            let shape = parameter.options.shape.map_or(vec![parameter.len], |shape| shape.to_vec());
            let (name, len) = (&parameter.name, parameter.len);
            let mut push = |name: String, role, len, shape, format: Format| {
                let in_blocks = as_stored && format.is_scaled();
                let dtype = if in_blocks { Dtype::U8 } else { dtype };
                let entry = Entry { name, target: Target::Of(id, role), len, dtype, shape };
                entries.extend(entry.absmax().filter(|_| in_blocks));
                entries.push(entry);
            };
            if parameters && !parameter.in_slice() {
                push(name.clone(), Role::Parameter, len, shape.clone(), Format::F32);
            }
            let group = &self.groups[parameter.group];
            for Stored { role, storage } in group.states() {
                let len = group.len_of(parameter, *role);
                let shape = match (role, storage.extent) {
                    // It is written once, for its group.
                    (Role::Shared(_), _) => continue,
                    (_, Extent::Element) => shape.clone(),
                    (_, Extent::Tensor) => Vec::new(),
                    _ => vec![len],
                };
                // A parameter that was moved here keeps its memory as it is.
                let format = parameter.memory.format(*role).unwrap_or(storage.format);
                push(format!("{name}.{}", storage.name), *role, len, shape, format);
            }
        }
        for (k, group) in self.groups.iter().enumerate() {
            for (state, storage) in group.shared_states().enumerate() {
                let (name, target) = (format!("group.{k}.{}", storage.name), Target::Group(k, state));
                entries.push(Entry { name, target, len: 1, dtype: Dtype::F64, shape: Vec::new() });
            }
        }
        entries
    }

    /// Writes a file of these tensors, with a note in its header.
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
        match entry.target {
            Target::Number(number) => return Ok(Cow::Owned(number.to_le_bytes().to_vec())),
            Target::Map(format) => return Ok(Cow::Owned(bytemuck::cast_slice(&format.map()).to_vec())),
            _ => {}
        }
        if entry.dtype == Dtype::U8 || matches!(entry.target, Target::Absmax(..)) {
            return self.take_blocks(entry, piece).await;
        }
        let numbers = match self.memory(entry.target) {
            Some((Memory::F32(v), role)) => v.numbers(role).map(|numbers| as_bytes(numbers.decoded_part(piece))),
            Some((Memory::F64(v), role)) => v.numbers(role).map(|numbers| as_bytes(numbers.decoded_part(piece))),
            _ => {
                let (range, gpu) = self.range_of(entry)?;
                let piece = piece.start as u64..piece.end as u64;
                let beside = self.beside(entry.target).map(|beside| beside.part(piece.clone()));
                let values = gpu.read_with(&range.part(piece), beside.as_ref(), &entry.name).await?;
                return Ok(Cow::Owned(entry.format().encode(&values).0.into_owned()));
            }
        };
        let (operation, reason) = ("saving", "it is in the caller's slice");
        numbers.ok_or_else(|| Error::Unsupported { operation, name: entry.name.clone(), reason })
    }

    /// The memory that has a tensor, and its role there.
    fn memory(&self, target: Target) -> Option<(&Memory, Role)> {
        match target {
            Target::Of(id, role) | Target::Absmax(id, role) => Some((&self.parameters.get(&id)?.memory, role)),
            Target::Group(k, state) => Some((&self.groups.get(k)?.shared, Role::State(state))),
            Target::Number(_) | Target::Map(_) => None,
        }
    }

    /// What is kept beside it on the GPU, if it is a parameter.
    fn beside(&self, target: Target) -> Option<&BufferRange> {
        let Target::Of(id, Role::Parameter) = target else { return None };
        self.parameters.get(&id)?.memory.range(Role::Beside)
    }

    /// Where a tensor is on the GPU.
    fn range_of(&self, entry: &Entry) -> Result<(&BufferRange, &Gpu)> {
        let range = self.memory(entry.target).and_then(|(memory, role)| memory.range(role));
        let refused = || {
            let (operation, reason) = ("a buffer range", UNBOUND);
            Error::Unsupported { operation, name: entry.name.clone(), reason }
        };
        match (&self.device, range) {
            (Device::Gpu(gpu), Some(range)) => Ok((range, gpu)),
            _ => Err(refused()),
        }
    }

    fn read_tensors(
        &mut self,
        file: &mut (impl Read + Seek),
        mut tensors: Vec<(Entry, Tensor, Option<Blocks>)>,
        mut progress: Option<Progress<'_>>,
    ) -> Result<()> {
        // Find a caller's buffer that cannot be written to before anything is written.
        for (entry, ..) in &tensors {
            if let (Device::Gpu(_), Target::Of(id, _)) = (&self.device, entry.target) {
                let name = &self.get(ParameterId(id))?.name;
                self.range_of(entry)?.0.check_usage(name, wgpu::BufferUsages::COPY_DST)?;
            }
        }
        tensors.sort_by_key(|(_, tensor, _)| tensor.start);
        let all = tensors.iter().map(|(_, tensor, _)| tensor.size()).sum();
        let mut done = 0;
        let mut room = vec![0f64; PIECE.min(tensors.iter().map(|(entry, ..)| entry.len).max().unwrap_or(0))];
        for (entry, tensor, blocks) in &tensors {
            for piece in pieces(entry.len) {
                let size = piece.len() * tensor.width();
                let bytes = &mut bytemuck::cast_slice_mut::<f64, u8>(&mut room)[..size];
                let start = tensor.start + (piece.start * tensor.width()) as u64;
                file.seek(SeekFrom::Start(start)).map_err(Error::stream)?;
                file.read_exact(bytes).map_err(Error::stream)?;
                match (blocks, entry.dtype) {
                    (Some(blocks), _) => self.put_codes(file, (entry, blocks), piece, bytes)?,
                    (None, same) if same == tensor.dtype => self.put(entry, piece, bytes)?,
                    (None, Dtype::F64) => {
                        self.put(entry, piece, bytemuck::cast_slice(&numbers::widen::<f64>(bytes, tensor.dtype)))?
                    }
                    _ => self.put(entry, piece, bytemuck::cast_slice(&numbers::widen::<f32>(bytes, tensor.dtype)))?,
                }
                done += size as u64;
                progress.iter_mut().for_each(|progress| progress(done, all));
            }
        }
        Ok(())
    }

    /// Sets a piece of a tensor from bytes that are aligned for `f64`.
    fn put(&mut self, entry: &Entry, piece: Range<usize>, bytes: &[u8]) -> Result<()> {
        if let Target::Number(_) | Target::Map(_) = entry.target {
            return Ok(());
        }
        if let Device::Gpu(_) = &self.device {
            let (range, gpu) = self.range_of(entry)?;
            let (piece, values) = (piece.start as u64..piece.end as u64, entry.format().decode(bytes, &[]));
            let beside = self.beside(entry.target).map(|beside| beside.part(piece.clone()));
            gpu.write_with(&range.part(piece.clone()), beside.as_ref(), &values, &entry.name)?;
            if let Target::Of(id, Role::Parameter) = entry.target {
                self.note_largest(ParameterId(id), piece.start as usize, &values);
            }
            return Ok(());
        }
        if let (Target::Of(id, Role::Parameter), Dtype::F32) = (entry.target, entry.dtype) {
            self.note_largest::<f32>(ParameterId(id), piece.start, bytemuck::cast_slice(bytes));
        }
        let (memory, role) = match entry.target {
            Target::Group(k, state) => (Some(&mut self.groups[k].shared), Role::State(state)),
            Target::Of(id, role) => (self.parameters.get_mut(&id).map(|parameter| &mut parameter.memory), role),
            Target::Absmax(..) | Target::Number(_) | Target::Map(_) => return Ok(()),
        };
        match memory {
            Some(Memory::F32(v)) => v.put(role, piece, bytes),
            Some(Memory::F64(v)) => v.put(role, piece, bytes),
            _ => {}
        }
        Ok(())
    }
}

impl Entry {
    /// How it is stored in the file.
    fn format(&self) -> Format {
        if self.dtype == Dtype::F64 { Format::F64 } else { Format::F32 }
    }

    /// Bytes.
    fn size(&self) -> u64 {
        (self.dtype.bitsize() / 8 * self.len) as u64
    }
}

impl<F: Real> HostMemory<F> {
    fn put(&mut self, role: Role, piece: Range<usize>, bytes: &[u8]) {
        let numbers = self.numbers_mut(role);
        numbers.into_iter().for_each(|numbers| numbers.set_part(piece.start, bytemuck::cast_slice(bytes)));
    }
}

fn as_bytes<F: Real>(values: Cow<'_, [F]>) -> Cow<'_, [u8]> {
    match values {
        Cow::Borrowed(values) => Cow::Borrowed(bytemuck::cast_slice(values)),
        Cow::Owned(values) => Cow::Owned(bytemuck::cast_slice(&values).to_vec()),
    }
}

fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(PIECE).map(move |start| start..len.min(start + PIECE))
}
