//! The GPU: one device with its queue, limits and compiled kernels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Error, Result};
use kernel::KernelKey;
use passes::Pass;

#[cfg(target_family = "wasm")]
mod answers;
pub(crate) mod arena;
pub(crate) mod block_table;
#[cfg(target_family = "wasm")]
mod browser;
pub(crate) mod decision;
pub(crate) mod kernel;
pub(crate) mod lines;
mod lost;
pub(crate) mod memory;
pub(crate) mod own;
pub(crate) mod passes;
pub(crate) mod pool;
pub(crate) mod program;
pub(crate) mod recording;
pub(crate) mod ring;
pub(crate) mod runs;
pub(crate) mod step_log;
pub(crate) mod transfer;
mod wgsl;

/// A wgpu device and queue with what is compiled on them. Clones share everything.
#[derive(Clone, Debug)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Set by our callback on a device of our own; a caller's device keeps the caller's callbacks. In a browser ours
    /// displaces nobody's, so that every device has one.
    lost: Option<Arc<AtomicBool>>,
    #[cfg(target_family = "wasm")]
    answers: answers::Answers,
    /// Elements written since the last submission that made room for them.
    unsent: AtomicUsize,
    /// See [`Gpu::gives_a_thread_a_block`].
    block_a_thread: AtomicBool,
    kernels: Mutex<HashMap<KernelKey, Arc<Pass>>>,
    passes: Mutex<HashMap<(String, &'static str), Arc<Pass>>>,
    cache: OnceLock<wgpu::PipelineCache>,
}

/// NVIDIA's driver crashes or hangs where several threads make instances at once (gfx-rs/wgpu#5930).
#[cfg(not(target_family = "wasm"))]
static ENUMERATION: Mutex<()> = Mutex::new(());

impl Gpu {
    /// What a device must have: no feature, and [`wgpu::Limits::downlevel_defaults`], whose four storage buffers a
    /// stage are enough for rules with up to two states that no norm decides about; [`wgpu::Limits::default`] is enough
    /// for all.
    pub const REQUIRED_FEATURES: wgpu::Features = wgpu::Features::empty();
    /// Limits below which nothing runs: see [`Gpu::REQUIRED_FEATURES`].
    pub const REQUIRED_LIMITS: wgpu::Limits = wgpu::Limits::downlevel_defaults();
    /// What is used where a device has it: pipeline caches ([`Gpu::set_pipeline_cache`]); the benchmark uses
    /// timestamps.
    pub const OPTIONAL_FEATURES: wgpu::Features = wgpu::Features::PIPELINE_CACHE
        .union(wgpu::Features::TIMESTAMP_QUERY)
        .union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

    /// The best adapter there is, hardware before software, with the limits and features that it has.
    ///
    /// `WGPU_BACKEND` (`vulkan`, `metal`, `dx12`, `gl`) and `WGPU_ADAPTER_NAME` (part of the name) narrow the choice.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::DeviceRefused`].
    pub async fn new() -> Result<Self> {
        let mut adapters = Self::adapters().await?;
        adapters.sort_by_key(|adapter| preference(adapter.get_info().device_type));
        let mut refused = Error::NoAdapter { reason: "wgpu found none".into() };
        for adapter in adapters {
            match Self::from_adapter(&adapter).await {
                Err(e) => {
                    log::warn!("{e}");
                    refused = e;
                }
                device => return device,
            }
        }
        Err(refused)
    }

    /// [`Gpu::new`], waiting for it. Not in a browser, where nothing may block.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    #[cfg(not(target_family = "wasm"))]
    pub fn new_blocking() -> Result<Self> {
        pollster::block_on(Self::new())
    }

    /// All adapters that run compute shaders and pass `WGPU_BACKEND` and `WGPU_ADAPTER_NAME`.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with what was looked for.
    pub async fn adapters() -> Result<Vec<wgpu::Adapter>> {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        let backends = descriptor.backends;
        #[cfg(not(target_family = "wasm"))]
        let mut adapters = {
            let _one_at_a_time = ENUMERATION.lock().unwrap_or_else(PoisonError::into_inner);
            pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends))
        };
        #[cfg(target_family = "wasm")]
        let mut adapters = vec![browser::adapter(descriptor).await?];
        let compute = wgpu::DownlevelFlags::COMPUTE_SHADERS;
        adapters.retain(|adapter| adapter.get_downlevel_capabilities().flags.contains(compute));
        let names: Vec<_> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
        let wanted = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default().to_lowercase();
        adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted));
        if adapters.is_empty() {
            let reason = format!("backends {backends:?}, name containing {wanted:?}, present {names:?}");
            return Err(Error::NoAdapter { reason });
        }
        Ok(adapters)
    }

    /// A device on this adapter with all its limits, and with timestamps, f16, subgroups and pipeline caches where it
    /// has them.
    ///
    /// # Errors
    /// [`Error::DeviceRefused`].
    pub async fn from_adapter(adapter: &wgpu::Adapter) -> Result<Self> {
        let useful = Self::OPTIONAL_FEATURES | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
        Self::with_limits(adapter, adapter.features() & useful, adapter.limits()).await
    }

    /// A device on this adapter with just these features and limits.
    ///
    /// # Errors
    /// [`Error::DeviceRefused`], which names the limit or the features that the adapter does not have.
    pub async fn with_limits(
        adapter: &wgpu::Adapter,
        required_features: wgpu::Features,
        required_limits: wgpu::Limits,
    ) -> Result<Self> {
        let refused = |reason: String| Error::DeviceRefused { adapter: adapter.get_info().name, reason };
        let missing = required_features - adapter.features();
        if !missing.is_empty() {
            return Err(refused(format!("it lacks the features {missing:?}")));
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpu-optim"),
            required_features,
            required_limits,
            ..Default::default()
        };
        let request = adapter.request_device(&descriptor).await;
        let (device, queue) = request.map_err(|e| refused(e.to_string()))?;
        let lost = watch(&device);
        Ok(Self::wrap(device, queue, Some(lost)))
    }

    /// The caller's device and queue, with whatever limits they have. Installs no callback on them that would displace
    /// another.
    ///
    /// ```no_run
    /// # async fn f(device: wgpu::Device, queue: wgpu::Queue) {
    /// use wgpu_optim::Gpu;
    /// let gpu = Gpu::from_wgpu(device.clone(), queue.clone());
    /// # }
    /// ```
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let lost = cfg!(target_family = "wasm").then(|| watch(&device));
        Self::wrap(device, queue, lost)
    }

    fn wrap(device: wgpu::Device, queue: wgpu::Queue, lost: Option<Arc<AtomicBool>>) -> Self {
        let (kernels, passes, cache) = (Mutex::default(), Mutex::default(), OnceLock::new());
        let block_a_thread = AtomicBool::new(device.adapter_info().device_type == wgpu::DeviceType::Cpu);
        let unsent = AtomicUsize::new(0);
        Self(Arc::new(Inner {
            device,
            queue,
            lost,
            #[cfg(target_family = "wasm")]
            answers: Default::default(),
            unsent,
            block_a_thread,
            kernels,
            passes,
            cache,
        }))
    }

    /// Compiles with this cache from now on, for starts that find the pipelines of an earlier one. On Vulkan, with
    /// [`wgpu::Features::PIPELINE_CACHE`]; set before the first optimizer is made, and once.
    ///
    /// ```no_run
    /// # fn f(gpu: wgpu_optim::Gpu, stored: Option<Vec<u8>>) -> Option<Vec<u8>> {
    /// let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: stored.as_deref(), fallback: true };
    /// // SAFETY: the data are what `get_data` gave to an earlier run.
    /// let cache = unsafe { gpu.device().create_pipeline_cache(&descriptor) };
    /// gpu.set_pipeline_cache(cache.clone());
    /// // … make optimizers, step …
    /// cache.get_data() // to store for the next start
    /// # }
    /// ```
    pub fn set_pipeline_cache(&self, cache: wgpu::PipelineCache) {
        _ = self.0.cache.set(cache);
    }

    pub(crate) fn pipeline_cache(&self) -> Option<&wgpu::PipelineCache> {
        self.0.cache.get()
    }

    /// Whether it made its device itself.
    #[cfg(feature = "burn")]
    pub(crate) fn is_own(&self) -> bool {
        self.0.lost.is_some()
    }

    /// Whether a thread updates a block of 256 alone: on an adapter on a CPU, which pays a barrier for each thread.
    pub(crate) fn gives_a_thread_a_block(&self) -> bool {
        self.0.block_a_thread.load(Ordering::Relaxed)
    }

    /// [`Gpu::gives_a_thread_a_block`] from now on, for tests: both give the same bits.
    pub(crate) fn give_a_thread_a_block(&self, block_a_thread: bool) {
        self.0.block_a_thread.store(block_a_thread, Ordering::Relaxed);
    }

    /// The wgpu device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("wgpu-optim") })
    }

    /// What the adapter calls itself: `name (backend)`. In a browser the name is its vendor and its architecture, and
    /// what else the browser tells.
    pub fn name(&self) -> String {
        let info = self.0.device.adapter_info();
        #[cfg(not(target_family = "wasm"))]
        let name = info.name;
        #[cfg(target_family = "wasm")]
        let name = browser::adapter_name(self.device());
        format!("{name} ({})", info.backend)
    }

    fn passes(&self) -> MutexGuard<'_, HashMap<(String, &'static str), Arc<Pass>>> {
        self.0.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kernels(&self) -> MutexGuard<'_, HashMap<KernelKey, Arc<Pass>>> {
        self.0.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes true when the device is lost.
fn watch(device: &wgpu::Device) -> Arc<AtomicBool> {
    let lost = Arc::new(AtomicBool::new(false));
    let flag = lost.clone();
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            log::error!("GPU device lost: {message}");
        }
        flag.store(true, Ordering::Relaxed);
    });
    lost
}

/// Discrete before integrated before virtual before unknown before software.
fn preference(kind: wgpu::DeviceType) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// Where an optimizer's parameters live and its steps run.
#[derive(Clone, Debug)]
pub enum Device {
    /// Buffers of a wgpu device.
    Gpu(Gpu),
    /// Slices in memory, on all cores.
    Cpu,
}

impl Device {
    /// A hardware GPU, else the CPU: our native path is several times faster than a software adapter on the same cores.
    ///
    /// The choice and its reason are logged at level `info`; [`Device::choose`] returns them. For a software adapter
    /// ask for it: [`Gpu::new`].
    pub async fn auto() -> Self {
        let (device, why) = Self::choose().await;
        match device {
            Self::Cpu => log::info!("device: CPU ({why})"),
            Self::Gpu(_) => log::info!("device: {why}"),
        }
        device
    }

    /// The device of [`Device::auto`], and the GPU's name or why there is none: no adapter, a software adapter, or in a
    /// browser a page that is not secure.
    pub async fn choose() -> (Self, String) {
        match Gpu::new().await {
            Err(e) => (Self::Cpu, e.to_string()),
            Ok(gpu) if gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu => {
                let why = format!("{} is a software adapter, slower than the CPU path", gpu.name());
                // A browser would keep it until its garbage collector comes.
                gpu.device().destroy();
                (Self::Cpu, why)
            }
            Ok(gpu) => {
                let name = gpu.name();
                (Self::Gpu(gpu), name)
            }
        }
    }

    /// [`Device::auto`], waiting for it.
    #[cfg(not(target_family = "wasm"))]
    pub fn auto_blocking() -> Self {
        pollster::block_on(Self::auto())
    }

    /// The adapter's name, or `CPU`.
    pub fn name(&self) -> String {
        match self {
            Self::Gpu(gpu) => gpu.name(),
            Self::Cpu => "CPU".into(),
        }
    }
}

impl From<Gpu> for Device {
    fn from(gpu: Gpu) -> Self {
        Self::Gpu(gpu)
    }
}

impl From<&Gpu> for Device {
    fn from(gpu: &Gpu) -> Self {
        Self::Gpu(gpu.clone())
    }
}
