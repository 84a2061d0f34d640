//! Numbers in files, and how far two folders of them are apart.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::world::Section;

/// A file a line: for each section its name's length, its name, its length, its numbers; all in little endian.
pub(crate) fn write(path: &Path, sections: &[Section]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (name, numbers) in sections {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((numbers.len() as u64).to_le_bytes());
        bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
    }
    std::fs::write(path, bytes)
}

fn read(path: &Path) -> Option<Vec<Section>> {
    let bytes = std::fs::read(path).ok()?;
    let (mut rest, mut sections) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk()?;
        let (name, tail) = tail.split_at_checked(u64::from_le_bytes(*len) as usize)?;
        let (len, tail) = tail.split_first_chunk()?;
        let (numbers, tail) = tail.split_at_checked(8 * u64::from_le_bytes(*len) as usize)?;
        sections.push((String::from_utf8(name.into()).ok()?, bytemuck::pod_collect_to_vec(numbers)));
        rest = tail;
    }
    Some(sections)
}

/// The largest |a − b| of a section as a part of its largest number: ∞ where the two do not fit.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    let most = a.iter().chain(b).filter(|x| x.is_finite()).fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let apart = |(a, b): (&f64, &f64)| match (a, b) {
        _ if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) => 0.0,
        _ if a.is_finite() && b.is_finite() => (a - b).abs() / most,
        _ => f64::INFINITY,
    };
    if a.len() == b.len() { a.iter().zip(b).map(apart).fold(0.0, f64::max) } else { f64::INFINITY }
}

/// Prints the lines that differ and by how much; whether none does by more than the tolerance.
pub(crate) fn compare(before: &Path, after: &Path, tolerance: f64) -> io::Result<bool> {
    let mut names = BTreeSet::new();
    for folder in [before, after] {
        for file in std::fs::read_dir(folder)? {
            names.insert(file?.file_name());
        }
    }
    let (mut worst, mut differ) = (0f64, 0);
    for name in &names {
        let (mut largest, mut at) = (0.0, "");
        let (a, b) = (read(&before.join(name)), read(&after.join(name)));
        match (&a, &b) {
            (Some(a), Some(b)) if a.iter().map(|s| &s.0).eq(b.iter().map(|s| &s.0)) => {
                for ((name, a), (_, b)) in a.iter().zip(b) {
                    let apart = difference(a, b);
                    if apart > largest {
                        (largest, at) = (apart, name);
                    }
                }
            }
            _ => (largest, at) = (f64::INFINITY, "the list of what it holds"),
        }
        if largest > 0.0 {
            println!("{largest:.1e}\t{}\t{at}", name.to_string_lossy());
            differ += 1;
        }
        worst = worst.max(largest);
    }
    println!("{} lines, {differ} differ, by at most {worst:.1e}", names.len());
    Ok(worst <= tolerance && !names.is_empty())
}
