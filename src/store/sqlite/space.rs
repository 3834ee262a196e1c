//! How much free space the disk of the database has for new messages.
//!
//! A background task looks at the disk once a second. Between two looks, the size of the messages accepted since is
//! subtracted twice, because they are written to the write-ahead log and from there to the database. The size of the
//! log is subtracted too, since the database may grow by as much.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::gauge;
use rusqlite::{Connection, OptionalExtension as _};

use super::copied::BACKUP_AT;
use super::error::Fault;
use super::reader::Readers;
use crate::queue::FreeSpace;
use crate::telemetry;

/// The default reserve: this, or a tenth of the disk if that is less.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// The last part of the reserve, in which nothing is accepted: this, or an eighth of the reserve if that is less.
const LAST_BYTES: u64 = 32 * 1024 * 1024;

/// The bytes that a message takes in addition to its contents.
const RECORD_BYTES: u64 = 1_024;

/// Returns the bytes of unused pages in the file. SQLite fills these before the file grows.
const UNUSED: &str =
    "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";

#[derive(Debug)]
pub(super) struct Space {
    folder: PathBuf,
    file: PathBuf,
    log: PathBuf,
    /// The configured reserve.
    reserve_bytes: Option<u64>,
    found: Mutex<Found>,
}

/// The result of the last look, and the messages accepted since.
#[derive(Debug, Default)]
struct Found {
    /// The sizes of the disk; `None` if the file system does not report them. Then no message is refused, and writes
    /// fail once the disk is full.
    disk: Option<Disk>,
    /// Bytes accepted since.
    accepted: u64,
    /// The last state that was logged.
    reported: FreeSpace,
}

/// The sizes that a file system reports.
#[derive(Debug, Clone, Copy)]
struct Disk {
    free: u64,
    total: u64,
}

impl Found {
    /// Messages are written twice: to the log, and from there to the database.
    fn free_bytes(&self, disk: Disk) -> u64 {
        disk.free.saturating_sub(self.accepted.saturating_mul(2))
    }
}

impl Space {
    /// Watches the disk of a database file.
    pub(super) fn new(file: &Path, folder: PathBuf, reserve_bytes: Option<u64>) -> Self {
        if let (Some(reserve), Some(disk)) = (reserve_bytes, disk(&folder))
            && reserve > disk.total
        {
            tracing::warn!(
                free_bytes_min = reserve,
                disk_bytes = disk.total,
                "store.free_bytes_min is more than the whole disk: only webhooks with a secret or token are accepted, however much is free"
            );
        }
        let mut log = file.as_os_str().to_owned();
        log.push("-wal");
        Self {
            folder,
            file: file.to_owned(),
            log: log.into(),
            reserve_bytes,
            found: Mutex::default(),
        }
    }

    /// Returns how much space there is, by the last look and the messages accepted since.
    pub(super) fn now(&self) -> FreeSpace {
        self.judge(&self.lock())
    }

    /// Returns the bytes that [`Space::now`] compares with the reserve.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let found = self.lock();
        found.disk.map(|disk| found.free_bytes(disk))
    }

    /// Records messages that are about to be written, with this many bytes of contents.
    pub(super) fn accepts(&self, messages: u64, bytes: u64) {
        let bytes = bytes.saturating_add(messages.saturating_mul(RECORD_BYTES));
        let mut found = self.lock();
        found.accepted = found.accepted.saturating_add(bytes);
    }

    /// Looks at the disk.
    pub(super) async fn look(&self, readers: &Readers) {
        let (folder, file, log) = (self.folder.clone(), self.file.clone(), self.log.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let file = std::fs::metadata(file).map_or(0, |file| file.len());
            gauge!(telemetry::STORE_BYTES).set(file as f64);
            let log = std::fs::metadata(log).map_or(0, |log| log.len());
            gauge!(telemetry::STORE_LOG_BYTES).set(log as f64);
            disk(&folder).map(|disk| Disk { free: disk.free.saturating_sub(log), ..disk })
        });
        let read = readers.read(|snapshot| {
            let unused =
                snapshot.prepare_cached(UNUSED)?.query_row([], |row| row.get::<_, i64>(0))?;
            Ok((unused, backup_at(snapshot)?))
        });
        let accepted = self.lock().accepted;
        let (disk, read) = tokio::join!(looking, read);
        let (unused, backup_at) = read.unwrap_or_default();
        let unused = unused.unsigned_abs();
        if let Some(ms) = backup_at {
            gauge!(telemetry::BACKUP_TIMESTAMP).set(ms as f64 / 1_000.0);
        }
        let disk = disk.ok().flatten();
        let disk = disk.map(|disk| Disk { free: disk.free.saturating_add(unused), ..disk });
        if let Some(disk) = disk {
            gauge!(telemetry::STORE_FREE_BYTES).set(disk.free as f64);
            gauge!(telemetry::STORE_DISK_BYTES).set(disk.total as f64);
        }
        let mut found = self.lock();
        // Messages accepted before the look may be in its result; those accepted during it may not be.
        found.accepted -= accepted.min(found.accepted);
        found.disk = disk;
        let space = self.judge(&found);
        if std::mem::replace(&mut found.reported, space) != space {
            report(space, disk.map_or(0, |disk| disk.free));
        }
    }

    fn judge(&self, found: &Found) -> FreeSpace {
        let Some(disk) = found.disk else { return FreeSpace::Ample };
        let reserve = self.reserve_bytes.unwrap_or_else(|| RESERVE_BYTES.min(disk.total / 10));
        let free = found.free_bytes(disk);
        if free >= reserve {
            FreeSpace::Ample
        } else if free >= reserve / 2 {
            FreeSpace::Low
        } else if free >= (reserve / 8).min(LAST_BYTES) {
            FreeSpace::VeryLow
        } else {
            FreeSpace::Exhausted
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // Each change is a few assignments.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when the last backup was made, in Unix milliseconds; `None` if none was.
fn backup_at(snapshot: &Connection) -> Result<Option<i64>, Fault> {
    Ok(snapshot.prepare_cached(BACKUP_AT)?.query_row([], |row| row.get(0)).optional()?)
}

fn report(space: FreeSpace, free_bytes: u64) {
    match space {
        FreeSpace::Ample => tracing::info!(free_bytes, "there is enough free space again"),
        FreeSpace::Low => tracing::warn!(
            free_bytes,
            "free space is below store.free_bytes_min: browser sources and bulk loads are asked to retry"
        ),
        FreeSpace::VeryLow => tracing::error!(
            free_bytes,
            "free space is below half of store.free_bytes_min: only webhooks with a secret or token are accepted"
        ),
        FreeSpace::Exhausted => tracing::error!(
            free_bytes,
            "there is hardly any free space: nothing is accepted, and the rest is kept for deliveries"
        ),
    }
}

/// Returns the free space on a folder's disk; `None` if the file system does not report it.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    disk(folder).map(|disk| disk.free)
}

#[cfg(unix)]
fn disk(folder: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    // A file system without blocks, such as some overlays, reports nothing.
    let disk = Disk { free: bytes(found.f_bavail), total: bytes(found.f_blocks) };
    (disk.total > 0).then_some(disk)
}

#[cfg(not(unix))]
fn disk(_folder: &Path) -> Option<Disk> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_what_is_set_or_else_no_more_than_a_tenth_of_the_disk() {
        use FreeSpace::{Ample, Exhausted, Low, VeryLow};
        const MIB: u64 = 1024 * 1024;
        // (configured, total, free, accepted since) in MiB
        let cases = [
            (None, 1_000_000, 256, 0, Ample),
            (None, 1_000_000, 255, 0, Low),
            (None, 1_000_000, 128, 0, Low),
            (None, 1_000_000, 127, 0, VeryLow),
            (None, 1_000_000, 32, 0, VeryLow),
            (None, 1_000_000, 31, 0, Exhausted),
            // Accepted bytes are written twice.
            (None, 1_000_000, 356, 50, Ample),
            (None, 1_000_000, 356, 51, Low),
            (None, 1_000_000, 356, 1_000, Exhausted),
            (None, 200, 20, 0, Ample),
            (None, 200, 19, 0, Low),
            (None, 200, 9, 0, VeryLow),
            (None, 200, 2, 0, Exhausted),
            (Some(100), 200, 100, 0, Ample),
            (Some(100), 200, 99, 0, Low),
            (Some(100), 200, 49, 0, VeryLow),
            (Some(1_000_000), 200, 32, 0, VeryLow),
            (Some(0), 200, 0, 0, Ample),
        ];
        for (reserve, total, free, accepted, expected) in cases {
            let reserve = reserve.map(|mib: u64| mib * MIB);
            let space = Space::new(Path::new("x"), PathBuf::new(), reserve);
            space.lock().disk = Some(Disk { total: total * MIB, free: free * MIB });
            space.accepts(0, accepted * MIB);
            assert_eq!(space.now(), expected, "{reserve:?} of {total}: {free} - {accepted}");
        }
        let unknown = Space::new(Path::new("x"), PathBuf::new(), None);
        assert_eq!(unknown.now(), Ample);
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_says_how_much_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path()).unwrap();
        assert!(disk.free <= disk.total, "{disk:?}");
    }
}
