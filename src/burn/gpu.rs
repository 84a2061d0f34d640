//! On wgpu: claims, which run among Burn's own operations and find where each tensor lies; then our step, behind them
//! on the same queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::burn::backend::fusion::custom::{
    CustomOpIr, HandleContainer, Operation, OperationIr, OperationOutput, StreamId, TensorIr,
};
use ::burn::backend::fusion::{FusionBackend, FusionHandle, FusionTensor, get_client};
use ::burn::backend::wgpu::{CubeBackend, CubeTensor, WgpuResource};
use ::burn::backend::{Cube, CubeDevice, DispatchDevice, ExecutionError, RuntimeId, TensorMetadata};
use ::burn::cubecl::client::Client;
use ::burn::cubecl::server::{Handle, ServerError};
use ::burn::cubecl::wgpu::{AutoCompiler, WgpuServer};
use ::burn::module::{Module, ModuleMapper, Param, ParamId};
use ::burn::optim::GradientsParams;
use ::burn::tensor::Tensor;

use super::{Context, Found, ModuleOptimizer, StepError};
use crate::error::{Error, Result};
use crate::gpu::memory::BufferRange;
use crate::gpu::runs::POOLED;
use crate::optimizer::Location;

type Fused = <CubeBackend as FusionBackend>::FusionRuntime;
type Server = WgpuServer<AutoCompiler>;

/// What the claims of a step find.
type Claims = Arc<Mutex<Vec<(ParamId, Claimed)>>>;

/// Handles keep the allocations until they are resolved.
struct Claimed {
    client: Client,
    parameter: Handle,
    gradient: Handle,
    len: usize,
}

fn lock(claims: &Claims) -> MutexGuard<'_, Vec<(ParamId, Claimed)>> {
    claims.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cube(device: &::burn::tensor::Device) -> Option<CubeDevice> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(cube) if cube.runtime() == RuntimeId::Wgpu => Some(cube.clone()),
        _ => None,
    }
}

pub(super) fn is_on_wgpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    cube(&tensor.device()).is_some()
}

fn refused(reason: impl std::fmt::Display) -> Error {
    Error::Rejected { operation: "a step of a module", reason: reason.to_string() }
}

impl ModuleOptimizer {
    pub(super) fn step_on_gpu<M: Module>(
        &mut self,
        found: &[Found],
        module: M,
        gradients: GradientsParams,
    ) -> Result<M, StepError<M>> {
        let mut claimer = Claimer {
            optimizer: self,
            found: found.iter().map(|found| (found.id, found)).collect(),
            gradients,
            claims: Claims::default(),
            made: 0,
            device: None,
            error: None,
        };
        let module = module.map(&mut claimer);
        let Claimer { claims, made, device, error, .. } = claimer;
        let stepped = match (error, device) {
            (Some(error), _) => Err(error),
            (None, Some(device)) => self.step_where_they_lie(&claims, made, &device),
            (None, None) => Ok(()),
        };
        match stepped {
            Ok(()) => Ok(module),
            Err(error) => Err(StepError { error, module }),
        }
    }

    fn step_where_they_lie(&mut self, claims: &Claims, made: usize, device: &CubeDevice) -> Result<()> {
        // What Burn has queued on this thread, the claims behind it, runs.
        get_client::<CubeBackend>(device).try_sync(|| ()).map_err(|e| refused(format!("{e:?}")))?;
        let claimed = std::mem::take(&mut *lock(claims));
        if claimed.len() != made {
            return Err(refused("an operation of Burn's before this step has failed"));
        }
        let Some(client) = claimed.first().map(|(_, claimed)| claimed.client.clone()) else { return Ok(()) };
        // In one visit to Burn's thread: where all of it lies. With that its kernels are submitted, and nothing is
        // moved while we hold it.
        let resolver = client.clone();
        let resolve = move || {
            let at = |handle: Handle| resolver.get_resource::<Server>(handle);
            let place = |(id, claimed): (ParamId, Claimed)| {
                Ok((id, at(claimed.parameter)?, at(claimed.gradient)?, claimed.len))
            };
            claimed.into_iter().map(place).collect::<Result<Vec<_>, ServerError>>()
        };
        let pinned = client.exclusive(resolve).and_then(|resolved| resolved).map_err(|e| refused(format!("{e:?}")))?;
        let range = |at: &WgpuResource, len: usize| BufferRange::new(&at.buffer, at.offset, len);
        let mut placed = Vec::with_capacity(pinned.len());
        for (id, parameter, gradient, len) in &pinned {
            let Some(&id) = self.known.get(id) else { continue };
            let (parameter, gradient) = (range(parameter.resource(), *len), range(gradient.resource(), *len));
            placed.push(Location { id, parameter, gradient: Some(gradient) });
        }
        self.pooled.extend(placed.iter().map(|place| place.id));
        self.optimizer.relocate(&placed)?;
        self.optimizer.step()
    }
}

/// Claims each parameter that has a gradient.
struct Claimer<'a> {
    optimizer: &'a ModuleOptimizer,
    found: HashMap<ParamId, &'a Found>,
    gradients: GradientsParams,
    claims: Claims,
    made: usize,
    device: Option<CubeDevice>,
    error: Option<Error>,
}

impl ModuleMapper for Claimer<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(found) = self.found.get(&param.id) else { return param };
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let device = cube(&tensor.device());
        if device.is_none() || self.device.as_ref().is_some_and(|of| Some(of) != device.as_ref()) {
            let reason = "the module's parameters are on several devices";
            let (operation, name) = ("a step of a module", found.path.clone());
            self.error.get_or_insert(Error::Unsupported { operation, name, reason });
            return Param::from_mapped_value(id, tensor, mapper);
        }
        self.device = device;
        let context = Context::of(&tensor);
        let known = self.optimizer.known.get(&id).copied();
        let ours = Ours {
            // Burn has new parameters in a buffer each; from their first step on small ones are to lie together.
            copy: found.len as u64 <= POOLED && known.is_some_and(|id| !self.optimizer.pooled.contains(&id)),
            writes_gradient: known.is_some_and(|id| self.optimizer.optimizer.writes_gradient(id)),
        };
        let (tensor, refused) = claim(tensor.inner(), gradient, id, ours, &self.claims);
        self.made += usize::from(refused.is_none());
        self.error = self.error.take().or(refused);
        Param::from_mapped_value(id, context.restore(tensor, id), mapper)
    }
}

/// What a step will do with a tensor.
#[derive(Clone, Copy)]
struct Ours {
    /// Move the parameter into a pool.
    copy: bool,
    /// Write to the gradient, too.
    writes_gradient: bool,
}

/// The same parameter, to be overwritten on the GPU once the claim is there.
fn claim<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    id: ParamId,
    ours: Ours,
    claims: &Claims,
) -> (Tensor<D>, Option<Error>) {
    let kept = parameter.clone();
    let primitives = parameter
        .try_into_primitive::<Cube>()
        .and_then(|parameter| Ok((parameter, gradient.try_into_primitive::<Cube>()?)))
        .map_err(|e| refused(format!("{e:?}")));
    let (parameter, gradient): (FusionTensor<Fused>, FusionTensor<Fused>) = match primitives {
        Ok(primitives) => primitives,
        Err(e) => return (kept, Some(e)),
    };
    // From here on it is this one's alone.
    drop(kept);
    let client = parameter.client.clone();
    let out = TensorIr::uninit(client.create_empty_handle(), parameter.shape.clone(), parameter.dtype);
    let inputs = [parameter.into_ir(), gradient.into_ir()];
    let description = CustomOpIr::new("wgpu_optim_claim", &inputs, std::slice::from_ref(&out));
    let [parameter, gradient] = inputs;
    let claim = Claim { id, parameter, gradient, out, ours, claims: claims.clone() };
    let registered = client.register(StreamId::current(), OperationIr::Custom(description), claim);
    (Tensor::from_primitive::<Cube>(registered.output()), None)
}

/// Runs on Burn's thread, behind everything that was registered before it.
struct Claim {
    id: ParamId,
    parameter: TensorIr,
    gradient: TensorIr,
    out: TensorIr,
    ours: Ours,
    claims: Claims,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "claim of {}", self.id)
    }
}

impl Operation<Fused> for Claim {
    fn execute(&self, handles: &mut HandleContainer<FusionHandle<Fused>>) -> Result<(), ExecutionError> {
        // Taken out of the container, so that its handle says whether anybody else has it.
        let parameter = in_rows(handles.get_float_tensor::<CubeBackend>(&self.parameter));
        let parameter = if self.ours.copy || !parameter.can_mut() { parameter.copy() } else { parameter };
        let gradient = in_rows(handles.get_float_tensor::<CubeBackend>(&self.gradient));
        let gradient = if self.ours.writes_gradient && !gradient.can_mut() { gradient.copy() } else { gradient };
        let (client, len) = (parameter.client.clone(), parameter.shape().num_elements());
        let claimed = Claimed { client, parameter: parameter.handle.clone(), gradient: gradient.handle, len };
        handles.register_float_tensor::<CubeBackend>(&self.out.id, parameter);
        lock(&self.claims).push((self.id, claimed));
        Ok(())
    }
}

/// Its elements in order, without gaps: gradients of convolutions and of sums are not.
fn in_rows(tensor: CubeTensor) -> CubeTensor {
    if !tensor.meta.is_tiled() && tensor.is_contiguous() {
        return tensor;
    }
    let (client, device, dtype, shape) = (tensor.client.clone(), tensor.device.clone(), tensor.dtype, tensor.shape());
    let storage = ::burn::backend::cubecl::dtype_to_storage_type(dtype);
    let rows = ::burn::cubecl::std::tensor::into_contiguous(&client, tensor.binding(), storage);
    CubeTensor::new_contiguous(client, device, shape, rows.handle, dtype)
}
