//! Events that Loops refused because their contact did not exist. They are replayed once it does.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::error::Fault;
use super::rows::to_ms;
use crate::queue::{Awaiting, RequestId, Seq};

/// ?1 request id, ?2 destination, ?3 lane, ?4 until.
pub(super) const BEGIN: &str = "
    INSERT INTO awaiting (seq, subscription, destination, lane, until)
    SELECT seq, subscription, ?2, ?3, ?4 FROM deliveries WHERE request_id = ?1
    ON CONFLICT (seq, subscription) DO NOTHING";
/// ?1 destination, ?2 lane, ?3 now.
pub(super) const APPEARED: &str =
    "UPDATE awaiting SET is_due = 1 WHERE lane = ?2 AND destination = ?1 AND until >= ?3";
/// ?1 limit. A message is replayed once it is done.
pub(super) const DUE: &str = "
    SELECT a.seq, a.subscription, a.destination, m.payload_bytes
    FROM awaiting a JOIN messages m ON m.seq = a.seq
    WHERE a.is_due = 1 AND m.state = 1 ORDER BY a.seq LIMIT ?1";
/// ?1 seq, ?2 the only subscription that is replayed. A delivery no longer waits once it is replayed, for whatever
/// reason.
pub(super) const END: &str =
    "DELETE FROM awaiting WHERE seq = ?1 AND (?2 IS NULL OR subscription = ?2)";
/// ?1 old seq, ?2 new seq. For the other deliveries of a replayed message.
pub(super) const MOVE: &str = "UPDATE awaiting SET seq = ?2 WHERE seq = ?1";
/// ?1 until before this time, ?2 limit.
pub(super) const PAST: &str = "
    DELETE FROM awaiting WHERE (seq, subscription) IN (
        SELECT seq, subscription FROM awaiting WHERE until < ?1 ORDER BY until LIMIT ?2)";
/// ?1 lane, ?2 destination.
pub(super) const OF_PERSON: &str = "DELETE FROM awaiting WHERE lane = ?1 AND destination = ?2";

/// A delivery whose contact has appeared, so it must be replayed.
pub(super) struct Due {
    pub(super) seq: Seq,
    pub(super) subscription: String,
    pub(super) destination: String,
    pub(super) payload_bytes: u64,
}

/// Applies the effect of a request's outcome on waiting events.
pub(super) fn apply(
    transaction: &Connection,
    destination: &str,
    request: RequestId,
    awaiting: Awaiting,
    now: Timestamp,
) -> Result<(), Fault> {
    match awaiting {
        Awaiting::Begins { lane, until } => {
            let row = params![request.0, destination, lane.0, to_ms(until)];
            transaction.prepare_cached(BEGIN)?.execute(row)?;
        }
        Awaiting::Ends { lane } => {
            let row = params![destination, lane.0, to_ms(now)];
            transaction.prepare_cached(APPEARED)?.execute(row)?;
        }
    }
    Ok(())
}

pub(super) fn due(snapshot: &Connection, limit: usize) -> Result<Vec<Due>, Fault> {
    let mut statement = snapshot.prepare_cached(DUE)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = statement.query_map([limit], |row| {
        Ok(Due {
            seq: Seq(row.get(0)?),
            subscription: row.get(1)?,
            destination: row.get(2)?,
            payload_bytes: row.get::<_, i64>(3)?.unsigned_abs(),
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}
