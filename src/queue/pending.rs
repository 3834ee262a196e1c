//! Pending messages: what the engine reads of them, and how many there are.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::message::stored_message;
use super::order::{Class, Seq};
use super::replay::Replay;
use super::request::FrozenRequest;
use crate::segment::{LaneKey, Message};

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
    /// Only messages after this one.
    pub after: Seq,
    /// The most heads to read; zero reads none.
    pub limit: u32,
}

/// Which part of a lane to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneAsk {
    /// The lane.
    pub lane: LaneKey,
    /// Only messages after this one.
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
    /// The subscriptions it is to be delivered for, if it was replayed.
    pub replay: Replay,
    /// Its pending requests, in order; empty until it is planned.
    pub requests: Vec<FrozenRequest>,
    /// When the backup was made that the message was restored from. Loops may have received its events since then.
    /// `None`: the message did not come from a backup.
    pub restored_from: Option<Timestamp>,
}

impl Job {
    /// Parses the message; `None` if it cannot be read.
    pub fn message(&self) -> Option<Message> {
        stored_message(&self.payload)
    }

    /// Returns when the message happened, by its own `timestamp` if it has one, but no later than its receipt: the
    /// sender's clock may be ahead.
    pub fn happened_at(&self, timestamp: Option<Timestamp>) -> Timestamp {
        timestamp.map_or(self.received_at, |at| at.min(self.received_at))
    }
}

/// The backlog of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Number of pending messages.
    pub messages: u64,
    /// Number of pending messages by class, in the order of [`Class::ALL`].
    pub by_class: [u64; Class::COUNT],
    /// When the oldest pending message of each class was received, ignoring held messages and those behind them;
    /// `None`: no other message is pending.
    pub oldest_by_class: [Option<Timestamp>; Class::COUNT],
    /// How many messages are held, not counting messages that wait behind them.
    pub held: u64,
    /// Since when the first of these has been held.
    pub held_since: Option<Timestamp>,
}

impl Depth {
    /// Returns when the oldest pending message was received, ignoring held messages and those behind them.
    pub fn oldest_received_at(&self) -> Option<Timestamp> {
        self.oldest_by_class.into_iter().flatten().min()
    }

    /// Returns how long a count that took `count_took` stays valid: 200 times as long, at most a minute. Counting takes
    /// longer the more is pending; this way it costs under 0.5 % of the time and the numbers stay fresh.
    pub fn valid_for(count_took: Duration) -> Duration {
        (count_took * 200).min(Duration::from_secs(60))
    }
}
