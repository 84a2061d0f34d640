//! `std::fs` in memory: files by their paths, without directories, links and permissions.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub mod temporary;

type Bytes = Rc<RefCell<Vec<u8>>>;

thread_local! {
    static FILES: RefCell<BTreeMap<PathBuf, Bytes>> = const { RefCell::new(BTreeMap::new()) };
}

fn existing(path: &Path) -> io::Result<Bytes> {
    let file = FILES.with_borrow(|files| files.get(path).cloned());
    file.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no such file: {}", path.display())))
}

fn insert(path: &Path, bytes: Bytes) {
    FILES.with_borrow_mut(|files| files.insert(path.to_owned(), bytes));
}

/// Files that are there from the start.
pub fn preload(folder: &str, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        insert(&Path::new(folder).join(name), Rc::new(RefCell::new(bytes.to_vec())));
    }
}

pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    Ok(existing(path.as_ref())?.borrow().clone())
}

pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    insert(path.as_ref(), Rc::new(RefCell::new(bytes.as_ref().to_vec())));
    Ok(())
}

pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    Ok(Metadata(existing(path.as_ref())?.borrow().len() as u64))
}

pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    metadata(path)
}

pub fn canonicalize(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    existing(path.as_ref())?;
    Ok(path.as_ref().to_owned())
}

pub fn read_link(_: impl AsRef<Path>) -> io::Result<PathBuf> {
    Err(io::ErrorKind::InvalidInput.into())
}

pub fn create_dir(_: impl AsRef<Path>) -> io::Result<()> {
    Ok(())
}

pub fn set_permissions(_: impl AsRef<Path>, _: Permissions) -> io::Result<()> {
    Ok(())
}

pub fn read_dir(folder: impl AsRef<Path>) -> io::Result<std::vec::IntoIter<PathBuf>> {
    let inside = |path: &&PathBuf| path.parent() == Some(folder.as_ref());
    let inside: Vec<_> = FILES.with_borrow(|files| files.keys().filter(inside).cloned().collect());
    Ok(inside.into_iter())
}

#[derive(Clone, Debug)]
pub struct Permissions;

#[derive(Clone, Debug)]
pub struct Metadata(u64);

#[allow(clippy::len_without_is_empty, reason = "nor has std's")]
impl Metadata {
    pub fn len(&self) -> u64 {
        self.0
    }

    pub fn is_file(&self) -> bool {
        true
    }

    pub fn is_dir(&self) -> bool {
        false
    }

    pub fn is_symlink(&self) -> bool {
        false
    }

    pub fn permissions(&self) -> Permissions {
        Permissions
    }
}

/// An open file, read and written at its position.
#[derive(Debug, Default)]
pub struct File {
    bytes: Bytes,
    position: Cell<usize>,
}

/// [`File`]'s, for any access.
#[derive(Debug)]
pub struct OpenOptions;

impl OpenOptions {
    pub fn write(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        File::open(path)
    }
}

impl File {
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { bytes: existing(path.as_ref())?, ..Self::default() })
    }

    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        write(path.as_ref(), [])?;
        Self::open(path)
    }

    pub fn options() -> OpenOptions {
        OpenOptions
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        Ok(Metadata(self.bytes.borrow().len() as u64))
    }

    pub fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    pub fn set_permissions(&self, _: Permissions) -> io::Result<()> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bytes.borrow();
        let rest = bytes.get(self.position.get()..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.position.set(self.position.get() + len);
        Ok(len)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.bytes.borrow().len() as u64, by),
            SeekFrom::Current(by) => (self.position.get() as u64, by),
        };
        let at = from.checked_add_signed(by).and_then(|at| usize::try_from(at).ok());
        self.position.set(at.ok_or(io::ErrorKind::InvalidInput)?);
        Ok(self.position.get() as u64)
    }
}

impl Write for &File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut bytes = self.bytes.borrow_mut();
        let start = self.position.get();
        let end = start + from.len();
        if bytes.len() < end {
            // What is in a file is not in memory, to whoever measures that.
            allocation_counter::opt_out(|| bytes.resize(end, 0));
        }
        bytes[start..end].copy_from_slice(from);
        self.position.set(end);
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
