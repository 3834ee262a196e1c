//! A file that gets its final name only once it is complete. Until then it is called `NAME.part`, is readable by its
//! owner only, and is locked, so that two processes never write the same file. The next process overwrites what a
//! killed one left behind, and removes its journal.
//!
//! The lock is on a separate file, `NAME.part.lock`, because SQLite locks byte ranges of the file that it writes. Over
//! NFS and SMB, `flock` is such a lock as well, so SQLite would wait for its own process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::network::folder_of;

#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) file: File,
    is_placed: bool,
    /// Held until the file is placed, removed or unlinked.
    lock: Option<Lock>,
}

/// A locked file, removed when the lock is released.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

/// Why a file cannot be begun.
#[derive(Debug)]
pub(super) enum Taken {
    /// Another process is writing the file.
    Busy,
    Failed(io::Error),
}

impl From<io::Error> for Taken {
    fn from(error: io::Error) -> Self {
        Taken::Failed(error)
    }
}

impl Part {
    /// Begins an empty file.
    pub(super) fn take(path: PathBuf) -> Result<Self, Taken> {
        let lock = Lock::take(with_end(&path, ".lock"))?;
        // A hot journal or a log of an earlier file of this name would be applied to the new one.
        for end in ["-journal", "-wal", "-shm"] {
            remove_if_present(&with_end(&path, end))?;
        }
        let file = private().open(&path)?;
        let part = Self { path, file, is_placed: false, lock: Some(lock) };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            part.file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
        part.file.set_len(0)?;
        Ok(part)
    }

    /// Gives the file its final name, so that it survives a power cut.
    pub(super) fn place(mut self, target: &Path, replaces: Replaces) -> io::Result<()> {
        self.file.sync_all()?;
        match replaces {
            Replaces::Yes => std::fs::rename(&self.path, target)?,
            Replaces::No => rename_new(&self.path, target)?,
        }
        self.is_placed = true;
        sync_folder(folder_of(target))
    }

    /// Unlinks the file, which can still be read through `file`.
    pub(super) fn unlink(&mut self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        self.is_placed = true;
        // Now another process may use the name.
        self.lock = None;
        Ok(())
    }
}

impl Lock {
    fn take(path: PathBuf) -> Result<Self, Taken> {
        let file = private().open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Taken::Busy),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // The process that had the lock before may have removed the file after it was opened here.
        match is_at(&file, &path)? {
            true => Ok(Self { path, _file: file }),
            false => Err(Taken::Busy),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!(%error, %path, "a lock file could not be removed; it is empty, and does no harm");
        }
    }
}

/// Returns options that create a file for its owner only and do not truncate it.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether an existing file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaces {
    Yes,
    No,
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_placed
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%error, %path, "an unfinished file could not be removed: remove it, since it has personal data");
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let own = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Renames a file unless the new name is taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system does not support this.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            renamed => return Ok(renamed?),
        }
    }
    if to.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(from, to)
}

/// Only Unix can open a folder to sync it.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_written_is_not_written_twice_and_goes_if_it_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        // A process that was killed left this behind.
        std::fs::write(&path, "left behind").unwrap();
        let part = Part::take(path.clone()).unwrap();
        assert_eq!(part.file.metadata().unwrap().len(), 0);
        assert!(matches!(Part::take(path.clone()), Err(Taken::Busy)));
        drop(part);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let target = folder.path().join("a");
        let place = |replaces| Part::take(path.clone()).unwrap().place(&target, replaces);
        place(Replaces::No).unwrap();
        assert_eq!(place(Replaces::No).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        place(Replaces::Yes).unwrap();
        assert!(target.exists() && !path.exists());
    }

    #[test]
    fn the_name_of_an_unlinked_file_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        let mut first = Part::take(path.clone()).unwrap();
        first.unlink().unwrap();
        let second = Part::take(path.clone()).unwrap();
        drop(first);
        assert!(path.exists());
        assert!(matches!(Part::take(path), Err(Taken::Busy)));
        drop(second);
    }

    #[test]
    fn the_journal_of_a_writer_that_was_killed_is_not_applied_to_the_next_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        let begin = |text| {
            let connection = rusqlite::Connection::open(&path).unwrap();
            connection.execute_batch(text).unwrap();
            connection
        };
        drop(begin("CREATE TABLE t (x); INSERT INTO t VALUES ('old')"));
        let whole = std::fs::read(&path).unwrap();
        // As if it was killed in the midst of its transaction, with some pages written.
        let killed =
            begin("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN; UPDATE t SET x = 'new'");
        killed.cache_flush().unwrap();
        let journal = with_end(&path, "-journal");
        let left = std::fs::read(&journal).unwrap();
        drop(killed);
        let new = whole.windows(3).position(|found| found == b"old").unwrap();
        let mut next = whole;
        next[new..new + 3].copy_from_slice(b"abc");
        std::fs::write(&journal, left).unwrap();
        let part = Part::take(path.clone()).unwrap();
        io::Write::write_all(&mut &part.file, &next).unwrap();
        let found: String = begin("").query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(found, "abc");
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("a.part"), folder.path().join("a"));
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        Part::take(path).unwrap().place(&target, Replaces::No).unwrap();
        assert_eq!(std::fs::metadata(target).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
