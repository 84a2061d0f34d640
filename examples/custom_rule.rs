//! A rule of your own, outside of the crate: Lion (Chen et al. 2023, arXiv:2302.06675), in WGSL and in Rust.
//!
//! `cargo run --release --example custom_rule` runs it on the CPU and on a GPU if there is one, and compares.

use wgpu_optim::{Device, Error, Gpu, Optimizer, Real, Result, Rule, Step, fields, require};

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

fn run(device: &Device) -> Result<Vec<f32>, Error> {
    let mut lion = Optimizer::new(device, Lion { beta1: 0.9, beta2: 0.99 }, 0.01)?;
    let w = lion.add(0, "w", &[1.0f32, -2.0, 0.5, 0.0, 3.0])?;
    for t in 0..50 {
        let gradient: Vec<f32> = (0..5).map(|i| ((i * 7 + t * 3) % 11) as f32 - 4.0).collect();
        lion.write_gradient(w, &gradient)?;
        lion.step()?;
    }
    lion.read_blocking(w)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cpu = run(&Device::Cpu)?;
    println!("CPU: {cpu:?}");
    match Gpu::new_blocking() {
        Err(e) => println!("no GPU to compare with: {e}"),
        Ok(gpu) => {
            let on_gpu = run(&(&gpu).into())?;
            println!("{}: {on_gpu:?}", gpu.name());
            let apart = cpu.iter().zip(&on_gpu).any(|(a, b)| (a - b).abs() > 1e-5);
            if apart {
                return Err("CPU and GPU differ".into());
            }
        }
    }
    Ok(())
}
