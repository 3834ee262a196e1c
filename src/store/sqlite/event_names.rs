//! The names of events. Each has a number, so that messages can be listed by event without reading their contents.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::Fault;
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

/// How often the time a name was last seen is written, and the names of a source are counted again, since another
/// process may add or delete some.
const REFRESH_EVERY_MS: i64 = 60_000;

/// How many names are remembered. Above that, all are forgotten and read again.
const REMEMBERED_MAX: usize = if cfg!(test) { 20 } else { 20_000 };

/// The writer's cache of the table. A rolled-back transaction may leave it wrong, so it must be cleared then.
#[derive(Debug, Default)]
pub(super) struct EventNames {
    sources: HashMap<String, Source>,
    remembered: usize,
}

#[derive(Debug, Default)]
struct Source {
    names: HashMap<String, Known>,
    /// The name that stands for all further names once a source has too many.
    other: Option<Known>,
    counted: Option<Counted>,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: i64,
    last_seen_ms: i64,
}

impl Known {
    fn is_fresh(self, now_ms: i64) -> bool {
        now_ms < self.last_seen_ms + REFRESH_EVERY_MS
    }
}

/// How many names of a source were in the table.
#[derive(Debug, Clone, Copy)]
struct Counted {
    names: i64,
    at_ms: i64,
}

impl EventNames {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Returns the number of a name; adds the name to the table if it is new.
    pub(super) fn id(
        &mut self,
        transaction: &Connection,
        source: &str,
        event: &str,
        now: Timestamp,
    ) -> Result<i64, Fault> {
        let name = event_name(event);
        let now_ms = to_ms(now);
        let remembered =
            self.sources.get(source).and_then(|source| source.names.get(name)).copied();
        if let Some(known) = remembered.filter(|known| known.is_fresh(now_ms)) {
            return Ok(known.id);
        }
        let of_source = self.sources.entry(source.to_owned()).or_default();
        let known = match find(transaction, source, name, now_ms)? {
            Some(known) => known,
            None if of_source.has_room(transaction, source, now_ms)? => {
                of_source.insert(transaction, source, name, now_ms)?
            }
            // Not cached: there may be any number of such names.
            None => return of_source.other(transaction, source, now_ms),
        };
        of_source.names.insert(name.to_owned(), known);
        self.remembered += usize::from(remembered.is_none());
        if self.remembered > REMEMBERED_MAX {
            self.forget_names();
        }
        Ok(known.id)
    }

    /// Forgets the names but not their number, which is slow to count again.
    fn forget_names(&mut self) {
        for source in self.sources.values_mut() {
            source.names = HashMap::new();
        }
        self.remembered = 0;
    }
}

impl Source {
    /// Whether another name may be added.
    fn has_room(
        &mut self,
        transaction: &Connection,
        source: &str,
        now_ms: i64,
    ) -> Result<bool, Fault> {
        let is_due =
            |counted: &Counted| now_ms.abs_diff(counted.at_ms) >= REFRESH_EVERY_MS.unsigned_abs();
        if self.counted.as_ref().is_none_or(is_due) {
            let mut count = transaction.prepare_cached(COUNT)?;
            let names = count.query_row([source], |row| row.get(0))?;
            self.counted = Some(Counted { names, at_ms: now_ms });
        }
        Ok(self.counted.is_some_and(|counted| counted.names < EVENT_NAMES_MAX as i64))
    }

    fn insert(
        &mut self,
        transaction: &Connection,
        source: &str,
        name: &str,
        now_ms: i64,
    ) -> Result<Known, Fault> {
        transaction.prepare_cached(INSERT)?.execute(params![source, name, now_ms])?;
        if let Some(counted) = &mut self.counted {
            counted.names += 1;
        }
        Ok(Known { id: transaction.last_insert_rowid(), last_seen_ms: now_ms })
    }

    /// Returns the number that stands for all further names.
    fn other(&mut self, transaction: &Connection, source: &str, now_ms: i64) -> Result<i64, Fault> {
        if let Some(known) = self.other.filter(|known| known.is_fresh(now_ms)) {
            return Ok(known.id);
        }
        let known = match find(transaction, source, OTHER_EVENTS, now_ms)? {
            Some(known) => known,
            None => self.insert(transaction, source, OTHER_EVENTS, now_ms)?,
        };
        self.other = Some(known);
        Ok(known.id)
    }
}

/// Finds a name in the table and updates when it was last seen.
fn find(
    transaction: &Connection,
    source: &str,
    name: &str,
    now_ms: i64,
) -> Result<Option<Known>, Fault> {
    let found = transaction.prepare_cached(FIND)?.query_row(params![source, name], |row| {
        Ok(Known { id: row.get(0)?, last_seen_ms: row.get(1)? })
    });
    let Some(mut known) = found.optional()? else { return Ok(None) };
    if !known.is_fresh(now_ms) {
        transaction.prepare_cached(SEEN)?.execute(params![known.id, now_ms])?;
        known.last_seen_ms = now_ms;
    }
    Ok(Some(known))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::queue::suite::at;

    fn table() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("schema.sql")).unwrap();
        connection
    }

    fn runs(connection: &Connection, text: &str) -> i32 {
        connection.prepare_cached(text).unwrap().get_status(StatementStatus::Run)
    }

    #[test]
    fn names_beyond_the_bound_are_neither_counted_again_nor_remembered() {
        let connection = table();
        let mut names = EventNames::default();
        let sources = ["web", "app", "server"];
        for round in 0..100 {
            for source in sources {
                // Uses names of the table as well, so that more names are in use than may be remembered.
                for name in [format!("New {round}"), format!("New {}", round % 5)] {
                    names.id(&connection, source, &name, at(0)).unwrap();
                }
            }
            assert!(names.remembered <= REMEMBERED_MAX);
            let in_memory: usize = names.sources.values().map(|source| source.names.len()).sum();
            assert_eq!(in_memory, names.remembered);
        }
        assert_eq!(runs(&connection, COUNT), 3, "once for each source");
        let other = names.id(&connection, "web", OTHER_EVENTS, at(0)).unwrap();
        assert_eq!(names.id(&connection, "web", "New 99", at(0)).unwrap(), other);
        let rows: i64 =
            connection.query_row("SELECT COUNT(*) FROM event_names", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 3 * (EVENT_NAMES_MAX as i64 + 1));
    }

    #[test]
    fn room_that_another_process_made_is_found_within_a_minute() {
        let connection = table();
        let mut names = EventNames::default();
        for n in 0..=EVENT_NAMES_MAX {
            names.id(&connection, "web", &format!("Event {n}"), at(0)).unwrap();
        }
        connection
            .execute("DELETE FROM event_names WHERE name IN ('Event 1', 'Event 2')", [])
            .unwrap();
        let other = names.id(&connection, "web", OTHER_EVENTS, at(0)).unwrap();
        assert_eq!(names.id(&connection, "web", "New", at(59_999)).unwrap(), other);
        assert_ne!(names.id(&connection, "web", "New", at(60_000)).unwrap(), other);
    }

    #[test]
    fn the_time_that_a_name_was_last_seen_lags_by_less_than_a_minute() {
        let connection = table();
        EventNames::default().id(&connection, "web", "A", at(0)).unwrap();
        // As after a restart.
        let mut names = EventNames::default();
        for seen in [30_000, 60_000, 90_000, 119_999] {
            names.id(&connection, "web", "A", at(seen)).unwrap();
        }
        let stored: i64 = connection
            .query_row("SELECT last_seen_at FROM event_names", [], |row| row.get(0))
            .unwrap();
        assert_eq!(stored, to_ms(at(60_000)));
    }
}
