//! Handwritten digits with Burn: a small convolutional network whose optimizer is ours, in place on Burn's buffers.
//!
//! ```text
//! cargo run --release --features burn --example burn_mnist                    # 8,000 embedded images, 2,000 to test
//! cargo run --release --features burn --example burn_mnist -- --optimizer lamb --data DIR
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, seq::SliceRandom};
use wgpu_optim::burn::ModuleOptimizer;
use wgpu_optim::{ClipNorm, Gpu, Settings, rules};

#[path = "mnist/data.rs"]
mod data;

use data::{CLASSES, PIXELS, Samples};

/// Train a convolutional network on MNIST with Burn. The last line printed is the accuracy on the test images.
#[derive(Debug, Parser)]
struct Args {
    /// Directory with MNIST's four IDX files, gzipped or not; default: 10,000 embedded images.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Any rule by name; a wrong one lists them.
    #[arg(long, default_value = "adam")]
    optimizer: String,
    #[arg(long, default_value_t = 2)]
    epochs: usize,
    /// Learning rate; default: the rule's own.
    #[arg(long)]
    lr: Option<f64>,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// `auto` takes wgpu where there is an adapter, else Burn's Flex on the CPU.
    #[arg(long, value_enum, default_value_t = Where::Auto)]
    device: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Where {
    Auto,
    Wgpu,
    Flex,
}

#[derive(Module, Debug)]
struct Net {
    conv1: Conv2d,
    conv2: Conv2d,
    hidden: Linear,
    out: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            conv1: Conv2dConfig::new([1, 8], [5, 5]).with_stride([2, 2]).init(device),
            conv2: Conv2dConfig::new([8, 16], [5, 5]).with_stride([2, 2]).init(device),
            hidden: LinearConfig::new(16 * 4 * 4, 64).init(device),
            out: LinearConfig::new(64, CLASSES).init(device),
        }
    }

    /// Logits of images, 28 × 28.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let count = images.dims()[0];
        let x = activation::relu(self.conv1.forward(images));
        let x = activation::relu(self.conv2.forward(x)).reshape([count, 16 * 4 * 4]);
        self.out.forward(activation::relu(self.hidden.forward(x)))
    }
}

/// These images and their labels.
fn batch(samples: &Samples, which: &[usize], device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let pixels = which.iter().flat_map(|&k| &samples.images[k * PIXELS..(k + 1) * PIXELS]);
    let pixels: Vec<f32> = pixels.map(|&pixel| f32::from(pixel) / 255.0).collect();
    let labels: Vec<i32> = which.iter().map(|&k| samples.labels[k].into()).collect();
    let images = Tensor::from_data(TensorData::new(pixels, [which.len(), 1, 28, 28]), device);
    (images, Tensor::from_data(TensorData::new(labels, [which.len()]), device))
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn devices(place: Where) -> Result<(Device, wgpu_optim::Device), Box<dyn std::error::Error>> {
    let adapters = pollster::block_on(Gpu::adapters());
    if place == Where::Flex || (place == Where::Auto && adapters.is_err()) {
        return Ok((Device::flex().autodiff(), wgpu_optim::Device::Cpu));
    }
    adapters?;
    let (device, gpu) = wgpu_optim::burn::wgpu_device()?;
    Ok((device.autodiff(), gpu.into()))
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let (train, test) = args.data.as_deref().map_or_else(data::embedded, data::directory)?;
    let rule = rules::by_name(&args.optimizer)?;
    let lr = args.lr.unwrap_or(rule.default_lr());
    let (device, ours) = devices(args.device)?;
    println!("{} on {}, {} images", args.optimizer, ours.name(), train.len());
    let mut optimizer = ModuleOptimizer::new(&ours, rule, Settings::lr(lr))?;
    optimizer.set_clip_norm(ClipNorm::torch(5.0))?;
    device.seed(args.seed);
    let mut net = Net::new(&device);
    let mut order: Vec<_> = (0..train.len()).collect();
    let mut random = rand_pcg::Pcg64Mcg::seed_from_u64(args.seed);
    let size = usize::from(args.batch);
    let bar = ProgressBar::new((args.epochs * train.len().div_ceil(size)) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}")?);
    for epoch in 1..=args.epochs {
        order.shuffle(&mut random);
        for (step, which) in order.chunks(size).enumerate() {
            let (images, labels) = batch(&train, which, &device);
            let loss = CrossEntropyLossConfig::new().init(&device).forward(net.forward(images), labels);
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = optimizer.step(lr, net, gradients)?;
            if step % 20 == 0 {
                let norm = optimizer.report().grad_norm;
                bar.set_message(format!("epoch {epoch} loss {:.4} norm {norm:.2}", loss.into_scalar::<f32>()));
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let (net, plain) = (net.valid(), device.without_autodiff());
    let mut right = 0;
    for which in (0..test.len()).collect::<Vec<_>>().chunks(500) {
        let (images, labels) = batch(&test, which, &plain);
        let found = net.forward(images).argmax(1).reshape([which.len()]);
        right += found.equal(labels).int().sum().into_scalar::<i64>();
    }
    println!("test accuracy {:.2} %", 100.0 * right as f64 / test.len() as f64);
    Ok(())
}
