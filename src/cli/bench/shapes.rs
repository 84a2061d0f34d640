//! The lengths of the tensors that are benchmarked.

use std::str::FromStr;

/// Tensors of one group.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// As the user wrote it.
    pub(crate) name: String,
    /// Elements of each tensor.
    pub(crate) lens: Vec<usize>,
}

impl Shape {
    pub(crate) fn elements(&self) -> usize {
        self.lens.iter().sum()
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lens = match text {
            "gpt2" => gpt2(),
            "resnet50" => resnet50(),
            _ => {
                let (count, len) = text.split_once('x').unwrap_or(("1", text));
                let wrong =
                    || "a length from 1 to 2^30 (1000000, 2^20), a number of tensors (200x4096), gpt2, or resnet50";
                match (number(count), number(len)) {
                    (Some(count), Some(len)) if count.saturating_mul(len) <= 1 << 30 => vec![len; count],
                    _ => return Err(wrong().into()),
                }
            }
        };
        Ok(Self { name: text.into(), lens })
    }
}

fn number(text: &str) -> Option<usize> {
    let parsed = match text.split_once('^') {
        Some((base, power)) => usize::checked_pow(base.parse().ok()?, power.parse().ok()?),
        None => text.parse().ok(),
    };
    parsed.filter(|n| (1..=1 << 30).contains(n))
}

/// GPT-2 with 124M parameters: 12 blocks of width 768, the output layer shared with the embedding.
fn gpt2() -> Vec<usize> {
    const WIDTH: usize = 768;
    let linear = |inputs: usize, outputs: usize| [inputs * outputs, outputs];
    let block = [
        [WIDTH, WIDTH],
        linear(WIDTH, 3 * WIDTH),
        linear(WIDTH, WIDTH),
        [WIDTH, WIDTH],
        linear(WIDTH, 4 * WIDTH),
        linear(4 * WIDTH, WIDTH),
    ];
    let mut lens = vec![50257 * WIDTH, 1024 * WIDTH];
    (0..12).for_each(|_| lens.extend(block.as_flattened()));
    lens.extend([WIDTH, WIDTH]);
    lens
}

/// ResNet-50: convolutions without bias, each with the weight and bias of a batch norm, in stages of 3, 4, 6 and 3
/// bottlenecks.
fn resnet50() -> Vec<usize> {
    let mut lens = Vec::new();
    let mut convolution = |inputs: usize, outputs: usize, size: usize| {
        lens.extend([inputs * outputs * size * size, outputs, outputs]);
    };
    convolution(3, 64, 7);
    let mut inputs = 64;
    for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
        for block in 0..blocks {
            convolution(inputs, width, 1);
            convolution(width, width, 3);
            convolution(width, 4 * width, 1);
            if block == 0 {
                convolution(inputs, 4 * width, 1);
            }
            inputs = 4 * width;
        }
    }
    lens.extend([inputs * 1000, 1000]);
    lens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_have_as_many_parameters_as_their_papers_say() {
        let [gpt2, resnet50] = ["gpt2", "resnet50"].map(|name| name.parse::<Shape>().unwrap());
        assert_eq!((gpt2.lens.len(), gpt2.elements()), (148, 124_439_808));
        assert_eq!((resnet50.lens.len(), resnet50.elements()), (161, 25_557_032));
        assert_eq!("200x4096".parse::<Shape>().unwrap().lens, vec![4096; 200]);
        assert_eq!("2^10".parse::<Shape>().unwrap().lens, [1024]);
        for wrong in ["0", "2^31", "x", "3x", "2^20x2^20", "gpt3"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }
}
