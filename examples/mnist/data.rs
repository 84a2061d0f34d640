//! MNIST from IDX files, or the 10,000 test images that come with this example.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

pub(crate) const PIXELS: usize = 784;
pub(crate) const CLASSES: usize = 10;

/// Images and their labels.
pub(crate) struct Samples {
    /// `PIXELS` bytes an image.
    pub(crate) images: Vec<u8>,
    pub(crate) labels: Vec<u8>,
}

impl Samples {
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn split(mut self, at: usize) -> (Self, Self) {
        let (images, labels) = (self.images.split_off(at * PIXELS), self.labels.split_off(at));
        (self, Self { images, labels })
    }
}

/// 8,000 images to train on and 2,000 to test on.
pub(crate) fn embedded() -> Result<(Samples, Samples), String> {
    let images = include_bytes!("t10k-images-idx3-ubyte.gz");
    let labels = include_bytes!("t10k-labels-idx1-ubyte.gz");
    Ok(parse("embedded images", unpack(images)?, unpack(labels)?)?.split(8000))
}

/// All of MNIST: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…`, gzipped (`.gz`) or not.
pub(crate) fn directory(directory: &Path) -> Result<(Samples, Samples), String> {
    let file = |name: &str| -> Result<Vec<u8>, String> {
        let plain = directory.join(name);
        let path = if plain.exists() { plain } else { directory.join(format!("{name}.gz")) };
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        unpack(&bytes).map_err(|e| format!("{}: {e}", path.display()))
    };
    let set = |name: &str| {
        let images = file(&format!("{name}-images-idx3-ubyte"))?;
        parse(name, images, file(&format!("{name}-labels-idx1-ubyte"))?)
    };
    Ok((set("train")?, set("t10k")?))
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut unpacked).map_err(|e| e.to_string())?;
    Ok(unpacked)
}

fn parse(name: &str, mut images: Vec<u8>, mut labels: Vec<u8>) -> Result<Samples, String> {
    let number = |bytes: &[u8], k: usize| {
        let word = bytes.get(4 * k..4 * k + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_be_bytes).map_or(0, |n| n as usize)
    };
    let count = number(&images, 1);
    let images_fit = number(&images, 0) == 0x803 && number(&images, 2) * number(&images, 3) == PIXELS;
    let labels_fit = number(&labels, 0) == 0x801 && number(&labels, 1) == count;
    if !images_fit || !labels_fit || images.len() != 16 + count * PIXELS || labels.len() != 8 + count || count == 0 {
        return Err(format!("{name}: not IDX files of 28 × 28 images and as many labels"));
    }
    images.drain(..16);
    labels.drain(..8);
    if labels.iter().any(|&label| usize::from(label) >= CLASSES) {
        return Err(format!("{name}: a label above 9"));
    }
    Ok(Samples { images, labels })
}
