//! Rows as every engine reads them, and their conversion to records. Times are Unix milliseconds.
//!
//! Words that another release wrote and this one does not know are shown as unknown; they are an error only
//! where the program would have to act on them.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use sqlx::FromRow;

use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::queue::{
    Attempt, AttemptOutcome, Class, DeliveryRecord, DeliveryState, Failure, FailureReason,
    FrozenRequest, Head, Job, MessageRecord, Replay, RequestId, RequestRecord, Seq,
};
use crate::segment::{LaneKey, MessageType, PersonHash};

use super::Fault;

/// A time as it is stored.
pub(super) fn to_ms(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// A stored time. A value out of range, which no release has stored, counts as the epoch.
pub(super) fn from_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A duration as it is stored.
pub(super) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Warnings as they are stored.
pub(super) fn to_json(warnings: &[String]) -> Option<String> {
    (!warnings.is_empty()).then(|| serde_json::Value::from(warnings).to_string())
}

fn from_json(warnings: Option<String>, table: &'static str) -> Result<Vec<String>, Fault> {
    let Some(json) = warnings else { return Ok(Vec::new()) };
    serde_json::from_str(&json).map_err(|_| Fault::Unreadable { table, column: "warnings" })
}

#[derive(FromRow)]
pub(super) struct HeadRow {
    seq: i64,
    lane: i64,
    person: i64,
    class: i64,
    next_attempt_at: Option<i64>,
}

impl HeadRow {
    pub(super) fn into_record(self) -> Head {
        Head {
            seq: Seq(self.seq),
            lane: LaneKey(self.lane),
            person: PersonHash(self.person),
            class: Class::from_code(self.class),
            next_attempt_at: self.next_attempt_at.map(from_ms),
        }
    }
}

#[derive(FromRow)]
pub(super) struct JobRow {
    source: String,
    message_id: String,
    received_at: i64,
    payload: Option<Vec<u8>>,
    pub(super) is_planned: i64,
    pub(super) replay: i64,
    only_subscription: Option<String>,
    is_before_deletion: bool,
}

impl JobRow {
    pub(super) fn into_record(
        self,
        requests: Vec<RequestRow>,
        settled: Vec<String>,
    ) -> Result<Job, Fault> {
        Ok(Job {
            source: self.source,
            message_id: self.message_id,
            received_at: from_ms(self.received_at),
            payload: self.payload.map(Bytes::from).unwrap_or_default(),
            is_planned: self.is_planned != 0,
            replay: Replay {
                number: count(self.replay),
                only: self.only_subscription,
                settled,
                is_before_deletion: self.is_before_deletion,
            },
            requests: requests
                .into_iter()
                .map(RequestRow::into_record)
                .collect::<Result<_, _>>()?,
        })
    }
}

#[derive(FromRow)]
pub(super) struct RequestRow {
    id: i64,
    path: String,
    body: Option<Vec<u8>>,
    idempotency_key: Option<String>,
    attempts: i64,
    first_attempt_at: Option<i64>,
    next_attempt_at: Option<i64>,
    is_merged: i64,
    expires_at: Option<i64>,
}

impl RequestRow {
    /// A request that this release does not know is not sent: its effect is unknown.
    pub(super) fn into_record(self) -> Result<FrozenRequest, Fault> {
        let unreadable = Fault::Unreadable { table: "requests", column: "path" };
        Ok(FrozenRequest {
            id: RequestId(self.id),
            endpoint: Endpoint::from_path(&self.path).ok_or(unreadable)?,
            body: self.body.map(Bytes::from).unwrap_or_default(),
            idempotency_key: self.idempotency_key,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            first_attempt_at: self.first_attempt_at.map(from_ms),
            next_attempt_at: self.next_attempt_at.map(from_ms),
            is_merged: self.is_merged != 0,
            expires_at: self.expires_at.map(from_ms),
        })
    }
}

#[derive(FromRow)]
pub(super) struct MessageRow {
    pub(super) seq: i64,
    source: String,
    destination: String,
    message_id: String,
    kind: String,
    received_at: i64,
    state: i64,
    unmatched: Option<String>,
    unmatched_detail: Option<String>,
    warnings: Option<String>,
    replay: i64,
}

impl MessageRow {
    pub(super) fn into_record(
        self,
        deliveries: Vec<DeliveryRecord>,
    ) -> Result<MessageRecord, Fault> {
        Ok(MessageRecord {
            seq: Seq(self.seq),
            source: self.source,
            destination: self.destination,
            message_id: self.message_id,
            kind: kind(&self.kind)?,
            received_at: from_ms(self.received_at),
            is_done: self.state != 0,
            unmatched: self.unmatched.map(|reason| Unmatched {
                reason: UnmatchedReason::parse(&reason).unwrap_or(UnmatchedReason::Unknown),
                detail: self.unmatched_detail.unwrap_or_default(),
            }),
            replay: count(self.replay),
            warnings: from_json(self.warnings, "messages")?,
            deliveries,
        })
    }
}

/// A delivery joined with its request.
#[derive(FromRow)]
pub(super) struct DeliveryRow {
    subscription: String,
    action: String,
    replay: i64,
    is_superseded: bool,
    state: String,
    reason: Option<String>,
    detail: Option<String>,
    warnings: Option<String>,
    pub(super) request_id: Option<i64>,
    path: Option<String>,
    idempotency_key: Option<String>,
    next_attempt_at: Option<i64>,
}

impl DeliveryRow {
    pub(super) fn into_record(self, attempts: Vec<AttemptRow>) -> Result<DeliveryRecord, Fault> {
        let unreadable = |column| Fault::Unreadable { table: "deliveries", column };
        let state = DeliveryState::parse(&self.state).ok_or_else(|| unreadable("state"))?;
        let request = self.request_id.map(|id| RequestRecord {
            id: RequestId(id),
            endpoint: self.path.as_deref().and_then(Endpoint::from_path),
            idempotency_key: self.idempotency_key,
            next_attempt_at: self.next_attempt_at.map(from_ms),
            attempts: attempts.into_iter().map(AttemptRow::into_record).collect(),
        });
        Ok(DeliveryRecord {
            subscription: Some(self.subscription).filter(|name| !name.is_empty()),
            action: ActionKind::parse(&self.action),
            replay: count(self.replay),
            is_superseded: self.is_superseded,
            state,
            failure: self.reason.map(|reason| Failure {
                reason: FailureReason::parse(&reason).unwrap_or(FailureReason::Unknown),
                detail: self.detail.unwrap_or_default(),
            }),
            warnings: from_json(self.warnings, "deliveries")?,
            request,
        })
    }
}

#[derive(FromRow)]
pub(super) struct AttemptRow {
    number: i64,
    started_at: i64,
    duration_ms: i64,
    status: Option<i64>,
    outcome: String,
    excerpt: String,
}

impl AttemptRow {
    fn into_record(self) -> Attempt {
        Attempt {
            number: u32::try_from(self.number).unwrap_or(u32::MAX),
            started_at: from_ms(self.started_at),
            duration: Duration::from_millis(u64::try_from(self.duration_ms).unwrap_or(0)),
            status: self.status.and_then(|status| u16::try_from(status).ok()),
            outcome: AttemptOutcome::parse(&self.outcome).unwrap_or(AttemptOutcome::Unknown),
            excerpt: self.excerpt,
        }
    }
}

/// A stored number of replays.
fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn kind(text: &str) -> Result<MessageType, Fault> {
    MessageType::parse(text).ok_or(Fault::Unreadable { table: "messages", column: "kind" })
}
