//! Accepts the messages of a group: finds duplicates and inserts the rest. This is the hot path.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::Fault;
use super::event_names::EventNames;
use super::recent::{Recent, Row};
use super::rows::{duration_ms, from_ms, to_json, to_ms};
use crate::queue::{Accepted, NewMessage, Stage, TallyStep};
use crate::store::tally::{Counted, Tallies};
use crate::telemetry::TraceContext;

/// ?1 message_hash.
pub(super) const OF_ID: &str = "SELECT seq FROM message_ids WHERE message_hash = ?1";
/// ?1 seq.
pub(super) const IDENTITY: &str =
    "SELECT source, message_id, received_at FROM messages WHERE seq = ?1";
/// ?1 how many numbers to reserve. Returns the last one.
pub(super) const NEXT_SEQS: &str =
    "UPDATE meta SET value = value + ?1 WHERE name = 'last_seq' RETURNING value";
pub(super) const INSERT: &str = "
    INSERT INTO messages (seq, class, message_hash, lane, anonymous, email, received_at, event_id, kind,
                          source, destination, message_id, payload_bytes, warnings)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
pub(super) const INSERT_PAYLOAD: &str =
    "INSERT INTO payloads (seq, trace, payload) VALUES (?1, ?2, ?3)";
/// ?1 minute, ?2 first seq, ?3 last seq.
pub(super) const MINUTE: &str = "
    INSERT INTO minutes (minute, first_seq, last_seq) VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET first_seq = MIN(first_seq, ?2), last_seq = MAX(last_seq, ?3)";

/// The writer's memory for accepting messages.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) recent: Recent,
    pub(super) event_names: EventNames,
    pub(super) duplicate_window: Duration,
}

/// An accepted message, with the values that decide whether a later one is its duplicate.
struct Seen {
    received_ms: i64,
    /// The call of this group that contains it; `None` if it was stored before.
    call: Option<usize>,
}

/// Returns whether each message of each call is new. `rows` has the messages that `recent` does not know yet. Inserted
/// messages are appended to it; the caller notes all of them after the commit.
pub(super) fn accept(
    transaction: &Connection,
    memory: &mut Memory,
    calls: &[&[NewMessage]],
    rows: &mut Vec<Row>,
    tallies: &mut Tallies,
) -> Result<Vec<Vec<Accepted>>, Fault> {
    let stored = stored(transaction, &memory.recent, rows, calls)?;
    let mut seen: HashMap<(&str, &str), Seen> = HashMap::with_capacity(stored.len());
    for (source, message_id, received_ms) in &stored {
        let entry = seen
            .entry((source, message_id))
            .or_insert(Seen { received_ms: *received_ms, call: None });
        entry.received_ms = entry.received_ms.max(*received_ms);
    }
    let window_ms = duration_ms(memory.duplicate_window);
    let mut fresh = Vec::new();
    let mut answers = Vec::with_capacity(calls.len());
    for (call, messages) in calls.iter().enumerate() {
        let mut accepted = Vec::with_capacity(messages.len());
        for message in *messages {
            let key = (&*message.source, message.message_id.as_str());
            let received_ms = to_ms(message.received_at);
            let is_duplicate = seen.get(&key).is_some_and(|before| {
                before.call == Some(call)
                    || before.received_ms >= received_ms.saturating_sub(window_ms)
            });
            if is_duplicate {
                accepted.push(Accepted::Duplicate);
            } else {
                seen.insert(key, Seen { received_ms, call: Some(call) });
                fresh.push(message);
                accepted.push(Accepted::New);
            }
        }
        answers.push(accepted);
    }
    if !fresh.is_empty() {
        insert(transaction, &mut memory.event_names, &fresh, rows)?;
        count(transaction, &fresh, rows, tallies)?;
    }
    Ok(answers)
}

/// Returns the messages stored under the digests of the given message ids: source, message id, received at.
fn stored(
    transaction: &Connection,
    recent: &Recent,
    unknown: &[Row],
    calls: &[&[NewMessage]],
) -> Result<Vec<(String, String, i64)>, Fault> {
    let messages = calls.iter().flat_map(|messages| messages.iter());
    let mut hashes: Vec<i64> = messages.map(|message| message.message_hash.0).collect();
    // Look up in the order of the index, so that each look-up is near the previous one.
    hashes.sort_unstable();
    hashes.dedup();
    let mut of_id = transaction.prepare_cached(OF_ID)?;
    let mut seqs = Vec::new();
    for hash in &hashes {
        let sorted = of_id.query_map([hash], |row| row.get(0))?;
        for seq in sorted {
            seqs.push(seq?);
        }
        seqs.extend(recent.of_id(*hash));
    }
    let is_asked = |row: &&Row| hashes.binary_search(&row.message_hash).is_ok();
    seqs.extend(unknown.iter().filter(is_asked).map(|row| row.seq));
    seqs.sort_unstable();
    seqs.dedup();
    let mut identity = transaction.prepare_cached(IDENTITY)?;
    let mut stored = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let found = identity.query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        stored.extend(found.optional()?);
    }
    Ok(stored)
}

/// Inserts messages in the order of acceptance, and appends their digests to `rows`.
fn insert(
    transaction: &Connection,
    event_names: &mut EventNames,
    messages: &[&NewMessage],
    rows: &mut Vec<Row>,
) -> Result<(), Fault> {
    let first = next_seqs(transaction, messages.len())?;
    let mut insert = transaction.prepare_cached(INSERT)?;
    let mut insert_payload = transaction.prepare_cached(INSERT_PAYLOAD)?;
    rows.reserve(messages.len());
    for (seq, message) in (first..).zip(messages) {
        let event = message.event.as_deref();
        let event_id = event
            .map(|event| event_names.id(transaction, &message.source, event, message.received_at))
            .transpose()?;
        let persons = [
            Some(message.lane.0),
            message.anonymous.map(|anonymous| anonymous.0),
            message.email.map(|email| email.0),
        ];
        insert.execute(params![
            seq,
            message.class.code(),
            message.message_hash.0,
            persons[0],
            persons[1],
            persons[2],
            to_ms(message.received_at),
            event_id,
            message.kind.as_str(),
            &*message.source,
            &*message.destination,
            message.message_id,
            i64::try_from(message.payload.len()).unwrap_or(i64::MAX),
            to_json(&message.warnings),
        ])?;
        let trace = message.trace.map(TraceContext::to_bytes);
        insert_payload.execute(params![seq, trace, &message.payload[..]])?;
        rows.push(Row { seq, message_hash: message.message_hash.0, persons });
    }
    Ok(())
}

/// Reserves this many consecutive sequence numbers; returns the first.
pub(super) fn next_seqs(transaction: &Connection, count: usize) -> Result<i64, Fault> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let last: i64 = transaction.prepare_cached(NEXT_SEQS)?.query_row([count], |row| row.get(0))?;
    Ok(last - count + 1)
}

/// Counts the inserted messages, and records the first and last sequence number of each minute.
fn count(
    transaction: &Connection,
    fresh: &[&NewMessage],
    rows: &[Row],
    tallies: &mut Tallies,
) -> Result<(), Fault> {
    let mut received: HashMap<(i64, &str, &str), i64> = HashMap::new();
    let mut minutes: HashMap<i64, (i64, i64)> = HashMap::new();
    let inserted = &rows[rows.len() - fresh.len()..];
    for (message, row) in fresh.iter().zip(inserted) {
        let minute = to_ms(message.received_at).div_euclid(TallyStep::Minute.ms());
        *received.entry((minute, &message.destination, &message.source)).or_default() += 1;
        minutes.entry(minute).or_insert((row.seq, row.seq)).1 = row.seq;
    }
    for ((minute, destination, source), count) in received {
        let at = from_ms(minute * TallyStep::Minute.ms());
        tallies.add(at, Counted::new(Stage::Received, destination, source), count);
    }
    let mut statement = transaction.prepare_cached(MINUTE)?;
    for (minute, (first, last)) in minutes {
        statement.execute(params![minute, first, last])?;
    }
    Ok(())
}
