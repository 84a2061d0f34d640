//! Loads the state of PyTorch's optimizers from a safetensors file that `examples/torch_optimizer.py` writes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{Read, Seek, SeekFrom};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::blocks::Blocks;
use super::header::{Header, Tensor};
use super::matching::{Groups, Theirs};
use super::{Entry, Progress, Target, fits, numbers};
use crate::error::{Error, Mismatch, Result};
use crate::gpu::Device;
use crate::optimizer::storage::Role;
use crate::optimizer::{Memory, Optimizer, ParameterId};

/// The note in the file's header.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// The class.
    pub(super) optimizer: String,
    pub(super) param_groups: Vec<Map<String, Value>>,
}

/// PyTorch's states that are not states here: the step count, and what follows from it.
pub(super) const COUNTS: [&str; 4] = ["step", "mu_product", "eta", "mu"];

/// Maps the file's name of a parameter to the name here, or to `None` to ignore the parameter.
pub(super) type Rename<'a> = Option<&'a dyn Fn(&str) -> Option<String>>;

/// Options of [`Optimizer::load_torch_with`].
pub struct TorchOptions<'a> {
    /// Whether to load the parameters' values, too, if the file has them (the default).
    pub parameters: bool,
    /// Whether any mismatch is an error (the default). If not, what fits is loaded.
    pub strict: bool,
    /// Maps the file's name of a parameter to the name here, or to `None` to ignore the parameter. By default the names
    /// are the same.
    ///
    /// If no parameter here has the name, it is looked up without what PyTorch's wrappers add to names: `module.` at
    /// the start (`DistributedDataParallel`), and anywhere `_orig_mod.` (`torch.compile`), `_fsdp_wrapped_module.` and
    /// `_checkpoint_wrapped_module.`.
    pub rename: Rename<'a>,
    /// Called with the bytes read so far and the bytes of all tensors to read.
    pub progress: Option<Progress<'a>>,
}

impl Default for TorchOptions<'_> {
    fn default() -> Self {
        Self { parameters: true, strict: true, rename: None, progress: None }
    }
}

impl fmt::Debug for TorchOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameters, strict, .. } = self;
        f.debug_struct("TorchOptions").field("parameters", parameters).field("strict", strict).finish_non_exhaustive()
    }
}

/// How far PyTorch has stepped a parameter.
#[derive(Clone, Copy, Debug)]
struct Count {
    steps: u64,
    /// PyTorch has no states of it yet: they begin anew.
    fresh: bool,
}

impl Optimizer {
    /// Goes on where PyTorch stopped: loads a file that `examples/torch_optimizer.py` wrote of `torch.optim.SGD`,
    /// `Adagrad`, `RMSprop`, `Adadelta`, `Adam`, `AdamW`, `Adamax`, `NAdam`, `RAdam`, `Rprop` or `ASGD`; or of
    /// bitsandbytes' `Adam8bit`, `AdamW8bit`, `AdEMAMix8bit`, `Lion8bit`, `SGD8bit`, `RMSprop8bit` or `Adagrad8bit`.
    ///
    /// - A group here takes its rule's configuration, its learning rate, its decay and `maximize` from the file's group
    ///   that has its parameters. If it has a [`Schedule`](crate::Schedule), its learning rate is PyTorch's
    ///   `initial_lr`; set the schedule's step with [`Optimizer::set_schedule_step`].
    /// - Parameters are found by name; what `DistributedDataParallel` and `torch.compile` add to a name is ignored. A
    ///   parameter takes its value, its states and its step count. Its states begin anew if PyTorch has none yet.
    /// - A parameter of PyTorch's model that is in no group of its optimizer, as in a frozen backbone, has a value and
    ///   no states. The value is loaded if a parameter here has its name; that parameter's states and its step count
    ///   stay. It is ignored if none has.
    /// - A group that keeps an average begins it anew with the next step: PyTorch's optimizers keep none.
    /// - States in 8 bits are loaded code for code where they are stored by the same map, as in
    ///   [`States::Block8`](crate::States::Block8); elsewhere they are decoded by the file's map.
    /// - `bfloat16` and `float16` are widened to the `f32` or `f64` here, and `f32` to `f64`. That is exact.
    ///
    /// # Errors
    /// As [`Optimizer::load`]; [`Error::UnknownRule`] for another class; [`Error::Checkpoint`] for a hyperparameter
    /// that is not known.
    #[cfg(not(target_family = "wasm"))]
    pub fn load_torch(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.load_torch_with(path, TorchOptions::default()).map(drop)
    }

    /// [`Optimizer::load_torch`] with options. Returns what did not fit.
    ///
    /// If `strict` is off, these are loaded where they fit: each group's configuration, each parameter's value, and
    /// each parameter's states together with its step count.
    ///
    /// ```no_run
    /// use wgpu_optim::{Device, Optimizer, TorchOptions, rules::Adam};
    /// let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), 1e-3)?;
    /// adam.add_all(0, &[("encoder.w", &[0.0f32; 4][..]), ("head.w", &[0.0; 2])])?;
    /// // PyTorch's `backbone` is our `encoder`, and its head is not ours.
    /// let rename = |name: &str| (!name.starts_with("head.")).then(|| name.replace("backbone.", "encoder."));
    /// let options = TorchOptions { strict: false, rename: Some(&rename), ..TorchOptions::default() };
    /// let mismatch = adam.load_torch_with("adam.safetensors", options)?;
    /// assert_eq!(mismatch.missing, ["head.w"]);
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Optimizer::load_torch`], and [`Error::Checkpoint`] if two parameters of the file would be one here.
    #[cfg(not(target_family = "wasm"))]
    pub fn load_torch_with(
        &mut self,
        path: impl AsRef<std::path::Path>,
        options: TorchOptions<'_>,
    ) -> Result<Mismatch> {
        let path = path.as_ref();
        let mut file = std::fs::File::open(path).map_err(|source| Error::io(path, source))?;
        self.load_torch_from_with(&mut file, options)
    }

    /// [`Optimizer::load_torch`] from a reader.
    ///
    /// # Errors
    /// As [`Optimizer::load_torch`].
    pub fn load_torch_from(&mut self, file: &mut (impl Read + Seek)) -> Result<()> {
        self.load_torch_from_with(file, TorchOptions::default()).map(drop)
    }

    /// [`Optimizer::load_torch_with`] from a reader.
    ///
    /// # Errors
    /// As [`Optimizer::load_torch_with`].
    pub fn load_torch_from_with(
        &mut self,
        file: &mut (impl Read + Seek),
        options: TorchOptions<'_>,
    ) -> Result<Mismatch> {
        self.check_rest()?;
        let header = Header::read(file)?;
        let note = header.note("torch").ok_or_else(|| damaged("its header has no entry `torch`".into()))?;
        let note: Note = crate::json::read(note).map_err(|e| damaged(format!("its configuration is wrong: {e}")))?;
        let mut mismatch = Mismatch::default();
        let tensors = header.names();
        let theirs = self.torch_parameters(&note, &tensors, options.rename, &mut mismatch)?;
        let Groups { configurations, members } = self.torch_groups(&note, &theirs, &mut mismatch)?;
        let mut counts = HashMap::new();
        for (&id, parameter) in &self.parameters {
            match theirs.get(&id) {
                None => mismatch.missing.push(parameter.name.clone()),
                Some(theirs) if members.contains(&id) => {
                    let count = self.torch_count(file, &header, &note, (id, theirs), &mut mismatch)?;
                    counts.extend(count.map(|count| (id, count)));
                }
                Some(_) => {}
            }
        }
        let found = self.torch_tensors(file, &header, &theirs, &mut counts, options.parameters, &mut mismatch)?;
        mismatch.sort();
        if options.strict && !mismatch.is_empty() {
            return Err(Error::Mismatch(mismatch));
        }
        let mut new = self.replaced();
        for (group, configuration) in new.groups.iter_mut().zip(configurations) {
            if let Some((rule, settings)) = configuration {
                (group.0, group.1) = (rule, settings);
            }
        }
        let before = self.replaced();
        self.replace(new);
        let loaded = self.check_together().and_then(|()| {
            let (read, begin): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, tensor)| tensor.is_some());
            let whole = |(entry, tensor): (Entry, Option<_>)| tensor.map(|(tensor, blocks)| (entry, tensor, blocks));
            let read = read.into_iter().filter_map(whole).collect();
            self.read_tensors(file, read, options.progress)?;
            begin.iter().try_for_each(|(entry, _)| self.begin(entry))
        });
        if let Err(e) = loaded {
            self.replace(before);
            return Err(e);
        }
        for (id, Count { steps, .. }) in counts {
            let now = (steps, 0, Some(steps));
            self.parameters.entry(id).and_modify(|p| (p.steps, p.pending, p.average_begun) = now);
        }
        self.end_window();
        Ok(mismatch)
    }

    /// How often PyTorch has stepped a parameter; `None` if it has states without a count.
    fn torch_count(
        &self,
        file: &mut (impl Read + Seek),
        header: &Header,
        note: &Note,
        (id, theirs): (u64, &Theirs<'_>),
        mismatch: &mut Mismatch,
    ) -> Result<Option<Count>> {
        let parameter = self.get(ParameterId(id))?;
        let of_file = |part: &str| format!("{}.{part}", theirs.name);
        let group = &self.groups[parameter.group];
        let of_state = |state: &str| header.tensor(&of_file(state)).is_some();
        let states = of_state("state1") || group.states().any(|stored| of_state(stored.storage.name));
        let name = of_file(COUNTS[0]);
        let taken = match header.tensor(&name) {
            Some(tensor) => number(file, &name, &tensor)?,
            // SGD does not count steps. It has a velocity after the first one.
            None if !states || note.optimizer == "SGD" => f64::from(u8::from(states)),
            None => {
                mismatch.missing.push(format!("{}.{}", parameter.name, COUNTS[0]));
                return Ok(None);
            }
        };
        Ok(Some(Count { steps: taken as u64, fresh: taken == 0.0 && !states }))
    }

    /// The tensors to load, and the states that begin anew, without a tensor. A parameter that lacks a state loses its
    /// count.
    fn torch_tensors(
        &self,
        file: &mut (impl Read + Seek),
        header: &Header,
        theirs: &HashMap<u64, Theirs<'_>>,
        counts: &mut HashMap<u64, Count>,
        parameters: bool,
        mismatch: &mut Mismatch,
    ) -> Result<Vec<Found>> {
        // Values in the caller's slices are not loaded.
        let has_value = |(id, theirs): (&u64, &Theirs<'_>)| {
            self.parameters.get(id).is_some_and(|p| !p.in_slice()) && header.tensor(theirs.name).is_some()
        };
        let values = parameters && theirs.iter().any(has_value);
        let (mut found, mut lost) = (Vec::new(), HashSet::new());
        for entry in self.entries(values, true) {
            let Target::Of(id, part) = entry.target else { continue };
            let (Some(parameter), Some(theirs)) = (self.parameters.get(&id), theirs.get(&id)) else { continue };
            let count = counts.get(&id);
            let value = part == Role::Parameter;
            if !value && count.is_none() {
                continue;
            }
            let begins = !value && (count.is_some_and(|count| count.fresh) || self.averaged(entry.target).is_some());
            let state = entry.name.strip_prefix(&parameter.name).unwrap_or_default();
            let tensor = match header.tensor(&format!("{}{state}", theirs.name)) {
                Some(tensor) => Some((tensor, None)),
                None => {
                    let two_rows = self.groups[parameter.group].state("exp_avg_slow").is_some();
                    let state = (state.trim_start_matches('.'), entry.len, two_rows);
                    Self::bitsandbytes_state(file, header, theirs.name, state)?
                }
            };
            let entry = self.loaded_as(&entry, tensor.as_ref().and_then(|(_, blocks)| blocks.as_ref()));
            match tensor {
                Some((tensor, blocks)) if fits(&entry, &tensor, takes(blocks.as_ref()), mismatch) => {
                    blocks.as_ref().map_or(Ok(()), |blocks| blocks.check(file, &entry.name))?;
                    found.push((entry, Some((tensor, blocks))));
                    continue;
                }
                None if begins => {
                    found.push((entry, None));
                    continue;
                }
                Some(_) => {}
                None => mismatch.missing.push(entry.name),
            }
            lost.extend((!value).then_some(id));
        }
        counts.retain(|id, _| !lost.contains(id));
        let kept = |entry: &Entry| match entry.target {
            Target::Of(id, part) => part == Role::Parameter || counts.contains_key(&id),
            _ => false,
        };
        found.retain(|(entry, _)| kept(entry));
        Ok(found)
    }

    /// Sets a state to its initial value.
    pub(super) fn begin(&mut self, entry: &Entry) -> Result<()> {
        let Target::Of(id, role @ Role::State(_)) = entry.target else { return Ok(()) };
        let parameter = self.get(ParameterId(id))?;
        let initial = self.groups[parameter.group].storage_of(role).map_or(0.0, |storage| storage.initial);
        if let Device::Gpu(gpu) = &self.device {
            let range = self.range(parameter, role)?;
            return gpu.fill(std::slice::from_ref(range), &[initial], entry.len as u64, &parameter.name);
        }
        match self.parameters.get_mut(&id).map(|parameter| &mut parameter.memory) {
            Some(Memory::F32(v)) => v.fill(role, initial),
            Some(Memory::F64(v)) => v.fill(role, initial),
            _ => {}
        }
        Ok(())
    }
}

/// A tensor to load, where the file has one.
type Found = (Entry, Option<(Tensor, Option<Blocks>)>);

/// Which type of a file's numbers is loaded as which.
fn takes(blocks: Option<&Blocks>) -> impl Fn(Dtype, Dtype) -> bool {
    let has_blocks = blocks.is_some();
    move |file, here| numbers::widens(file, here) || (file == Dtype::U8 && has_blocks)
}

fn damaged(reason: String) -> Error {
    Error::Checkpoint { reason }
}

/// The count that a tensor holds.
fn number(file: &mut (impl Read + Seek), name: &str, tensor: &Tensor) -> Result<f64> {
    let wrong = || damaged(format!("`{name}` is not a whole number from 0 to 2^53"));
    let integer = tensor.dtype == Dtype::I64;
    if tensor.len != 1 || !(integer || numbers::widens(tensor.dtype, Dtype::F64)) {
        return Err(wrong());
    }
    let mut bytes = [0; 8];
    file.seek(SeekFrom::Start(tensor.start)).map_err(Error::stream)?;
    file.read_exact(&mut bytes[..tensor.width()]).map_err(Error::stream)?;
    let number = match tensor.dtype {
        Dtype::I64 => i64::from_le_bytes(bytes) as f64,
        Dtype::F64 => f64::from_le_bytes(bytes),
        narrower => numbers::widen::<f64>(&bytes[..tensor.width()], narrower)[0],
    };
    if (0.0..9e15).contains(&number) && number.fract() == 0.0 { Ok(number) } else { Err(wrong()) }
}
