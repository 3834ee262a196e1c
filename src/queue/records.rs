//! The records of the queue: plain data, shared by every store.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::Replay;
use crate::action::{ActionKind, Endpoint, Unmatched};
use crate::segment::{LaneKey, MessageHash, MessageType, PersonHash};

/// The place of a message in the order of acceptance. Starts at 1; 0 is before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub i64);

/// The number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub i64);

/// How urgent a message is: what a person waits for goes before what a program loads in bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// What may trigger a mail: tracks, pages, screens and the like.
    Event,
    /// Live traffic that only changes a contact.
    Live,
    /// `/v1/import` and the `import` command.
    Bulk,
}

/// A stamped message on its way into the inbox.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Name of the source it came from.
    pub source: String,
    /// Name of the destination its source delivers to.
    pub destination: String,
    /// Segment's `messageId`.
    pub message_id: String,
    /// Digest of `message_id`.
    pub message_hash: MessageHash,
    /// Kind of call.
    pub kind: MessageType,
    /// Urgency.
    pub class: Class,
    /// What it must stay in order with.
    pub lane: LaneKey,
    /// Whom it is about.
    pub person: PersonHash,
    /// When it was taken in.
    pub received_at: Timestamp,
    /// The stamped message, as [`crate::segment::Value::to_stored_json`] writes it.
    pub payload: Bytes,
    /// What was noticed about it when it was taken in, for people; never holds a value.
    pub warnings: Vec<String>,
}

/// What became of a message at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored now.
    New,
    /// It was stored before.
    Duplicate,
}

/// A wish for the lease of a destination.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// Name of the destination.
    pub destination: String,
    /// Who asks: unique to the process.
    pub holder: String,
    /// The present moment.
    pub now: Timestamp,
    /// How long it shall hold.
    pub ttl: Duration,
}

/// The right to deliver for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Name of the destination.
    pub destination: String,
    /// Who holds it.
    pub holder: String,
    /// Fencing token: grows with every change of hands.
    pub token: i64,
}

/// Who holds a lease, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    /// The process.
    pub holder: String,
    /// Until when, unless it renews it.
    pub until: Timestamp,
}

/// The little that the engine keeps in memory of every pending message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its place in the order.
    pub seq: Seq,
    /// Its lane.
    pub lane: LaneKey,
    /// Whom it is about.
    pub person: PersonHash,
    /// Urgency.
    pub class: Class,
    /// When its next attempt is due, if it was tried before.
    pub next_attempt_at: Option<Timestamp>,
}

/// From where on the heads of a class are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PendingAsk {
    /// Only those behind this one.
    pub after: Seq,
    /// At most so many; zero reads none.
    pub limit: u32,
}

/// From where on a lane is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneAsk {
    /// Which lane.
    pub lane: LaneKey,
    /// Whom its messages are about.
    pub person: PersonHash,
    /// Only messages behind this one.
    pub after: Seq,
    /// How many messages are looked at; at least 1.
    pub limit: u32,
}

/// A part of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePart {
    /// Its pending messages, lowest sequence number first.
    pub heads: Vec<Head>,
    /// The last place that was looked at; `None`: there is nothing behind.
    pub through: Option<Seq>,
}

/// A pending message, opened to be worked on.
#[derive(Debug, Clone)]
pub struct Job {
    /// Name of the source.
    pub source: String,
    /// Segment's `messageId`.
    pub message_id: String,
    /// When it was taken in.
    pub received_at: Timestamp,
    /// The stamped message.
    pub payload: Bytes,
    /// Whether it was planned. A planned message is not planned again, unless it is replayed.
    pub is_planned: bool,
    /// What it is worked on for, where it was replayed.
    pub replay: Replay,
    /// Its pending requests, in order; empty until it is planned.
    pub requests: Vec<FrozenRequest>,
}

/// A request as it must be sent, now and at every further attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenRequest {
    /// Its number.
    pub id: RequestId,
    /// Where it goes.
    pub endpoint: Endpoint,
    /// JSON body.
    pub body: Bytes,
    /// `Idempotency-Key`, on events.
    pub idempotency_key: Option<String>,
    /// How many attempts were recorded.
    pub attempts: u32,
    /// When the first attempt was recorded.
    pub first_attempt_at: Option<Timestamp>,
    /// When the next attempt is due; `None`: at once.
    pub next_attempt_at: Option<Timestamp>,
    /// Whether it carries several deliveries.
    pub is_merged: bool,
    /// When it is no longer worth sending: `max_age` of its subscription.
    pub expires_at: Option<Timestamp>,
}

/// How a message was planned.
#[derive(Debug, Clone)]
pub struct NewPlan {
    /// The present moment.
    pub now: Timestamp,
    /// One for each subscription that took the message.
    pub deliveries: Vec<NewDelivery>,
    /// Why no subscription took it; only when there are no deliveries.
    pub unmatched: Option<Unmatched>,
}

/// One delivery of a plan.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Name of the subscription; `None`: the message failed before any was asked.
    pub subscription: Option<String>,
    /// The action of the subscription.
    pub action: Option<ActionKind>,
    /// What was left out or changed on the way, for people.
    pub warnings: Vec<String>,
    /// The request that carries it, or why there is none.
    pub outcome: Result<NewRequest, Failure>,
}

/// A request to be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    /// Where it goes.
    pub endpoint: Endpoint,
    /// JSON body.
    pub body: Bytes,
    /// `Idempotency-Key`, on events.
    pub idempotency_key: Option<String>,
    /// When it is no longer worth sending.
    pub expires_at: Option<Timestamp>,
}

/// Neighbours of a lane that were planned together.
#[derive(Debug, Clone)]
pub struct NewMerge {
    /// The messages, in order; each delivery with the request that would carry it alone.
    pub plans: Vec<(Seq, NewPlan)>,
    /// Requests that carry several of these deliveries.
    pub merged: Vec<NewMergedRequest>,
}

/// A request that carries several deliveries.
#[derive(Debug, Clone)]
pub struct NewMergedRequest {
    /// What is sent.
    pub request: NewRequest,
    /// The deliveries: place of the plan, place of the delivery in it.
    pub carries: Vec<(usize, usize)>,
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub reason: FailureReason,
    /// What a person needs to mend it.
    pub detail: String,
}

/// Why a delivery failed, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// Loops refused its request.
    Refused,
    /// It was too late to send it, or to send it again.
    Expired,
    /// The mapping makes no request of the message that Segment's destination would send.
    Invalid,
    /// Its user id is a word that stands for none.
    PlaceholderId,
    /// What is stored of the message cannot be read, or contradicts itself.
    Unreadable,
    /// A reason of another release, in a record.
    Unknown,
}

/// An attempt at a request, and what follows from it.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which request.
    pub request: RequestId,
    /// The present moment.
    pub now: Timestamp,
    /// The attempt; `None` for a request that is given up without another one.
    pub attempt: Option<Attempt>,
    /// What follows.
    pub consequence: Consequence,
}

/// A message that is set aside.
#[derive(Debug, Clone)]
pub struct BrokenMessage {
    /// Its place.
    pub seq: Seq,
    /// The present moment.
    pub now: Timestamp,
    /// What is wrong with it.
    pub failure: Failure,
}

/// One HTTP call for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The status of the answer; `None` when there was none.
    pub status: Option<u16>,
    /// What happened.
    pub outcome: AttemptOutcome,
    /// The beginning of the answer, or the network error.
    pub excerpt: String,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// Loops has it.
    Delivered,
    /// Loops had it before.
    DeliveredBefore,
    /// The contact to delete is not there.
    NothingToDelete,
    /// There were too many requests.
    Limited,
    /// It may work later.
    Retry,
    /// Loops does not take the API key.
    Unauthorized,
    /// Loops will never take it.
    Refused,
    /// There was nothing at the path, as at any other: the base URL is wrong.
    NotFound,
    /// An outcome of another release, in a record.
    Unknown,
}

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consequence {
    /// Loops has it.
    Delivered,
    /// It will not be tried again.
    Failed(Failure),
    /// A merged request was refused: each of its deliveries goes alone, by a request of its own.
    TakenApart,
    /// It is tried again, not before this moment. Starts the time within which it may be tried.
    Retry(Timestamp),
    /// The destination is paused: it is tried again when that ends, and the attempt does not start
    /// the time within which it may be tried.
    Hold,
}

/// How much is pending for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Number of pending messages.
    pub messages: u64,
    /// When the oldest of them was taken in.
    pub oldest_received_at: Option<Timestamp>,
}

/// Everything known about a message.
#[derive(Debug, Clone)]
pub struct MessageRecord {
    /// Its place in the order.
    pub seq: Seq,
    /// Name of its source.
    pub source: String,
    /// Name of its destination.
    pub destination: String,
    /// Segment's `messageId`.
    pub message_id: String,
    /// Kind of call.
    pub kind: MessageType,
    /// When it was taken in.
    pub received_at: Timestamp,
    /// Whether all has been done that will be done.
    pub is_done: bool,
    /// Why no subscription took it.
    pub unmatched: Option<Unmatched>,
    /// How many times it was replayed.
    pub replay: u32,
    /// What was noticed about it when it was taken in.
    pub warnings: Vec<String>,
    /// Its deliveries, by replay and then in the order of the subscriptions; empty until it is planned.
    pub deliveries: Vec<DeliveryRecord>,
}

/// What became of a message under one subscription.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// Name of the subscription; `None`: the message failed before any was asked.
    pub subscription: Option<String>,
    /// The action of the subscription; `None` also where this release does not know it.
    pub action: Option<ActionKind>,
    /// The replay that made it; 0: none did.
    pub replay: u32,
    /// Whether a later replay took its place, so that it no longer tells the state of its message.
    pub is_superseded: bool,
    /// Its state.
    pub state: DeliveryState,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What was left out or changed on the way.
    pub warnings: Vec<String>,
    /// The request that carries it; `None` when it failed before there was one.
    pub request: Option<RequestRecord>,
}

/// The fate of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the README")]
pub enum DeliveryState {
    Pending,
    Delivered,
    Failed,
}

/// A request as the log shows it: without its body.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// Its number.
    pub id: RequestId,
    /// Where it goes; `None` where this release does not know it.
    pub endpoint: Option<Endpoint>,
    /// `Idempotency-Key`, on events.
    pub idempotency_key: Option<String>,
    /// When the next attempt is due, while it waits for one.
    pub next_attempt_at: Option<Timestamp>,
    /// All attempts, first to last.
    pub attempts: Vec<Attempt>,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// All of them, the most urgent first.
    pub const ALL: [Class; Self::COUNT] = [Class::Event, Class::Live, Class::Bulk];

    /// The class of a live message of this kind.
    pub fn of_live(kind: MessageType) -> Self {
        match kind {
            MessageType::Identify | MessageType::Delete => Class::Live,
            MessageType::Track
            | MessageType::Page
            | MessageType::Screen
            | MessageType::Group
            | MessageType::Alias => Class::Event,
        }
    }

    /// Its place in [`Class::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// As it is stored.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// Reads [`Class::code`]; unknown codes of later releases count as bulk.
    pub fn from_code(code: i64) -> Self {
        match code {
            0 => Class::Event,
            1 => Class::Live,
            _ => Class::Bulk,
        }
    }
}

impl FailureReason {
    /// Those that this release gives.
    pub const ALL: [FailureReason; 5] = [
        FailureReason::Refused,
        FailureReason::Expired,
        FailureReason::Invalid,
        FailureReason::PlaceholderId,
        FailureReason::Unreadable,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::Refused => "refused",
            FailureReason::Expired => "expired",
            FailureReason::Invalid => "invalid",
            FailureReason::PlaceholderId => "placeholder_id",
            FailureReason::Unreadable => "unreadable",
            FailureReason::Unknown => "unknown",
        }
    }

    /// Reads [`FailureReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl AttemptOutcome {
    /// Those that this release gives.
    pub const ALL: [AttemptOutcome; 8] = [
        AttemptOutcome::Delivered,
        AttemptOutcome::DeliveredBefore,
        AttemptOutcome::NothingToDelete,
        AttemptOutcome::Limited,
        AttemptOutcome::Retry,
        AttemptOutcome::Unauthorized,
        AttemptOutcome::Refused,
        AttemptOutcome::NotFound,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Delivered => "delivered",
            AttemptOutcome::DeliveredBefore => "delivered_before",
            AttemptOutcome::NothingToDelete => "nothing_to_delete",
            AttemptOutcome::Limited => "limited",
            AttemptOutcome::Retry => "retry",
            AttemptOutcome::Unauthorized => "unauthorized",
            AttemptOutcome::Refused => "refused",
            AttemptOutcome::NotFound => "not_found",
            AttemptOutcome::Unknown => "unknown",
        }
    }

    /// Reads [`AttemptOutcome::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [DeliveryState; 3] = [Self::Pending, Self::Delivered, Self::Failed];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Failed => "failed",
        }
    }

    /// Reads [`DeliveryState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}
