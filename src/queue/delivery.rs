//! The delivery of a message under one subscription.

use jiff::Timestamp;

use super::failure::{Failure, FailureReason, NotNeeded, NotNeededReason};
use super::request::{NewRequest, RequestRecord};
use crate::action::ActionKind;
use crate::segment::RequestDigest;

/// One delivery of a plan.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Name of the subscription; `None`: the message failed before any subscription was tried.
    pub subscription: Option<String>,
    /// The action of the subscription.
    pub action: Option<ActionKind>,
    /// What was left out of the request or changed in it, as sentences for people.
    pub warnings: Vec<String>,
    /// The digest of the request as its subscription made it, before anything was left out of it; `None`: it made no
    /// request.
    pub planned: Option<RequestDigest>,
    /// The request that carries it, or the reason why there is none.
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

impl NewOutcome {
    /// Returns the request, if one carries the delivery.
    pub fn request(&self) -> Option<&NewRequest> {
        match self {
            NewOutcome::Request(request) => Some(request),
            NewOutcome::NotNeeded(_) | NewOutcome::Failed(_) => None,
        }
    }

    /// Returns why it failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            NewOutcome::Failed(failure) => Some(failure),
            NewOutcome::Request(_) | NewOutcome::NotNeeded(_) => None,
        }
    }

    /// Returns the state of the delivery.
    pub fn state(&self) -> DeliveryState {
        match self {
            NewOutcome::Request(_) => DeliveryState::Pending,
            NewOutcome::NotNeeded(_) => DeliveryState::Delivered,
            NewOutcome::Failed(_) => DeliveryState::Failed,
        }
    }

    /// Returns why it ended, as a word and as a sentence, if it did.
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

/// The delivery of a message under one subscription.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// Name of the subscription; `None`: the message failed before any subscription was tried.
    pub subscription: Option<String>,
    /// The action of the subscription; `None` also if this release does not know it.
    pub action: Option<ActionKind>,
    /// The number of the replay that made it; 0 if it was not made by a replay.
    pub replay: u32,
    /// Whether a later replay superseded it, so that it no longer counts for the state of its message.
    pub is_superseded: bool,
    /// Its state.
    pub state: DeliveryState,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// It failed because Loops does not have the contact that the event names. If the contact is created by this time,
    /// the event is replayed automatically.
    pub awaits_contact_until: Option<Timestamp>,
    /// Why it was delivered without a request.
    pub not_needed: Option<NotNeeded>,
    /// What was left out of the request or changed in it.
    pub warnings: Vec<String>,
    /// See [`NewDelivery::planned`].
    pub planned: Option<RequestDigest>,
    /// The request that carries it; `None` if it ended before there was one.
    pub request: Option<RequestRecord>,
}

impl DeliveryRecord {
    /// Reads why a delivery ended, as [`NewOutcome::ended`] wrote it: why it failed, or why it needed no request.
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

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the README")]
pub enum DeliveryState {
    Pending,
    Delivered,
    Shadowed,
    Failed,
    /// Read from the store, but unknown to this release.
    Unknown,
}

impl DeliveryState {
    /// Those that this release gives.
    pub const ALL: [DeliveryState; 4] =
        [Self::Pending, Self::Delivered, Self::Shadowed, Self::Failed];

    /// Returns the name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Shadowed => "shadowed",
            DeliveryState::Failed => "failed",
            DeliveryState::Unknown => "unknown",
        }
    }

    /// Parses the result of [`DeliveryState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}
