//! Where golden files come from: a directory in the format of its README (`.json`, or gzipped `.json.gz`), or the
//! archive in this binary.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use wgpu_optim::check::Golden;

/// File name → content: the f64 trajectories that this crate implements, and the f32 ones without an f64 twin.
const ARCHIVE: &[u8] = include_bytes!("../../tests/golden.json.gz");

pub(super) fn embedded() -> Result<Golden, String> {
    Golden::read(&inflate(ARCHIVE)?)
}

pub(super) fn open(directory: &Path) -> Result<Golden, String> {
    let at = |e: std::io::Error| format!("{}: {e}", directory.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(at)? {
        let path = entry.map_err(at)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = || std::fs::read(&path).map_err(|e| e.to_string());
        let parse = |text: String| serde_json::from_str(&text).map_err(|e| e.to_string());
        if let Some(name) = name.strip_suffix(".gz").filter(|name| name.ends_with(".json")) {
            files.insert(name.to_owned(), content().and_then(|bytes| inflate(&bytes)).and_then(parse));
        } else if name.ends_with(".json") {
            let text = content().and_then(|bytes| String::from_utf8(bytes).map_err(|e| e.to_string()));
            files.insert(name, text.and_then(parse));
        }
    }
    Ok(Golden::new(files))
}

fn inflate(bytes: &[u8]) -> Result<String, String> {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}
