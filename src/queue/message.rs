//! Messages as they are accepted and as they are looked up.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::delivery::{DeliveryRecord, DeliveryState};
use super::new_contacts::Held;
use super::order::{Class, Seq};
use crate::action::Unmatched;
use crate::js::decode::decode;
use crate::segment::{LaneKey, Message, MessageHash, MessageType, PersonDigest};
use crate::telemetry::TraceContext;

/// A stamped message to be accepted.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Name of the source that sent it.
    pub source: String,
    /// Name of the destination that its source delivers to.
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
    /// The name of the event, if it is a track.
    pub event: Option<String>,
    /// When it was received.
    pub received_at: Timestamp,
    /// The stamped message, as [`crate::js::Value::to_stored_json`] writes it.
    pub payload: Bytes,
    /// Warnings for people from when it was received; they never hold a value.
    pub warnings: Vec<String>,
    /// The trace in which it is accepted. Its delivery links to that trace. `None`: it is not traced.
    pub trace: Option<TraceContext>,
}

/// Messages that were accepted, and the transaction that wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// For each message, in order, whether it was new.
    pub accepted: Vec<Accepted>,
    /// How many messages the transaction wrote in all, including messages of other calls.
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
    /// The name of the event, if it is a track: cut off if it is too long, and [`OTHER_EVENTS`](super::OTHER_EVENTS) if
    /// its source sends too many.
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
    /// Warnings from when it was received.
    pub warnings: Vec<String>,
    /// Why it is held, if it is pending.
    pub held: Option<Held>,
    /// Its deliveries, by replay and then in the order of the subscriptions; empty until it is planned.
    pub deliveries: Vec<DeliveryRecord>,
}

impl MessageRecord {
    /// Returns its state, which follows from the deliveries that are not superseded.
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

/// The state of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// It is not planned yet, or one of its deliveries has not ended.
    Pending,
    /// Loops accepted all its deliveries.
    Delivered,
    /// It is done, none of its deliveries failed, and one was not sent because its destination was in shadow mode.
    Shadowed,
    /// It is done, and one of its deliveries failed.
    Failed,
    /// No subscription took it.
    Unmatched,
}

impl MessageState {
    /// All variants.
    pub const ALL: [MessageState; 5] = [
        MessageState::Pending,
        MessageState::Delivered,
        MessageState::Shadowed,
        MessageState::Failed,
        MessageState::Unmatched,
    ];

    /// Returns the name, as written and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            MessageState::Pending => "pending",
            MessageState::Delivered => "delivered",
            MessageState::Shadowed => "shadowed",
            MessageState::Failed => "failed",
            MessageState::Unmatched => "unmatched",
        }
    }

    /// Parses the result of [`MessageState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// The contents of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The sequence number of the message.
    pub seq: Seq,
    /// The stamped message: see [`NewMessage::payload`].
    pub payload: Bytes,
}

impl Contents {
    /// Parses the message; `None` if it cannot be read.
    pub fn message(&self) -> Option<Message> {
        stored_message(&self.payload)
    }
}

pub(super) fn stored_message(payload: &[u8]) -> Option<Message> {
    decode(payload).ok().and_then(|value| Message::from_stored(value).ok())
}
