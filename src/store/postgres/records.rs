//! The records of messages, with their deliveries, requests and attempts.
//!
//! Each statement names its rows by a list of numbers, so that its plan covers only the partitions that hold them.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;

use super::connection::Connection;
use super::error::Fault;
use super::params::{Array, params, text};
use super::rows::{count, from_json, from_ms, get};
use super::{new_contacts, partitions};
use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::queue::{
    Attempt, AttemptOutcome, CARRIED_MAX, Class, DeliveryRecord, DeliveryState, MessageRecord,
    RequestContents, RequestId, RequestRecord, Seq,
};
use crate::segment::{MessageHash, MessageType, RequestDigest};

/// $1 message_hash, $2 message_id, $3 limit, $4 first number, $5 the one after the last. The subquery is materialized,
/// because the limit may tempt the planner to read messages in order until enough are found.
pub(super) const BY_MESSAGE_ID: &str = "
    WITH found AS MATERIALIZED (
        SELECT seq FROM @messages
        WHERE message_hash = $1 AND message_id = $2 AND seq >= $4 AND seq < $5)
    SELECT seq FROM found ORDER BY seq DESC LIMIT $3";
/// $1 seqs. Newest first.
pub(super) const MESSAGES: &str = "
    SELECT m.seq, m.source, m.destination, m.message_id, m.kind, m.event, m.received_at, o.seq IS NOT NULL,
           o.unmatched, o.unmatched_detail, m.warnings, COALESCE(p.number, 0), m.class
    FROM @messages m LEFT JOIN @outcomes o ON o.seq = m.seq AND o.seq = ANY($1)
        LEFT JOIN @replays p ON p.seq = m.seq
    WHERE m.seq = ANY($1) ORDER BY m.seq DESC";
/// $1 seqs. The deliveries of each message in order.
pub(super) const DELIVERIES: &str = "
    SELECT d.seq, d.subscription, d.action, d.replay, d.is_superseded, d.state, d.reason, d.detail, d.warnings,
           d.request_id, d.planned, a.until
    FROM @deliveries d LEFT JOIN @awaiting a ON a.seq = d.seq AND a.subscription = d.subscription
        AND d.state = 'failed' AND NOT d.is_superseded
    WHERE d.seq = ANY($1) ORDER BY d.seq, d.replay, d.position";
/// $1 ids.
pub(super) const REQUESTS: &str =
    "SELECT id, path, idempotency_key, next_attempt_at FROM @requests WHERE id = ANY($1)";
/// $1 ids.
pub(super) const REQUEST_CONTENTS: &str = "SELECT id, body, seqs FROM @requests WHERE id = ANY($1)";
/// $1 ids. The attempts at each request in order.
pub(super) const ATTEMPTS: &str = "
    SELECT request_id, number, started_at, duration_ms, status, outcome, excerpt
    FROM @attempts WHERE request_id = ANY($1) ORDER BY request_id, number";

/// How many messages of one id are shown. There is one per source that sent it; more only if the id was sent again
/// after the duplicate window.
const SAME_ID_MAX: i64 = 100;

pub(super) async fn by_message_id(
    connection: &Connection,
    hash: MessageHash,
    message_id: &str,
) -> Result<Vec<MessageRecord>, Fault> {
    let message_id = text(message_id);
    let mut days = partitions::days(connection).await?;
    days.retain(|day| day.has_records);
    let parts: Vec<(i64, i64)> = partitions::parts(&days).collect();
    let mut seqs: Vec<i64> = Vec::new();
    for (first, end) in parts.into_iter().rev() {
        let limit = SAME_ID_MAX - seqs.len() as i64;
        let params = params![hash.0, message_id, limit, first, end];
        for row in connection.query(BY_MESSAGE_ID, params).await? {
            seqs.push(get(&row, 0)?);
        }
    }
    records(connection, seqs).await?.into_iter().map(|(_, record)| record).collect()
}

/// Returns the records of messages, newest first, with an error in place of each that cannot be read.
pub(super) async fn records(
    connection: &Connection,
    seqs: Vec<i64>,
) -> Result<Vec<(Seq, Result<MessageRecord, Fault>)>, Fault> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let seqs = Array(seqs);
    let params = params![seqs];
    let messages = connection.query(MESSAGES, params);
    let (messages, mut of_message) = tokio::try_join!(messages, deliveries(connection, &seqs))?;
    let mut records = Vec::with_capacity(seqs.0.len());
    for row in &messages {
        records.push((Seq(get(row, 0)?), message(row)));
    }
    for (seq, record) in &mut records {
        if let Ok(message) = record {
            match of_message.remove(seq).unwrap_or(Ok(Vec::new())) {
                Ok(deliveries) => message.deliveries = deliveries,
                Err(fault) => *record = Err(fault),
            }
        }
    }
    let readable = records.iter_mut().filter_map(|(_, record)| record.as_mut().ok());
    new_contacts::add_holds(connection, readable).await?;
    Ok(records)
}

/// Returns the deliveries of each message, with requests and attempts.
async fn deliveries(
    connection: &Connection,
    seqs: &Array<i64>,
) -> Result<HashMap<Seq, Result<Vec<DeliveryRecord>, Fault>>, Fault> {
    let found = connection.query(DELIVERIES, params![*seqs]).await?;
    let mut ids: Vec<i64> = Vec::new();
    for row in &found {
        ids.extend(get::<Option<i64>>(row, 9)?);
    }
    ids.sort_unstable();
    ids.dedup();
    let mut requests = requests(connection, ids).await?;
    let mut of_message: HashMap<Seq, Result<Vec<DeliveryRecord>, Fault>> = HashMap::new();
    for row in &found {
        // Deliveries that were merged share a request.
        let id: Option<i64> = get(row, 9)?;
        let request = id.and_then(|id| requests.get_mut(&id)).map(|request| request.clone());
        let of_message = of_message.entry(Seq(get(row, 0)?)).or_insert(Ok(Vec::new()));
        match (delivery(row, request), of_message) {
            (Ok(delivery), Ok(deliveries)) => deliveries.push(delivery),
            (Err(fault), of_message) => *of_message = Err(fault),
            (Ok(_), Err(_)) => {}
        }
    }
    Ok(of_message)
}

/// Returns requests with their attempts.
async fn requests(
    connection: &Connection,
    ids: Vec<i64>,
) -> Result<HashMap<i64, RequestRecord>, Fault> {
    let mut requests = HashMap::new();
    if ids.is_empty() {
        return Ok(requests);
    }
    let ids = Array(ids);
    let params = params![ids];
    let attempts = connection.query(ATTEMPTS, params);
    let (found, attempts) = tokio::try_join!(connection.query(REQUESTS, params), attempts)?;
    for row in found {
        let path: Option<&str> = get(&row, 1)?;
        let request = RequestRecord {
            id: RequestId(get(&row, 0)?),
            endpoint: path.and_then(Endpoint::from_path),
            idempotency_key: get(&row, 2)?,
            next_attempt_at: get::<Option<i64>>(&row, 3)?.map(from_ms),
            attempts: Vec::new(),
        };
        requests.insert(request.id.0, request);
    }
    for row in attempts {
        if let Some(request) = requests.get_mut(&get::<i64>(&row, 0)?) {
            request.attempts.push(attempt(&row)?);
        }
    }
    Ok(requests)
}

/// Returns the contents and messages of requests, in the order of `ids`.
pub(super) async fn request_contents(
    connection: &Connection,
    ids: &[RequestId],
) -> Result<Vec<RequestContents>, Fault> {
    let numbers: Array<i64> = ids.iter().map(|id| id.0).collect();
    let mut contents = Vec::with_capacity(ids.len());
    for row in connection.query(REQUEST_CONTENTS, params![numbers]).await? {
        let mut seqs: Vec<i64> = get(&row, 2)?;
        seqs.sort_unstable();
        seqs.dedup();
        contents.push(RequestContents {
            id: RequestId(get(&row, 0)?),
            body: get::<Option<Vec<u8>>>(&row, 1)?.map(Bytes::from),
            seqs: seqs.into_iter().map(Seq).take(CARRIED_MAX).collect(),
        });
    }
    contents.sort_by_key(|contents| ids.iter().position(|id| *id == contents.id));
    Ok(contents)
}

/// A row of [`MESSAGES`]; the deliveries are still missing.
fn message(row: &Row) -> Result<MessageRecord, Fault> {
    let unreadable = Fault::Unreadable { table: "messages", column: "kind" };
    let unmatched: Option<&str> = get(row, 8)?;
    let unmatched_detail: Option<String> = get(row, 9)?;
    Ok(MessageRecord {
        seq: Seq(get(row, 0)?),
        source: get(row, 1)?,
        destination: get(row, 2)?,
        message_id: get(row, 3)?,
        kind: MessageType::parse(get(row, 4)?).ok_or(unreadable)?,
        event: get(row, 5)?,
        class: Class::from_code(i64::from(get::<i16>(row, 12)?)),
        received_at: from_ms(get(row, 6)?),
        is_done: get(row, 7)?,
        unmatched: unmatched.map(|reason| Unmatched {
            reason: UnmatchedReason::parse(reason).unwrap_or(UnmatchedReason::Unknown),
            detail: unmatched_detail.unwrap_or_default(),
        }),
        replay: count(i64::from(get::<i32>(row, 11)?)),
        warnings: from_json(get(row, 10)?, "messages")?,
        held: None,
        deliveries: Vec::new(),
    })
}

/// A row of [`DELIVERIES`].
fn delivery(row: &Row, request: Option<RequestRecord>) -> Result<DeliveryRecord, Fault> {
    let subscription: String = get(row, 1)?;
    let reason: Option<&str> = get(row, 6)?;
    let detail: Option<String> = get(row, 7)?;
    let state = DeliveryState::parse(get(row, 5)?).unwrap_or(DeliveryState::Unknown);
    let (failure, not_needed) = DeliveryRecord::read_end(state, reason, detail);
    Ok(DeliveryRecord {
        subscription: Some(subscription).filter(|name| !name.is_empty()),
        action: ActionKind::parse(get(row, 2)?),
        replay: count(i64::from(get::<i32>(row, 3)?)),
        is_superseded: get(row, 4)?,
        state,
        failure,
        awaits_contact_until: get::<Option<i64>>(row, 11)?.map(from_ms),
        not_needed,
        warnings: from_json(get(row, 8)?, "deliveries")?,
        planned: get::<Option<i64>>(row, 10)?.map(RequestDigest),
        request,
    })
}

/// A row of [`ATTEMPTS`].
fn attempt(row: &Row) -> Result<Attempt, Fault> {
    let status: Option<i16> = get(row, 4)?;
    Ok(Attempt {
        number: count(i64::from(get::<i32>(row, 1)?)),
        started_at: from_ms(get(row, 2)?),
        duration: Duration::from_millis(get::<i64>(row, 3)?.unsigned_abs()),
        status: status.and_then(|status| u16::try_from(status).ok()),
        outcome: AttemptOutcome::parse(get(row, 5)?).unwrap_or(AttemptOutcome::Unknown),
        excerpt: get(row, 6)?,
    })
}
