//! Makes backups while other processes use the database.
//!
//! `VACUUM INTO` copies the rows of one snapshot into a new file, so a backup has no unused pages and nothing that was
//! erased. The copy is marked with its time. Since it does not know what was sent later, it cannot be opened as a queue
//! until [`restore`](super::restore) has prepared it.

use std::fs::File;
use std::io::{self, Seek as _, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::copied::{SET_BACKUP_AT, SET_COPIED_AT, copied_at};
use super::error::{Fault, explain};
use super::network::folder_of;
use super::open::{FileOptions, identify, is_of_this_program};
use super::part::{Part, Replaces, Taken, with_end};
use super::rows::to_ms;
use super::{folder, space};
use crate::clock::{Clock as _, SystemClock};
use crate::config::StoreConfig;
use crate::store::copies::{BackedUp, BackupTo, CopyError};
use crate::store::error::StoreError;
use crate::telemetry;

const INSTALLATION_KEY: &str = "SELECT value FROM meta WHERE name = 'installation_key'";
/// The bytes of all pages in use.
const USED: &str = "
    SELECT (page_count - freelist_count) * page_size
    FROM pragma_page_count, pragma_freelist_count, pragma_page_size";

/// Above this size, a backup takes long enough to be worth a warning about the write-ahead log.
const LARGE_BYTES: u64 = 10 * 1024 * 1024 * 1024;

/// The parts of a backup's name, such as `segment-loops-20261127T132317Z.db`.
const NAME_BEGINS: &str = "segment-loops-";
const NAME_ENDS: &str = ".db";
const NAME_TIME: &str = "%Y%m%dT%H%M%SZ";

/// The names of unfinished backups: of one in a folder, and of one in the data folder that will be streamed.
const PART_IN_FOLDER: &str = "segment-loops-backup.part";
const PART_OF_STREAM: &str = "segment-loops-stream.part";

/// Backs up the database in the configured data folder.
pub(in crate::store) fn back_up(
    config: &StoreConfig,
    to: BackupTo<'_>,
) -> Result<BackedUp, CopyError> {
    let options = folder::options(config);
    if !options.path.is_file() {
        return Err(CopyError::NoDatabase { folder: config.data.clone() });
    }
    let file = FileOptions::new(&options);
    let failed = |fault| database_failed(&options.path, fault);
    let reader = file.open_reader().map_err(failed)?;
    let found = identify(&reader).map_err(|error| failed(error.into()))?;
    if let Some(refusal) = found.refusal(&options.path) {
        return Err(CopyError::Database(StoreError::new(refusal)));
    }
    // Read the time first: everything sent from now on must count as sent after the backup.
    let at = SystemClock.now();
    let surplus = match to {
        BackupTo::Folder { folder, keep: Some(keep) } => Some((folder, keep)),
        _ => None,
    };
    let made = match to {
        BackupTo::File(target) => {
            check_target(target)?;
            copy(&reader, at, with_end(target, ".part"))?.place(target)
        }
        BackupTo::Folder { folder, .. } => {
            if !folder.is_dir() {
                return Err(CopyError::NoFolder { folder: folder.to_owned() });
            }
            let target = folder.join(name(at));
            check_target(&target)?;
            copy(&reader, at, folder.join(PART_IN_FOLDER))?.place(&target)
        }
        BackupTo::Stream(stream) => {
            copy(&reader, at, config.data.join(PART_OF_STREAM))?.send(stream)
        }
    };
    let made = made?;
    note(&file, at).map_err(|fault| CopyError::NotNoted {
        path: made.path.as_ref().map_or("standard output".to_owned(), |path| format!("{path:?}")),
        source: StoreError::new(fault),
    })?;
    // Prune last: the backup counts even if older ones cannot be removed.
    let Some((folder, keep)) = surplus else { return Ok(made) };
    let removed = prune(&reader, folder, keep).map_err(|source| CopyError::NotRemoved {
        path: made.path.clone().unwrap_or_default(),
        source,
    })?;
    Ok(BackedUp { removed, ..made })
}

fn database_failed(path: &Path, fault: Fault) -> CopyError {
    CopyError::Database(StoreError::new(explain(path, fault)))
}

fn name(at: Timestamp) -> String {
    format!("{NAME_BEGINS}{}{NAME_ENDS}", at.strftime(NAME_TIME))
}

/// Fails if the path holds something other than a backup, which would be overwritten.
fn check_target(target: &Path) -> Result<(), CopyError> {
    let folder = folder_of(target);
    if !folder.is_dir() {
        return Err(CopyError::NoFolder { folder: folder.to_owned() });
    }
    match std::fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(found) if found.is_file() && made_by(target).is_some() => Ok(()),
        _ => Err(CopyError::Occupied { path: target.to_owned() }),
    }
}

/// Returns the key of the installation that made a backup; `None` if the file is not a backup or cannot be read.
fn made_by(path: &Path) -> Option<Vec<u8>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).ok()?;
    if !is_of_this_program(&connection).ok()? {
        return None;
    }
    copied_at(&connection).ok()??;
    connection.query_row(INSTALLATION_KEY, [], |row| row.get(0)).ok()
}

/// A finished copy that is not at its final path yet.
struct Copy {
    part: Part,
    at: Timestamp,
    bytes: u64,
}

/// Copies the database to an unfinished file, and checks the copy.
fn copy(reader: &Connection, at: Timestamp, path: PathBuf) -> Result<Copy, CopyError> {
    let Some(text) = path.to_str().map(str::to_owned) else {
        return Err(CopyError::Path { path });
    };
    let part = match Part::take(path.clone()) {
        Ok(part) => part,
        Err(Taken::Busy) => return Err(CopyError::Busy { path }),
        Err(Taken::Failed(source)) => {
            return Err(CopyError::Write { path, source: source.into() });
        }
    };
    let read =
        |error: rusqlite::Error| CopyError::Database(StoreError::new(explain(&path, error.into())));
    let needed = reader.query_row(USED, [], |row| row.get::<_, i64>(0)).map_err(read)?;
    let needed = needed.unsigned_abs();
    if let Some(free) = space::free_bytes(folder_of(&path))
        && free < needed
    {
        return Err(CopyError::NoRoom { path, needed, free });
    }
    if needed > LARGE_BYTES {
        tracing::warn!(
            bytes = needed,
            "the database is large: its write-ahead log keeps growing until the backup is made"
        );
    }
    let write = |source: rusqlite::Error| match Fault::from(source) {
        damage if damage.is_damage() => {
            CopyError::BrokenCopy { problem: telemetry::chain(&damage).to_string() }
        }
        fault => CopyError::Write { path: path.clone(), source: raw(fault) },
    };
    reader.execute("VACUUM INTO ?1", [text]).map_err(write)?;
    let problem = seal(&path, at).map_err(write)?;
    if problem != "ok" {
        return Err(CopyError::BrokenCopy { problem });
    }
    let bytes = part.file.metadata();
    let bytes = bytes.map_err(|source| CopyError::Write { path, source: source.into() })?.len();
    Ok(Copy { part, at, bytes })
}

/// Returns SQLite's own error about the copy. The advice in [`Fault`] is about the database, so it is left out.
fn raw(fault: Fault) -> Box<dyn std::error::Error + Send + Sync> {
    match fault {
        Fault::Database { source } => Box::new(source),
        other => Box::new(other),
    }
}

/// Marks a copy and checks all its pages; returns what is wrong with them, or `ok`.
fn seal(path: &Path, at: Timestamp) -> Result<String, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copy = Connection::open_with_flags(path, flags)?;
    // An unfinished copy is never used, and a finished one is synced as a whole.
    copy.pragma_update(None, "journal_mode", "memory")?;
    copy.pragma_update(None, "synchronous", "off")?;
    copy.execute(SET_COPIED_AT, [to_ms(at)])?;
    quick_check(&copy)
}

/// Returns what is wrong with the pages of a database, or `ok`.
pub(super) fn quick_check(connection: &Connection) -> Result<String, rusqlite::Error> {
    connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
}

impl Copy {
    fn place(self, target: &Path) -> Result<BackedUp, CopyError> {
        let Self { part, at, bytes } = self;
        let placed = part.place(target, Replaces::Yes);
        placed.map_err(|source| CopyError::Write {
            path: target.to_owned(),
            source: source.into(),
        })?;
        Ok(BackedUp { at, path: Some(target.to_owned()), bytes, removed: Vec::new() })
    }

    fn send(mut self, stream: &mut dyn Write) -> Result<BackedUp, CopyError> {
        // Once unlinked, the file disappears even if this process is killed.
        let unlinked = self.part.unlink().and_then(|()| self.part.file.rewind());
        unlinked.map_err(|source| CopyError::Write {
            path: self.part.path.clone(),
            source: source.into(),
        })?;
        let mut file: &File = &self.part.file;
        let sent = io::copy(&mut file, stream).and_then(|_| stream.flush());
        sent.map_err(CopyError::Stream)?;
        Ok(BackedUp { at: self.at, path: None, bytes: self.bytes, removed: Vec::new() })
    }
}

/// Removes all but the newest backups of this installation from a folder.
fn prune(reader: &Connection, folder: &Path, keep: NonZeroUsize) -> io::Result<Vec<PathBuf>> {
    let key: Option<Vec<u8>> = reader.query_row(INSTALLATION_KEY, [], |row| row.get(0)).ok();
    let mut own = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_name(name) && key.is_some() && made_by(&path) == key {
            own.push(path);
        }
    }
    // All names have the same length and sort by time.
    own.sort_unstable();
    let surplus = own.len().saturating_sub(keep.get());
    own.truncate(surplus);
    for path in &own {
        std::fs::remove_file(path)?;
    }
    Ok(own)
}

fn is_name(name: &str) -> bool {
    let time = name.strip_prefix(NAME_BEGINS).and_then(|name| name.strip_suffix(NAME_ENDS));
    time.is_some_and(|time| jiff::civil::DateTime::strptime(NAME_TIME, time).is_ok())
}

/// Records in the database when its last backup was made.
fn note(file: &FileOptions, at: Timestamp) -> Result<(), Fault> {
    let mut connection = file.open_writer()?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(SET_BACKUP_AT, [to_ms(at)])?;
    crate::crash::point("commit.before");
    transaction.commit()?;
    crate::crash::point("commit.after");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_this_command_gives_are_looked_at() {
        let at: Timestamp = "2026-11-27T13:23:17.5Z".parse().unwrap();
        assert_eq!(name(at), "segment-loops-20261127T132317Z.db");
        for (text, expected) in [
            (name(at).as_str(), true),
            ("segment-loops.db", false),
            ("segment-loops-20261127T132317Z.db.part", false),
            ("segment-loops-before-upgrade.db", false),
            ("segment-loops-20261327T132317Z.db", false),
            ("other-20261127T132317Z.db", false),
        ] {
            assert_eq!(is_name(text), expected, "{text}");
        }
    }
}
