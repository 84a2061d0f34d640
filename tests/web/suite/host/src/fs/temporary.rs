//! `tempfile`.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{FILES, File, insert};

static LAST: AtomicU32 = AtomicU32::new(0);

fn fresh(folder: &Path) -> PathBuf {
    folder.join(format!("tmp{}", LAST.fetch_add(1, Ordering::Relaxed)))
}

/// Removed with all that is in it.
#[derive(Debug)]
pub struct TempDir(PathBuf);

pub fn tempdir() -> io::Result<TempDir> {
    Ok(TempDir(fresh(Path::new("/tmp"))))
}

impl TempDir {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        FILES.with_borrow_mut(|files| files.retain(|path, _| !path.starts_with(&self.0)));
    }
}

#[derive(Debug)]
pub struct NamedTempFile {
    path: PathBuf,
    file: File,
}

#[derive(Debug)]
pub struct PersistError {
    pub error: io::Error,
}

impl NamedTempFile {
    pub fn new() -> io::Result<Self> {
        Builder::new().tempfile_in(Path::new("/tmp"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn as_file(&self) -> &File {
        &self.file
    }

    pub fn persist(self, target: &Path) -> Result<(), PersistError> {
        insert(target, Rc::clone(&self.file.bytes));
        Ok(())
    }
}

impl Drop for NamedTempFile {
    fn drop(&mut self) {
        FILES.with_borrow_mut(|files| files.remove(&self.path));
    }
}

#[derive(Debug, Default)]
pub struct Builder;

impl Builder {
    pub fn new() -> Self {
        Self
    }

    pub fn tempfile_in(&mut self, folder: &Path) -> io::Result<NamedTempFile> {
        let path = fresh(folder);
        let file = File::create(&path)?;
        Ok(NamedTempFile { path, file })
    }
}
