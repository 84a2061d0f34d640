//! A rule of your own, outside of the crate: Lion (Chen et al. 2023, arXiv:2302.06675), in WGSL and in Rust.
//!
//! `cargo run --release --example custom_rule` runs it on the CPU and on a GPU if there is one, and compares.

use wgpu_optim::{
    ClipNorm, Device, Gpu, LoadOptions, LossScaler, Optimizer, Real, Result, Rule, SaveOptions, Schedule, Step, fields,
    require,
};

/// Sign of the interpolated momentum.
#[derive(Clone, Debug)]
struct Lion {
    beta1: f64,
    beta2: f64,
}

fields! { struct Hyper { lr, beta1, one_minus_beta1, beta2, one_minus_beta2 } }
fields! { struct State { exp_avg } }

impl Rule for Lion {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "lion";
    const LR: f64 = 1e-4;
    const SHADER: &'static str = "
        struct Hyper { lr: f32, beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32 }
        struct State { exp_avg: Lane }

        fn update(w: Lane, g: Lane, s: ptr<function, State>, h: Hyper) -> Lane {
            let direction = sign(h.beta1 * (*s).exp_avg + h.one_minus_beta1 * g);
            (*s).exp_avg = h.beta2 * (*s).exp_avg + h.one_minus_beta2 * g;
            return w - h.lr * direction;
        }";

    fn check(&self) -> Result<()> {
        require((0.0..1.0).contains(&self.beta1), "beta1", self.beta1, "0 to below 1")?;
        require((0.0..1.0).contains(&self.beta2), "beta2", self.beta2, "0 to below 1")
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        let (beta1, beta2) = (self.beta1, self.beta2);
        Hyper { lr: step.lr, beta1, one_minus_beta1: 1.0 - beta1, beta2, one_minus_beta2: 1.0 - beta2 }
    }

    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let interpolated = h.beta1 * s.exp_avg + h.one_minus_beta1 * g;
        let direction = if interpolated == F::zero() { F::zero() } else { interpolated.signum() };
        s.exp_avg = h.beta2 * s.exp_avg + h.one_minus_beta2 * g;
        w - h.lr * direction
    }
}

/// Fifty steps with what every rule gets for nothing: clipping, loss scaling with its skips, a schedule, a checkpoint
/// in the middle.
fn run(device: &Device) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let make = || -> Result<Optimizer> {
        let mut lion = Optimizer::new(device, Lion { beta1: 0.9, beta2: 0.99 }, 0.01)?;
        lion.set_schedule(0, Schedule::cosine(50))?;
        lion.set_clip_norm(ClipNorm::torch(5.0))?;
        lion.set_loss_scaler(LossScaler::default())?;
        lion.add(0, "w", &[1.0f32, -2.0, 0.5, 0.0, 3.0])?;
        Ok(lion)
    };
    let train = |lion: &mut Optimizer, steps: std::ops::Range<usize>| -> Result<()> {
        for t in steps {
            let scale = lion.report().loss_scale as f32;
            let mut gradient: Vec<f32> = (0..5).map(|i| scale * (((i * 7 + t * 3) % 11) as f32 - 4.0)).collect();
            if t == 10 {
                gradient[2] = f32::INFINITY; // an overflow: this step is skipped
            }
            lion.write_gradient("w", &gradient)?;
            lion.step()?;
            lion.settle_blocking()?; // only so that `scale` is the next step's
        }
        Ok(())
    };
    let mut lion = make()?;
    train(&mut lion, 0..25)?;
    let mut file = Vec::new();
    pollster::block_on(lion.save_to(&mut file, SaveOptions::default()))?;
    let mut resumed = make()?;
    resumed.load_from(&mut std::io::Cursor::new(file), LoadOptions::default())?;
    for lion in [&mut lion, &mut resumed] {
        train(lion, 25..50)?;
    }
    let w = lion.read_blocking("w")?;
    if resumed.read_blocking::<f32>("w")? != w || lion.report().skipped_steps != 1 {
        return Err("the checkpoint does not go on where it was saved".into());
    }
    Ok(w)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cpu = run(&Device::Cpu)?;
    println!("CPU: {cpu:?}");
    match Gpu::new_blocking() {
        Err(e) => println!("no GPU to compare with: {e}"),
        Ok(gpu) => {
            let on_gpu = run(&(&gpu).into())?;
            println!("{}: {on_gpu:?}", gpu.name());
            if cpu.iter().zip(&on_gpu).any(|(a, b)| (a - b).abs() > 1e-5) {
                return Err("CPU and GPU differ".into());
            }
        }
    }
    Ok(())
}
