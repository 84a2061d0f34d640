//! The file that a checkpoint is: it takes the old one's place, whole or not at all.

use std::io::Write;

use libtest_mimic::{Failed, Trial};
use wgpu_optim::rules::Momentum;
use wgpu_optim::{Error, SaveOptions};

use crate::checkpoint::{saved, two};
use crate::compare::ensure;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("files::a_failed_save_leaves_the_old_file", a_failed_save_leaves_the_old_file),
        Trial::test("files::a_save_follows_links", a_save_follows_links),
    ]
}

/// Takes some bytes and then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0 {
            0 => Err(std::io::Error::other("the disk is full")),
            room => {
                self.0 -= room.min(bytes.len());
                Ok(room.min(bytes.len()))
            }
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn a_failed_save_leaves_the_old_file() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("momentum.safetensors");
    let mut optimizer = two(["a", "b"], [4, 2], Momentum::default())?;
    optimizer.save(&path)?;
    let old = std::fs::read(&path)?;
    ensure(old == saved(&mut optimizer)?, "a file is what a stream is")?;
    optimizer.step()?;
    optimizer.look_ahead()?;
    let refused = optimizer.save(&path);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    let refused = optimizer.load(&path);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    optimizer.step()?;
    for room in [0, 5, old.len() - 1] {
        let full = pollster::block_on(optimizer.save_to(&mut Full(room), SaveOptions::default()));
        ensure(matches!(full, Err(Error::Io { .. })), format!("{full:?}"))?;
    }
    optimizer.accumulate(optimizer.id("a")?, &[0.0f32; 4])?;
    let refused = optimizer.save(&path);
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    ensure(std::fs::read(&path)? == old, "the old file has changed")?;
    ensure(std::fs::read_dir(directory.path())?.count() == 1, "something is left beside it")?;
    let nowhere = optimizer.load(directory.path().join("nowhere"));
    ensure(matches!(nowhere, Err(Error::Io { file, .. }) if file.ends_with("nowhere")), "no such file")?;
    // Two tensors of one name.
    let mut clash = two(["a", "a.momentum_buffer"], [4, 4], Momentum::default())?;
    let refused = pollster::block_on(clash.save_to(&mut Vec::new(), SaveOptions::default()));
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "")?;
        let mode = |path: &std::path::Path| std::fs::metadata(path).map(|file| file.permissions().mode());
        ensure(mode(&path)? == mode(&plain)?, "others may not read it as they may any new file")?;
    }
    Ok(())
}

/// A file behind links is replaced, not the link; one that is not there yet is made where the last link says.
fn a_save_follows_links() -> Result<(), Failed> {
    let mut optimizer = two(["a", "b"], [4, 2], Momentum::default())?;
    let expected = saved(&mut optimizer)?;
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("big"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{PermissionsExt, symlink};
        std::fs::write(at("big/run"), "old")?;
        std::fs::set_permissions(at("big/run"), std::fs::Permissions::from_mode(0o600))?;
        // To a file, to a link, to nothing yet by way of two links, relative and not.
        symlink("big/run", at("link"))?;
        symlink(at("link"), at("chain"))?;
        symlink("../big/new", at("big/dangling"))?;
        symlink("big/dangling", at("two"))?;
        for (name, target) in [("link", "big/run"), ("chain", "big/run"), ("two", "big/new"), ("two", "big/new")] {
            optimizer.save(at(name))?;
            ensure(std::fs::symlink_metadata(at(name))?.is_symlink(), format!("{name} is no link any more"))?;
            ensure(std::fs::read(at(target))? == expected, format!("{name}: another file"))?;
            ensure(!std::fs::symlink_metadata(at(target))?.is_symlink(), format!("{target} is a link"))?;
        }
        let mode = std::fs::metadata(at("big/run"))?.permissions().mode() & 0o777;
        ensure(mode == 0o600, format!("others may read what was private: {mode:o}"))?;
        ensure(std::fs::read_dir(at("big"))?.count() == 3, "something is left beside it")?;
        // Links that lead to each other, into no directory, and to a directory.
        symlink("b", at("a"))?;
        symlink("a", at("b"))?;
        symlink("nowhere/file", at("lost"))?;
        symlink("big", at("directory"))?;
        for name in ["a", "lost", "directory", "big"] {
            let refused = optimizer.save(at(name));
            ensure(matches!(refused, Err(Error::Io { .. })), format!("{name}: {refused:?}"))?;
        }
        // What is no file is written to, and stays what it is.
        optimizer.save("/dev/null")?;
        ensure(!std::fs::symlink_metadata("/dev/null")?.is_file(), "/dev/null is a file now")?;
        ensure(std::fs::read_dir(directory.path())?.count() == 8, "something is left")?;
    }
    optimizer.save(at("big/plain"))?;
    ensure(std::fs::read(at("big/plain"))? == expected, "a plain file")
}
