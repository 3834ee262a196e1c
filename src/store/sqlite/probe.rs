//! Finds out whether the database works: a write that leaves nothing behind, and a check of all pages.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;

use super::Fault;
use super::health::Health;
use super::open::{FileOptions, is_ours};
use super::writer::{Effects, Step};

/// The most bytes that are tried at once: more than any group has by default.
const TRY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// ?1 bytes.
const FILL: &str = "INSERT INTO meta (name, value) VALUES ('probe', zeroblob(?1))";
const EMPTY: &str = "DELETE FROM meta WHERE name = 'probe'";

/// Writes as much as a group that failed, to see whether there is room for it now. What is deleted is
/// overwritten in the log and becomes free pages of the database, so that both have the room.
pub(super) struct TryToWrite {
    pub(super) bytes: u64,
}

impl Step for TryToWrite {
    type Output = ();

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        let bytes = self.bytes.clamp(1, TRY_BYTES_MAX);
        transaction.execute(FILL, [i64::try_from(bytes).unwrap_or(i64::MAX)])?;
        transaction.execute(EMPTY, [])?;
        // Only writing a larger group would show that it fits, so this has to do.
        effects.proven_bytes = effects.proven_bytes.max(self.bytes.max(1));
        Ok(())
    }
}

/// Reads all pages through a connection of its own, which holds none of them yet.
pub(super) fn verify(file: &FileOptions, health: &Health) {
    let began = Instant::now();
    let found = match health.files.look() {
        // The wrong files.
        Err(fault @ (Fault::Gone | Fault::LogMoved)) => Err(fault),
        _ => is_whole(file),
    };
    if let Err(fault) = &found {
        tracing::debug!(%fault, "could not check the database");
    }
    health.verified(found.unwrap_or(false), began.elapsed());
}

fn is_whole(file: &FileOptions) -> Result<bool, Fault> {
    let reader = file.open_reader()?;
    let found: String = reader.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(found == "ok" && is_ours(&reader)?)
}

/// Runs [`verify`] where it may block.
pub(super) fn verify_in_background(file: FileOptions, health: Arc<Health>) {
    tokio::task::spawn_blocking(move || verify(&file, &health));
}
