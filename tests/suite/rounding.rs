//! What rounding states to 8 bits does to training: the mean stays, nothing explodes, nothing stalls.

use libtest_mimic::Failed;
use wgpu_optim::rules::{Adam, RmsProp};
use wgpu_optim::{Device, Gpu, Optimizer, Precision, Result, Rounding, States};

use crate::compare::ensure;

crate::tests!(
    the_mean_of_many_roundings_is_the_number,
    no_update_is_larger_than_adams,
    second_moments_decay_without_gradients,
    the_bounds_of_bitsandbytes
);

/// Standard normals.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

fn of(states: States, rounding: Rounding) -> Precision {
    Precision { states, rounding, min_8bit_size: 256, ..Precision::f32() }
}

const OURS: (States, Rounding) = (States::Block8, Rounding::Stochastic);

/// 126,976 copies of 31 numbers, where torchao's test has 100,000; here v = g², in blocks whose largest is 1. The mean
/// of n roundings between two numbers a gap apart is off by gap/(2√n) at most in the mean square; five of that are
/// allowed.
fn the_mean_of_many_roundings_is_the_number(gpu: &Gpu) -> Result<(), Failed> {
    let len = 31 * (1 << 17);
    let values: Vec<f64> = (0..31).map(|k| 10f64.powf(-6.0 * f64::from(k) / 31.0) * 0.9).collect();
    let copies = (len / 32) as f64;
    for (device, states) in
        [(Device::Cpu, States::Block8), (gpu.into(), States::Block8), (Device::Cpu, States::Relative8)]
    {
        let rule = RmsProp { alpha: 0.0, ..RmsProp::torch() };
        let mut optimizer = Optimizer::new(&device, rule, 1e-3)?;
        optimizer.set_precision(0, of(states, Rounding::Stochastic))?;
        let id = optimizer.add(0, "w", &vec![0f32; len])?;
        let number = |k: usize| if k % 32 == 31 { 1.0 } else { values[k % 32].sqrt() as f32 };
        optimizer.write_gradient(id, &(0..len).map(number).collect::<Vec<_>>())?;
        let mut rounded = Vec::new();
        for _ in 0..2 {
            optimizer.step()?;
            rounded.push(optimizer.read_state_blocking::<f32>(id, "square_avg")?);
        }
        for (k, value) in values.iter().enumerate() {
            let of_value: Vec<f64> = rounded[0].iter().skip(k).step_by(32).map(|&x| x.into()).collect();
            let low = of_value.iter().copied().fold(f64::MAX, f64::min);
            let high = of_value.iter().copied().fold(0.0, f64::max);
            let mean = of_value.iter().sum::<f64>() / copies;
            let allowed = 5.0 * (high - low) / (2.0 * copies.sqrt()) + 1e-6 * value;
            ensure((mean - value).abs() <= allowed, format!("{states:?}: {value:e} has the mean {mean:e}"))?;
            ensure(
                low <= *value * 1.000001 && *value <= high * 1.000001,
                format!("{value:e} is not in {low:e}..{high:e}"),
            )?;
            // Neither the next copy nor the next step knows this one's direction: five deviations of 1/√n.
            let up: Vec<f64> = of_value.iter().map(|&x| f64::from(u8::from(x > 0.5 * (low + high)))).collect();
            let later: Vec<f64> = rounded[1]
                .iter()
                .skip(k)
                .step_by(32)
                .map(|&x| f64::from(u8::from(f64::from(x) > 0.5 * (low + high))))
                .collect();
            for (what, other) in [("the next copy", &up[1..]), ("the next step", &later[..])] {
                let found = correlation(&up, other);
                ensure(found.abs() <= 5.0 / copies.sqrt(), format!("{value:e} and {what}: correlation {found}"))?;
            }
        }
    }
    Ok(())
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = b.len() as f64;
    let a = &a[..b.len()];
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let product =
        |x: &[f64], mx: f64, y: &[f64], my: f64| x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>() / n;
    let spread = (product(a, ma, a, ma) * product(b, mb, b, mb)).sqrt();
    if spread == 0.0 { 0.0 } else { product(a, ma, b, mb) / spread }
}

/// Gradients by step and element.
type Gradients = fn(&mut Normal) -> f64;

/// The largest update of Adam in units of its learning rate, over these steps.
fn largest_update(device: &Device, precision: Precision, gradients: Gradients, steps: usize) -> Result<f64> {
    let (len, lr) = (4096, 1e-3);
    let mut adam = Optimizer::new(device, Adam::default(), lr)?;
    adam.set_precision(0, precision)?;
    let id = adam.add(0, "w", &vec![0f32; len])?;
    let (mut normal, mut before, mut largest) = (Normal(1), vec![0f32; len], 0f64);
    for _ in 0..steps {
        let gradient: Vec<f32> = (0..len).map(|_| gradients(&mut normal) as f32).collect();
        adam.write_gradient(id, &gradient)?;
        adam.step()?;
        let now: Vec<f32> = adam.read_blocking(id)?;
        for (now, before) in now.iter().zip(&before) {
            largest = largest.max(f64::from((now - before).abs()) / lr);
        }
        before = now;
    }
    Ok(largest)
}

/// Exact Adam moves by at most (1−β₁)/√(1−β₂)/√(1−β₁²/β₂) = 7.27 learning rates (Cauchy–Schwarz), and the coarsest
/// codes add a half. Where a second moment becomes 0 beside a first one that does not, as in bitsandbytes and torchao,
/// a step is m/ε.
fn no_update_is_larger_than_adams(gpu: &Gpu) -> Result<(), Failed> {
    let kinds: [(&str, Gradients); 3] = [
        ("normal", |n| 0.01 * n.next()),
        ("lognormal, σ = 3", |n| (3.0 * n.next()).exp() * if n.uniform() < 0.5 { -1.0 } else { 1.0 }),
        ("2 % of them not 0", |n| if n.uniform() < 0.02 { n.next() } else { 0.0 }),
    ];
    let bound = 7.27 * 1.5;
    for (name, gradients) in kinds {
        for (states, rounding) in [OURS, (States::Block8, Rounding::Nearest), (States::Relative8, Rounding::Stochastic)]
        {
            let found = largest_update(&Device::Cpu, of(states, rounding), gradients, 300)?;
            ensure(found < bound, format!("{name} {states:?} {rounding:?}: {found} learning rates"))?;
        }
        let found = largest_update(&gpu.into(), of(OURS.0, OURS.1), gradients, 20)?;
        ensure(found < bound, format!("{name} on {}: {found} learning rates", gpu.name()))?;
    }
    let exact = largest_update(&Device::Cpu, of(States::Torchao, Rounding::Nearest), kinds[1].1, 300)?;
    ensure(exact > 1000.0, format!("without the mend {exact} learning rates: this test could not fail"))
}

/// Half of each block's elements get no gradient for 3,000 steps: 0.999³⁰⁰⁰ = 0.0497 of their second moments is left.
fn second_moments_decay_without_gradients(_: &Gpu) -> Result<(), Failed> {
    let left = |states, rounding| -> Result<f64> {
        let mut adam = Optimizer::new(&Device::Cpu, Adam::default(), 1e-3)?;
        adam.set_precision(0, of(states, rounding))?;
        let id = adam.add(0, "w", &[0f32; 1024])?;
        let (mut normal, mut before) = (Normal(2), 0.0);
        for t in 0..3050 {
            let gradient = |k: usize| if k.is_multiple_of(2) || t < 50 { 0.01 * normal.next() as f32 } else { 0.0 };
            let gradient: Vec<f32> = (0..1024).map(gradient).collect();
            adam.write_gradient(id, &gradient)?;
            adam.step()?;
            if t == 49 || t == 3049 {
                let v: Vec<f32> = adam.read_state_blocking(id, "exp_avg_sq")?;
                let idle: f64 = v.iter().skip(1).step_by(2).map(|&x| f64::from(x)).sum();
                if t == 3049 {
                    return Ok(idle / before);
                }
                before = idle;
            }
        }
        Ok(f64::NAN)
    };
    let exact = 0.999f64.powi(3000);
    let ours = left(OURS.0, OURS.1)?;
    ensure((ours / exact - 1.0).abs() < 0.1, format!("{ours} is left, not {exact}"))?;
    let nearest = left(States::Block8, Rounding::Nearest)?;
    ensure(nearest > 1.0, format!("to the nearest {nearest} is left: this test could not fail"))
}

/// As `test_optimizer8bit` of bitsandbytes: 50 steps of gradients of deviation 0.01. After each, the mean difference
/// from Adam in f32 is below 6e-5, and relative to the parameter below 6e-4; then that one goes on from here.
fn the_bounds_of_bitsandbytes(gpu: &Gpu) -> Result<(), Failed> {
    let len = 1024 * 32;
    for device in [Device::Cpu, gpu.into()] {
        let mut normal = Normal(3);
        let start: Vec<f32> = (0..len).map(|_| 0.1 * normal.next() as f32).collect();
        let make = |precision| -> Result<Optimizer> {
            let mut adam = Optimizer::new(&device, Adam::default(), 1e-3)?;
            adam.set_precision(0, precision)?;
            adam.add(0, "w", &start)?;
            Ok(adam)
        };
        let (mut exact, mut ours) = (make(Precision::f32())?, make(Precision::block8())?);
        for t in 0..50 {
            let gradient: Vec<f32> = (0..len).map(|_| 0.01 * normal.next() as f32).collect();
            for adam in [&mut exact, &mut ours] {
                adam.write_gradient("w", &gradient)?;
                adam.step()?;
            }
            let (a, b): (Vec<f32>, Vec<f32>) = (exact.read_blocking("w")?, ours.read_blocking("w")?);
            let off = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs()));
            let relative = off.clone().zip(&a).map(|(off, a)| off / (f64::from(a.abs()) + 1e-9));
            let [off, relative] = [off.sum::<f64>(), relative.sum()].map(|sum| sum / len as f64);
            let found = format!("{off:e} and relative {relative:e} off at step {t} on {}", device.name());
            ensure(off < 6e-5 && relative < 6e-4, found)?;
            exact.write("w", &b)?;
            for state in ["exp_avg", "exp_avg_sq"] {
                exact.write_state("w", state, &ours.read_state_blocking::<f32>("w", state)?)?;
            }
        }
    }
    Ok(())
}
