//! How much free space the disk of the database has, as far as it matters to senders. A background task looks at
//! the disk, since that may take long; senders go by what the last look found.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::reader::Readers;
use crate::queue::FreeSpace;

/// The shortest time between two readings.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The reserve if none is configured: this, or a tenth of the disk if that is less.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes of pages that the file has and does not use: they are filled before the file grows.
const UNUSED: &str =
    "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";

#[derive(Debug)]
pub(super) struct Space {
    folder: PathBuf,
    /// The configured reserve.
    reserve_bytes: Option<u64>,
    found: Mutex<Found>,
}

#[derive(Debug)]
struct Found {
    space: FreeSpace,
    /// When the last look began.
    looked_at: Instant,
    is_looking: bool,
}

/// The sizes that a file system reports.
#[derive(Debug, Clone, Copy)]
struct Disk {
    free: u64,
    total: u64,
}

impl Space {
    pub(super) fn new(folder: PathBuf, reserve_bytes: Option<u64>) -> Self {
        if let (Some(reserve), Some(disk)) = (reserve_bytes, disk(&folder))
            && reserve > disk.total
        {
            tracing::warn!(
                free_bytes_min = reserve,
                disk_bytes = disk.total,
                "store.free_bytes_min is more than the whole disk: only webhooks with a secret or token are accepted, whatever is free"
            );
        }
        let space = FreeSpace::Ample;
        let found = Found { space, looked_at: Instant::now(), is_looking: false };
        Self { folder, reserve_bytes, found: Mutex::new(found) }
    }

    /// Returns what the last look found, without waiting. If that was more than a second ago, another look begins.
    pub(super) fn last(self: &Arc<Self>, readers: &Readers) -> FreeSpace {
        let mut found = self.lock();
        if !found.is_looking && found.looked_at.elapsed() >= LOOK_EVERY {
            found.is_looking = true;
            let (space, readers) = (Arc::clone(self), readers.clone());
            tokio::spawn(async move { space.look(&readers).await });
        }
        found.space
    }

    /// Looks at the disk.
    pub(super) async fn look(self: &Arc<Self>, readers: &Readers) {
        let began = Instant::now();
        let this = Arc::clone(self);
        // Asking a disk that hangs blocks the thread.
        let disk = tokio::task::spawn_blocking(move || disk(&this.folder)).await;
        let free = disk.as_ref().map_or(0, |disk| disk.map_or(0, |disk| disk.free));
        let space = match disk {
            Ok(Some(disk)) => self.judge_with_unused(disk, readers).await,
            // A disk that reports nothing turns no one away: if it is full, writing fails.
            Ok(None) | Err(_) => FreeSpace::Ample,
        };
        let found = Found { space, looked_at: began, is_looking: false };
        let before = std::mem::replace(&mut *self.lock(), found);
        if before.space != space {
            report(space, free);
        }
    }

    /// Counts the unused pages of the file as free, where that matters.
    async fn judge_with_unused(&self, disk: Disk, readers: &Readers) -> FreeSpace {
        let space = self.judge(disk);
        if space == FreeSpace::Ample {
            return space;
        }
        let unused = readers.read(|snapshot| {
            Ok(snapshot.prepare_cached(UNUSED)?.query_row([], |row| row.get::<_, i64>(0))?)
        });
        let unused = unused.await.map_or(0, i64::unsigned_abs);
        self.judge(Disk { free: disk.free.saturating_add(unused), ..disk })
    }

    fn judge(&self, disk: Disk) -> FreeSpace {
        let reserve = self.reserve_bytes.unwrap_or_else(|| RESERVE_BYTES.min(disk.total / 10));
        if disk.free >= reserve {
            FreeSpace::Ample
        } else if disk.free >= reserve / 2 {
            FreeSpace::Low
        } else {
            FreeSpace::VeryLow
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // Each change is a single assignment.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    }
}

#[cfg(unix)]
fn disk(folder: &std::path::Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    // A file system without blocks, such as some overlays, reports nothing.
    let disk = Disk { free: bytes(found.f_bavail), total: bytes(found.f_blocks) };
    (disk.total > 0).then_some(disk)
}

#[cfg(not(unix))]
fn disk(_folder: &std::path::Path) -> Option<Disk> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_what_is_set_or_else_no_more_than_a_tenth_of_the_disk() {
        use FreeSpace::{Ample, Low, VeryLow};
        const MIB: u64 = 1024 * 1024;
        // (configured, total, free) in MiB
        let cases = [
            (None, 1_000_000, 256, Ample),
            (None, 1_000_000, 255, Low),
            (None, 1_000_000, 128, Low),
            (None, 1_000_000, 127, VeryLow),
            (None, 200, 20, Ample),
            (None, 200, 19, Low),
            (None, 200, 9, VeryLow),
            (Some(100), 200, 100, Ample),
            (Some(100), 200, 99, Low),
            (Some(100), 200, 49, VeryLow),
            (Some(0), 200, 0, Ample),
        ];
        for (reserve, total, free, expected) in cases {
            let space = Space::new(PathBuf::new(), reserve.map(|mib: u64| mib * MIB));
            let disk = Disk { total: total * MIB, free: free * MIB };
            assert_eq!(space.judge(disk), expected, "{reserve:?} of {total}: {free}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_says_how_much_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path()).unwrap();
        assert!(disk.free <= disk.total, "{disk:?}");
    }
}
