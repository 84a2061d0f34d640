//! The state of PyTorch's optimizers, in a safetensors file that `examples/torch_optimizer.py` writes and reads.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom, Write};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::header::{Header, Tensor};
use super::{Entry, Mismatch, Place};
use crate::error::{Error, Result};
use crate::gpu::Device;
use crate::optimizer::access::Part;
use crate::optimizer::{Memory, Optimizer, Parameter, ParameterId};
use crate::rule::{AnyRule, Real};
use crate::rules::NAdam;
use crate::settings::{Options, Settings};
use crate::torch;

/// What the header says beside the tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// The class.
    optimizer: String,
    param_groups: Vec<Map<String, Value>>,
}

/// Of a parameter's state, what is not a state here: its step count, and what follows from that.
const COUNTS: [&str; 2] = ["step", "mu_product"];

impl Optimizer {
    /// Goes on where PyTorch stopped: loads the state of `torch.optim.SGD`, `Adagrad`, `RMSprop`, `Adadelta`, `Adam`, `AdamW`, `Adamax` or
    /// `NAdam`, in the file that `examples/torch_optimizer.py` (20 lines) makes of it, into groups with the same rules. Rules'
    /// configurations, learning rates, decay and step counts are the file's, parameters by name; so are the parameters' values, where
    /// it has them. A group with a [`Schedule`](crate::Schedule) takes PyTorch's `initial_lr`, and its step is the caller's to set.
    ///
    /// # Errors
    /// As [`Optimizer::load`]; [`Error::UnknownRule`] for another class, [`Error::Unsupported`] for a group that keeps an average, which
    /// PyTorch's optimizers do not.
    #[cfg(not(target_family = "wasm"))]
    pub fn load_torch(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        let path = path.as_ref();
        let mut file = std::fs::File::open(path).map_err(|source| Error::io(path, source))?;
        self.load_torch_from(&mut file)
    }

    /// [`Optimizer::load_torch`] from where the caller has it.
    ///
    /// # Errors
    /// As [`Optimizer::load_torch`].
    pub fn load_torch_from(&mut self, file: &mut (impl Read + Seek)) -> Result<()> {
        self.check_rest()?;
        self.check_no_average()?;
        let header = Header::read(file)?;
        let note = header.note("torch").ok_or_else(|| damaged("its header has no entry `torch`".into()))?;
        let note: Note = serde_json::from_str(note).map_err(|e| damaged(format!("its configuration is wrong: {e}")))?;
        let mut mismatch = Mismatch::default();
        let groups = self.torch_groups(&note, &mut mismatch)?;
        // Those in the caller's slices are the caller's.
        let values =
            self.parameters.values().any(|parameter| !parameter.in_slice() && header.tensor(&parameter.name).is_some());
        let (mut found, mut steps, mut fresh) = (Vec::new(), HashMap::new(), HashSet::new());
        let mut known = HashSet::new();
        for (&id, parameter) in &self.parameters {
            let counts = COUNTS.map(|count| format!("{}.{count}", parameter.name));
            let states = self.groups[parameter.group].slots();
            let states = states.iter().any(|slot| header.tensor(&format!("{}.{slot}", parameter.name)).is_some());
            let taken = match header.tensor(&counts[0]) {
                Some(tensor) => number(file, &counts[0], &tensor)?,
                // SGD does not count; it has a velocity once it has made a step.
                None if !states || note.optimizer == "SGD" => f64::from(u8::from(states)),
                None => {
                    mismatch.missing.push(counts[0].clone());
                    continue;
                }
            };
            known.extend(parameter.in_slice().then(|| parameter.name.clone()));
            steps.insert(id, taken as u64);
            if taken == 0.0 && !states {
                fresh.insert(id);
            }
            known.extend(counts);
        }
        for entry in self.entries(values) {
            let begins = matches!(entry.place, Place::Part(id, part) if part != Part::Parameter && fresh.contains(&id));
            match header.tensor(&entry.name) {
                Some(tensor) if mismatch.compare(&entry, &tensor) => found.push((entry.clone(), Some(tensor))),
                None if begins => found.push((entry.clone(), None)),
                None => mismatch.missing.push(entry.name.clone()),
                Some(_) => {}
            }
            known.insert(entry.name);
        }
        mismatch.unexpected.extend(header.names().into_iter().filter(|name| !known.contains(name)));
        mismatch.sort();
        if !mismatch.is_empty() {
            return Err(Error::Mismatch(mismatch));
        }
        let mut new = self.replaced();
        for (group, (rule, settings)) in new.groups.iter_mut().zip(groups) {
            (group.0, group.1) = (rule, settings);
        }
        let before = self.replaced();
        self.replace(new);
        let loaded = self.check_together().and_then(|()| {
            let (read, begin): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, tensor)| tensor.is_some());
            self.read_tensors(
                file,
                read.into_iter().filter_map(|(entry, tensor)| Some((entry, tensor?))).collect(),
                None,
            )?;
            begin.iter().try_for_each(|(entry, _)| self.begin(entry))
        });
        if loaded.is_err() {
            self.replace(before);
            return loaded;
        }
        for (id, steps) in steps {
            self.parameters.entry(id).and_modify(|p| (p.steps, p.pending) = (steps, 0));
        }
        self.end_window();
        Ok(())
    }

    /// Saves parameters, states and settings for `examples/torch_optimizer.py`, which loads them into PyTorch's optimizer of the same class.
    /// What PyTorch does beside its optimizers (clipping, loss scaling, noise, schedules) is not in it.
    ///
    /// # Errors
    /// As [`Optimizer::save`]; [`Error::Unsupported`] for a rule, or a form of it, that PyTorch does not have, for groups of different
    /// classes, for a parameter with a rate or decay of its own, and for a group that keeps an average.
    #[cfg(not(target_family = "wasm"))]
    pub fn save_torch(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        super::replace(path.as_ref(), |out| pollster::block_on(self.save_torch_to(out)))
    }

    /// [`Optimizer::save_torch`] to where the caller wants it.
    ///
    /// # Errors
    /// As [`Optimizer::save_torch`].
    pub async fn save_torch_to(&mut self, out: &mut impl Write) -> Result<()> {
        self.settle().await?;
        self.check_saved()?;
        self.check_no_average()?;
        // PyTorch's AdamW is Adam to us: a group without decay is of whichever class the others are.
        let adamw = self.groups.iter().any(|group| group.rule.name() == "adam" && group.settings.decoupled() > 0.0);
        let mut class = None;
        let mut param_groups = Vec::new();
        for (k, group) in self.groups.iter().enumerate() {
            let refuse = |reason| {
                let name = format!("group {k} ({})", group.rule.name());
                Err(Error::Unsupported { operation: "saving for PyTorch", name, reason })
            };
            let Some((of, mut saved)) = torch::write(&group.rule, &group.now(), adamw) else {
                return refuse("PyTorch has no such rule, or not with this form, configuration or decay");
            };
            if *class.get_or_insert(of) != of {
                return refuse("all groups of one of PyTorch's optimizers are of one class");
            }
            let ours = self.parameters.values().filter(|parameter| parameter.group == k);
            let Options { lr_scale, weight_decay, .. } = Options::default();
            if ours.clone().any(|p| (p.options.lr_scale, p.options.weight_decay) != (lr_scale, weight_decay)) {
                return refuse("a parameter has a rate or decay of its own: PyTorch needs a group for it");
            }
            saved.insert("params".into(), ours.map(|parameter| parameter.name.as_str()).collect());
            param_groups.push(saved);
        }
        let mut entries = self.entries(true);
        let begun = |parameter: &&Parameter| parameter.steps > 0 || class == Some("Adagrad");
        for parameter in self.parameters.values().filter(begun) {
            for (count, value) in torch_counts(&self.groups[parameter.group].rule, parameter.steps) {
                let (name, place) = (format!("{}.{count}", parameter.name), Place::Number(value as f32));
                entries.push(Entry { name, place, len: 1, dtype: Dtype::F32, shape: Vec::new() });
            }
        }
        // As in PyTorch, no state before the first step; Adagrad's is there from the beginning.
        entries.retain(|entry| match entry.place {
            Place::Part(id, Part::State(_)) => self.get(ParameterId(id)).is_ok_and(|parameter| begun(&parameter)),
            _ => true,
        });
        let note = Note { optimizer: class.unwrap_or_default().into(), param_groups };
        let note = serde_json::to_string(&note).map_err(|e| damaged(e.to_string()))?;
        self.write_tensors(out, entries, ("torch", note), None).await
    }
}

impl Optimizer {
    /// Each group's rule and settings, from the PyTorch group that its parameters are in.
    fn torch_groups(&self, note: &Note, mismatch: &mut Mismatch) -> Result<Vec<(AnyRule, Settings)>> {
        let mut of = HashMap::new();
        for (k, group) in note.param_groups.iter().enumerate() {
            let names = group.get("params").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            of.extend(names.map(|name| (name, k)));
        }
        mismatch.unexpected.extend(of.keys().filter(|name| !self.names.contains_key(**name)).map(|&name| name.into()));
        let mut groups = Vec::new();
        for (k, group) in self.groups.iter().enumerate() {
            let mut theirs = None;
            for parameter in self.parameters.values().filter(|parameter| parameter.group == k) {
                match of.get(parameter.name.as_str()) {
                    None => mismatch.missing.push(parameter.name.clone()),
                    Some(group) if *theirs.get_or_insert(*group) != *group => {
                        let name = &parameter.name;
                        mismatch
                            .different
                            .push(format!("{name} (in group {group} of the file, not in that of group {k})"));
                    }
                    Some(_) => {}
                }
            }
            let Some(saved) = theirs.map(|theirs| &note.param_groups[theirs]) else {
                groups.push((group.rule.clone(), group.settings));
                continue;
            };
            let (rule, settings) = torch::read(&note.optimizer, saved)?;
            if !group.rule.stands_for(&rule) {
                let (class, saved, here) = (&note.optimizer, rule.0.save(), group.rule.0.save());
                let what =
                    format!("the rule of group {k} ({class}, {saved} in the file, {} {here} here)", group.rule.name());
                mismatch.different.push(what);
            }
            let initial_lr = saved.get("initial_lr").and_then(Value::as_f64).filter(|_| group.schedule.is_some());
            let (lr, lr_factor) = (initial_lr.unwrap_or(settings.lr), 1.0);
            let Settings { weight_decay, maximize, .. } = settings;
            let settings = Settings { lr, lr_factor, weight_decay, maximize, ..group.settings };
            settings.check()?;
            groups.push((rule, settings));
        }
        Ok(groups)
    }

    /// Sets a state to what it starts from.
    fn begin(&mut self, entry: &Entry) -> Result<()> {
        let Place::Part(id, Part::State(k)) = entry.place else { return Ok(()) };
        let parameter = self.get(ParameterId(id))?;
        let initial = self.groups[parameter.group].initial()[k];
        if let Device::Gpu(gpu) = &self.device {
            let range = self.range(parameter, Part::State(k))?;
            return gpu.fill(std::slice::from_ref(range), &[initial], entry.len as u64, &parameter.name);
        }
        match self.parameters.get_mut(&id).map(|parameter| &mut parameter.memory) {
            Some(Memory::F32(v)) => v.slots[k].fill(f32::of(initial)),
            Some(Memory::F64(v)) => v.slots[k].fill(initial),
            _ => {}
        }
        Ok(())
    }

    fn check_no_average(&self) -> Result<()> {
        match self.groups.iter().position(|group| group.averaging.is_some()) {
            None => Ok(()),
            Some(k) => {
                let (name, reason) = (format!("group {k}"), "it keeps an average, which PyTorch's optimizers do not");
                Err(Error::Unsupported { operation: "PyTorch's state", name, reason })
            }
        }
    }
}

fn damaged(reason: String) -> Error {
    Error::Checkpoint { reason }
}

/// What PyTorch's state counts.
fn torch_counts(rule: &AnyRule, steps: u64) -> Vec<(&'static str, f64)> {
    match rule.name() {
        "sgd" | "momentum" => Vec::new(),
        "nadam" => {
            let nadam: Option<NAdam> = serde_json::from_str(&rule.0.save()).ok();
            vec![("step", steps as f64), ("mu_product", nadam.map_or(0.0, |nadam| nadam.mu_product(steps)))]
        }
        _ => vec![("step", steps as f64)],
    }
}

/// The one number of a tensor.
fn number(file: &mut (impl Read + Seek), name: &str, tensor: &Tensor) -> Result<f64> {
    let wrong = || damaged(format!("`{name}` is not a number from 0 to 2^53"));
    let mut bytes = [0; 8];
    let width = match (tensor.dtype, tensor.len) {
        (Dtype::F32, 1) => 4,
        (Dtype::F64 | Dtype::I64, 1) => 8,
        _ => return Err(wrong()),
    };
    file.seek(SeekFrom::Start(tensor.start)).map_err(Error::stream)?;
    file.read_exact(&mut bytes[..width]).map_err(Error::stream)?;
    let [a, b, c, d, ..] = bytes;
    let number = match tensor.dtype {
        Dtype::F32 => f32::from_le_bytes([a, b, c, d]).into(),
        Dtype::F64 => f64::from_le_bytes(bytes),
        _ => i64::from_le_bytes(bytes) as f64,
    };
    if (0.0..9e15).contains(&number) { Ok(number) } else { Err(wrong()) }
}
