//! Fit a line.

use wgpu_optim::{Device, Error, Optimizer, rules::Adam};

fn main() -> Result<(), Error> {
    let device = Device::auto_blocking(); // a hardware GPU, else the CPU
    let mut adam = Optimizer::new(&device, Adam::default(), 0.1)?;
    let line = adam.add(0, "line", &[0.0f32, 0.0])?; // slope and intercept
    for _ in 0..300 {
        let now: Vec<f32> = adam.read_blocking(line)?;
        let mut gradient = [0.0f32; 2];
        for x in [-1.0, 0.0, 1.0, 2.0] {
            let error = now[0] * x + now[1] - (2.0 * x + 1.0); // from the line y = 2x + 1
            gradient[0] += error * x;
            gradient[1] += error;
        }
        adam.write_gradient(line, &gradient)?;
        adam.step()?;
    }
    println!("{}: {:.3?}", device.name(), adam.read_blocking::<f32>(line)?); // CPU: [2.000, 1.000]
    Ok(())
}
