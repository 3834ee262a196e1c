//! What the engine reads.

use bytes::Bytes;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Row as _, SqliteConnection};

use crate::queue::{Class, DeliveryState, Depth, FrozenRequest, Head, Job, RequestId, Seq};
use crate::segment::{LaneKey, MessageType};
use crate::store::from_ms;

pub(super) const PENDING: &str = "SELECT m.seq, m.lane, m.kind, m.class,
        CASE WHEN m.is_planned = 1 THEN
            (SELECT MIN(r.next_attempt_at) FROM deliveries d JOIN requests r ON r.id = d.request_id
             WHERE d.seq = m.seq AND r.state = 0) END
     FROM messages m WHERE m.destination = ? AND m.state = 0 AND m.seq > ? ORDER BY m.seq LIMIT ?";

pub(super) const FROZEN: &str =
    "SELECT r.id, r.method, r.path, r.body, r.idempotency_key, r.attempts,
        r.first_attempt_at, r.next_attempt_at
     FROM deliveries d JOIN requests r ON r.id = d.request_id
     WHERE d.seq = ? AND r.state = 0 ORDER BY d.position";

pub(super) const DEPTH: &str =
    "SELECT COUNT(*), (SELECT received_at FROM messages WHERE destination = ?1 AND state = 0 ORDER BY seq LIMIT 1)
     FROM messages WHERE destination = ?1 AND state = 0";

pub(super) async fn pending(
    pool: &SqlitePool,
    destination: &str,
    after: Seq,
    limit: u32,
) -> Result<Vec<Head>, sqlx::Error> {
    let rows = sqlx::query(PENDING)
        .bind(destination)
        .bind(after.0)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.iter().map(head).collect()
}

fn head(row: &SqliteRow) -> Result<Head, sqlx::Error> {
    Ok(Head {
        seq: Seq(row.try_get(0)?),
        lane: LaneKey(row.try_get(1)?),
        kind: kind(row.try_get(2)?)?,
        class: Class::from_code(row.try_get(3)?),
        next_attempt_at: row.try_get::<Option<i64>, _>(4)?.map(from_ms),
    })
}

/// Reads a message's type; another release may have stored one that this one does not know.
pub(super) fn kind(text: &str) -> Result<MessageType, sqlx::Error> {
    MessageType::parse(text)
        .ok_or_else(|| sqlx::Error::Decode(format!("unknown type `{text}`").into()))
}

pub(super) async fn open(pool: &SqlitePool, seq: Seq) -> Result<Option<Job>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let row = sqlx::query(
        "SELECT source, message_id, received_at, payload, is_planned FROM messages WHERE seq = ? AND state = 0",
    )
    .bind(seq.0)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let is_planned: bool = row.try_get(4)?;
    let requests = if is_planned { frozen(&mut connection, seq).await? } else { Vec::new() };
    Ok(Some(Job {
        source: row.try_get(0)?,
        message_id: row.try_get(1)?,
        received_at: from_ms(row.try_get(2)?),
        payload: Bytes::from(row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default()),
        is_planned,
        requests,
    }))
}

/// The pending requests of a message, in the order of its deliveries.
pub(super) async fn frozen(
    connection: &mut SqliteConnection,
    seq: Seq,
) -> Result<Vec<FrozenRequest>, sqlx::Error> {
    let rows = sqlx::query(FROZEN).bind(seq.0).fetch_all(connection).await?;
    rows.iter().map(frozen_request).collect()
}

fn frozen_request(row: &SqliteRow) -> Result<FrozenRequest, sqlx::Error> {
    Ok(FrozenRequest {
        id: RequestId(row.try_get(0)?),
        method: row.try_get(1)?,
        path: row.try_get(2)?,
        body: Bytes::from(row.try_get::<Option<Vec<u8>>, _>(3)?.unwrap_or_default()),
        idempotency_key: row.try_get(4)?,
        attempts: u32::try_from(row.try_get::<i64, _>(5)?).unwrap_or(u32::MAX),
        first_attempt_at: row.try_get::<Option<i64>, _>(6)?.map(from_ms),
        next_attempt_at: row.try_get::<Option<i64>, _>(7)?.map(from_ms),
    })
}

pub(super) async fn depth(pool: &SqlitePool, destination: &str) -> Result<Depth, sqlx::Error> {
    let row = sqlx::query(DEPTH).bind(destination).fetch_one(pool).await?;
    Ok(Depth {
        messages: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0),
        oldest_received_at: row.try_get::<Option<i64>, _>(1)?.map(from_ms),
    })
}

/// A delivery's (and a request's) state as it is stored.
pub(super) fn delivery_code(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Pending => 0,
        DeliveryState::Delivered => 1,
        DeliveryState::Failed => 2,
    }
}

/// Reads [`delivery_code`].
pub(super) fn delivery_state(code: i64) -> DeliveryState {
    match code {
        1 => DeliveryState::Delivered,
        2 => DeliveryState::Failed,
        _ => DeliveryState::Pending,
    }
}
