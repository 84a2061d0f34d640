//! On the CPU: Burn's Flex gives its memory away and takes it back; any other back end gives a copy.

use std::collections::{HashMap, HashSet};

use ::burn::module::{Module, ModuleMapper, Param, ParamId};
use ::burn::optim::GradientsParams;
use ::burn::tensor::{DType, Device, Element, Tensor, TensorData};

use super::{Context, Found, ModuleOptimizer, StepError};
use crate::error::{Error, Result};
use crate::optimizer::Slices;
use crate::rule::Real;

/// A tensor that has given its memory away.
struct Taken {
    parameter: TensorData,
    gradient: TensorData,
    context: Context,
    device: Device,
    dtype: DType,
}

impl ModuleOptimizer {
    pub(super) fn step_on_cpu<M: Module>(
        &mut self,
        found: &[Found],
        module: M,
        gradients: GradientsParams,
    ) -> Result<M, StepError<M>> {
        let found_ids = found.iter().map(|found| found.id).collect();
        let mut taker = Taker { found: found_ids, gradients, taken: HashMap::new() };
        let module = module.map(&mut taker);
        let mut taken = taker.taken;
        // All are of the first one's type.
        let stepped = match found.first().map(|found| found.dtype) {
            Some(DType::F64) => self.step_taken::<f64>(&mut taken),
            _ => self.step_taken::<f32>(&mut taken),
        };
        let module = module.map(&mut Giver { taken });
        match stepped {
            Ok(()) => Ok(module),
            Err(error) => Err(StepError { error, module }),
        }
    }

    fn step_taken<F: Real + Element>(&mut self, taken: &mut HashMap<ParamId, Taken>) -> Result<()> {
        let mut slices = Vec::with_capacity(taken.len());
        for (id, taken) in taken {
            let Some(&id) = self.known.get(id) else { continue };
            let refused = |e| Error::Rejected { operation: "a step of a module", reason: format!("{e:?}") };
            let gradient = taken.gradient.as_slice::<F>().map_err(refused)?;
            let parameter = taken.parameter.as_mut_slice::<F>().map_err(refused)?;
            slices.push(Slices { id, parameter, gradient: Some(gradient) });
        }
        // In one order, so that a norm is the same in every run.
        slices.sort_by_key(|slices| slices.id);
        self.optimizer.step_all_slices(&mut slices)
    }
}

/// Takes the memory of each parameter that has a gradient, and leaves an empty tensor.
struct Taker {
    found: HashSet<ParamId>,
    gradients: GradientsParams,
    taken: HashMap<ParamId, Taken>,
}

impl ModuleMapper for Taker {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.found.contains(&param.id) {
            return param;
        }
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let context = Context::of(&tensor);
        let tensor = tensor.inner();
        let (device, dtype) = (tensor.device(), tensor.dtype());
        let empty = Tensor::<D>::empty([0; D], (&device, dtype));
        let (parameter, gradient) = (tensor.into_data(), gradient.into_data());
        self.taken.insert(id, Taken { parameter, gradient, context, device, dtype });
        Param::from_mapped_value(id, empty, mapper)
    }
}

/// Gives it back.
struct Giver {
    taken: HashMap<ParamId, Taken>,
}

impl ModuleMapper for Giver {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(Taken { parameter, context, device, dtype, .. }) = self.taken.remove(&param.id) else { return param };
        let (id, _, mapper) = param.consume();
        let tensor = Tensor::<D>::from_data(parameter, (&device, dtype));
        Param::from_mapped_value(id, context.restore(tensor, id), mapper)
    }
}
