//! A message and its deliveries, requests and attempts.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::action::{ActionKind, Endpoint, UnmatchedReason};
use crate::queue::{
    Attempt, AttemptOutcome, DeliveryRecord, DeliveryState, FailureReason, HoldReason,
    MessageRecord, MessageState, NotNeededReason, Page, RequestRecord, Seq,
};
use crate::segment::MessageType;

/// Messages and their outcomes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Messages {
    /// The messages, newest first.
    pub messages: Vec<MessageFate>,
    /// Send it as `before` to get the next page; null at the end.
    #[schema(required)]
    pub next: Option<i64>,
}

/// The outcome of a message, without its contents.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageFate {
    /// Segment's `messageId`.
    pub message_id: String,
    /// Position in the order of acceptance.
    pub seq: i64,
    /// The kind of Segment call.
    pub r#type: MessageType,
    /// The name of the event, cut after 200 bytes, or `(other)` if its source sends more than 10,000 names;
    /// null unless the message is a track.
    #[schema(required)]
    pub event: Option<String>,
    /// Name of the source that sent the message.
    pub source: String,
    /// Name of the destination that the message is delivered to.
    pub destination: String,
    /// When the message was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// The state; it follows from the deliveries that are not superseded.
    pub state: MessageState,
    /// Why no subscription took the message, for programs; null unless it is unmatched.
    #[schema(required)]
    pub reason: Option<UnmatchedReason>,
    /// Why no subscription took the message, for people; null unless it is unmatched.
    #[schema(required)]
    pub detail: Option<String>,
    /// What was noticed about the message when it was accepted, for people.
    pub warnings: Vec<String>,
    /// Why the message is held, or waits behind a held one; null unless it is pending and does.
    #[schema(required)]
    pub held: Option<HeldFate>,
    /// How many times the message was replayed.
    pub replay: u32,
    /// One delivery for each subscription that took the message, and further ones for each replay.
    pub deliveries: Vec<Delivery>,
}

/// Why a message is held.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldFate {
    /// The reason.
    pub reason: HoldReason,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Whether an earlier message of the same order key is held, and this one waits behind it.
    pub behind: bool,
}

/// The outcome of a message under one subscription.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Name of the subscription; null if the message failed before it was matched.
    #[schema(required)]
    pub subscription: Option<String>,
    /// The action of the subscription; null without a subscription, or if this release
    /// does not know the action.
    #[schema(required)]
    pub action: Option<ActionKind>,
    /// Number of the replay that made this delivery; 0 if none did.
    pub replay: u32,
    /// Whether a later replay repeated this delivery, so that it no longer counts for the state of the message.
    pub superseded: bool,
    /// The state of the delivery.
    pub state: DeliveryState,
    /// Why the delivery failed, for programs; null unless it failed.
    #[schema(required)]
    pub reason: Option<FailureReason>,
    /// Until when the event is sent again automatically if its contact is created; null unless Loops refused it because
    /// there is none.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub awaits_contact_until: Option<Timestamp>,
    /// Why the delivery was not needed, for programs: it counts as delivered and made no request; null otherwise.
    #[schema(required)]
    pub not_needed: Option<NotNeededReason>,
    /// Why the delivery failed or was not needed, for people; null otherwise.
    #[schema(required)]
    pub detail: Option<String>,
    /// What was left out of the request or changed in it, for people.
    pub warnings: Vec<String>,
    /// The request to Loops; null if there is none (yet).
    #[schema(required)]
    pub request: Option<RequestFate>,
}

/// A request to Loops, without its body.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestFate {
    /// Number of the request. Deliveries that were merged have the same one.
    pub id: i64,
    /// HTTP method; null if this release does not know the path.
    #[schema(required, example = "POST")]
    pub method: Option<&'static str>,
    /// Path below the base URL of Loops; null if this release does not know it.
    #[schema(required, example = "/events/send")]
    pub path: Option<&'static str>,
    /// The `Idempotency-Key` header, with which Loops accepts an event only once; null for contacts.
    #[schema(required)]
    pub idempotency_key: Option<String>,
    /// When the next attempt is due; null unless the request waits for one.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
    /// All attempts, first to last.
    pub attempts: Vec<AttemptFate>,
}

/// One HTTP call to Loops.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptFate {
    /// Number of the attempt, from 1.
    pub number: u32,
    /// When the attempt began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// How long the attempt took, in milliseconds.
    pub duration_ms: u64,
    /// HTTP status of the response; null if there was none.
    #[schema(required)]
    pub status: Option<u16>,
    /// The result of the attempt.
    pub outcome: AttemptOutcome,
    /// The beginning of the response's body, or the network error.
    pub answer: String,
}

impl From<Vec<MessageRecord>> for Messages {
    fn from(records: Vec<MessageRecord>) -> Self {
        Self { messages: records.iter().map(MessageFate::from).collect(), next: None }
    }
}

impl From<Page> for Messages {
    fn from(Page { messages, next }: Page) -> Self {
        Self { next: next.map(|Seq(next)| next), ..messages.into() }
    }
}

impl From<&MessageRecord> for MessageFate {
    fn from(record: &MessageRecord) -> Self {
        Self {
            message_id: record.message_id.clone(),
            seq: record.seq.0,
            r#type: record.kind,
            event: record.event.clone(),
            source: record.source.clone(),
            destination: record.destination.clone(),
            received_at: record.received_at,
            state: record.state(),
            reason: record.unmatched.as_ref().map(|unmatched| unmatched.reason),
            detail: record.unmatched.as_ref().map(|unmatched| unmatched.detail.clone()),
            held: record.held.as_ref().map(|held| HeldFate {
                reason: held.reason,
                since: held.since,
                behind: held.is_behind,
            }),
            warnings: record.warnings.clone(),
            replay: record.replay,
            deliveries: record.deliveries.iter().map(Delivery::from).collect(),
        }
    }
}

fn detail(record: &DeliveryRecord) -> Option<String> {
    let failed = record.failure.as_ref().map(|failure| &failure.detail);
    failed.or(record.not_needed.as_ref().map(|why| &why.detail)).cloned()
}

impl From<&DeliveryRecord> for Delivery {
    fn from(record: &DeliveryRecord) -> Self {
        Self {
            subscription: record.subscription.clone(),
            action: record.action,
            replay: record.replay,
            superseded: record.is_superseded,
            state: record.state,
            reason: record.failure.as_ref().map(|failure| failure.reason),
            awaits_contact_until: record.awaits_contact_until,
            not_needed: record.not_needed.as_ref().map(|why| why.reason),
            detail: detail(record),
            warnings: record.warnings.clone(),
            request: record.request.as_ref().map(RequestFate::from),
        }
    }
}

impl From<&RequestRecord> for RequestFate {
    fn from(record: &RequestRecord) -> Self {
        Self {
            id: record.id.0,
            method: record.endpoint.map(Endpoint::method),
            path: record.endpoint.map(Endpoint::path),
            idempotency_key: record.idempotency_key.clone(),
            next_attempt_at: record.next_attempt_at,
            attempts: record.attempts.iter().map(AttemptFate::from).collect(),
        }
    }
}

impl From<&Attempt> for AttemptFate {
    fn from(attempt: &Attempt) -> Self {
        Self {
            number: attempt.number,
            started_at: attempt.started_at,
            duration_ms: u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX),
            status: attempt.status,
            outcome: attempt.outcome,
            answer: attempt.excerpt.clone(),
        }
    }
}
