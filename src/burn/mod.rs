//! Our rules as an optimizer of [Burn](https://burn.dev) 0.22's modules, in place where Burn's optimizers stand
//! (feature `burn`).
//!
//! ```
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use wgpu_optim::burn::ModuleOptimizer;
//! use wgpu_optim::{ClipNorm, Settings, WeightDecay, rules::Adam};
//!
//! let device = Device::flex().autodiff(); // for a GPU see `wgpu_device`
//! let adamw = Settings { weight_decay: WeightDecay::Decoupled(0.01), ..Settings::lr(1e-3) };
//! let mut optimizer = ModuleOptimizer::new(&wgpu_optim::Device::Cpu, Adam::default(), adamw)?;
//! optimizer.set_clip_norm(ClipNorm::torch(1.0))?; // of all gradients together
//!
//! let mut model: Linear = LinearConfig::new(3, 1).init(&device);
//! let x = Tensor::<2>::ones([8, 3], &device);
//! let loss = || model.forward(x.clone()).powi_scalar(2).mean();
//! let before = loss().into_scalar::<f32>();
//! let gradients = GradientsParams::from_grads(loss().backward(), &model);
//! let model = optimizer.step(1e-2, model, gradients)?; // as burn::optim's
//! # let after = model.forward(x).powi_scalar(2).mean().into_scalar::<f32>();
//! # assert!(after < before);
//! # Ok::<(), wgpu_optim::Error>(())
//! ```
//!
//! On a GPU a step is one submission on Burn's own queue: parameters are updated where they lie in Burn's memory, and
//! nothing is read back. Burn puts parameters of new modules into a buffer each; those of up to 2¹⁸ elements are copied
//! once, at their first step, into Burn's pools, so that they step together. A parameter that something else shares (a
//! clone of the module, a view, a graph that still needs it) is copied first, as Burn's optimizers do.
//!
//! Values that Burn has promised and not read yet (`to_data()` whose bytes nobody has looked at) are read when they are
//! looked at: do that before the step, or they are the new ones. `burn::train::Learner` takes none but Burn's own
//! optimizers.

use std::collections::{HashMap, HashSet};
use std::fmt;

use ::burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use ::burn::module::{Module, ModuleVisitor, Param, ParamId};
use ::burn::optim::GradientsParams;
use ::burn::tensor::{DType, GradientCheckpointingStrategy, Tensor};

use crate::any_rule::AnyRule;
use crate::clipping::{ClipNorm, NonFinite};
#[cfg(not(target_family = "wasm"))]
use crate::error::Mismatch;
use crate::error::{Error, Result};
use crate::gpu::{Device, Gpu};
#[cfg(not(target_family = "wasm"))]
use crate::optimizer::{LoadOptions, SaveOptions};
use crate::optimizer::{Optimizer, ParameterId};
use crate::scaling::{LossScaler, Report};
use crate::schedule::Schedule;
use crate::settings::{Options, Settings};

mod cpu;
mod gpu;

/// Burn's device on a GPU, and the same for [`ModuleOptimizer::new`]: the best that Burn finds. Before the first tensor
/// is made.
///
/// With a device of your own, or with Burn's options, do what this does: `Device::wgpu_options()…init_with_setup()` and
/// [`Gpu::from_wgpu`] of the setup's device and queue.
///
/// ```no_run
/// use wgpu_optim::{burn::ModuleOptimizer, rules::Adam};
/// let (device, gpu) = wgpu_optim::burn::wgpu_device()?;
/// let device = device.autodiff(); // for the model's tensors
/// let mut optimizer = ModuleOptimizer::new(&gpu.into(), Adam::default(), 1e-3)?;
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
///
/// # Errors
/// [`Error::NoAdapter`] with Burn's reason: also if tensors on Burn's default device were made before.
pub fn wgpu_device() -> Result<(::burn::tensor::Device, Gpu)> {
    let made = ::burn::tensor::Device::wgpu_options().init_with_setup();
    let (device, setup) = made.map_err(|e| Error::NoAdapter { reason: e.to_string() })?;
    Ok((device, Gpu::from_wgpu(setup.device, setup.queue)))
}

/// An optimizer of the parameters of a module, by their paths: `linear1.weight`.
pub struct ModuleOptimizer {
    optimizer: Optimizer,
    /// Which names are in the groups after the first.
    picks: Vec<Pick>,
    known: HashMap<ParamId, ParameterId>,
    /// Those that lie in Burn's pools: the small ones, once they have stepped.
    pooled: HashSet<ParameterId>,
}

type Pick = Box<dyn Fn(&str) -> bool + Send + Sync>;

impl fmt::Debug for ModuleOptimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleOptimizer").field("optimizer", &self.optimizer).finish_non_exhaustive()
    }
}

/// A step that was not taken, and the module as it was. `?` makes its [`Error`] of it.
pub struct StepError<M> {
    /// Why.
    pub error: Error,
    /// The module.
    pub module: M,
}

impl<M> fmt::Debug for StepError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M> fmt::Display for StepError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M> std::error::Error for StepError<M> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<M> From<StepError<M>> for Error {
    fn from(refused: StepError<M>) -> Self {
        refused.error
    }
}

/// A parameter of the module with a gradient.
#[derive(Debug)]
struct Found {
    id: ParamId,
    path: String,
    len: usize,
    dtype: DType,
    lr: f64,
}

impl ModuleOptimizer {
    /// An optimizer with one group: all parameters that no other group picks. `device` is the one that the module is
    /// on: a [`Gpu`] of its wgpu device, or [`Device::Cpu`] for Burn's Flex (in place), and for any other back end (by
    /// way of a copy).
    ///
    /// # Errors
    /// As [`Optimizer::new`]; [`Error::Unsupported`] for a [`Gpu`] that made its own device, and for
    /// [`Settings::centralize`] and [`Settings::adaptive_clip`], which need to know rows from columns.
    pub fn new(device: &Device, rule: impl Into<AnyRule>, settings: impl Into<Settings>) -> Result<Self> {
        let (rule, settings) = (rule.into(), settings.into());
        check_rule(&rule)?;
        check_settings(&settings)?;
        if let Device::Gpu(gpu) = device
            && gpu.is_own()
        {
            let reason = "Burn has another device: take that of `wgpu_device`, or Gpu::from_wgpu of Burn's setup";
            return Err(Error::Unsupported { operation: "a module's optimizer", name: gpu.name(), reason });
        }
        Ok(Self {
            optimizer: Optimizer::new(device, rule, settings)?,
            picks: Vec::new(),
            known: HashMap::new(),
            pooled: HashSet::new(),
        })
    }

    /// Another group, of the parameters whose path the predicate picks; the last group that picks one has it. Before
    /// the first step.
    ///
    /// ```
    /// use wgpu_optim::burn::ModuleOptimizer;
    /// use wgpu_optim::{Device, Settings, WeightDecay, rules::Adam};
    /// let decayed = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(1e-3) };
    /// let optimizer = ModuleOptimizer::new(&Device::Cpu, Adam::default(), decayed)?.with_group(
    ///     |path| path.ends_with("bias") || path.contains("norm"),
    ///     Adam::default(),
    ///     Settings::lr(1e-3),
    /// )?;
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Optimizer::add_group`], and [`Error::Unsupported`] as [`ModuleOptimizer::new`].
    pub fn with_group(
        mut self,
        pick: impl Fn(&str) -> bool + Send + Sync + 'static,
        rule: impl Into<AnyRule>,
        settings: impl Into<Settings>,
    ) -> Result<Self> {
        let (rule, settings) = (rule.into(), settings.into());
        check_rule(&rule)?;
        check_settings(&settings)?;
        self.optimizer.add_group(rule, settings)?;
        self.picks.push(Box::new(pick));
        Ok(self)
    }

    /// One step of every parameter that has a gradient, as `burn::optim::ModuleOptimizer::step`. `lr` is the base rate
    /// of all groups, which [`Settings::lr_factor`] and a schedule multiply; a rate by parameter, of Burn's
    /// `ModuleLrScheduler`, is taken relative to it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a parameter that is not where this optimizer's device is, or whose gradient is
    /// elsewhere, [`Error::ElementType`] for another type than f32 (on the CPU: f64, if all have it),
    /// [`Error::Length`]; [`Error::DuplicateName`] for a new parameter with the path of another one (of two modules, or
    /// of one whose record was loaded: [`ModuleOptimizer::register`] it); [`Error::Hyperparameter`] for a rate; those
    /// of [`Optimizer::step`]. The module comes back with it, as it was.
    pub fn step<M: Module>(
        &mut self,
        lr: impl Into<ModuleLearningRate>,
        module: M,
        gradients: GradientsParams,
    ) -> Result<M, StepError<M>> {
        let rates = lr.into();
        let prepared = self.visit(&module, Some(&gradients), &rates).and_then(|found| {
            self.add(&found, false)?;
            self.set_rates(rates.base(), &found)?;
            Ok(found)
        });
        match (prepared, self.optimizer.device().clone()) {
            (Err(error), _) => Err(StepError { error, module }),
            (Ok(found), _) if found.is_empty() => Ok(module),
            (Ok(found), Device::Gpu(_)) => self.step_on_gpu(&found, module, gradients),
            (Ok(found), Device::Cpu) => self.step_on_cpu(&found, module, gradients),
        }
    }

    /// Makes the module's parameters that require gradients known before the first step, so that
    /// [`ModuleOptimizer::load`] finds them. Those that have the path of known ones stand for them from now on: a
    /// module whose record was loaded has other ids than before.
    ///
    /// # Errors
    /// As [`ModuleOptimizer::step`]; [`Error::Length`] for a parameter of another length than the known one of its
    /// path.
    pub fn register<M: Module>(&mut self, module: &M) -> Result<()> {
        let found = self.visit(module, None, &ModuleLearningRate::from(0.0))?;
        self.add(&found, true)
    }

    /// Limits the norm of all gradients together: see [`Optimizer::set_clip_norm`].
    ///
    /// # Errors
    /// As there.
    pub fn set_clip_norm(&mut self, clip: impl Into<Option<ClipNorm>>) -> Result<()> {
        self.optimizer.set_clip_norm(clip)
    }

    /// Divides gradients by a scale that follows their overflows: see [`Optimizer::set_loss_scaler`]. Multiply each
    /// loss by [`ModuleOptimizer::loss_scale`].
    ///
    /// # Errors
    /// As there.
    pub fn set_loss_scaler(&mut self, scaler: impl Into<Option<LossScaler>>) -> Result<()> {
        self.optimizer.set_loss_scaler(scaler)
    }

    /// The scale of the next loss. On a GPU this waits for the step before, which decides about it;
    /// [`ModuleOptimizer::report`] does not wait, and may be of an earlier step.
    ///
    /// # Errors
    /// As [`Optimizer::read_report`].
    #[cfg(not(target_family = "wasm"))]
    pub fn loss_scale(&self) -> Result<f64> {
        Ok(pollster::block_on(self.optimizer.read_report())?.loss_scale)
    }

    /// What becomes of a step whose gradients hold NaN or ∞: see [`Optimizer::set_non_finite`].
    pub fn set_non_finite(&mut self, policy: NonFinite) {
        self.optimizer.set_non_finite(policy);
    }

    /// Multiplies a group's rate by a schedule: see [`Optimizer::set_schedule`].
    ///
    /// # Errors
    /// As there.
    pub fn set_schedule(&mut self, group: usize, schedule: impl Into<Option<Schedule>>) -> Result<()> {
        self.optimizer.set_schedule(group, schedule)
    }

    /// Other settings of a group, from the next step on; the rate is [`ModuleOptimizer::step`]'s.
    ///
    /// # Errors
    /// As [`Optimizer::set_settings`], and [`Error::Unsupported`] as [`ModuleOptimizer::new`].
    pub fn set_settings(&mut self, group: usize, settings: impl Into<Settings>) -> Result<()> {
        let settings = settings.into();
        check_settings(&settings)?;
        self.optimizer.set_settings(group, settings)
    }

    /// What the last step said that the host knows of: see [`Optimizer::report`].
    pub fn report(&self) -> Report {
        self.optimizer.report()
    }

    /// The optimizer: step counts, states, rates, by path. The parameters' values are Burn's.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Saves the states, as [`Optimizer::save`]; the module's record has the parameters.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_family = "wasm"))]
    pub fn save(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.optimizer.save_with(path, SaveOptions { parameters: false, ..SaveOptions::default() })
    }

    /// Loads what [`ModuleOptimizer::save`] has written, on whatever device it was; [`ModuleOptimizer::register`] the
    /// module before.
    ///
    /// # Errors
    /// As [`Optimizer::load`].
    #[cfg(not(target_family = "wasm"))]
    pub fn load(&mut self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.load_with(path, true).map(drop)
    }

    /// The same; unless `strict`, what fits is loaded, and what does not is returned.
    ///
    /// # Errors
    /// As [`Optimizer::load`].
    #[cfg(not(target_family = "wasm"))]
    pub fn load_with(&mut self, path: impl AsRef<std::path::Path>, strict: bool) -> Result<Mismatch> {
        self.optimizer.load_with(path, LoadOptions { parameters: false, strict, ..LoadOptions::default() })
    }

    /// Parameters with gradients (or all), if all of them can step.
    fn visit<M: Module>(
        &self,
        module: &M,
        gradients: Option<&GradientsParams>,
        rates: &ModuleLearningRate,
    ) -> Result<Vec<Found>> {
        let on_gpu = matches!(self.optimizer.device(), Device::Gpu(_));
        let (found, seen) = (Vec::new(), HashSet::new());
        let mut finder = Finder { on_gpu, path: Vec::new(), gradients, rates, found, seen, error: None };
        module.visit(&mut finder);
        finder.error.map_or(Ok(finder.found), Err)
    }

    /// Adds those that are new; or, unless `register` is off, lets them stand for the known ones of the same paths.
    fn add(&mut self, found: &[Found], register: bool) -> Result<()> {
        let unknown = found.iter().filter(|found| !self.known.contains_key(&found.id));
        let same: Vec<_> = unknown.filter_map(|found| Some((found, self.optimizer.id(&found.path).ok()?))).collect();
        for (Found { path, len, .. }, id) in &same {
            let name = path.clone();
            match self.optimizer.len(*id) {
                _ if !register => return Err(Error::DuplicateName { name }),
                Some(expected) if expected != *len => return Err(Error::Length { name, expected, found: *len }),
                _ => {}
            }
        }
        for (found, id) in same {
            self.known.retain(|_, known| *known != id);
            self.known.insert(found.id, id);
            self.pooled.remove(&id);
        }
        for group in 0..=self.picks.len() {
            let of = |path: &str| self.picks.iter().rposition(|pick| pick(path)).map_or(0, |k| k + 1);
            let new = |found: &&Found| !self.known.contains_key(&found.id) && of(&found.path) == group;
            let new: Vec<_> = found.iter().filter(new).collect();
            match self.optimizer.device() {
                Device::Gpu(_) => {
                    let tensors: Vec<_> = new.iter().map(|found| (found.path.as_str(), found.len)).collect();
                    let ids = self.optimizer.add_elsewhere(group, &tensors)?;
                    self.known.extend(new.iter().map(|found| found.id).zip(ids));
                }
                Device::Cpu => {
                    for Found { id, path, len, dtype, .. } in new {
                        let added = match dtype {
                            DType::F64 => self.optimizer.add_slice::<f64>(group, path, *len)?,
                            _ => self.optimizer.add_slice::<f32>(group, path, *len)?,
                        };
                        self.known.insert(*id, added);
                    }
                }
            }
        }
        Ok(())
    }

    /// The largest rate, and each parameter's relative to it.
    fn set_rates(&mut self, lr: f64, found: &[Found]) -> Result<()> {
        // Of the largest each is a fraction.
        let lr = found.iter().map(|found| found.lr).fold(lr, f64::max);
        for group in 0..=self.picks.len() {
            if self.optimizer.settings(group)?.lr != lr {
                self.optimizer.set_lr(group, lr)?;
            }
        }
        for Found { id, lr: own, .. } in found {
            let Some(id) = self.known.get(id).copied() else { continue };
            let options = self.optimizer.options(id)?;
            let lr_scale = if *own == lr { 1.0 } else { own / lr };
            if options.lr_scale != lr_scale {
                self.optimizer.set_options(id, Options { lr_scale, ..options })?;
            }
        }
        Ok(())
    }
}

/// What needs a shape that a module does not tell: a layer's weights may lie either way.
/// A module stands where its optimizer trains: it has no way to where the model is evaluated.
fn check_rule(rule: &AnyRule) -> Result<()> {
    if rule.0.evaluation().is_none() {
        return Ok(());
    }
    let reason = "its model is evaluated at another point than it trains at, and a module has no way there";
    Err(Error::Unsupported { operation: "a module's optimizer", name: rule.name().into(), reason })
}

fn check_settings(settings: &Settings) -> Result<()> {
    let name = match settings {
        Settings { centralize: true, .. } => "centralize",
        Settings { adaptive_clip: Some(_), .. } => "adaptive_clip",
        _ => return Ok(()),
    };
    let reason = "a module does not say which dimension has its outputs";
    Err(Error::Unsupported { operation: "a module's optimizer", name: name.into(), reason })
}

/// Looks at a module's parameters.
struct Finder<'a> {
    on_gpu: bool,
    path: Vec<String>,
    /// `None` for all parameters.
    gradients: Option<&'a GradientsParams>,
    rates: &'a ModuleLearningRate,
    found: Vec<Found>,
    seen: HashSet<ParamId>,
    error: Option<Error>,
}

impl ModuleVisitor for Finder<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (gradient, seen) = match self.gradients {
            Some(gradients) => (gradients.get::<D>(param.id), true),
            None => (None, false),
        };
        // Of tied weights the path that comes first has the gradient, and steps, as with Burn's optimizers. Without
        // gradients to go by, those that require them: not running statistics, nor what is frozen.
        let takes_part = if seen { gradient.is_some() } else { param.val().is_require_grad() };
        if self.error.is_some() || !takes_part || !self.seen.insert(param.id) {
            return;
        }
        let (path, tensor) = (self.path.join("."), param.val().inner());
        let (len, dtype) = (tensor.shape().num_elements(), tensor.dtype());
        let refused = |reason| Err(Error::Unsupported { operation: "a step of a module", name: path.clone(), reason });
        let lr = self.rates.lr_from_param(param.id, Some(&path));
        let mixed = self.found.first().is_some_and(|first| first.dtype != dtype);
        let checked = match &gradient {
            _ if !(0.0..=f64::from(f32::MAX)).contains(&lr) => {
                Err(Error::Hyperparameter { name: "lr", value: lr, range: "0 or more, and finite in f32" })
            }
            _ if self.on_gpu && !gpu::is_on_wgpu(&tensor) => {
                refused("the optimizer is on a GPU, the parameter is not on wgpu")
            }
            _ if dtype != DType::F32 && (self.on_gpu || dtype != DType::F64) => {
                let expected = if self.on_gpu { "f32" } else { "f32 or f64" };
                Err(Error::ElementType { name: path.clone(), expected, found: dtype.name() })
            }
            _ if mixed => refused("the module has parameters of f32 and of f64"),
            Some(gradient) if gradient.device() != tensor.device() => refused("its gradient is on another device"),
            Some(gradient) if gradient.dtype() != dtype => refused("its gradient is of another type"),
            Some(gradient) if gradient.shape() != tensor.shape() => {
                let found = gradient.shape().num_elements();
                Err(Error::Length { name: path.clone(), expected: len, found })
            }
            _ => Ok(()),
        };
        match checked {
            Ok(()) => self.found.push(Found { id: param.id, path, len, dtype, lr }),
            Err(e) => self.error = Some(e),
        }
    }
}

/// What a parameter's tensor is to autodiff, to be put back onto the updated one: as Burn's optimizers do it.
struct Context {
    require_grad: bool,
    distributed: bool,
    checkpointing: Option<GradientCheckpointingStrategy>,
}

impl Context {
    fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self {
            require_grad: tensor.is_require_grad(),
            distributed: tensor.is_distributed(),
            checkpointing: tensor.gradient_checkpointing_strategy(),
        }
    }

    fn restore<const D: usize>(&self, updated: Tensor<D>, id: ParamId) -> Tensor<D> {
        let mut tensor = Tensor::from_inner(updated);
        if let Some(strategy) = self.checkpointing {
            tensor = tensor.with_gradient_checkpointing_strategy(strategy);
        }
        if self.require_grad {
            tensor = tensor.require_grad();
        }
        if self.distributed { tensor.set_distributed(id) } else { tensor }
    }
}
