//! The class `Optimizer`.

#![expect(clippy::await_holding_refcell_ref, reason = "what is called meanwhile gets the error `Busy`")]

use std::io::Cursor;
use std::rc::Rc;

use js_sys::{Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;

use super::adopt::{adopt_device, binding};
use super::errors::{Js, fault};
use super::options::{self, GroupPatch};
use super::shared::{Shared, floats, index, nothing, numbers, promise, text};
use crate::error::Error;
use crate::gpu::Device;
use crate::optimizer::{Gradient, LoadOptions, Optimizer, ParameterId, SaveOptions};
use crate::rules;

#[wasm_bindgen]
extern "C" {
    /// A `GPUDevice`.
    #[wasm_bindgen(typescript_type = "GPUDevice")]
    #[derive(Clone, Debug)]
    pub type JsDevice;
    /// A text.
    #[wasm_bindgen(typescript_type = "string")]
    #[derive(Clone, Debug)]
    pub type JsName;
    /// A `GPUBufferBinding`.
    #[wasm_bindgen(typescript_type = "GPUBufferBinding")]
    #[derive(Clone, Debug)]
    pub type JsBinding;
}

/// An optimizer on your own `GPUDevice`, or on the CPU.
///
/// Await each promise before the next call. Until then, a call that changes the optimizer throws an error with the code
/// `Busy`, and any other call may.
#[wasm_bindgen(js_name = Optimizer)]
#[derive(Debug)]
pub struct JsOptimizer(pub(super) Rc<Shared>);

/// How often a wait for room looks again: the device may be done before its callbacks run.
const TURNS: u32 = 100;

async fn make(device: Device, options: JsValue) -> Js<JsValue> {
    let (patch, rest) = GroupPatch::read(&options, None)?;
    let mut optimizer = Optimizer::new(&device, patch.rule.clone(), patch.settings)?;
    options::safeguard(&mut optimizer, rest)?;
    patch.install(&mut optimizer, 0)?;
    checked(&optimizer).await?;
    Ok(JsOptimizer(Shared::new(optimizer)).into())
}

/// What the device has refused until now.
async fn checked(optimizer: &Optimizer) -> Js<()> {
    match optimizer.device() {
        Device::Gpu(gpu) => Ok(gpu.check().await?),
        Device::Cpu => Ok(()),
    }
}

impl JsOptimizer {
    /// The group of what `add` has added, with these options. If they do not fit, nothing is added.
    fn added(
        &self,
        options: JsValue,
        add: impl FnOnce(&mut Optimizer, usize) -> Result<Vec<ParameterId>, Error>,
    ) -> Js<usize> {
        let (group, options) = options::parameter(&options, Default::default())?;
        let (mut optimizer, group) = (self.0.change()?, group.unwrap_or(0));
        let ids = add(&mut optimizer, group)?;
        if let Err(e) = ids.iter().try_for_each(|&id| optimizer.set_options(id, options)) {
            ids.into_iter().try_for_each(|id| optimizer.remove(id))?;
            return Err(e.into());
        }
        Ok(group)
    }
}

#[wasm_bindgen(js_class = Optimizer)]
impl JsOptimizer {
    /// Makes an optimizer on your device, with one parameter group, number 0. Besides a group's options, `options` has
    /// what concerns the step as a whole: `maxNorm`, `nonFinite`, `lossScaler`.
    #[wasm_bindgen(unchecked_return_type = "Promise<Optimizer>")]
    pub fn on(
        device: JsDevice,
        #[wasm_bindgen(unchecked_optional_param_type = "GroupOptions & Safeguards")] options: JsValue,
    ) -> Promise {
        promise(async move { make(adopt_device(&device).await?.into(), options).await })
    }

    /// Makes an optimizer on the CPU, for pages without WebGPU: it steps on gradients of {@link writeGradient}.
    #[wasm_bindgen(unchecked_return_type = "Promise<Optimizer>")]
    pub fn cpu(
        #[wasm_bindgen(unchecked_optional_param_type = "GroupOptions & Safeguards")] options: JsValue,
    ) -> Promise {
        promise(make(Device::Cpu, options))
    }

    /// All rules.
    #[wasm_bindgen(unchecked_return_type = "Rule[]")]
    pub fn rules() -> Result<JsValue, JsValue> {
        options::write(&rules::all().into_iter().map(options::describe).collect::<Vec<_>>())
    }

    /// Why there is no hardware GPU here: no WebGPU, a page that is not secure, no adapter, a software adapter.
    /// `undefined` if there is one.
    #[wasm_bindgen(js_name = whyNoGpu, unchecked_return_type = "Promise<string | undefined>")]
    pub fn why_no_gpu() -> Promise {
        promise(async {
            match Device::choose().await {
                (Device::Cpu, why) => Ok(why.into()),
                (Device::Gpu(gpu), _) => Ok(nothing(gpu.device().destroy())),
            }
        })
    }

    /// What the device is called.
    #[wasm_bindgen(getter)]
    pub fn device(&self) -> Result<String, JsValue> {
        Ok(self.0.get()?.device().name())
    }

    /// Adds a parameter in the optimizer's memory, and returns its group.
    pub fn add(
        &self,
        name: JsName,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] values: JsValue,
        #[wasm_bindgen(unchecked_optional_param_type = "ParameterOptions")] options: JsValue,
    ) -> Result<usize, JsValue> {
        let name = &*text(&name)?;
        let values = numbers(name, values)?;
        self.added(options, |optimizer, group| Ok(vec![optimizer.add(group, name, &values)?]))
    }

    /// Adds several parameters at once, so that they lie side by side and a step is one dispatch. Returns their group.
    #[wasm_bindgen(js_name = addAll)]
    pub fn add_all(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Record<string, Float32Array>")] tensors: JsValue,
        #[wasm_bindgen(unchecked_optional_param_type = "ParameterOptions")] options: JsValue,
    ) -> Result<usize, JsValue> {
        let mut all = Vec::new();
        let names = Reflect::own_keys(&tensors).map_err(|_| fault("Options", "the tensors are no object"))?;
        for name in names.iter() {
            let values = Reflect::get(&tensors, &name)?;
            let name = text(&name)?;
            let values = numbers(&name, values)?;
            all.push((name, values));
        }
        let borrowed: Vec<_> = all.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        self.added(options, |optimizer, group| optimizer.add_all(group, &borrowed))
    }

    /// Adds a parameter in your own buffer, whose gradient your kernels write to another range. Both are f32, with
    /// `GPUBufferUsage.STORAGE`, and stay yours.
    pub fn adopt(
        &self,
        name: JsName,
        parameter: JsBinding,
        gradient: JsBinding,
        #[wasm_bindgen(unchecked_optional_param_type = "ParameterOptions")] options: JsValue,
    ) -> Result<usize, JsValue> {
        let name = &*text(&name)?;
        let [parameter, gradient] = [self.0.adopt(&parameter)?, self.0.adopt(&gradient)?];
        self.added(options, |optimizer, group| {
            let id = optimizer.add_buffer(group, name, parameter)?;
            match optimizer.set_gradient(id, Gradient::Buffer(gradient)) {
                Ok(()) => Ok(vec![id]),
                Err(e) => optimizer.remove(id).and(Err(e)),
            }
        })
    }

    /// Removes a parameter with its states.
    pub fn remove(&self, name: JsName) -> Result<(), JsValue> {
        let name = &*text(&name)?;
        Ok(self.0.change()?.remove(name)?)
    }

    /// Names of all parameters, in the order in which they were added.
    pub fn parameters(&self) -> Result<Vec<String>, JsValue> {
        Ok(self.0.get()?.parameters().map(|(_, name)| name.to_owned()).collect())
    }

    /// Where a parameter is, for your bind groups.
    #[wasm_bindgen(unchecked_return_type = "GPUBufferBinding")]
    pub fn parameter(&self, name: JsName) -> Result<JsValue, JsValue> {
        let name = &*text(&name)?;
        binding(self.0.get()?.parameter(name)?)
    }

    /// Where your kernels write a parameter's gradient. The next steps read it.
    #[wasm_bindgen(unchecked_return_type = "GPUBufferBinding")]
    pub fn gradient(&self, name: JsName) -> Result<JsValue, JsValue> {
        let name = &*text(&name)?;
        binding(self.0.get()?.gradient(name)?)
    }

    /// Where a state is: `exp_avg`, `momentum_buffer`, …
    #[wasm_bindgen(unchecked_return_type = "GPUBufferBinding")]
    pub fn state(&self, name: JsName, state: JsName) -> Result<JsValue, JsValue> {
        let name = &*text(&name)?;
        let state = &*text(&state)?;
        binding(self.0.get()?.state_range(name, state)?)
    }

    /// Where the device keeps the scale of the next loss, one f32, for your kernels to multiply the loss by.
    #[wasm_bindgen(js_name = lossScale, unchecked_return_type = "GPUBufferBinding")]
    pub fn loss_scale(&self) -> Result<JsValue, JsValue> {
        binding(&self.0.change()?.loss_scale()?)
    }

    /// Says where the next steps find a gradient: in your buffer, in the optimizer's (`'own'`), or nowhere (`null`), so
    /// that steps leave the parameter out.
    #[wasm_bindgen(js_name = setGradient)]
    pub fn set_gradient(
        &self,
        name: JsName,
        #[wasm_bindgen(unchecked_param_type = "GPUBufferBinding | 'own' | null")] gradient: JsValue,
    ) -> Result<(), JsValue> {
        let name = &*text(&name)?;
        let gradient = match gradient.as_string().as_deref() {
            Some("own") => Gradient::Own,
            _ if gradient.is_null() => Gradient::Missing,
            _ => Gradient::Buffer(self.0.adopt(&gradient)?),
        };
        Ok(self.0.change()?.set_gradient(name, gradient)?)
    }

    /// Sets a parameter's values.
    pub fn write(
        &self,
        name: JsName,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] values: JsValue,
    ) -> Result<(), JsValue> {
        let name = &*text(&name)?;
        Ok(self.0.change()?.write(name, &numbers(name, values)?)?)
    }

    /// Sets a gradient. It stays until it is written again.
    #[wasm_bindgen(js_name = writeGradient)]
    pub fn write_gradient(
        &self,
        name: JsName,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] values: JsValue,
    ) -> Result<(), JsValue> {
        let name = &*text(&name)?;
        Ok(self.0.change()?.write_gradient(name, &numbers(name, values)?)?)
    }

    /// Sets a state.
    #[wasm_bindgen(js_name = writeState)]
    pub fn write_state(
        &self,
        name: JsName,
        state: JsName,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] values: JsValue,
    ) -> Result<(), JsValue> {
        let name = &*text(&name)?;
        let state = &*text(&state)?;
        Ok(self.0.change()?.write_state(name, state, &numbers(name, values)?)?)
    }

    /// Adds a micro-batch's gradient to those since the last step. The next step takes their mean, or their sum:
    /// `accumulation`. In a loop, `await room()` before each, as before a step.
    pub fn accumulate(
        &self,
        name: JsName,
        #[wasm_bindgen(unchecked_param_type = "Float32Array")] gradient: JsValue,
    ) -> Result<(), JsValue> {
        let name = &*text(&name)?;
        let mut optimizer = self.0.change()?;
        let id = optimizer.id(name)?;
        Ok(optimizer.accumulate(id, &numbers(name, gradient)?)?)
    }

    /// Writes 0 to all gradients that are present.
    #[wasm_bindgen(js_name = zeroGrad)]
    pub fn zero_grad(&self) -> Result<(), JsValue> {
        Ok(self.0.change()?.zero_grad()?)
    }

    /// A parameter's values, after all work that is submitted by now.
    #[wasm_bindgen(unchecked_return_type = "Promise<Float32Array>")]
    pub fn read(&self, name: JsName) -> Promise {
        self.0.later(async move |shared| Ok(floats(shared.get()?.read::<f32>(&*text(&name)?).await?)))
    }

    /// A gradient, after all work that is submitted by now.
    #[wasm_bindgen(js_name = readGradient, unchecked_return_type = "Promise<Float32Array>")]
    pub fn read_gradient(&self, name: JsName) -> Promise {
        self.0.later(async move |shared| Ok(floats(shared.get()?.read_gradient::<f32>(&*text(&name)?).await?)))
    }

    /// A state, after all work that is submitted by now.
    #[wasm_bindgen(js_name = readState, unchecked_return_type = "Promise<Float32Array>")]
    pub fn read_state(&self, name: JsName, state: JsName) -> Promise {
        self.0.later(async move |shared| {
            let (name, state) = (text(&name)?, text(&state)?);
            Ok(floats(shared.get()?.read_state::<f32>(name.as_str(), &state).await?))
        })
    }

    /// Steps: one submission to your device's queue, behind what is submitted there.
    ///
    /// In a loop, `await room()` before it: 128 steps may be submitted and not finished, and the next one throws
    /// `TooManyStepsInFlight`.
    pub fn step(&self) -> Result<(), JsValue> {
        Ok(self.0.change()?.step()?)
    }

    /// Moves parameters of rule `momentum` to Nesterov's look-ahead point, where the next gradient is to be taken.
    #[wasm_bindgen(js_name = lookAhead)]
    pub fn look_ahead(&self) -> Result<(), JsValue> {
        Ok(self.0.change()?.look_ahead()?)
    }

    /// Waits until one more step may be submitted: mostly at once.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn room(&self) -> Promise {
        let shared = self.0.clone();
        // Not `Optimizer::room`, which would hold the optimizer while it waits.
        promise(async move {
            for _ in 0..TURNS {
                let room = shared.get_mut()?.has_room();
                match room {
                    Err(Error::TooManyStepsInFlight { .. }) => shared.gpu()?.idle().await?,
                    room => return Ok(nothing(room?)),
                }
            }
            Ok(nothing(shared.get_mut()?.has_room()?))
        })
    }

    /// Waits until the device has finished all work that is submitted by now, and throws what it refused.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn idle(&self) -> Promise {
        let shared = self.0.clone();
        promise(async move {
            let device = shared.get()?.device().clone();
            if let Device::Gpu(gpu) = device {
                gpu.idle().await?;
            }
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Waits until it is known which of the submitted steps were taken: {@link steps} is then exact.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn settle(&self) -> Promise {
        self.0.later(async |shared| Ok(nothing(shared.get_mut()?.settle().await?)))
    }

    /// How many steps a parameter has taken, as far as it is known.
    pub fn steps(&self, name: JsName) -> Result<f64, JsValue> {
        let name = &*text(&name)?;
        Ok(self.0.get()?.steps(name)? as f64)
    }

    /// What the last step that has finished says. Does not wait.
    #[wasm_bindgen(unchecked_return_type = "Report")]
    pub fn report(&self) -> Result<JsValue, JsValue> {
        options::report(self.0.get()?.report())
    }

    /// What the last submitted step says, once it has finished.
    #[wasm_bindgen(js_name = readReport, unchecked_return_type = "Promise<Report>")]
    pub fn read_report(&self) -> Promise {
        self.0.later(async |shared| options::report(shared.get()?.read_report().await?))
    }

    /// Adds a group and returns its number.
    #[wasm_bindgen(js_name = addGroup, unchecked_return_type = "Promise<number>")]
    pub fn add_group(&self, #[wasm_bindgen(unchecked_param_type = "GroupOptions")] options: JsValue) -> Promise {
        self.0.later(async move |shared| {
            let (patch, rest) = GroupPatch::read(&options, None)?;
            options::refuse(&rest)?;
            let mut optimizer = shared.get_mut()?;
            let group = optimizer.add_group(patch.rule.clone(), patch.settings)?;
            let installed = match patch.install(&mut optimizer, group) {
                Ok(()) => checked(&optimizer).await,
                Err(e) => Err(e.into()),
            };
            if installed.is_err() {
                optimizer.take_back_group();
            }
            installed.map(|()| group.into())
        })
    }

    /// Changes a group: what `options` leaves out stays. A `rule` comes with its own defaults.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn set(
        &self,
        #[wasm_bindgen(unchecked_param_type = "GroupOptions")] options: JsValue,
        group: Option<f64>,
    ) -> Promise {
        self.0.later(async move |shared| {
            let (mut optimizer, group) = (shared.get_mut()?, index(group)?);
            let (rule, settings) = (optimizer.rule(group)?.clone(), *optimizer.settings(group)?);
            let (patch, rest) = GroupPatch::read(&options, Some((&rule, &settings)))?;
            options::refuse(&rest)?;
            // An average begins where it is known which steps were taken.
            optimizer.settle().await?;
            optimizer.set_rule(group, patch.rule.clone())?;
            let set = optimizer.set_settings(group, patch.settings);
            if let Err(e) = set.and_then(|()| patch.install(&mut optimizer, group)) {
                // As it was: it fitted before.
                optimizer.set_rule(group, rule)?;
                optimizer.set_settings(group, settings)?;
                return Err(e.into());
            }
            checked(&optimizer).await.map(nothing)
        })
    }

    /// A group's settings as they are now.
    #[wasm_bindgen(unchecked_return_type = "Required<Settings>")]
    pub fn settings(&self, group: Option<f64>) -> Result<JsValue, JsValue> {
        options::write(self.0.get()?.settings(index(group)?)?)
    }

    /// Changes one parameter's options: what `options` leaves out stays. `group` moves it there, with its states; where
    /// that group keeps an average and steps may be skipped, `await settle()` before.
    #[wasm_bindgen(js_name = setParameter)]
    pub fn set_parameter(
        &self,
        name: JsName,
        #[wasm_bindgen(unchecked_param_type = "ParameterOptions")] options: JsValue,
    ) -> Result<(), JsValue> {
        let name = &*text(&name)?;
        let mut optimizer = self.0.change()?;
        let now = optimizer.options(name)?;
        let (group, options) = options::parameter(&options, now)?;
        optimizer.set_options(name, options)?;
        if let Err(e) = group.map_or(Ok(()), |group| optimizer.move_to_group(name, group)) {
            optimizer.set_options(name, now)?;
            return Err(e.into());
        }
        Ok(())
    }

    /// The learning rate of a group's next step, with its schedule.
    pub fn lr(&self, group: Option<f64>) -> Result<f64, JsValue> {
        Ok(self.0.get()?.lr(index(group)?)?)
    }

    /// Sets a group's learning rate.
    #[wasm_bindgen(js_name = setLr)]
    pub fn set_lr(&self, lr: f64, group: Option<f64>) -> Result<(), JsValue> {
        Ok(self.0.change()?.set_lr(index(group)?, lr)?)
    }

    /// Changes what concerns the step as a whole: `maxNorm`, `nonFinite`, `lossScaler`.
    pub fn safeguard(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Safeguards")] options: JsValue,
    ) -> Result<(), JsValue> {
        options::safeguards(&mut *self.0.change()?, &options)
    }

    /// A checkpoint, in the format of safetensors: parameters, states, step counts, settings.
    #[wasm_bindgen(unchecked_return_type = "Promise<Uint8Array>")]
    pub fn save(&self) -> Promise {
        self.0.later(async |shared| {
            let mut file = Vec::new();
            shared.get_mut()?.save_to(&mut file, SaveOptions::default()).await?;
            Ok(Uint8Array::from(&file[..]).into())
        })
    }

    /// Takes a checkpoint of an optimizer with the same groups and parameters, from any device. If it does not fit, the
    /// error says how, and nothing changes.
    pub fn load(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Uint8Array")] checkpoint: JsValue,
    ) -> Result<(), JsValue> {
        let file =
            checkpoint.dyn_into::<Uint8Array>().map_err(|_| fault("Options", "the checkpoint is no Uint8Array"))?;
        self.0.change()?.load_from(&mut Cursor::new(file.to_vec()), LoadOptions::default())?;
        Ok(())
    }

    /// Waits until the device has said what it refuses of all calls so far, and throws the first of it.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn check(&self) -> Promise {
        self.0.later(async |shared| checked(&*shared.get()?).await.map(nothing))
    }

    /// Gives the memory on the device back at once; without it, the garbage collector does, some time after the
    /// optimizer and all that `parameter()` and its like gave are gone. Every later call throws `Destroyed`.
    pub fn destroy(&self) -> Result<(), JsValue> {
        self.0.destroy()
    }
}
