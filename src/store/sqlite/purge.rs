//! Removes data that is past its retention: first the contents (payloads, bodies, excerpts), later the records, with
//! their counts and other traces.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Params, params};

use super::error::Fault;
use super::feedback;
use super::group::{Effects, Step};
use super::options::Retention;
use super::receipts;
use super::rows::{duration_ms, from_ms, to_ms};
use super::{awaiting, conflicts, contacts, new_contacts};
use crate::queue::{AWAITING_KEPT, FORWARD_KEPT, RECEIPTS_KEPT, TallyStep};
use crate::store::contacts::{first_day_of_conflicts, first_kept_day};

/// ?1 is failed, ?2 done before or at, ?3 limit.
pub(super) const PAST_CONTENTS: &str = "
    SELECT seq FROM messages
    WHERE state = 1 AND has_contents = 1 AND is_failed = ?1 AND done_at <= ?2
    ORDER BY done_at LIMIT ?3";
/// ?1 is failed, ?2 done after, ?3 accepted before, ?4 limit. For rows written while the clock was ahead.
pub(super) const AHEAD_CONTENTS: &str = "
    SELECT seq FROM messages
    WHERE state = 1 AND has_contents = 1 AND is_failed = ?1 AND done_at > ?2 AND seq < ?3
    ORDER BY done_at LIMIT ?4";
/// ?1 seq. A response from Loops may repeat the contents of the request, and so may the detail derived from it. The
/// response to a merged request that was taken apart belongs to each of its parts.
pub(super) const DROP_EXCERPTS: &str = "
    UPDATE attempts SET excerpt = ''
    WHERE request_id IN (
        SELECT r.id FROM deliveries d JOIN requests r ON r.id = d.request_id
        WHERE d.seq = ?1 AND r.state <> 'pending'
        UNION
        SELECT r.merged_into FROM deliveries d JOIN requests r ON r.id = d.request_id
        WHERE d.seq = ?1 AND r.merged_into IS NOT NULL)";
/// ?1 seq.
pub(super) const DROP_DETAILS: &str =
    "UPDATE deliveries SET detail = NULL WHERE seq = ?1 AND detail IS NOT NULL";
/// ?1 seq. A request whose other messages are still pending is pending itself, and stays.
pub(super) const DROP_BODIES: &str = "
    UPDATE requests SET body = NULL
    WHERE id IN (SELECT request_id FROM deliveries WHERE seq = ?1) AND state <> 'pending' AND body IS NOT NULL";
/// ?1 seq.
pub(super) const DROP_PAYLOAD: &str = "DELETE FROM payloads WHERE seq = ?1";
/// ?1 seq.
pub(super) const HAS_NO_CONTENTS: &str =
    "UPDATE messages SET has_contents = 0 WHERE seq = ?1 AND has_contents = 1";
/// ?1 done before or at, ?2 limit.
pub(super) const PAST_RECORDS: &str = "
    SELECT seq FROM messages WHERE state = 1 AND done_at <= ?1 ORDER BY done_at LIMIT ?2";
/// ?1 done after, ?2 accepted before, ?3 limit. For rows written while the clock was ahead.
pub(super) const AHEAD_RECORDS: &str = "
    SELECT seq FROM messages WHERE state = 1 AND done_at > ?1 AND seq < ?2 ORDER BY done_at LIMIT ?3";
/// ?1 seq.
pub(super) const DELETE_DELIVERIES: &str =
    "DELETE FROM deliveries WHERE seq = ?1 RETURNING request_id";
/// ?1 request id. The attempts at a merged request stay with its parts.
pub(super) const DELETE_ATTEMPTS: &str = "
    DELETE FROM attempts WHERE request_id = ?1
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.request_id = ?1)
    AND NOT EXISTS (SELECT 1 FROM requests p WHERE p.merged_into = ?1)";
/// ?1 request id. Returns the merged request of which it was a part.
pub(super) const DELETE_REQUEST: &str = "
    DELETE FROM requests WHERE id = ?1
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.request_id = ?1)
    AND NOT EXISTS (SELECT 1 FROM requests p WHERE p.merged_into = ?1)
    RETURNING merged_into";
/// ?1 seq.
pub(super) const DELETE_REPLAY: &str = "DELETE FROM replays WHERE seq = ?1";
/// ?1 seq.
pub(super) const DELETE_ERASURE: &str = "DELETE FROM erasures WHERE seq = ?1";
/// ?1 seq.
pub(super) const DELETE_DELETION: &str = "DELETE FROM deletions WHERE seq = ?1";
/// ?1 seq.
pub(super) const DELETE_MESSAGE: &str = "DELETE FROM messages WHERE seq = ?1 AND state = 1";
/// ?1 step, ?2 ended before or at, ?3 limit.
pub(super) const DELETE_TALLIES: &str = "
    DELETE FROM tallies
    WHERE (step, at, stage, destination, source, subscription, reason) IN (
        SELECT step, at, stage, destination, source, subscription, reason FROM tallies
        WHERE step = ?1 AND at <= ?2 - ?1 LIMIT ?3)";
/// ?1 at or before, ?2 limit.
pub(super) const DELETE_AUDIT: &str = "
    DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at <= ?1 ORDER BY at LIMIT ?2)";
/// ?1 before this minute, ?2 limit.
pub(super) const DELETE_MINUTES: &str = "
    DELETE FROM minutes
    WHERE minute IN (SELECT minute FROM minutes WHERE minute < ?1 ORDER BY minute LIMIT ?2)";
/// ?1 last seen before, ?2 limit.
pub(super) const DELETE_EVENT_NAMES: &str = "
    DELETE FROM event_names WHERE id IN (
        SELECT e.id FROM event_names e
        WHERE e.last_seen_at < ?1 AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.event_id = e.id)
        LIMIT ?2)";

/// The time of the last message, and that of the last settlement.
pub(super) const NEWEST: &str = "
    SELECT MAX(at) FROM (
        SELECT received_at AS at FROM messages WHERE seq = (SELECT MAX(seq) FROM messages)
        UNION ALL
        SELECT MAX(done_at) FROM messages WHERE state = 1)";

/// How many rows of each kind one call handles. Small, since senders share the writer.
const ROWS_MAX: i64 = 200;

/// How long tallies by minute are kept.
const MINUTES_KEPT: Duration = Duration::from_secs(48 * 60 * 60);

/// A record that ended further in the future than this was written while the clock was ahead. (A year, because the
/// clock may be behind now.) Whether such a record is past its retention is decided by the order of acceptance.
const AHEAD_MIN: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Statements that delete every copy of what a message or its requests contained.
pub(super) const CONTENTS: [&str; 5] =
    [DROP_EXCERPTS, DROP_DETAILS, DROP_BODIES, DROP_PAYLOAD, HAS_NO_CONTENTS];

pub(super) fn newest(snapshot: &Connection) -> Result<Option<Timestamp>, Fault> {
    let at: Option<i64> = snapshot.prepare_cached(NEWEST)?.query_row([], |row| row.get(0))?;
    Ok(at.map(from_ms))
}

/// Deletes the contents of delivered messages before their retention is over, oldest first, because the disk is full.
/// Returns how many had contents.
pub(super) struct MakeRoom;

impl Step for MakeRoom {
    type Output = usize;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<usize, Fault> {
        let mut delivered = transaction.prepare_cached(PAST_CONTENTS)?;
        let delivered =
            delivered.query_map(params![false, i64::MAX, ROWS_MAX], |row| row.get(0))?;
        let delivered: Vec<i64> = delivered.collect::<Result<_, _>>()?;
        for seq in &delivered {
            for text in CONTENTS {
                transaction.prepare_cached(text)?.execute([seq])?;
            }
        }
        effects.has_written |= !delivered.is_empty();
        Ok(delivered.len())
    }
}

pub(super) struct Purge {
    pub(super) now: Timestamp,
    pub(super) retention: Retention,
}

impl Step for Purge {
    type Output = u64;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<u64, Fault> {
        let Retention { delivered, failed, records } = self.retention;
        let mut rows = 0;
        for (is_failed, kept) in [(false, delivered), (true, failed)] {
            let past = params![is_failed, self.before(kept), ROWS_MAX];
            let mut past = ids(transaction, PAST_CONTENTS, past)?;
            if let Some(last) = past.iter().max() {
                let ahead = params![is_failed, self.ahead(), last, ROWS_MAX];
                past.extend(ids(transaction, AHEAD_CONTENTS, ahead)?);
            }
            for seq in past {
                for text in CONTENTS {
                    rows += execute(transaction, text, [seq])?;
                }
            }
        }
        let past = self.before(records);
        let mut ended = ids(transaction, PAST_RECORDS, params![past, ROWS_MAX])?;
        if let Some(last) = ended.iter().max() {
            let ahead = params![self.ahead(), last, ROWS_MAX];
            ended.extend(ids(transaction, AHEAD_RECORDS, ahead)?);
        }
        for seq in ended {
            rows += delete(transaction, seq)?;
        }
        for (step, kept) in
            [(TallyStep::Minute, MINUTES_KEPT.min(records)), (TallyStep::Hour, records)]
        {
            let past = params![step.ms(), self.before(kept), ROWS_MAX];
            rows += execute(transaction, DELETE_TALLIES, past)?;
        }
        rows += execute(transaction, DELETE_AUDIT, params![past, ROWS_MAX])?;
        let minute = past.div_euclid(TallyStep::Minute.ms());
        rows += execute(transaction, DELETE_MINUTES, params![minute, ROWS_MAX])?;
        rows += execute(transaction, feedback::PAST, params![past, ROWS_MAX])?;
        let past_forwards = params![self.before(FORWARD_KEPT), ROWS_MAX];
        rows += execute(transaction, feedback::PAST_FORWARDS, past_forwards)?;
        let first_kept = params![first_kept_day(to_ms(self.now)), ROWS_MAX];
        rows += execute(transaction, contacts::PAST, first_kept)?;
        let first_kept = params![first_day_of_conflicts(to_ms(self.now)), ROWS_MAX];
        rows += execute(transaction, conflicts::PAST, first_kept)?;
        let past_receipts = params![self.before(RECEIPTS_KEPT), ROWS_MAX];
        rows += execute(transaction, receipts::PAST, past_receipts)?;
        let past_awaiting = params![self.before(AWAITING_KEPT), ROWS_MAX];
        rows += execute(transaction, awaiting::PAST, past_awaiting)?;
        let past_days = params![past, ROWS_MAX];
        rows += execute(transaction, new_contacts::PAST, past_days)?;
        // No index finds these rows, so search only when nothing else is left.
        if rows == 0 {
            rows = execute(transaction, DELETE_EVENT_NAMES, params![past, ROWS_MAX])?;
            effects.forgets_event_names |= rows > 0;
        }
        effects.has_written |= rows > 0;
        Ok(rows)
    }
}

impl Purge {
    fn before(&self, kept: Duration) -> i64 {
        to_ms(self.now).saturating_sub(duration_ms(kept))
    }

    fn ahead(&self) -> i64 {
        to_ms(self.now).saturating_add(duration_ms(AHEAD_MIN))
    }
}

/// Deletes a message with everything that belongs to it. A request stays while another message needs it.
fn delete(transaction: &Connection, seq: i64) -> Result<u64, Fault> {
    let requests: Vec<Option<i64>> = transaction
        .prepare_cached(DELETE_DELIVERIES)?
        .query_map([seq], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut rows = requests.len() as u64;
    for id in requests.into_iter().flatten() {
        rows += delete_request(transaction, id)?;
    }
    for text in [DELETE_REPLAY, DELETE_ERASURE, DELETE_DELETION, DELETE_MESSAGE] {
        rows += execute(transaction, text, [seq])?;
    }
    Ok(rows)
}

/// Deletes a request that no longer carries anything, with its attempts. A merged request that was taken apart goes
/// with its last part.
fn delete_request(transaction: &Connection, id: i64) -> Result<u64, Fault> {
    let mut rows = 0;
    let mut next = Some(id);
    while let Some(id) = next.take() {
        rows += execute(transaction, DELETE_ATTEMPTS, [id])?;
        let mut delete = transaction.prepare_cached(DELETE_REQUEST)?;
        let deleted = delete.query_row([id], |row| row.get(0)).optional()?;
        rows += u64::from(deleted.is_some());
        next = deleted.flatten();
    }
    Ok(rows)
}

fn ids(transaction: &Connection, text: &str, parameters: impl Params) -> Result<Vec<i64>, Fault> {
    let mut statement = transaction.prepare_cached(text)?;
    let ids = statement.query_map(parameters, |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Runs a statement; returns how many rows it changed.
pub(super) fn execute(
    transaction: &Connection,
    text: &str,
    parameters: impl Params,
) -> Result<u64, Fault> {
    Ok(transaction.prepare_cached(text)?.execute(parameters)? as u64)
}
