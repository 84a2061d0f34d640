//! Gradient noise from a counter-based generator: the same for the same seed, name, step and element, wherever it runs.

use serde::{Deserialize, Serialize};

use crate::error::{Result, at_least_0};

/// Gaussian noise on the gradients, after clipping: [Neelakantan et al., 2015](https://arxiv.org/abs/1511.06807).
///
/// ```text
/// g ← g + N(0, eta / (1 + t)^gamma)        t = 0, 1, … steps of the parameter before this one
/// ```
/// Element e of a parameter takes normal e mod 4 of block e / 4 of Philox 4x32-10. The generator's counter holds the
/// block, the parameter's name (hashed) and t. So the noise does not depend on the layout or on the device, and a step
/// that is skipped and taken again has the same noise.
///
/// The u32 are bit-identical everywhere. The normals (Box–Muller) are as exact as the device's log, sqrt, cos and sin.
/// WGSL's bounds on those functions let a normal be off by at most 0.003: the radius, at most 5.77, times an error of
/// 2⁻¹¹ in cos and sin. Noise costs no more traffic; each parameter has coefficients of its own.
///
/// ```
/// use wgpu_optim::{Device, Noise, Optimizer, Settings, rules::Sgd};
/// let settings = Settings { noise: Some(Noise { eta: 0.01, gamma: 0.55, seed: 7 }), ..Settings::lr(0.1) };
/// let mut optimizer = Optimizer::new(&Device::Cpu, Sgd, settings)?;
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Noise {
    /// The first variance, 0 or more: the paper tries 0.01, 0.3 and 1.
    pub eta: f64,
    /// How fast it falls, 0 or more: the paper has 0.55.
    pub gamma: f64,
    /// Another seed, another sequence.
    pub seed: u64,
}

impl Noise {
    pub(crate) fn check(&self) -> Result<()> {
        at_least_0("eta", self.eta)?;
        at_least_0("gamma", self.gamma)
    }

    /// What a parameter's step t, counted from 1, draws.
    pub(crate) fn stream(&self, name: &str, t: u64) -> Stream {
        let deviation = (self.eta / (t as f64).powf(self.gamma)).sqrt();
        let (step, seed) = ((t - 1) as u32, [self.seed as u32, (self.seed >> 32) as u32]);
        Stream { deviation, step, seed, tensor: hash(name) }
    }
}

/// A parameter's name as a number: FNV-1a.
pub(crate) fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The noise of one parameter's step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stream {
    pub(crate) deviation: f64,
    pub(crate) step: u32,
    pub(crate) seed: [u32; 2],
    pub(crate) tensor: u32,
}

impl Stream {
    /// The noise on elements 4·block … 4·block + 3.
    pub(crate) fn four(&self, block: u32) -> [f64; 4] {
        normals(philox([block, self.tensor, self.step, 0], self.seed)).map(|x| self.deviation * x)
    }
}

/// Philox 4x32-10: [Salmon et al., 2011](https://doi.org/10.1145/2063384.2063405).
pub fn philox(counter: [u32; 4], seed: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| (((u64::from(a) * u64::from(b)) >> 32) as u32, a.wrapping_mul(b));
    let (mut x, mut key) = (counter, seed);
    for _ in 0..10 {
        let (a, b) = (product(0xd251_1f53, x[0]), product(0xcd9e_8d57, x[2]));
        x = [b.0 ^ x[1] ^ key[0], b.1, a.0 ^ x[3] ^ key[1], a.1];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    x
}

/// Four independent standard normals: Box–Muller.
fn normals(x: [u32; 4]) -> [f64; 4] {
    let u = x.map(|x| (f64::from(x >> 9) + 0.5) / f64::from(1 << 23));
    let (radius, angle) =
        ([u[0], u[1]].map(|u| (-2.0 * u.ln()).sqrt()), [u[2], u[3]].map(|u| std::f64::consts::TAU * u));
    [radius[0] * angle[0].cos(), radius[1] * angle[1].cos(), radius[0] * angle[0].sin(), radius[1] * angle[1].sin()]
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers of Random123, the authors' own library.
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }
}
