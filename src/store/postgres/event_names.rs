//! The names of events: which ones are counted separately, and when they were seen.
//!
//! They are written before their messages, in separate statements, so that no transaction that accepts messages waits
//! for another one because of a name. If the messages are then not stored, the names count as seen all the same.

use std::collections::HashMap;

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params, text};
use super::rows::{get, to_ms};
use crate::queue::{EVENT_NAMES_MAX, NewMessage, OTHER_EVENTS, event_name};

/// $1 sources, $2 names. Returns the names that are in the table.
const FIND: &str = "
    SELECT source, name, last_seen_at FROM @event_names
    WHERE (source, name) IN (SELECT * FROM unnest($1, $2))";
/// $1 sources.
const COUNT: &str =
    "SELECT source, COUNT(*) FROM @event_names WHERE source = ANY($1) GROUP BY source";
/// $1 sources, $2 names, $3 times first seen, $4 times last seen. All processes use the same order, so that they cannot
/// deadlock.
const SEEN: &str = "
    INSERT INTO @event_names AS e (source, name, first_seen_at, last_seen_at)
    SELECT * FROM unnest($1, $2, $3, $4)
    ON CONFLICT (source, name) DO UPDATE SET last_seen_at = GREATEST(e.last_seen_at, excluded.last_seen_at)";

/// How often the time a name was last seen is written, and the names of a source are counted again, since another
/// process may add or delete some.
const REFRESH_EVERY_MS: i64 = 60_000;

/// How many names are remembered. Above that, all are forgotten and read again.
const REMEMBERED_MAX: usize = if cfg!(test) { 20 } else { 20_000 };

/// A cache of the table.
#[derive(Debug, Default)]
pub(super) struct EventNames {
    /// When each name was last seen, according to the table.
    names: HashMap<(String, String), i64>,
    counted: HashMap<String, Counted>,
}

/// How many names of a source were in the table.
#[derive(Debug, Clone, Copy)]
struct Counted {
    names: usize,
    at_ms: i64,
}

/// When a name was seen in a group of messages.
#[derive(Debug, Clone, Copy)]
struct Seen {
    first_ms: i64,
    last_ms: i64,
}

impl EventNames {
    /// Returns the names under which the events of messages are listed.
    pub(super) async fn of(
        &mut self,
        connection: &Connection,
        messages: &[&NewMessage],
    ) -> Result<Vec<Option<String>>, Fault> {
        let mut seen: HashMap<(String, String), Seen> = HashMap::new();
        // In the order of the messages, since the first names of a source are the ones counted separately.
        let mut order = Vec::new();
        let named: Vec<Option<(String, String)>> = messages.iter().map(|m| key(m)).collect();
        for (key, message) in named.iter().zip(messages) {
            let Some(key) = key else { continue };
            let ms = to_ms(message.received_at);
            match seen.get_mut(key) {
                Some(seen) => {
                    seen.first_ms = seen.first_ms.min(ms);
                    seen.last_ms = seen.last_ms.max(ms);
                }
                None => {
                    seen.insert(key.clone(), Seen { first_ms: ms, last_ms: ms });
                    order.push(key.clone());
                }
            }
        }
        order.retain(|key| !self.is_fresh(key, seen[key].last_ms));
        if !order.is_empty() {
            self.note(connection, &order, &seen).await?;
        }
        let names = named.into_iter().map(|key| {
            let key = key?;
            let is_apart = self.names.contains_key(&key);
            Some(if is_apart { key.1 } else { OTHER_EVENTS.to_owned() })
        });
        let names = names.collect();
        if self.names.len() > REMEMBERED_MAX {
            self.names = HashMap::new();
        }
        Ok(names)
    }

    /// Whether no name of these messages has to be written now.
    pub(super) fn knows(&self, messages: &[NewMessage]) -> bool {
        messages.iter().all(|message| {
            key(message).is_none_or(|key| self.is_fresh(&key, to_ms(message.received_at)))
        })
    }

    fn is_fresh(&self, key: &(String, String), now_ms: i64) -> bool {
        self.names.get(key).is_some_and(|last_ms| now_ms < last_ms + REFRESH_EVERY_MS)
    }

    /// Records that names were seen, and adds new ones while there is room.
    async fn note(
        &mut self,
        connection: &Connection,
        order: &[(String, String)],
        seen: &HashMap<(String, String), Seen>,
    ) -> Result<(), Fault> {
        let sources: Array<&str> = order.iter().map(|(source, _)| source.as_str()).collect();
        let names: Array<&str> = order.iter().map(|(_, name)| name.as_str()).collect();
        let mut known: HashMap<(String, String), i64> = HashMap::new();
        for row in connection.query(FIND, params![sources, names]).await? {
            known.insert((get(&row, 0)?, get(&row, 1)?), get(&row, 2)?);
        }
        self.count(connection, order, &known, seen).await?;
        let mut write: Vec<(String, String, Seen)> = Vec::new();
        let mut others: HashMap<&str, Seen> = HashMap::new();
        for key in order {
            let (source, name) = key;
            let seen = seen[key];
            let is_known = known.contains_key(key);
            let counted = self.counted.get_mut(source);
            let has_room = counted.as_ref().is_some_and(|counted| counted.names < EVENT_NAMES_MAX);
            if !is_known && !has_room {
                // Not cached: there may be any number of such names.
                self.names.remove(key);
                let other = others.entry(source).or_insert(seen);
                other.first_ms = other.first_ms.min(seen.first_ms);
                other.last_ms = other.last_ms.max(seen.last_ms);
                continue;
            }
            if let Some(counted) = counted.filter(|_| !is_known) {
                counted.names += 1;
            }
            let written_ms = known.get(key).copied();
            if written_ms.is_none_or(|written_ms| seen.last_ms >= written_ms + REFRESH_EVERY_MS) {
                write.push((source.clone(), name.clone(), seen));
                self.names.insert(key.clone(), seen.last_ms);
            } else {
                self.names.insert(key.clone(), written_ms.unwrap_or(seen.last_ms));
            }
        }
        for (source, seen) in others {
            let key = (source.to_owned(), OTHER_EVENTS.to_owned());
            if !self.is_fresh(&key, seen.last_ms) {
                write.push((key.0.clone(), key.1.clone(), seen));
                self.names.insert(key, seen.last_ms);
            }
        }
        if write.is_empty() {
            return Ok(());
        }
        write.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let sources: Array<&str> = write.iter().map(|(source, ..)| source.as_str()).collect();
        let names: Array<&str> = write.iter().map(|(_, name, _)| name.as_str()).collect();
        let first: Array<i64> = write.iter().map(|(_, _, seen)| seen.first_ms).collect();
        let last: Array<i64> = write.iter().map(|(_, _, seen)| seen.last_ms).collect();
        connection.execute(SEEN, params![sources, names, first, last]).await?;
        Ok(())
    }

    /// Counts the names of the sources that have new ones.
    async fn count(
        &mut self,
        connection: &Connection,
        order: &[(String, String)],
        known: &HashMap<(String, String), i64>,
        seen: &HashMap<(String, String), Seen>,
    ) -> Result<(), Fault> {
        let is_due = |source: &str, now_ms: i64| {
            self.counted.get(source).is_none_or(|counted| {
                now_ms.abs_diff(counted.at_ms) >= REFRESH_EVERY_MS.unsigned_abs()
            })
        };
        let due: HashMap<&str, i64> = order
            .iter()
            .filter(|key| !known.contains_key(key) && is_due(&key.0, seen[key].last_ms))
            .map(|key| (key.0.as_str(), seen[key].last_ms))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let sources: Array<&str> = due.keys().copied().collect();
        let counted = connection.query(COUNT, params![sources]).await?;
        for (source, at_ms) in due {
            self.counted.insert(source.to_owned(), Counted { names: 0, at_ms });
        }
        for row in counted {
            let names = usize::try_from(get::<i64>(&row, 1)?).unwrap_or(usize::MAX);
            if let Some(counted) = self.counted.get_mut(get::<&str>(&row, 0)?) {
                counted.names = names;
            }
        }
        Ok(())
    }
}

/// Returns the source and the name of a message's event in their stored form.
fn key(message: &NewMessage) -> Option<(String, String)> {
    let event = message.event.as_deref()?;
    Some((message.source.clone(), text(event_name(event)).into_owned()))
}
