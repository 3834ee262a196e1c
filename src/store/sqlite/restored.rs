//! What a restored queue must know: Loops may already have events that still wait in it.
//!
//! Everything that waited when the backup was made may have been sent since. So its events count as tried since the
//! time of the backup: they are sent with their keys as long as Loops would recognize a key that it has seen, and fail
//! as expired afterwards. Requests made before the backup have that time in their rows; requests of messages that were
//! not planned yet get it when they are made. A deletion has no key, and is judged by the time of the backup alone,
//! since the person may have signed up again. The list of restorations is written before the database gets its final
//! name, and does not change while a process has it open.

use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use super::error::Fault;

const FIND: &str = "SELECT value FROM meta WHERE name = 'restored'";
/// ?1 the list.
const SET: &str = "INSERT OR REPLACE INTO meta (name, value) VALUES ('restored', ?1)";
/// ?1 through. Counts the messages that waited in the backup and still do.
const WAITING: &str = "SELECT COUNT(*) FROM messages WHERE state = 0 AND seq <= ?1";

/// One restoration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restoration {
    /// The time of the backup, in Unix milliseconds.
    pub(super) made_at: i64,
    /// The last sequence number in it.
    pub(super) through: i64,
}

/// All restorations, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Restorations(Vec<Restoration>);

impl Restorations {
    pub(super) fn load(connection: &Connection) -> Result<Self, Fault> {
        let text = connection.query_row(FIND, [], |row| row.get::<_, String>(0)).optional()?;
        let Some(text) = text else { return Ok(Self::default()) };
        let unreadable = |_| Fault::Unreadable { table: "meta", column: "value" };
        Ok(Self(serde_json::from_str(&text).map_err(unreadable)?))
    }

    pub(super) fn add(
        mut self,
        connection: &Connection,
        restoration: Restoration,
    ) -> Result<(), Fault> {
        self.0.push(restoration);
        let text = serde_json::to_string(&self.0);
        let text = text.map_err(|_| Fault::Broken("the list of restorations cannot be written"))?;
        connection.execute(SET, [text])?;
        Ok(())
    }

    /// Returns since when Loops may have an event of the message with this sequence number, in Unix milliseconds;
    /// `None` if not before it is sent.
    pub(super) fn since(&self, seq: i64) -> Option<i64> {
        // The first match is the earliest backup that had the message.
        self.0.iter().find(|restoration| seq <= restoration.through).map(|found| found.made_at)
    }

    /// Returns how many messages from a backup still wait.
    pub(super) fn waiting(&self, connection: &Connection) -> Result<u64, Fault> {
        let Some(last) = self.0.last() else { return Ok(0) };
        let count: i64 = connection.query_row(WAITING, [last.through], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_as_sent_since_the_first_backup_that_had_it() {
        let of = |made_at, through| Restoration { made_at, through };
        let restorations = Restorations(vec![of(1_000, 5), of(2_000, 8)]);
        let since = [1, 5, 6, 8, 9].map(|seq| restorations.since(seq));
        assert_eq!(since, [Some(1_000), Some(1_000), Some(2_000), Some(2_000), None]);
        assert_eq!(Restorations::default().since(1), None);
    }
}
