//! The responses: each struct is the JSON of a response, its schema, and what a page shows. None of them contains the
//! contents of messages.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::verdict::{self, VerdictKind};
use crate::action::{ActionKind, Endpoint, UnmatchedReason};
use crate::queue::{
    self, Attempt, AttemptOutcome, AuditAction, DeliveryRecord, DeliveryState, FailureReason,
    FeedbackRecord, HoldReason, MessageRecord, MessageState, NotNeededReason, Origin, OriginKind,
    Page, RequestRecord, Seq, Stage, TallyStep,
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

/// What Loops reported by its webhooks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Feedback {
    /// The events, newest first.
    pub events: Vec<FeedbackEvent>,
}

/// The messages with an id, each with a verdict.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageReports {
    /// One for each source that sent a message with this id, newest first.
    pub messages: Vec<MessageReport>,
}

/// The outcome of a message, with a verdict and what Loops reported.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageReport {
    /// Its outcome.
    #[serde(flatten)]
    pub message: MessageFate,
    /// The verdict.
    pub verdict: Verdict,
    /// What Loops has reported about the person since the message was accepted, newest first; empty once the contents
    /// of the message are past their retention.
    pub feedback: Vec<FeedbackEvent>,
}

/// What is known of a person.
#[derive(Debug, Serialize, ToSchema)]
pub struct Person {
    /// The verdict.
    pub verdict: Verdict,
    /// The latest messages, at most 50, newest first.
    pub messages: Vec<MessageFate>,
    /// Whether these are all messages on record.
    pub complete: bool,
    /// What Loops reported, newest first.
    pub feedback: Vec<FeedbackEvent>,
}

/// A verdict in one sentence, and what to do next.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// For programs.
    pub kind: VerdictKind,
    /// For people.
    pub sentence: String,
    /// What to do next.
    pub next_step: &'static str,
    /// `seq` of the message that the verdict is about; null if it is about none.
    #[schema(required)]
    pub seq: Option<i64>,
}

/// An event that Loops reported. Neither addresses nor subjects are kept.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedbackEvent {
    /// Name of the destination.
    pub destination: String,
    /// Loops' name of the event; this release may not know it.
    #[schema(example = "email.delivered")]
    pub event: String,
    /// When it happened, by Loops' clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// When it was received.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// Loops' id of the webhook.
    pub webhook_id: String,
    /// Loops' id of the contact; null if the event has none.
    #[schema(required)]
    pub contact_id: Option<String>,
    /// The workflow, campaign, transactional mail or mailing list that it belongs to; null if it belongs to none.
    #[schema(required)]
    pub origin: Option<FeedbackOrigin>,
    /// Loops' id of the mail; null if the event is not about one.
    #[schema(required)]
    pub email_id: Option<String>,
}

/// What an event that Loops reported belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub struct FeedbackOrigin {
    /// What it is.
    pub kind: OriginKind,
    /// Loops' id of it.
    pub id: String,
    /// Its name; null if Loops gives only the id.
    #[schema(required)]
    pub name: Option<String>,
}

impl From<Vec<FeedbackRecord>> for Feedback {
    fn from(records: Vec<FeedbackRecord>) -> Self {
        Self { events: records.into_iter().map(FeedbackEvent::from).collect() }
    }
}

impl From<FeedbackRecord> for FeedbackEvent {
    fn from(record: FeedbackRecord) -> Self {
        let origin =
            record.origin.map(|Origin { kind, id, name }| FeedbackOrigin { kind, id, name });
        Self {
            destination: record.destination,
            event: record.event,
            at: record.at,
            received_at: record.received_at,
            webhook_id: record.webhook_id,
            contact_id: record.contact_id,
            origin,
            email_id: record.email_id,
        }
    }
}

/// The latest failures, grouped by cause.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failures {
    /// The groups, largest first.
    pub groups: Vec<FailureGroup>,
    /// How many failed deliveries were read, whether or not they match.
    pub read: u64,
    /// Whether these are all matching failures; if not, older ones were not read.
    pub complete: bool,
}

/// Failed deliveries with the same cause.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureGroup {
    /// Name of the destination.
    pub destination: String,
    /// Name of the subscription; null if the messages failed before they were matched.
    #[schema(required)]
    pub subscription: Option<String>,
    /// Why the deliveries failed, for programs.
    pub reason: FailureReason,
    /// Why the deliveries failed, for people: numbers, ids, addresses and quoted values are replaced by `…`.
    /// Empty once the contents of the messages are past their retention.
    #[schema(example = "no list …")]
    pub cause: String,
    /// How many deliveries failed.
    pub deliveries: u64,
    /// When the first of them failed.
    #[schema(value_type = String, format = DateTime)]
    pub first_at: Timestamp,
    /// When the last of them failed.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Timestamp,
    /// The latest message among them.
    pub example: Example,
}

/// One message of many.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// Segment's `messageId`.
    pub message_id: String,
    /// Position in the order of acceptance.
    pub seq: i64,
}

/// Counts by interval.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tallies {
    /// The length of the intervals.
    pub step: TallyStep,
    /// The counts in order of time, without zeros.
    pub tallies: Vec<Tally>,
}

/// A count of one interval.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tally {
    /// When the interval began.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What is counted.
    pub stage: Stage,
    /// Name of the destination.
    pub destination: String,
    /// Name of the source.
    pub source: String,
    /// Name of the subscription, for deliveries; null also if they failed before they were matched.
    #[schema(required)]
    pub subscription: Option<String>,
    /// Why, for unmatched messages and failed deliveries.
    #[schema(required)]
    pub reason: Option<String>,
    /// How many.
    pub count: u64,
}

/// Names of events.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventNames {
    /// The names, most recently seen first.
    pub event_names: Vec<EventName>,
}

/// The name of an event that a source sends.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventName {
    /// Name of the source.
    pub source: String,
    /// The name, cut after 200 bytes. `(other)` stands for all names after the source's first 10,000.
    pub name: String,
    /// When it was first seen.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen_at: Timestamp,
    /// When it was last seen, to the minute.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
}

/// The processes that share the store, and their leases.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replicas {
    /// The time of the store; compare the other times with it.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// The processes that are running or were killed, in the order of their start. A process not seen for a day is
    /// forgotten.
    pub replicas: Vec<Replica>,
    /// For each destination, which process delivers.
    pub leases: Vec<Lease>,
}

/// A process that uses the store.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its name, as in the log and in leases.
    pub name: String,
    /// The name of its machine or container.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it was last seen. A running process is seen every five seconds.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
    /// Free bytes on the disk of the store when it last reported; null if the disk cannot be seen.
    #[schema(required)]
    pub free_bytes: Option<u64>,
    /// When it last reloaded its configuration; null if not since its start.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub reloaded_at: Option<Timestamp>,
    /// Whether it is the process that responds.
    pub is_this: bool,
}

/// The right to deliver for a destination.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Name of the destination.
    pub destination: String,
    /// Name of the process that holds the lease; null if none does. An expired lease is still shown with its last
    /// holder.
    #[schema(required)]
    pub holder: Option<String>,
    /// How often the lease has changed hands.
    pub token: i64,
    /// When the holder took the lease; null without a holder.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// When the lease expires unless it is renewed; null without a holder.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// What people did.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditList {
    /// The entries, newest first.
    pub entries: Vec<AuditEntry>,
    /// Send it as `before` to get the next page; null at the end.
    #[schema(required)]
    pub next: Option<i64>,
}

/// What a person changed or looked at.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its number.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What the person may do: `admin` or `viewer`; `command` for a command such as `segment-loops replay`.
    #[schema(example = "admin")]
    pub role: String,
    /// The session of the console, or which of the admin tokens the request had, such as `token-1` for the first.
    /// Empty for a command.
    pub session: String,
    /// Name of the process that did it.
    pub process: String,
    /// What was done.
    pub action: AuditAction,
    /// What it was done to.
    #[schema(value_type = Object)]
    pub arguments: serde_json::Value,
    /// The result, for people.
    pub result: String,
}

/// What a replay did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Whether messages were only counted.
    pub dry_run: bool,
    /// How many messages are pending again; in a dry run, how many would be.
    pub replayed: u64,
    /// How many matching messages cannot be replayed, because their contents were deleted or a deletion of their
    /// person followed.
    pub without_contents: u64,
    /// With `onlyChanged`, how many matching messages were left out, because the current subscriptions make the same
    /// requests or none that could be sent.
    pub unchanged: u64,
    /// With `onlyChanged`, how many messages are replayed for each subscription.
    pub by_subscription: BTreeMap<String, u64>,
    /// Where to continue: send it in the next request, with the same criteria; null when all is done.
    #[schema(required)]
    pub r#continue: Option<ReplayPosition>,
}

/// Where a replay continues.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayPosition {
    /// Continues after this `seq`.
    pub after: i64,
    /// Ends with this `seq`.
    pub until: i64,
}

/// What is in force after a reload.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Number of subscriptions by destination.
    pub subscriptions: BTreeMap<String, usize>,
    /// Keys that were changed, and are in force.
    pub changed: Vec<ChangedKey>,
    /// Keys that were changed but keep their old values until a restart.
    pub needs_restart: Vec<String>,
}

/// A key of the configuration that a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChangedKey {
    /// The key.
    #[schema(example = "sources.web.stamp_ip")]
    pub key: String,
    /// `added`, `removed`, `changed`, or the old value and the new one, for people. Secrets are never shown.
    #[schema(example = "false → true")]
    pub change: String,
}

/// Why a configuration was not put into force.
#[derive(Debug, Serialize, ToSchema)]
pub struct BadConfiguration {
    /// Always `bad_configuration`.
    #[schema(example = "bad_configuration")]
    pub code: &'static str,
    /// A summary for people.
    pub message: &'static str,
    /// Everything that is wrong.
    pub problems: Vec<ReloadProblem>,
}

/// One error in a configuration.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReloadProblem {
    /// The file, or `environment`; `database` if its contents do not allow the value.
    pub place: String,
    /// The key.
    pub key: String,
    /// What is wrong and what is allowed.
    pub problem: String,
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

impl From<verdict::Verdict> for Verdict {
    fn from(verdict: verdict::Verdict) -> Self {
        let verdict::Verdict { kind, seq, sentence, next_step } = verdict;
        Self { kind, sentence, next_step, seq: seq.map(|Seq(seq)| seq) }
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

impl From<queue::FailureGroups> for Failures {
    fn from(found: queue::FailureGroups) -> Self {
        Self {
            groups: found.groups.into_iter().map(FailureGroup::from).collect(),
            read: found.read,
            complete: found.is_complete,
        }
    }
}

impl From<queue::FailureGroup> for FailureGroup {
    fn from(group: queue::FailureGroup) -> Self {
        Self {
            destination: group.destination,
            subscription: group.subscription,
            reason: group.reason,
            cause: group.cause,
            deliveries: group.deliveries,
            first_at: group.first_at,
            last_at: group.last_at,
            example: Example { message_id: group.example, seq: group.example_seq.0 },
        }
    }
}

impl From<queue::Tally> for Tally {
    fn from(tally: queue::Tally) -> Self {
        let queue::Tally { at, stage, destination, source, subscription, reason, count } = tally;
        Self { at, stage, destination, source, subscription, reason, count }
    }
}

impl From<Vec<queue::EventName>> for EventNames {
    fn from(names: Vec<queue::EventName>) -> Self {
        let of = |name: queue::EventName| {
            let queue::EventName { source, name, first_seen_at, last_seen_at } = name;
            EventName { source, name, first_seen_at, last_seen_at }
        };
        Self { event_names: names.into_iter().map(of).collect() }
    }
}

impl Replicas {
    /// Makes the response of the process with the name `this`.
    pub(super) fn new(found: queue::Replicas, this: &str) -> Self {
        let replica = |replica: queue::Replica| {
            let queue::Replica { name, host, version, started_at, last_seen_at, status } = replica;
            let is_this = name == this;
            let queue::ProcessStatus { free_bytes, reloaded_at, .. } = status;
            Replica {
                name,
                host,
                version,
                started_at,
                last_seen_at,
                free_bytes,
                reloaded_at,
                is_this,
            }
        };
        Self {
            now: found.now,
            replicas: found.replicas.into_iter().map(replica).collect(),
            leases: found.leases.into_iter().map(Lease::from).collect(),
        }
    }
}

impl From<queue::LeaseState> for Lease {
    fn from(lease: queue::LeaseState) -> Self {
        let queue::LeaseState { destination, token, holder } = lease;
        let (since, expires_at) = holder.as_ref().map(|held| (held.since, held.until)).unzip();
        Self { destination, holder: holder.map(|held| held.holder), token, since, expires_at }
    }
}

impl AuditList {
    /// Makes a page of a list that was read with this limit.
    pub(super) fn new(found: Vec<queue::AuditRecord>, limit: u32) -> Self {
        let is_full = found.len() >= limit as usize;
        let next = found.last().filter(|_| is_full).map(|record| record.id);
        Self { entries: found.into_iter().map(AuditEntry::from).collect(), next }
    }
}

impl From<queue::AuditRecord> for AuditEntry {
    fn from(queue::AuditRecord { id, entry }: queue::AuditRecord) -> Self {
        let queue::AuditEntry { at, role, session, process, action, arguments, result } = entry;
        let arguments = serde_json::from_str(&arguments).unwrap_or_default();
        Self { id, at, role, session, process, action, arguments, result }
    }
}

impl From<queue::ReplayPosition> for ReplayPosition {
    fn from(position: queue::ReplayPosition) -> Self {
        Self { after: position.after.0, until: position.until.0 }
    }
}

impl From<ReplayPosition> for queue::ReplayPosition {
    fn from(position: ReplayPosition) -> Self {
        Self { after: queue::Seq(position.after), until: queue::Seq(position.until) }
    }
}
