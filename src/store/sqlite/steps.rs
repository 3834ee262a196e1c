//! The steps of delivery, each guarded by the lease's fencing token and by the state it starts from.

use sqlx::{Row as _, SqliteConnection};

use super::read;
use crate::queue::{
    Consequence, DeliveryState, Failure, FrozenRequest, Lease, LeaseRequest, NewDelivery, NewPlan,
    NewRequest, QueueError, RequestId, Seq, Settlement,
};
use crate::store::to_ms;

/// Takes or renews a lease. The token stays the same only for its holder and only in time.
pub(super) async fn lease(
    connection: &mut SqliteConnection,
    ask: &LeaseRequest,
) -> Result<Option<Lease>, sqlx::Error> {
    let now = to_ms(ask.now);
    let ttl = i64::try_from(ask.ttl.as_millis()).unwrap_or(i64::MAX);
    let row = sqlx::query(
        "INSERT INTO leases (destination, holder, token, expires_at) VALUES (?1, ?2, 1, ?4)
         ON CONFLICT (destination) DO UPDATE SET
            token = CASE WHEN holder = ?2 AND expires_at > ?3 THEN token ELSE token + 1 END,
            holder = ?2,
            expires_at = ?4
         WHERE holder = ?2 OR expires_at <= ?3
         RETURNING token",
    )
    .bind(&ask.destination)
    .bind(&ask.holder)
    .bind(now)
    .bind(now.saturating_add(ttl))
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Lease {
        destination: ask.destination.clone(),
        holder: ask.holder.clone(),
        token: row.try_get(0)?,
    }))
}

/// Gives a lease back: it is expired at once, and the token lives on.
pub(super) async fn release(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Result<Result<(), QueueError>, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE leases SET expires_at = 0 WHERE destination = ? AND holder = ? AND token = ?",
    )
    .bind(&lease.destination)
    .bind(&lease.holder)
    .bind(lease.token)
    .execute(connection)
    .await?;
    Ok(if done.rows_affected() == 1 { Ok(()) } else { Err(QueueError::Fenced) })
}

/// Whether the lease is still the one in force. Time plays no part: while nobody else has taken it,
/// nobody else delivers.
async fn is_in_force(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Result<bool, sqlx::Error> {
    let row =
        sqlx::query("SELECT 1 FROM leases WHERE destination = ? AND holder = ? AND token = ?")
            .bind(&lease.destination)
            .bind(&lease.holder)
            .bind(lease.token)
            .fetch_optional(connection)
            .await?;
    Ok(row.is_some())
}

/// Records a plan and freezes its requests. A message that was planned before keeps its plan.
pub(super) async fn freeze(
    connection: &mut SqliteConnection,
    lease: &Lease,
    seq: Seq,
    plan: &NewPlan,
) -> Result<Result<Vec<FrozenRequest>, QueueError>, sqlx::Error> {
    if !is_in_force(connection, lease).await? {
        return Ok(Err(QueueError::Fenced));
    }
    let planned = sqlx::query(
        "UPDATE messages SET is_planned = 1, unmatched = ?
         WHERE seq = ? AND destination = ? AND state = 0 AND is_planned = 0 RETURNING lane",
    )
    .bind(plan.unmatched.as_deref())
    .bind(seq.0)
    .bind(&lease.destination)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(planned) = planned else {
        return Ok(Ok(read::frozen(connection, seq).await?));
    };
    let lane: i64 = planned.try_get(0)?;
    let now = to_ms(plan.now);
    for (position, delivery) in plan.deliveries.iter().enumerate() {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let (request, failure) = match &delivery.outcome {
            Ok(request) => {
                (Some(insert_request(connection, lease, lane, request, now).await?), None)
            }
            Err(failure) => (None, Some(failure)),
        };
        insert_delivery(connection, seq, position, delivery, request, failure, now).await?;
    }
    finish_messages(connection, Ended::Planned(seq), now).await?;
    Ok(Ok(read::frozen(connection, seq).await?))
}

async fn insert_request(
    connection: &mut SqliteConnection,
    lease: &Lease,
    lane: i64,
    request: &NewRequest,
    now: i64,
) -> Result<RequestId, sqlx::Error> {
    let row = sqlx::query(
        "INSERT INTO requests (destination, lane, method, path, body, idempotency_key, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
    )
    .bind(&lease.destination)
    .bind(lane)
    .bind(&request.method)
    .bind(&request.path)
    .bind(request.body.as_ref())
    .bind(request.idempotency_key.as_deref())
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(RequestId(row.try_get(0)?))
}

async fn insert_delivery(
    connection: &mut SqliteConnection,
    seq: Seq,
    position: i64,
    delivery: &NewDelivery,
    request: Option<RequestId>,
    failure: Option<&Failure>,
    now: i64,
) -> Result<(), sqlx::Error> {
    let warnings = (!delivery.warnings.is_empty())
        .then(|| serde_json::Value::from(delivery.warnings.clone()).to_string());
    let state = if failure.is_some() { DeliveryState::Failed } else { DeliveryState::Pending };
    sqlx::query(
        "INSERT INTO deliveries (seq, position, subscription, action, state, reason, detail, warnings, request_id, ended_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(seq.0)
    .bind(position)
    .bind(&delivery.subscription)
    .bind(&delivery.action)
    .bind(read::delivery_code(state))
    .bind(failure.map(|failure| failure.reason.as_str()))
    .bind(failure.map(|failure| failure.detail.as_str()))
    .bind(warnings)
    .bind(request.map(|id| id.0))
    .bind(failure.map(|_| now))
    .execute(connection)
    .await?;
    Ok(())
}

/// Records an attempt and what follows from it.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    lease: &Lease,
    settlement: &Settlement,
) -> Result<Result<(), QueueError>, sqlx::Error> {
    if !is_in_force(connection, lease).await? {
        return Ok(Err(QueueError::Fenced));
    }
    let attempt = &settlement.attempt;
    let duration = i64::try_from(attempt.duration.as_millis()).unwrap_or(i64::MAX);
    let ended = to_ms(attempt.started_at).saturating_add(duration);
    let (state, next, starts_window) = match &settlement.consequence {
        Consequence::Delivered => (DeliveryState::Delivered, None, true),
        Consequence::Failed(_) => (DeliveryState::Failed, None, true),
        Consequence::Retry(at) => (DeliveryState::Pending, Some(to_ms(*at)), true),
        Consequence::Hold => (DeliveryState::Pending, None, false),
    };
    let first = starts_window.then(|| to_ms(attempt.started_at));
    let changed = sqlx::query(
        "UPDATE requests SET state = ?, attempts = attempts + 1, next_attempt_at = ?,
            first_attempt_at = COALESCE(first_attempt_at, ?)
         WHERE id = ? AND destination = ? AND state = 0",
    )
    .bind(read::delivery_code(state))
    .bind(next)
    .bind(first)
    .bind(settlement.request.0)
    .bind(&lease.destination)
    .execute(&mut *connection)
    .await?;
    if changed.rows_affected() == 0 {
        // It was settled before: an attempt too many changes nothing.
        return Ok(Ok(()));
    }
    sqlx::query(
        "INSERT INTO attempts (request_id, number, started_at, duration_ms, status, outcome, excerpt)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(settlement.request.0)
    .bind(i64::from(attempt.number))
    .bind(to_ms(attempt.started_at))
    .bind(duration)
    .bind(attempt.status.map(i64::from))
    .bind(&attempt.outcome)
    .bind(&attempt.excerpt)
    .execute(&mut *connection)
    .await?;
    let failure = match &settlement.consequence {
        Consequence::Failed(failure) => Some(failure),
        Consequence::Delivered => None,
        Consequence::Retry(_) | Consequence::Hold => return Ok(Ok(())),
    };
    sqlx::query("UPDATE deliveries SET state = ?, reason = ?, detail = ?, ended_at = ? WHERE request_id = ? AND state = 0")
        .bind(read::delivery_code(state))
        .bind(failure.map(|failure| failure.reason.as_str()))
        .bind(failure.map(|failure| failure.detail.as_str()))
        .bind(ended)
        .bind(settlement.request.0)
        .execute(&mut *connection)
        .await?;
    finish_messages(connection, Ended::Settled(settlement.request), ended).await?;
    Ok(Ok(()))
}

/// What may have ended the last delivery of a message.
enum Ended {
    Planned(Seq),
    Settled(RequestId),
}

/// Makes messages done whose deliveries have all ended.
async fn finish_messages(
    connection: &mut SqliteConnection,
    ended: Ended,
    now: i64,
) -> Result<(), sqlx::Error> {
    let (query, number) = match ended {
        Ended::Planned(seq) => (
            sqlx::query(
                "UPDATE messages SET state = 1, done_at = ?1,
                    has_failed = EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 2)
                 WHERE seq = ?2 AND state = 0
                   AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 0)",
            ),
            seq.0,
        ),
        Ended::Settled(request) => (
            sqlx::query(
                "UPDATE messages SET state = 1, done_at = ?1,
                    has_failed = EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 2)
                 WHERE seq IN (SELECT c.seq FROM deliveries c WHERE c.request_id = ?2) AND state = 0
                   AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = messages.seq AND d.state = 0)",
            ),
            request.0,
        ),
    };
    query.bind(now).bind(number).execute(connection).await?;
    Ok(())
}
