//! The records of the queue: plain data that every store shares.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Awaiting, ContactCap, ContactChange, ContactClaim, Held, Hold, MessageState, ProcessStatus,
    Replay,
};
use crate::action::{ActionKind, Endpoint, Unmatched, UnmatchedReason};
use crate::js::decode::decode;
use crate::segment::RequestDigest;
use crate::segment::{LaneKey, Message, MessageHash, MessageType, PersonDigest};
use crate::telemetry::TraceContext;

/// The sequence number of a message, in the order of acceptance. Starts at 1; 0 is before all messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub i64);

/// The number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub i64);

/// How urgent a message is: messages that a person waits for go before bulk loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Messages that may trigger a mail: tracks, pages, screens and the like.
    Event,
    /// Live traffic that only changes a contact.
    Live,
    /// `/v1/import` and the `import` command.
    Bulk,
}

/// A stamped message to be accepted.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Name of the source that sent it.
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
    /// The lane in which it must stay in order: the digest of its order key.
    pub lane: LaneKey,
    /// Digest of its `anonymousId`, if that is not the order key.
    pub anonymous: Option<PersonDigest>,
    /// Digest of its e-mail address, if that is not the order key.
    pub email: Option<PersonDigest>,
    /// The name of the event, of a track.
    pub event: Option<String>,
    /// When it was received.
    pub received_at: Timestamp,
    /// The stamped message, as [`crate::js::Value::to_stored_json`] writes it.
    pub payload: Bytes,
    /// What was noticed about it when it was received, for people; never holds a value.
    pub warnings: Vec<String>,
    /// The trace in which it is accepted, to which its delivery is linked; `None`: it is not traced.
    pub trace: Option<TraceContext>,
}

/// Messages that were accepted, and the transaction that wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// For each message, in order, whether it was new.
    pub accepted: Vec<Accepted>,
    /// How many messages the transaction wrote in all, those of other calls included.
    pub group_messages: usize,
    /// How long the messages waited for the transaction to begin.
    pub waited: Duration,
}

/// Whether an accepted message was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was stored.
    New,
    /// It had been stored before.
    Duplicate,
}

/// A request for the lease of a destination.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// Name of the destination.
    pub destination: String,
    /// Name of the process that asks; unique.
    pub holder: String,
    /// The current time.
    pub now: Timestamp,
    /// How long the lease is to hold.
    pub ttl: Duration,
}

/// The right to deliver for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Name of the destination.
    pub destination: String,
    /// Name of the process that holds it.
    pub holder: String,
    /// Fencing token: grows each time the lease changes hands.
    pub token: i64,
}

/// The holder of a lease, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Name of the process.
    pub holder: String,
    /// When it took the lease.
    pub since: Timestamp,
    /// When the lease expires unless it is renewed.
    pub until: Timestamp,
}

/// What a running process records about itself.
#[derive(Debug, Clone)]
pub struct CheckIn {
    /// Its name, unique, as in leases.
    pub name: String,
    /// The name of its machine.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// How long it has been running.
    pub uptime: Duration,
    /// What it reports of itself.
    pub status: ProcessStatus,
    /// The current time.
    pub now: Timestamp,
}

/// A process that uses the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name, as in leases.
    pub name: String,
    /// The name of its machine.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last checked in.
    pub last_seen_at: Timestamp,
    /// What it reported then.
    pub status: ProcessStatus,
}

/// Who may deliver for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Name of the destination.
    pub destination: String,
    /// The fencing token of the last lease.
    pub token: i64,
    /// The present or last holder; `None` if it gave the lease back.
    pub holder: Option<LeaseHolder>,
}

/// The processes that share a store, and their leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas {
    /// The time by which the others were recorded.
    pub now: Timestamp,
    /// The processes that checked in and did not check out, the one that started first first.
    pub replicas: Vec<Replica>,
    /// The leases by the names of their destinations.
    pub leases: Vec<LeaseState>,
}

/// What the engine keeps in memory about a pending message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its sequence number.
    pub seq: Seq,
    /// Its lane.
    pub lane: LaneKey,
    /// Urgency.
    pub class: Class,
    /// When its next attempt is due, if it was tried before.
    pub next_attempt_at: Option<Timestamp>,
}

/// Which heads of a class to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PendingAsk {
    /// Only messages behind this one.
    pub after: Seq,
    /// The most heads to read; zero reads none.
    pub limit: u32,
}

/// Which part of a lane to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneAsk {
    /// The lane.
    pub lane: LaneKey,
    /// Only messages behind this one.
    pub after: Seq,
    /// How many messages to examine; at least 1.
    pub limit: u32,
}

/// A part of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePart {
    /// Its pending messages, lowest sequence number first.
    pub heads: Vec<Head>,
    /// The last sequence number that was examined; `None`: no message follows.
    pub through: Option<Seq>,
}

/// A pending message with everything needed to deliver it.
#[derive(Debug, Clone)]
pub struct Job {
    /// Name of the source.
    pub source: String,
    /// Segment's `messageId`.
    pub message_id: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// The stamped message.
    pub payload: Bytes,
    /// Whether it was planned. A planned message is not planned again, unless it is replayed.
    pub is_planned: bool,
    /// What it is to be delivered for, if it was replayed.
    pub replay: Replay,
    /// Its pending requests, in order; empty until it is planned.
    pub requests: Vec<FrozenRequest>,
    /// When the backup was made from which the message was restored: since then, Loops may have its events. `None`: it was
    /// accepted since.
    pub restored_from: Option<Timestamp>,
}

impl Job {
    /// The message; `None` if it cannot be read.
    pub fn message(&self) -> Option<Message> {
        stored_message(&self.payload)
    }

    /// When the message happened, by its own `timestamp` if it has one. No later than when it was received, since the
    /// sender's clock may be ahead.
    pub fn happened_at(&self, timestamp: Option<Timestamp>) -> Timestamp {
        timestamp.map_or(self.received_at, |at| at.min(self.received_at))
    }
}

/// A request exactly as every attempt must send it.
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
    /// How many attempts are recorded.
    pub attempts: u32,
    /// When the first attempt that may have reached Loops began. For an event this is written before the attempt, so
    /// that it also holds if the process ends before the outcome is recorded.
    pub first_attempt_at: Option<Timestamp>,
    /// When the next attempt is due; `None`: at once.
    pub next_attempt_at: Option<Timestamp>,
    /// Whether it carries several deliveries.
    pub is_merged: bool,
    /// When it expires, by `max_age_s` of its subscription.
    pub expires_at: Option<Timestamp>,
}

/// The plan of a message.
#[derive(Debug, Clone)]
pub struct NewPlan {
    /// The current time.
    pub now: Timestamp,
    /// One for each subscription that took the message.
    pub deliveries: Vec<NewDelivery>,
    /// Why no subscription took it; only if there are no deliveries.
    pub unmatched: Option<Unmatched>,
}

/// One delivery of a plan.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Name of the subscription; `None`: the message failed before any subscription was tried.
    pub subscription: Option<String>,
    /// The action of the subscription.
    pub action: Option<ActionKind>,
    /// What was left out of the request or changed in it, for people.
    pub warnings: Vec<String>,
    /// The request that its subscription made, before anything else left something out of it; `None`: it made none.
    pub planned: Option<RequestDigest>,
    /// The request that carries it, or why there is none.
    pub outcome: NewOutcome,
}

/// The outcome of planning a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewOutcome {
    /// It is pending: a request carries it.
    Request(NewRequest),
    /// It is delivered without a request.
    NotNeeded(NotNeeded),
    /// It failed.
    Failed(Failure),
}

/// Why a delivery counts as delivered without a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotNeeded {
    /// The reason.
    pub reason: NotNeededReason,
    /// The same for people; never holds a value.
    pub detail: String,
}

/// Why a delivery counts as delivered without a request, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotNeededReason {
    /// Loops has accepted all its values before.
    Unchanged,
    /// Loops has newer values of all its properties.
    Stale,
    /// Read from the store, but unknown to this release.
    Unknown,
}

/// A request to freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    /// Where it goes.
    pub endpoint: Endpoint,
    /// JSON body.
    pub body: Bytes,
    /// `Idempotency-Key`, on events.
    pub idempotency_key: Option<String>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// Whether Loops accepted all its values before, so that it would not be sent with `skip_unchanged = "on"`.
    /// Counted, and not stored.
    pub is_redundant: bool,
}

/// A message whose plan is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Its pending requests, in the order of its deliveries.
    pub requests: Vec<FrozenRequest>,
    /// Why it ended as unmatched, if this plan ended it so.
    pub unmatched: Option<UnmatchedReason>,
    /// The message is held, and not planned; `None`: its plan is on disk.
    pub hold: Option<Hold>,
}

/// Neighbours of a lane that were planned together.
#[derive(Debug, Clone)]
pub struct NewMerge {
    /// The messages, in order; each delivery has the request that would carry it alone.
    pub plans: Vec<(Seq, NewPlan)>,
    /// Requests that carry several of these deliveries.
    pub merged: Vec<NewMergedRequest>,
    /// The contacts that these requests are about to change.
    pub claims: Vec<ContactClaim>,
    /// Whether the requests are only shadowed, so that the first one is not about to be sent.
    pub is_shadow: bool,
    /// How many contacts these requests may create; `None`: any number.
    pub cap: Option<ContactCap>,
}

/// How many requests plans make, and how many they would have made in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Economy {
    /// Requests that are sent, each counted once.
    pub requests: u64,
    /// Those that were not needed since others carry their deliveries.
    pub merged: u64,
    /// Those that were not needed since they would change nothing.
    pub unchanged: u64,
    /// Those among `requests` that change nothing.
    pub redundant: u64,
}

impl Economy {
    /// The saved ones with the word by which each kind is counted.
    pub fn saved(self) -> [(&'static str, u64); 3] {
        [
            ("merged", self.merged),
            (NotNeededReason::Unchanged.as_str(), self.unchanged),
            ("unchanged_would", self.redundant),
        ]
    }
}

impl NewMerge {
    /// Counts the requests.
    pub fn economy(&self) -> Economy {
        let mut economy = Economy::default();
        for (index, (_, plan)) in self.plans.iter().enumerate() {
            for (position, delivery) in plan.deliveries.iter().enumerate() {
                let is_merged =
                    self.merged.iter().any(|merged| merged.carries.contains(&(index, position)));
                match &delivery.outcome {
                    NewOutcome::Request(_) if is_merged => economy.merged += 1,
                    NewOutcome::Request(request) => {
                        economy.requests += 1;
                        economy.redundant += u64::from(request.is_redundant);
                    }
                    NewOutcome::NotNeeded(why) => {
                        economy.unchanged += u64::from(why.reason == NotNeededReason::Unchanged);
                    }
                    NewOutcome::Failed(_) => {}
                }
            }
        }
        for merged in &self.merged {
            economy.merged = economy.merged.saturating_sub(1);
            economy.requests += 1;
            economy.redundant += u64::from(merged.request.is_redundant);
        }
        economy
    }
}

/// A request that carries several deliveries.
#[derive(Debug, Clone)]
pub struct NewMergedRequest {
    /// The request.
    pub request: NewRequest,
    /// The deliveries: index of the plan, and index of the delivery in it.
    pub carries: Vec<(usize, usize)>,
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub reason: FailureReason,
    /// What a person needs to know to fix it.
    pub detail: String,
}

/// Why a delivery failed, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// Loops refused its request.
    Refused,
    /// It was too late to send it, or to send it again.
    Expired,
    /// The mapping yields no request that Segment's destination would send.
    Invalid,
    /// Its user id is a word that means "no id".
    PlaceholderId,
    /// It was held, and somebody discarded it.
    Discarded,
    /// The stored message or its records cannot be read or contradict each other, or its delivery panicked
    /// again and again.
    Unreadable,
    /// Read from the store, but unknown to this release.
    Unknown,
}

/// An attempt at a request, and its consequence.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The request.
    pub request: RequestId,
    /// The current time.
    pub now: Timestamp,
    /// The attempt; `None` if it only begins, or the request is given up without another one.
    pub attempt: Option<Attempt>,
    /// The consequence.
    pub consequence: Consequence,
    /// What it changes about what is known of the contact; `None`: nothing.
    pub contact: Option<ContactChange>,
    /// How it bears on events that wait for their contact; `None`: not at all.
    pub awaiting: Option<Awaiting>,
}

/// What a settlement showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// Whether Loops was not known to have the contact before, so that the request created it.
    pub is_new_contact: bool,
}

/// A message to set aside.
#[derive(Debug, Clone)]
pub struct BrokenMessage {
    /// Its sequence number.
    pub seq: Seq,
    /// The current time.
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
    /// The status of the answer; `None` if there was none.
    pub status: Option<u16>,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// The beginning of the answer, or the network error.
    pub excerpt: String,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// Loops accepted the request.
    Delivered,
    /// Loops had accepted it before.
    DeliveredBefore,
    /// The contact to delete does not exist.
    NothingToDelete,
    /// There were too many requests.
    Limited,
    /// It may work later.
    Retry,
    /// Loops does not accept the API key.
    Unauthorized,
    /// Loops will never take the request.
    Refused,
    /// Every path is answered with 404: the base URL is wrong.
    NotFound,
    /// Read from the store, but unknown to this release.
    Unknown,
}

/// The consequence of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consequence {
    /// None yet: the attempt is about to begin. The retry window counts from now.
    Begin,
    /// Loops accepted the request.
    Delivered,
    /// It was the request's turn, and it was not sent, since the destination is in shadow mode.
    Shadowed,
    /// The request will not be retried.
    Failed(Failure),
    /// A merged request was refused: each of its deliveries gets a request of its own.
    TakenApart,
    /// Loops already had the event of a merged request, perhaps without its other deliveries: the event counts as
    /// delivered, and each of the others gets a request of its own.
    EventDelivered,
    /// Loops may have the event of a merged request, and would no longer recognize it: the event fails, and each of
    /// the other deliveries gets a request of its own.
    EventFailed(Failure),
    /// The request is retried, not before this time. The retry window counts from the first attempt that
    /// ends so.
    Retry(Timestamp),
    /// The destination is paused: the request is retried when the pause ends. The attempt does not start the retry
    /// window, because Loops did not take the request.
    Hold {
        /// The request's `first_attempt_at` before this attempt.
        first_attempt_at: Option<Timestamp>,
    },
}

/// The backlog of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Number of pending messages.
    pub messages: u64,
    /// The same by class, in the order of [`Class::ALL`].
    pub by_class: [u64; Class::COUNT],
    /// When the oldest of each class was received, without those that are held or wait behind them; `None`: no other
    /// is pending.
    pub oldest_by_class: [Option<Timestamp>; Class::COUNT],
    /// How many messages are held, without those that wait behind them.
    pub held: u64,
    /// Since when the first of these is.
    pub held_since: Option<Timestamp>,
}

impl Depth {
    /// When the oldest of all was received, without those that are held or wait behind them.
    pub fn oldest_received_at(&self) -> Option<Timestamp> {
        self.oldest_by_class.into_iter().flatten().min()
    }

    /// How long a count that took this long stays valid. Counting takes longer the more is pending: 200 times as long,
    /// at most a minute, so that counting costs under 0.5 % of the time and the numbers stay fresh.
    pub fn valid_for(count_took: Duration) -> Duration {
        (count_took * 200).min(Duration::from_secs(60))
    }
}

/// Everything known about a message.
#[derive(Debug, Clone)]
pub struct MessageRecord {
    /// Its sequence number.
    pub seq: Seq,
    /// Name of its source.
    pub source: String,
    /// Name of its destination.
    pub destination: String,
    /// Segment's `messageId`.
    pub message_id: String,
    /// Kind of call.
    pub kind: MessageType,
    /// The name of the event, of a track: cut where it is too long, and [`OTHER_EVENTS`](super::OTHER_EVENTS)
    /// if its source sends too many.
    pub event: Option<String>,
    /// Urgency.
    pub class: Class,
    /// When it was received.
    pub received_at: Timestamp,
    /// Whether all its deliveries have ended.
    pub is_done: bool,
    /// Why no subscription took it.
    pub unmatched: Option<Unmatched>,
    /// How many times it was replayed.
    pub replay: u32,
    /// What was noticed about it when it was received.
    pub warnings: Vec<String>,
    /// Why it is held, if it is pending.
    pub held: Option<Held>,
    /// Its deliveries, by replay and then in the order of the subscriptions; empty until it is planned.
    pub deliveries: Vec<DeliveryRecord>,
}

/// The contents of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The sequence number of the message.
    pub seq: Seq,
    /// The stamped message, as [`NewMessage::payload`] has it.
    pub payload: Bytes,
}

impl Contents {
    /// The message; `None` if it cannot be read.
    pub fn message(&self) -> Option<Message> {
        stored_message(&self.payload)
    }
}

fn stored_message(payload: &[u8]) -> Option<Message> {
    decode(payload).ok().and_then(|value| Message::from_stored(value).ok())
}

/// The delivery of a message under one subscription.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// Name of the subscription; `None`: the message failed before any subscription was tried.
    pub subscription: Option<String>,
    /// The action of the subscription; `None` also if this release does not know it.
    pub action: Option<ActionKind>,
    /// The number of the replay that made it; 0: no replay did.
    pub replay: u32,
    /// Whether a later replay superseded it, so that it no longer counts for the state of its message.
    pub is_superseded: bool,
    /// Its state.
    pub state: DeliveryState,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// It failed since Loops has no contact that the event names: it is replayed by itself if the contact is created until
    /// this time.
    pub awaits_contact_until: Option<Timestamp>,
    /// Why it was delivered without a request.
    pub not_needed: Option<NotNeeded>,
    /// What was left out of the request or changed in it.
    pub warnings: Vec<String>,
    /// As [`NewDelivery::planned`].
    pub planned: Option<RequestDigest>,
    /// The request that carries it; `None` if it ended before there was one.
    pub request: Option<RequestRecord>,
}

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the README")]
pub enum DeliveryState {
    Pending,
    Delivered,
    Shadowed,
    Failed,
    /// Read from the store, but unknown to this release.
    Unknown,
}

/// The most messages of one request that are named.
pub const CARRIED_MAX: usize = 100;

/// What a request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContents {
    /// Its number.
    pub id: RequestId,
    /// JSON body; `None`: it is no longer kept.
    pub body: Option<Bytes>,
    /// The messages whose deliveries it carries, in order, at most [`CARRIED_MAX`]. Some may have another number by now,
    /// or be gone.
    pub seqs: Vec<Seq>,
}

/// A request without its body.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// Its number.
    pub id: RequestId,
    /// Where it goes; `None` if this release does not know it.
    pub endpoint: Option<Endpoint>,
    /// `Idempotency-Key`, on events.
    pub idempotency_key: Option<String>,
    /// When the next attempt is due, while it waits for one.
    pub next_attempt_at: Option<Timestamp>,
    /// All attempts, first to last.
    pub attempts: Vec<Attempt>,
}

impl DeliveryRecord {
    /// Reads why a delivery ended, as [`NewOutcome::ended`] gave it: why it failed, or why it needed no request.
    pub(crate) fn read_end(
        state: DeliveryState,
        reason: Option<&str>,
        detail: Option<String>,
    ) -> (Option<Failure>, Option<NotNeeded>) {
        let Some(reason) = reason else { return (None, None) };
        let detail = detail.unwrap_or_default();
        if state == DeliveryState::Delivered {
            let reason = NotNeededReason::parse(reason).unwrap_or(NotNeededReason::Unknown);
            return (None, Some(NotNeeded { reason, detail }));
        }
        let reason = FailureReason::parse(reason).unwrap_or(FailureReason::Unknown);
        (Some(Failure { reason, detail }), None)
    }
}

impl MessageRecord {
    /// Its state, which follows from the deliveries that are not superseded.
    pub fn state(&self) -> MessageState {
        let counting = || self.deliveries.iter().filter(|delivery| !delivery.is_superseded);
        let has = |state| counting().any(|delivery| delivery.state == state);
        if !self.is_done {
            MessageState::Pending
        } else if has(DeliveryState::Failed) {
            MessageState::Failed
        } else if has(DeliveryState::Shadowed) {
            MessageState::Shadowed
        } else if counting().next().is_some() {
            MessageState::Delivered
        } else {
            MessageState::Unmatched
        }
    }
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

    /// Its name, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Event => "event",
            Class::Live => "live",
            Class::Bulk => "bulk",
        }
    }

    /// Its index in [`Class::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The code that is stored.
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
    pub const ALL: [FailureReason; 6] = [
        FailureReason::Refused,
        FailureReason::Expired,
        FailureReason::Invalid,
        FailureReason::PlaceholderId,
        FailureReason::Discarded,
        FailureReason::Unreadable,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::Refused => "refused",
            FailureReason::Expired => "expired",
            FailureReason::Invalid => "invalid",
            FailureReason::PlaceholderId => "placeholder_id",
            FailureReason::Discarded => "discarded",
            FailureReason::Unreadable => "unreadable",
            FailureReason::Unknown => "unknown",
        }
    }

    /// Reads [`FailureReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl NotNeededReason {
    /// Those that this release gives.
    pub const ALL: [NotNeededReason; 2] = [NotNeededReason::Unchanged, NotNeededReason::Stale];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            NotNeededReason::Unchanged => "unchanged",
            NotNeededReason::Stale => "stale",
            NotNeededReason::Unknown => "unknown",
        }
    }

    /// Reads [`NotNeededReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl NewOutcome {
    /// The request, if one carries the delivery.
    pub fn request(&self) -> Option<&NewRequest> {
        match self {
            NewOutcome::Request(request) => Some(request),
            NewOutcome::NotNeeded(_) | NewOutcome::Failed(_) => None,
        }
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            NewOutcome::Failed(failure) => Some(failure),
            NewOutcome::Request(_) | NewOutcome::NotNeeded(_) => None,
        }
    }

    /// The state of the delivery.
    pub fn state(&self) -> DeliveryState {
        match self {
            NewOutcome::Request(_) => DeliveryState::Pending,
            NewOutcome::NotNeeded(_) => DeliveryState::Delivered,
            NewOutcome::Failed(_) => DeliveryState::Failed,
        }
    }

    /// Why it ended, in a word and in a sentence, if it did.
    pub fn ended(&self) -> Option<(&'static str, &str)> {
        match self {
            NewOutcome::Request(_) => None,
            NewOutcome::NotNeeded(NotNeeded { reason, detail }) => Some((reason.as_str(), detail)),
            NewOutcome::Failed(Failure { reason, detail }) => Some((reason.as_str(), detail)),
        }
    }
}

impl From<Result<NewRequest, Failure>> for NewOutcome {
    fn from(outcome: Result<NewRequest, Failure>) -> Self {
        outcome.map_or_else(NewOutcome::Failed, NewOutcome::Request)
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
    /// Those that this release gives.
    pub const ALL: [DeliveryState; 4] =
        [Self::Pending, Self::Delivered, Self::Shadowed, Self::Failed];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Shadowed => "shadowed",
            DeliveryState::Failed => "failed",
            DeliveryState::Unknown => "unknown",
        }
    }

    /// Reads [`DeliveryState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}
