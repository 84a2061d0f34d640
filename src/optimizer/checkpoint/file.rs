//! A file that takes an old one's place once it is complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// As many links as Linux follows.
const MOST_LINKS: usize = 40;

/// Writes a file beside the old one, and puts it in its place once it is complete and on the disk. Follows symbolic
/// links, and keeps the old file's permissions. What is no file, a pipe or a device, is written to directly.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> Result<()>) -> Result<()> {
    let io = |source| Error::io(path, source);
    let old = fs::metadata(path).ok();
    if old.as_ref().is_some_and(|old| !old.is_file() && !old.is_dir()) {
        return fill(path, &File::options().write(true).open(path).map_err(io)?, write);
    }
    let target = match old {
        Some(_) => fs::canonicalize(path).map_err(io)?,
        None => behind_links(path).map_err(io)?,
    };
    let beside = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As any other new file; the process' mask takes from it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let new = builder.tempfile_in(beside).map_err(io)?;
    fill(path, new.as_file(), write)?;
    new.as_file().sync_all().map_err(io)?;
    if let Some(old) = old.filter(fs::Metadata::is_file) {
        new.as_file().set_permissions(old.permissions()).map_err(io)?;
    }
    new.persist(&target).map_err(|e| io(e.error))?;
    Ok(())
}

fn fill(path: &Path, file: &File, write: impl FnOnce(&mut BufWriter<&File>) -> Result<()>) -> Result<()> {
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    out.flush().map_err(|source| Error::io(path, source))
}

/// Where a link, or a chain of links, says that a file will be.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let Ok(link) = fs::read_link(&target) else { return Ok(target) };
        target = target.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::other("its symbolic links lead to each other"))
}
