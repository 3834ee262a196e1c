//! Conversions between rows and records. Times are Unix milliseconds.
//!
//! Words that this release does not know, because another one wrote them, are shown as unknown. They are an error only
//! where the program would have to act on them.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::Row;

use super::error::Fault;
use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::queue::{
    Attempt, AttemptOutcome, Class, DeliveryRecord, DeliveryState, FrozenRequest, Head, Job,
    MessageRecord, Replay, RequestId, RequestRecord, Seq,
};
use crate::segment::{LaneKey, MessageType, RequestDigest};
pub(super) use crate::store::values::{count, duration_ms, from_ms, request_state, to_json, to_ms};

/// The columns that [`message`] reads: of a message `m`, its replay `p` and the name `n` of its event.
macro_rules! message_columns {
    () => {
        "m.seq, m.source, m.destination, m.message_id, m.kind, n.name, m.received_at, m.state,
           m.unmatched, m.unmatched_detail, m.warnings, COALESCE(p.number, 0), m.class"
    };
}
pub(super) use message_columns;

/// Reads the stored warnings of a row of the given table.
pub(super) fn from_json(
    warnings: Option<String>,
    table: &'static str,
) -> Result<Vec<String>, Fault> {
    let Some(json) = warnings else { return Ok(Vec::new()) };
    serde_json::from_str(&json).map_err(|_| Fault::Unreadable { table, column: "warnings" })
}

/// Returns numbers as one parameter, which statements read with `json_each`.
pub(super) fn json_list(numbers: impl IntoIterator<Item = i64>) -> String {
    serde_json::Value::from_iter(numbers).to_string()
}

/// Reads a number leniently, so that one broken value does not make the whole result unreadable; `None` if there is
/// none.
pub(super) fn number(row: &Row<'_>, column: usize) -> Result<Option<i64>, rusqlite::Error> {
    Ok(row.get_ref(column)?.as_i64().ok())
}

/// A row of [`super::log::PENDING`]. An unreadable row still yields a head: [`job`] or [`frozen_request`] then finds it
/// broken, and no other message suffers. Without a lane, it gets a lane of its own.
pub(super) fn head(row: &Row<'_>) -> Result<Head, rusqlite::Error> {
    let seq = row.get(0)?;
    Ok(Head {
        seq: Seq(seq),
        lane: LaneKey(number(row, 1)?.unwrap_or(seq)),
        class: Class::from_code(row.get(2)?),
        next_attempt_at: number(row, 3)?.map(from_ms),
    })
}

/// A row of [`super::log::OPEN_MESSAGE`]; its requests and the subscriptions that are settled are still missing. A
/// missing lane is an error, since the order among the person's messages is then unknown.
pub(super) fn job(row: &Row<'_>) -> Result<Job, rusqlite::Error> {
    let _: i64 = row.get(8)?;
    Ok(Job {
        source: row.get(0)?,
        message_id: row.get(1)?,
        received_at: from_ms(row.get(2)?),
        payload: row.get::<_, Option<Vec<u8>>>(3)?.map(Bytes::from).unwrap_or_default(),
        is_planned: row.get(4)?,
        replay: Replay {
            number: count(row.get(5)?),
            only: row.get(6)?,
            settled: Vec::new(),
            is_before_deletion: row.get(7)?,
        },
        requests: Vec::new(),
        restored_from: None,
    })
}

/// A row of [`super::log::OPEN_REQUESTS`]. A request to an endpoint that this release does not know is an
/// error: it cannot be sent, since its effect is unknown.
pub(super) fn frozen_request(row: &Row<'_>) -> Result<FrozenRequest, Fault> {
    let path: String = row.get(1)?;
    let unreadable = Fault::Unreadable { table: "requests", column: "path" };
    Ok(FrozenRequest {
        id: RequestId(row.get(0)?),
        endpoint: Endpoint::from_path(&path).ok_or(unreadable)?,
        body: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from).unwrap_or_default(),
        idempotency_key: row.get(3)?,
        attempts: count(row.get(4)?),
        first_attempt_at: row.get::<_, Option<i64>>(5)?.map(from_ms),
        next_attempt_at: row.get::<_, Option<i64>>(6)?.map(from_ms),
        is_merged: row.get(7)?,
        expires_at: row.get::<_, Option<i64>>(8)?.map(from_ms),
    })
}

/// A row of [`message_columns`]; the deliveries are still missing.
pub(super) fn message(row: &Row<'_>) -> Result<MessageRecord, Fault> {
    let kind: String = row.get(4)?;
    let unreadable = Fault::Unreadable { table: "messages", column: "kind" };
    let unmatched: Option<String> = row.get(8)?;
    let unmatched_detail: Option<String> = row.get(9)?;
    Ok(MessageRecord {
        seq: Seq(row.get(0)?),
        source: row.get(1)?,
        destination: row.get(2)?,
        message_id: row.get(3)?,
        kind: MessageType::parse(&kind).ok_or(unreadable)?,
        event: row.get(5)?,
        class: Class::from_code(row.get(12)?),
        received_at: from_ms(row.get(6)?),
        is_done: row.get(7)?,
        unmatched: unmatched.map(|reason| Unmatched {
            reason: UnmatchedReason::parse(&reason).unwrap_or(UnmatchedReason::Unknown),
            detail: unmatched_detail.unwrap_or_default(),
        }),
        replay: count(row.get(11)?),
        warnings: from_json(row.get(10)?, "messages")?,
        held: None,
        deliveries: Vec::new(),
    })
}

/// A row of [`super::log::DELIVERIES`]: the message and the delivery. The attempts at its request are still
/// missing.
pub(super) fn delivery(row: &Row<'_>) -> Result<(Seq, DeliveryRecord), Fault> {
    let subscription: String = row.get(1)?;
    let action: String = row.get(2)?;
    let state: String = row.get(5)?;
    let reason: Option<String> = row.get(6)?;
    let detail: Option<String> = row.get(7)?;
    let request_id: Option<i64> = row.get(9)?;
    let path: Option<String> = row.get(10)?;
    let idempotency_key = row.get(11)?;
    let next_attempt_at: Option<i64> = row.get(12)?;
    let state = DeliveryState::parse(&state).unwrap_or(DeliveryState::Unknown);
    let (failure, not_needed) = DeliveryRecord::read_end(state, reason.as_deref(), detail);
    let delivery = DeliveryRecord {
        subscription: Some(subscription).filter(|name| !name.is_empty()),
        action: ActionKind::parse(&action),
        replay: count(row.get(3)?),
        is_superseded: row.get(4)?,
        state,
        failure,
        awaits_contact_until: row.get::<_, Option<i64>>(14)?.map(from_ms),
        not_needed,
        warnings: from_json(row.get(8)?, "deliveries")?,
        planned: row.get::<_, Option<i64>>(13)?.map(RequestDigest),
        request: request_id.map(|id| RequestRecord {
            id: RequestId(id),
            endpoint: path.as_deref().and_then(Endpoint::from_path),
            idempotency_key,
            next_attempt_at: next_attempt_at.map(from_ms),
            attempts: Vec::new(),
        }),
    };
    Ok((Seq(row.get(0)?), delivery))
}

/// A row of [`super::log::ATTEMPTS`]: the request and the attempt.
pub(super) fn attempt(row: &Row<'_>) -> Result<(RequestId, Attempt), rusqlite::Error> {
    let duration_ms: i64 = row.get(3)?;
    let status: Option<i64> = row.get(4)?;
    let outcome: String = row.get(5)?;
    let attempt = Attempt {
        number: count(row.get(1)?),
        started_at: from_ms(row.get(2)?),
        duration: Duration::from_millis(u64::try_from(duration_ms).unwrap_or(0)),
        status: status.and_then(|status| u16::try_from(status).ok()),
        outcome: AttemptOutcome::parse(&outcome).unwrap_or(AttemptOutcome::Unknown),
        excerpt: row.get(6)?,
    };
    Ok((RequestId(row.get(0)?), attempt))
}
