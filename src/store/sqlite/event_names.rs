//! The names of events: each has a number, by which messages are listed without their contents.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Fault;
use super::rows::to_ms;
use crate::queue::{EVENT_NAMES_MAX, OTHER_EVENTS, event_name};

/// ?1 source, ?2 name.
pub(super) const FIND: &str =
    "SELECT id, last_seen_at FROM event_names WHERE source = ?1 AND name = ?2";
/// ?1 source.
pub(super) const COUNT: &str = "SELECT COUNT(*) FROM event_names WHERE source = ?1";
/// ?1 source, ?2 name, ?3 now.
pub(super) const INSERT: &str = "
    INSERT INTO event_names (source, name, first_seen_at, last_seen_at) VALUES (?1, ?2, ?3, ?3)";
/// ?1 id, ?2 now.
pub(super) const SEEN: &str =
    "UPDATE event_names SET last_seen_at = MAX(last_seen_at, ?2) WHERE id = ?1";

/// The last time that a name was seen is written again after this time, not for every message.
const SEEN_EVERY_MS: i64 = 60_000;

/// Names that are remembered; beyond, all are forgotten and read again.
const REMEMBERED_MAX: usize = 20_000;

/// What the writer remembers of the table. A transaction that is rolled back may leave it wrong: then it
/// must be forgotten.
#[derive(Debug, Default)]
pub(super) struct EventNames {
    sources: HashMap<String, HashMap<String, Known>>,
    remembered: usize,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    id: i64,
    last_seen_ms: i64,
}

impl EventNames {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The number of a name; it is added to the table if it is new.
    pub(super) fn id(
        &mut self,
        transaction: &Connection,
        source: &str,
        event: &str,
        now: Timestamp,
    ) -> Result<i64, Fault> {
        let name = event_name(event);
        let now_ms = to_ms(now);
        let known = self.sources.get(source).and_then(|names| names.get(name)).copied();
        if let Some(Known { id, last_seen_ms }) = known
            && now_ms < last_seen_ms + SEEN_EVERY_MS
        {
            return Ok(id);
        }
        let id = seen(transaction, source, name, now_ms)?;
        if self.remembered >= REMEMBERED_MAX {
            self.forget();
        }
        self.remembered += usize::from(known.is_none());
        let names = self.sources.entry(source.to_owned()).or_default();
        names.insert(name.to_owned(), Known { id, last_seen_ms: now_ms });
        Ok(id)
    }
}

/// Notes in the table that a name was seen.
fn seen(transaction: &Connection, source: &str, name: &str, now_ms: i64) -> Result<i64, Fault> {
    let found = |name: &str| {
        let mut find = transaction.prepare_cached(FIND)?;
        find.query_row(params![source, name], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    };
    let mut name = name;
    let mut row: Option<(i64, i64)> = found(name)?;
    if row.is_none() {
        let names: i64 =
            transaction.prepare_cached(COUNT)?.query_row([source], |row| row.get(0))?;
        if names < EVENT_NAMES_MAX as i64 {
            transaction.prepare_cached(INSERT)?.execute(params![source, name, now_ms])?;
            return Ok(transaction.last_insert_rowid());
        }
        name = OTHER_EVENTS;
        row = found(name)?;
    }
    match row {
        Some((id, last_seen_ms)) => {
            if now_ms >= last_seen_ms + SEEN_EVERY_MS {
                transaction.prepare_cached(SEEN)?.execute(params![id, now_ms])?;
            }
            Ok(id)
        }
        None => {
            transaction.prepare_cached(INSERT)?.execute(params![source, name, now_ms])?;
            Ok(transaction.last_insert_rowid())
        }
    }
}
