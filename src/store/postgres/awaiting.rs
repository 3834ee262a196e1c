//! Events that Loops refused because their contact did not exist. They are replayed once it does.

use jiff::Timestamp;

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params};
use super::rows::{get, to_ms};
use crate::queue::Awaiting;

/// $1 request id, $2 its messages, $3 destination, $4 lane, $5 until.
const BEGIN: &str = "
    INSERT INTO @awaiting (seq, subscription, destination, lane, until)
    SELECT seq, subscription, $3, $4, $5 FROM @deliveries WHERE seq = ANY($2) AND request_id = $1
    ON CONFLICT (seq, subscription) DO NOTHING";
/// $1 destination, $2 lane, $3 now.
const APPEARED: &str =
    "UPDATE @awaiting SET is_due = true WHERE lane = $2 AND destination = $1 AND until >= $3";
/// $1 limit. A message is replayed once it is done.
const DUE: &str = "
    SELECT a.seq, a.subscription, a.destination, m.payload_bytes
    FROM @awaiting a JOIN @messages m ON m.seq = a.seq JOIN @outcomes o ON o.seq = a.seq
    WHERE a.is_due ORDER BY a.seq LIMIT $1";
/// $1 seqs, $2 the only subscription that is replayed. Whatever replays deliveries, they wait no longer.
pub(super) const END: &str =
    "DELETE FROM @awaiting WHERE seq = ANY($1) AND ($2 IS NULL OR subscription = $2)";
/// $1 old seqs, $2 new seqs. Other deliveries of messages that are replayed.
pub(super) const MOVE: &str = "
    UPDATE @awaiting a SET seq = u.new FROM unnest($1, $2) u (old, new) WHERE a.seq = u.old";
/// $1 until before this time, $2 limit.
pub(super) const PAST: &str = "
    DELETE FROM @awaiting WHERE (seq, subscription) IN (
        SELECT seq, subscription FROM @awaiting WHERE until < $1 ORDER BY until LIMIT $2
        FOR UPDATE SKIP LOCKED)";
/// $1 lane, $2 destination.
pub(super) const OF_PERSON: &str = "DELETE FROM @awaiting WHERE lane = $1 AND destination = $2";

/// A delivery whose contact has appeared, so it must be replayed.
pub(super) struct Due {
    pub(super) seq: i64,
    pub(super) subscription: String,
    pub(super) destination: String,
    pub(super) payload_bytes: u64,
}

/// Applies the effect of a request's outcome on waiting events.
pub(super) async fn apply(
    transaction: &Connection,
    destination: &str,
    (request, seqs): (i64, &Array<i64>),
    awaiting: Awaiting,
    now: Timestamp,
) -> Result<(), Fault> {
    match awaiting {
        Awaiting::Begins { lane, until } => {
            let until = to_ms(until);
            let row = params![request, *seqs, destination, lane.0, until];
            transaction.execute(BEGIN, row).await?;
        }
        Awaiting::Ends { lane } => {
            let now = to_ms(now);
            transaction.execute(APPEARED, params![destination, lane.0, now]).await?;
        }
    }
    Ok(())
}

pub(super) async fn due(connection: &Connection, limit: usize) -> Result<Vec<Due>, Fault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = connection.query(DUE, params![limit]).await?;
    let due = |row| -> Result<Due, Fault> {
        Ok(Due {
            seq: get(row, 0)?,
            subscription: get(row, 1)?,
            destination: get(row, 2)?,
            payload_bytes: u64::from(get::<i32>(row, 3)?.unsigned_abs()),
        })
    };
    found.iter().map(due).collect()
}
