//! What people ask: what became of a message.

use std::time::Duration;

use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Row as _, SqliteConnection};

use super::read::{delivery_state, kind};
use crate::queue::{
    Attempt, DeliveryRecord, Failure, MessageRecord, RequestId, RequestRecord, Seq,
};
use crate::segment::{MessageHash, PersonHash};
use crate::store::from_ms;

pub(super) const BY_ID: &str =
    "SELECT seq, source, destination, message_id, kind, received_at, state, unmatched
     FROM messages WHERE message_hash = ? AND message_id = ? ORDER BY seq DESC LIMIT 100";

pub(super) const BY_PERSON: &str =
    "SELECT seq, source, destination, message_id, kind, received_at, state, unmatched
     FROM messages WHERE person = ? AND seq < ? ORDER BY seq DESC LIMIT ?";

pub(super) async fn by_message_id(
    pool: &SqlitePool,
    hash: MessageHash,
    message_id: &str,
) -> Result<Vec<MessageRecord>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let rows = sqlx::query(BY_ID).bind(hash.0).bind(message_id).fetch_all(&mut *connection).await?;
    records(&mut connection, &rows).await
}

pub(super) async fn by_person(
    pool: &SqlitePool,
    person: PersonHash,
    before: Option<Seq>,
    limit: u32,
) -> Result<Vec<MessageRecord>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let rows = sqlx::query(BY_PERSON)
        .bind(person.0)
        .bind(before.map_or(i64::MAX, |seq| seq.0))
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
    records(&mut connection, &rows).await
}

pub(super) async fn ready(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    // Fails when the file is gone or unreadable, or lacks the table of this release.
    sqlx::query("SELECT seq FROM messages LIMIT 1").fetch_optional(pool).await?;
    Ok(())
}

async fn records(
    connection: &mut SqliteConnection,
    rows: &[SqliteRow],
) -> Result<Vec<MessageRecord>, sqlx::Error> {
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let seq = Seq(row.try_get(0)?);
        records.push(MessageRecord {
            seq,
            source: row.try_get(1)?,
            destination: row.try_get(2)?,
            message_id: row.try_get(3)?,
            kind: kind(row.try_get(4)?)?,
            received_at: from_ms(row.try_get(5)?),
            is_done: row.try_get(6)?,
            unmatched: row.try_get(7)?,
            deliveries: deliveries(connection, seq).await?,
        });
    }
    Ok(records)
}

async fn deliveries(
    connection: &mut SqliteConnection,
    seq: Seq,
) -> Result<Vec<DeliveryRecord>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT subscription, action, state, reason, detail, warnings, request_id
         FROM deliveries WHERE seq = ? ORDER BY position",
    )
    .bind(seq.0)
    .fetch_all(&mut *connection)
    .await?;
    let mut deliveries = Vec::with_capacity(rows.len());
    for row in rows {
        let reason: Option<String> = row.try_get(3)?;
        let detail: Option<String> = row.try_get(4)?;
        let warnings: Option<String> = row.try_get(5)?;
        let request = match row.try_get::<Option<i64>, _>(6)? {
            Some(id) => request(connection, RequestId(id)).await?,
            None => None,
        };
        deliveries.push(DeliveryRecord {
            subscription: row.try_get(0)?,
            action: row.try_get(1)?,
            state: delivery_state(row.try_get(2)?),
            failure: reason.map(|reason| Failure { reason, detail: detail.unwrap_or_default() }),
            warnings: warnings
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            request,
        });
    }
    Ok(deliveries)
}

async fn request(
    connection: &mut SqliteConnection,
    id: RequestId,
) -> Result<Option<RequestRecord>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT method, path, idempotency_key, next_attempt_at FROM requests WHERE id = ?",
    )
    .bind(id.0)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let attempts = sqlx::query(
        "SELECT number, started_at, duration_ms, status, outcome, excerpt
         FROM attempts WHERE request_id = ? ORDER BY id",
    )
    .bind(id.0)
    .fetch_all(connection)
    .await?;
    Ok(Some(RequestRecord {
        id,
        method: row.try_get(0)?,
        path: row.try_get(1)?,
        idempotency_key: row.try_get(2)?,
        next_attempt_at: row.try_get::<Option<i64>, _>(3)?.map(from_ms),
        attempts: attempts.iter().map(attempt).collect::<Result<_, _>>()?,
    }))
}

fn attempt(row: &SqliteRow) -> Result<Attempt, sqlx::Error> {
    Ok(Attempt {
        number: u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or(u32::MAX),
        started_at: from_ms(row.try_get(1)?),
        duration: Duration::from_millis(u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0)),
        status: row.try_get::<Option<i64>, _>(3)?.and_then(|status| u16::try_from(status).ok()),
        outcome: row.try_get(4)?,
        excerpt: row.try_get(5)?,
    })
}
