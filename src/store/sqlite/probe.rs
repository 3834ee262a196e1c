//! Checks that find out whether the database works: a trial write that leaves nothing behind, and a check of all pages.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;

use super::error::Fault;
use super::group::{Effects, Step};
use super::health::Health;
use super::open::{FileOptions, is_ours};
use super::reader::Readers;

/// The largest trial write. By default, no group is larger.
const TRY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// ?1 bytes.
const FILL: &str = "INSERT INTO meta (name, value) VALUES ('probe', zeroblob(?1))";
const EMPTY: &str = "DELETE FROM meta WHERE name = 'probe'";

/// Writes as many bytes as a group that failed, and deletes them again. If that succeeds, both the log and the database
/// have room for the group: the database keeps the pages as free ones.
pub(super) struct TryToWrite {
    pub(super) bytes: u64,
}

impl Step for TryToWrite {
    type Output = ();

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        let bytes = self.bytes.clamp(1, TRY_BYTES_MAX);
        transaction.execute(FILL, [i64::try_from(bytes).unwrap_or(i64::MAX)])?;
        transaction.execute(EMPTY, [])?;
        // A group may be larger than the largest trial write; nothing but that group could prove that it fits.
        effects.proven_bytes = effects.proven_bytes.max(self.bytes.max(1));
        Ok(())
    }
}

/// Starts a check of all pages. The check has its own connection, because the others have pages in their caches, and
/// counts as a reader, so that the writer does not reopen the files meanwhile.
pub(super) fn verify_in_background(readers: Readers, health: Arc<Health>) {
    tokio::spawn(async move {
        let began = Instant::now();
        let looked = Arc::clone(&health);
        let found = readers.run(move |file| is_whole(file, &looked)).await;
        if let Err(fault) = &found {
            tracing::debug!(%fault, "could not check the database");
        }
        health.verified(found.unwrap_or(false), began.elapsed());
    });
}

fn is_whole(file: &FileOptions, health: &Health) -> Result<bool, Fault> {
    match health.files.look() {
        // A file that became shorter may still be intact: it may have been vacuumed.
        Ok(()) | Err(Fault::Shorter) => {}
        Err(fault) => return Err(fault),
    }
    let reader = file.open_reader()?;
    let found: String = reader.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(found == "ok" && is_ours(&reader)?)
}
