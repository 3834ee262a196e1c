//! When a file was copied, and when a backup of it was made last.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};

use super::rows::from_ms;

/// Marks a copy. ?1 the time of the copy.
pub(super) const SET_COPIED_AT: &str =
    "INSERT OR REPLACE INTO meta (name, value) VALUES ('copied_at', ?1)";
const COPIED_AT: &str = "SELECT value FROM meta WHERE name = 'copied_at'";
pub(super) const UNSET_COPIED_AT: &str = "DELETE FROM meta WHERE name = 'copied_at'";
/// Records when the last backup was made. ?1 that time.
pub(super) const SET_BACKUP_AT: &str =
    "INSERT OR REPLACE INTO meta (name, value) VALUES ('backup_at', ?1)";
pub(super) const BACKUP_AT: &str = "SELECT value FROM meta WHERE name = 'backup_at'";

/// Returns the time of a copy that was not restored; `None` if the database is not such a copy.
pub(super) fn copied_at(connection: &Connection) -> Result<Option<Timestamp>, rusqlite::Error> {
    let ms = connection.query_row(COPIED_AT, [], |row| row.get(0)).optional()?;
    Ok(ms.map(from_ms))
}
