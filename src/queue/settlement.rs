//! What is recorded when an attempt begins or ends, and when a message is set aside.

use jiff::Timestamp;

use super::attempt::Attempt;
use super::contacts::ContactChange;
use super::failure::Failure;
use super::order::{RequestId, Seq};
use super::replay::Awaiting;

/// An attempt at a request, and its consequence.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The request.
    pub request: RequestId,
    /// The current time.
    pub now: Timestamp,
    /// The attempt; `None` if it only begins, or if the request is given up without another attempt.
    pub attempt: Option<Attempt>,
    /// The consequence.
    pub consequence: Consequence,
    /// The change in what is known of the contact; `None`: no change.
    pub contact: Option<ContactChange>,
    /// The effect on events that wait for their contact; `None`: no effect.
    pub awaiting: Option<Awaiting>,
}

/// The consequence of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consequence {
    /// None yet: the attempt is about to begin. The retry window counts from now.
    Begin,
    /// Loops accepted the request.
    Delivered,
    /// It was the request's turn, but it was not sent, because the destination is in shadow mode.
    Shadowed,
    /// The request will not be retried.
    Failed(Failure),
    /// A merged request was refused: each of its deliveries gets a request of its own.
    TakenApart,
    /// Loops already had the event of a merged request, perhaps without its other deliveries: the event counts as
    /// delivered, and each of the others gets a request of its own.
    EventDelivered,
    /// Loops may have the event of a merged request, and would no longer recognize its idempotency key: the event
    /// fails, and each of the other deliveries gets a request of its own.
    EventFailed(Failure),
    /// The request is retried at this time or later. The retry window counts from the first attempt that ends like
    /// this.
    Retry(Timestamp),
    /// The destination is paused: the request is retried when the pause ends. The attempt does not start the retry
    /// window, because Loops did not take the request.
    Hold {
        /// The request's `first_attempt_at` before this attempt.
        first_attempt_at: Option<Timestamp>,
    },
}

/// The result of a settlement.
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
