//! `wgpu_optim::burn` on Burn's Flex and, where there is an adapter, on Burn's wgpu; without one those tests are
//! ignored, with the reason.

use std::collections::BTreeMap;
use std::process::ExitCode;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData, activation};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wgpu_optim::burn::ModuleOptimizer;
use wgpu_optim::{AnyRule, Gpu, Settings};

mod parity;
mod sharing;
mod whole;

type Test = (&'static str, fn(&On) -> Result<(), Failed>);

/// Where a test runs: Burn's device, and ours.
#[derive(Clone)]
struct On {
    burn: Device,
    ours: wgpu_optim::Device,
}

impl On {
    fn optimizer(&self, rule: impl Into<AnyRule>, settings: impl Into<Settings>) -> Result<ModuleOptimizer, Failed> {
        Ok(ModuleOptimizer::new(&self.ours, rule, settings)?)
    }

    fn is_gpu(&self) -> bool {
        matches!(self.ours, wgpu_optim::Device::Gpu(_))
    }
}

fn main() -> ExitCode {
    // One after the other: all are on one device, whose memory some of them watch.
    let args = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let tests = [parity::TESTS, sharing::TESTS, whole::TESTS].concat();
    let flex = On { burn: Device::flex().autodiff(), ours: wgpu_optim::Device::Cpu };
    let mut trials: Vec<_> =
        tests.iter().map(|&(name, test)| trial(format!("flex::{name}"), flex.clone(), test)).collect();
    let required = std::env::var("WGPU_OPTIM_REQUIRE_GPU").is_ok_and(|v| v == "1");
    let present = pollster::block_on(Gpu::adapters()).map(drop);
    match present.and_then(|()| wgpu_optim::burn::wgpu_device()) {
        Ok((burn, gpu)) => {
            let on = On { burn: burn.autodiff(), ours: gpu.into() };
            trials.extend(tests.iter().map(|&(name, test)| trial(format!("wgpu::{name}"), on.clone(), test)));
        }
        Err(e) => trials.extend(tests.iter().map(|&(name, _)| {
            let reason = e.to_string();
            Trial::ignorable_test(format!("wgpu::{name}"), move || match required {
                true => Err(reason.into()),
                false => Ok(Completion::ignored_with(reason)),
            })
        })),
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(name: String, on: On, test: fn(&On) -> Result<(), Failed>) -> Trial {
    Trial::test(name, move || test(&on))
}

fn ensure(holds: bool, what: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

/// A convolution (its gradient is permuted), a list, an option that is there and one that is not, and a layer without a
/// gradient.
#[derive(Module, Debug)]
struct Net {
    conv: Conv2d,
    layers: Vec<Linear>,
    head: Option<Linear>,
    absent: Option<Linear>,
    unused: Linear,
}

impl Net {
    fn new(on: &On) -> Self {
        on.burn.seed(7);
        let linear = |from, to| LinearConfig::new(from, to).init(&on.burn);
        Self {
            conv: Conv2dConfig::new([1, 4], [3, 3]).init(&on.burn),
            layers: vec![linear(64, 16), linear(16, 8)],
            head: Some(linear(8, 3)),
            absent: None,
            unused: linear(5, 5),
        }
    }

    fn loss(&self, on: &On, step: usize) -> Tensor<1> {
        let x = Tensor::<4>::from_data(TensorData::new(numbers(16 * 36, step), [16, 1, 6, 6]), &on.burn);
        let mut x = activation::relu(self.conv.forward(x)).reshape([16, 64]);
        for layer in &self.layers {
            x = activation::tanh(layer.forward(x));
        }
        let x = self.head.as_ref().map_or(x.clone(), |head| head.forward(x));
        (x - 0.5).powi_scalar(2).mean()
    }

    fn gradients(&self, on: &On, step: usize) -> (f32, GradientsParams) {
        let loss = self.loss(on, step);
        (loss.clone().into_scalar(), GradientsParams::from_grads(loss.backward(), self))
    }
}

/// Numbers between −1 and 1.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_add(seed as u64);
    let mut next = || {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

type Named = BTreeMap<String, Vec<f32>>;

/// What a module's parameters are, by path, or what their gradients are.
struct Reader<'a> {
    path: Vec<String>,
    gradients: Option<&'a GradientsParams>,
    read: Named,
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = match self.gradients {
            None => Some(param.val().inner()),
            Some(gradients) => gradients.get::<D>(param.id),
        };
        if let Some(tensor) = tensor {
            self.read.insert(self.path.join("."), tensor.into_data().try_to_vec().unwrap());
        }
    }
}

fn read<M: Module>(module: &M, gradients: Option<&GradientsParams>) -> Named {
    let mut reader = Reader { path: Vec::new(), gradients, read: Named::new() };
    module.visit(&mut reader);
    reader.read
}

fn values<M: Module>(module: &M) -> Named {
    read(module, None)
}

/// `|x − b| ≤ tolerance · max(1, |b|)` for all elements of all parameters.
fn close(what: &str, x: &Named, b: &Named, tolerance: f32) -> Result<(), Failed> {
    ensure(x.keys().eq(b.keys()) && !x.is_empty(), format!("{what}: {:?} for {:?}", x.keys(), b.keys()))?;
    for ((name, x), b) in x.iter().zip(b.values()) {
        ensure(x.len() == b.len(), format!("{what}: {name} has {} elements for {}", x.len(), b.len()))?;
        let worst = x.iter().zip(b).map(|(x, b)| (x - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
        let finite = x.iter().all(|x| x.is_finite());
        ensure(finite && worst <= tolerance, format!("{what}: {name} is off by {worst:e}"))?;
    }
    Ok(())
}
