//! Our Adam beside Burn's (its options set to PyTorch's) on the same wgpu device: one step with all that Burn does
//! around it, until the device is done; medians of interleaved rounds.
//!
//! ```text
//! cargo bench --features burn --bench burn                       # 2^24, 200x4096, resnet50
//! cargo bench --features burn --bench burn -- 2^20 gpt2 --flex   # on Burn's Flex, on the CPU
//! ```

use std::process::Command;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::Initializer;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use wgpu_optim::burn::ModuleOptimizer;
use wgpu_optim::{Error, Settings, rules::Adam};

#[allow(dead_code, reason = "the benchmark binary uses the rest")]
#[path = "../src/cli/bench/clock.rs"]
mod clock;
#[allow(dead_code, unused_imports, reason = "the benchmark binary uses the rest")]
#[path = "../src/cli/bench/shapes.rs"]
mod shapes;

/// What the benchmark calls itself with.
const RESERVED: &str = "--reserved";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Module, Debug)]
struct Tensors {
    of: Vec<Param<Tensor<1>>>,
}

impl Tensors {
    /// As Burn's layers make their parameters.
    fn new(lens: &[usize], device: &Device) -> Self {
        let start = Initializer::Constant { value: 0.5 };
        Self { of: lens.iter().map(|&len| start.init([len], device)).collect() }
    }

    /// Fresh memory, as `backward` gives it.
    fn gradients(&self, device: &Device) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        for param in &self.of {
            let gradient = Tensor::<1>::full(param.val().shape(), 0.25, &device.clone().without_autodiff());
            gradients.register(param.id, gradient);
        }
        gradients
    }
}

struct Sum(f64);

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 += f64::from(param.val().inner().abs().sum().into_scalar::<f32>());
    }
}

fn sum(module: &Tensors) -> f64 {
    let mut sum = Sum(0.0);
    module.visit(&mut sum);
    sum.0
}

/// Milliseconds of a step, gradients ready before it; those until the host is done with it go to `host`.
fn timed(
    module: &mut Option<Tensors>,
    device: &Device,
    host: &mut Vec<f64>,
    step: impl FnOnce(Tensors, GradientsParams) -> Result<Tensors, Error>,
) -> Result<f64, Error> {
    let lost = |e| Error::Rejected { operation: "waiting", reason: format!("{e:?}") };
    let now = module.take().ok_or(Error::DeviceLost)?;
    let gradients = now.gradients(device);
    device.sync().map_err(lost)?;
    let start = Instant::now();
    let stepped = step(now, gradients)?;
    host.push(start.elapsed().as_secs_f64() * 1e3);
    device.sync().map_err(lost)?;
    *module = Some(stepped);
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn main() -> Outcome<()> {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [RESERVED, of, shape] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return print_reserved(of, &shape.parse()?);
    }
    let flex = args.iter().any(|arg| arg == "--flex");
    let mut shapes: Vec<shapes::Shape> = Vec::new();
    for arg in args.iter().filter(|arg| !arg.starts_with("--")) {
        shapes.push(arg.parse()?);
    }
    if shapes.is_empty() {
        shapes = ["2^24", "200x4096", "resnet50"].iter().map(|shape| shape.parse()).collect::<Result<_, _>>()?;
    }
    let (device, ours): (Device, wgpu_optim::Device) = match flex {
        true => (Device::flex().autodiff(), wgpu_optim::Device::Cpu),
        false => {
            let (device, gpu) = wgpu_optim::burn::wgpu_device()?;
            (device.autodiff(), gpu.into())
        }
    };
    println!("{}: a step of Adam, Burn's and ours, medians of interleaved rounds", ours.name());
    println!(
        "| tensors  | elements | Burn's, ms | ours, ms | Burn's / ours | noise | Burn's on host | ours on host | Burn's, MiB | ours, MiB | dispatches |"
    );
    println!(
        "| -------- | -------: | ---------: | -------: | ------------: | ----: | -------------: | -----------: | ----------: | --------: | ---------: |"
    );
    for shape in &shapes {
        let (theirs, mine) = if flex { (0, 0) } else { (reserved("burn's", shape)?, reserved("ours", shape)?) };
        let (mut a, mut b) = (Some(Tensors::new(&shape.lens, &device)), Some(Tensors::new(&shape.lens, &device)));
        let mut burns = AdamConfig::new().with_epsilon(1e-8).init();
        let mut optimizer = ModuleOptimizer::new(&ours, Adam::default(), Settings::lr(1e-3))?;
        let (mut host, mut their_host) = (Vec::new(), Vec::new());
        let mut theirs_once =
            || timed(&mut a, &device, &mut their_host, |module, gradients| Ok(burns.step(1e-3, module, gradients)));
        let ours_once =
            || timed(&mut b, &device, &mut host, |module, gradients| Ok(optimizer.step(1e-3, module, gradients)?));
        let pair = clock::interleave(ours_once, &mut theirs_once)?;
        // Ours has made one step more, around the last of theirs.
        theirs_once()?;
        let (Some(a), Some(b)) = (a, b) else { return Err("a module is lost".into()) };
        let apart = (sum(&a) - sum(&b)).abs() / sum(&a);
        if apart > 1e-4 {
            return Err(format!("{}: the two are {apart:e} apart", shape.name).into());
        }
        let [ms, their_ms] = pair.ms;
        let (host, their_host) = (clock::median(host), clock::median(their_host));
        println!(
            "| {:8} | {:8} | {their_ms:10.3} | {ms:8.3} | {:13.2} | {:5.3} | {their_host:14.2} | {host:12.2} | {theirs:11} | {mine:9} | {:10} |",
            shape.name,
            shape.elements(),
            pair.ratio,
            pair.noise,
            optimizer.optimizer().dispatches()
        );
    }
    Ok(())
}

/// MiB of wgpu's buffers after five steps of one side: module, gradients, optimizer, and what their pools have
/// reserved. In a process of its own, where nothing was reserved before.
fn reserved(of: &str, shape: &shapes::Shape) -> Outcome<usize> {
    let output = Command::new(std::env::current_exe()?).args([RESERVED, of, &shape.name]).output()?;
    let bytes: usize = String::from_utf8(output.stdout)?
        .trim()
        .parse()
        .map_err(|e| format!("{of}: {e}, {}", String::from_utf8_lossy(&output.stderr)))?;
    // Parameter, gradient and two states.
    let least = 16 * shape.elements();
    if bytes < least {
        return Err(format!("{}: {of} in {bytes} bytes, less than its {least}", shape.name).into());
    }
    Ok(bytes >> 20)
}

/// The other end of it.
fn print_reserved(of: &str, shape: &shapes::Shape) -> Outcome<()> {
    let (device, gpu) = wgpu_optim::burn::wgpu_device()?;
    let device = device.autodiff();
    let mut module = Some(Tensors::new(&shape.lens, &device));
    let mut theirs = AdamConfig::new().with_epsilon(1e-8).init();
    let mut mine = ModuleOptimizer::new(&(&gpu).into(), Adam::default(), Settings::lr(1e-3))?;
    for _ in 0..5 {
        timed(&mut module, &device, &mut Vec::new(), |module, gradients| match of {
            "ours" => Ok(mine.step(1e-3, module, gradients)?),
            _ => Ok(theirs.step(1e-3, module, gradients)),
        })?;
    }
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    println!("{}", gpu.device().get_internal_counters().hal.buffer_memory.read());
    Ok(())
}
