//! What the engines read: pending messages, the job of one message, the depth.
//!
//! Statements on partitioned tables name their rows by constants, never by a join, so that planning considers only the
//! partitions that hold them.

use super::connection::Connection;
use super::error::Fault;
use super::frozen::frozen;
use super::params::{Array, params};
use super::rows::{self, from_ms, get};
use super::{erase, new_contacts};
use crate::queue::{Class, Depth, Head, Job, LaneAsk, LanePart, PendingAsk, Seq};
use crate::store::backlog::Size;

/// $1 destination, $2 $3 $4 after, $5 $6 $7 limit, one of each for every class.
const PENDING: &str = "
    (SELECT seq, lane, class, next_attempt_at FROM @pending
     WHERE destination = $1 AND class = 0 AND seq > $2 ORDER BY seq LIMIT $5)
    UNION ALL
    (SELECT seq, lane, class, next_attempt_at FROM @pending
     WHERE destination = $1 AND class = 1 AND seq > $3 ORDER BY seq LIMIT $6)
    UNION ALL
    (SELECT seq, lane, class, next_attempt_at FROM @pending
     WHERE destination = $1 AND class = 2 AND seq > $4 ORDER BY seq LIMIT $7)";
/// $1 destination, $2 seqs.
const HEADS: &str = "
    SELECT seq, lane, class, next_attempt_at FROM @pending
    WHERE destination = $1 AND seq = ANY($2) ORDER BY seq";
/// $1 seq.
const OPEN_MESSAGE: &str = "
    SELECT m.source, m.message_id, m.received_at,
           COALESCE((SELECT payload FROM @payloads WHERE seq = $1),
                    (SELECT payload FROM @payloads_kept WHERE seq = $1)),
           w.is_planned, COALESCE(p.number, 0), p.only_subscription,
           EXISTS (
               SELECT FROM @deletions e
               WHERE e.lane = w.lane AND e.destination = w.destination AND e.accepted >= p.first_seq)
    FROM @pending w JOIN @messages m ON m.seq = $1 LEFT JOIN @replays p ON p.seq = $1
    WHERE w.seq = $1";
/// $1 seq. The subscriptions under which a replayed message has a delivery that stands.
const OPEN_SETTLED: &str =
    "SELECT DISTINCT subscription FROM @deliveries WHERE seq = $1 AND NOT is_superseded";
/// Steps from one name in the index to the next instead of reading everything that is pending.
const DESTINATIONS: &str = "
    WITH RECURSIVE found (destination) AS (
        (SELECT destination FROM @pending ORDER BY destination LIMIT 1)
        UNION ALL
        SELECT (SELECT p.destination FROM @pending p WHERE p.destination > found.destination
                ORDER BY p.destination LIMIT 1)
        FROM found WHERE found.destination IS NOT NULL)
    SELECT destination FROM found WHERE destination IS NOT NULL ORDER BY destination COLLATE \"C\"";
/// $1 destination.
const DEPTH_COUNT: &str =
    "SELECT class, COUNT(*) FROM @pending WHERE destination = $1 GROUP BY class";
/// $1 destination, $2 class. The oldest message of a class is the first in order. Held messages and those behind them
/// do not count: they wait for a person or another day, not for Loops.
const DEPTH_OLDEST: &str = "
    SELECT received_at FROM @pending p WHERE destination = $1 AND class = $2 AND NOT EXISTS (
        SELECT 1 FROM @held h WHERE h.lane = p.lane AND h.destination = $1 AND h.seq <= p.seq)
    ORDER BY seq LIMIT 1";
/// Everything that is pending.
const BACKLOG: &str = "SELECT COUNT(*), COALESCE(SUM(payload_bytes), 0)::bigint FROM @pending";

pub(super) async fn pending(
    connection: &Connection,
    destination: &str,
    ask: [PendingAsk; Class::COUNT],
) -> Result<[Vec<Head>; Class::COUNT], Fault> {
    let after = ask.map(|ask| ask.after.0);
    let limit = ask.map(|ask| i64::from(ask.limit));
    let params = params![destination, after[0], after[1], after[2], limit[0], limit[1], limit[2]];
    let mut found: [Vec<Head>; Class::COUNT] = Default::default();
    for row in connection.query(PENDING, params).await? {
        let head = rows::head(&row)?;
        found[head.class.index()].push(head);
    }
    Ok(found)
}

/// Examines the messages of a lane through the index of persons. Behind a pending message, most of them are pending, so
/// waiting messages need no separate index, which every message would have to enter and leave.
pub(super) async fn of_lane(
    connection: &Connection,
    destination: &str,
    ask: LaneAsk,
) -> Result<LanePart, Fault> {
    let limit = i64::from(ask.limit);
    let params = params![ask.lane.0, ask.after.0, i64::MAX, limit];
    let examined = connection.query(erase::OF_LANE, params).await?;
    let seqs: Array<i64> = examined.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    let found = connection.query(HEADS, params![destination, seqs]).await?;
    let heads: Vec<Head> = found.iter().map(rows::head).collect::<Result<_, _>>()?;
    let is_cut = seqs.0.len() >= ask.limit as usize;
    let through = seqs.0.last().filter(|_| is_cut).map(|seq| Seq(*seq));
    Ok(LanePart { heads, through })
}

pub(super) async fn open(snapshot: &Connection, seq: Seq) -> Result<Option<Job>, Fault> {
    let Some(row) = snapshot.query_opt(OPEN_MESSAGE, params![seq.0]).await? else {
        return Ok(None);
    };
    let mut job = rows::job(&row)?;
    if job.is_planned {
        job.requests = frozen(snapshot, seq).await?;
    } else if job.replay.number > 0 {
        let settled = snapshot.query(OPEN_SETTLED, params![seq.0]).await?;
        job.replay.settled = settled.iter().map(|row| get(row, 0)).collect::<Result<_, Fault>>()?;
    }
    Ok(Some(job))
}

pub(super) async fn destinations(connection: &Connection) -> Result<Vec<String>, Fault> {
    let found = connection.query(DESTINATIONS, params![]).await?;
    found.iter().map(|row| get(row, 0)).collect()
}

pub(super) async fn depth(snapshot: &Connection, destination: &str) -> Result<Depth, Fault> {
    let mut by_class = [0; Class::COUNT];
    for row in snapshot.query(DEPTH_COUNT, params![destination]).await? {
        let (class, count) = (get::<i16>(&row, 0)?, get::<i64>(&row, 1)?);
        by_class[Class::from_code(class.into()).index()] += count.unsigned_abs();
    }
    let mut oldest_by_class = [None; Class::COUNT];
    for class in Class::ALL {
        let code = i16::try_from(class.code()).unwrap_or(i16::MAX);
        let first = snapshot.query_opt(DEPTH_OLDEST, params![destination, code]).await?;
        let first = first.map(|row| get(&row, 0)).transpose()?;
        oldest_by_class[class.index()] = first.map(from_ms);
    }
    let (held, held_since) = new_contacts::count_held(snapshot, destination).await?;
    let messages = by_class.iter().sum();
    Ok(Depth { messages, by_class, oldest_by_class, held, held_since })
}

pub(super) async fn backlog(connection: &Connection) -> Result<Size, Fault> {
    let row = connection.query_one(BACKLOG, params![]).await?;
    let (messages, bytes) = (get::<i64>(&row, 0)?, get::<i64>(&row, 1)?);
    Ok(Size { messages: messages.unsigned_abs(), bytes: bytes.unsigned_abs() })
}
