//! Requests as they are frozen and as they are looked up.

use bytes::Bytes;
use jiff::Timestamp;

use super::attempt::Attempt;
use super::order::{RequestId, Seq};
use crate::action::Endpoint;

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
    /// Whether Loops accepted all its values before, so that `skip_unchanged = "on"` would leave it out. Counted but
    /// not stored.
    pub is_redundant: bool,
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
    /// that it is known even if the process ends before it records the outcome.
    pub first_attempt_at: Option<Timestamp>,
    /// When the next attempt is due; `None`: at once.
    pub next_attempt_at: Option<Timestamp>,
    /// Whether it carries several deliveries.
    pub is_merged: bool,
    /// When it expires, by `max_age_s` of its subscription.
    pub expires_at: Option<Timestamp>,
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

/// The most messages of one request that are returned.
pub const CARRIED_MAX: usize = 100;

/// The body of a request, and the messages it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContents {
    /// Its number.
    pub id: RequestId,
    /// JSON body; `None`: it is no longer kept.
    pub body: Option<Bytes>,
    /// The messages whose deliveries it carries, in order, at most [`CARRIED_MAX`]. Some may have got another number or
    /// been deleted since.
    pub seqs: Vec<Seq>,
}

/// A delivery that a request carries, and its part of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedPart {
    /// Name of the subscription.
    pub subscription: String,
    /// The JSON body of its part of a merged request; `None`: the request carries no other delivery.
    pub body: Option<Bytes>,
}
