//! The plan for a message: its deliveries, or why there are none.

use jiff::Timestamp;

use super::guard::Guard;
use crate::action::{ActionKind, Unmatched};
use crate::loops::{ContactProperty, Request};
use crate::segment::{Digests, RequestDigest};

/// The plan for a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// One delivery for each subscription that takes the message, in their order, except that deletions go
    /// last.
    pub deliveries: Vec<PlannedDelivery>,
    /// Why there are no deliveries.
    pub unmatched: Option<Unmatched>,
    /// When the message happened, by its `timestamp`.
    pub happened_at: Option<Timestamp>,
}

/// The plan for a message under one subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedDelivery {
    /// Name of the subscription.
    pub subscription: String,
    /// Its action.
    pub action: ActionKind,
    /// Whether its request may be merged with its neighbours.
    pub may_merge: bool,
    /// How long after the message happened its request is worth sending, in seconds; `None`: always.
    pub max_age_s: Option<u64>,
    /// Whether its request may resubscribe people who unsubscribed before the message happened.
    pub resubscribe: bool,
    /// The guards that left something out of the request.
    pub guarded: Vec<Guard>,
    /// What was left out of the request or changed in it; never contains a value.
    pub warnings: Vec<String>,
    /// Whether another request would be sent if Loops had a property that the catalogue lacks, or had it with another
    /// type.
    pub relies_on_catalogue: bool,
    /// Contact properties that are to be created at Loops first.
    pub missing: Vec<ContactProperty>,
    /// The request, or why there is none.
    pub outcome: Result<Request, PlanFailure>,
}

/// What [`PlannedDelivery`] says besides the request, collected while the request is made.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// As in [`PlannedDelivery`].
    pub(super) warnings: Vec<String>,
    /// As in [`PlannedDelivery`].
    pub(super) guarded: Vec<Guard>,
    /// As in [`PlannedDelivery`].
    pub(super) relies_on_catalogue: bool,
    /// As in [`PlannedDelivery`].
    pub(super) missing: Vec<ContactProperty>,
}

impl PlannedDelivery {
    /// Returns the digest of its request; `None` if there is none.
    pub fn digest(&self, digests: &Digests) -> Option<RequestDigest> {
        let request = self.outcome.as_ref().ok()?;
        Some(digests.request(request.endpoint.path(), &request.body))
    }
}

/// Why a subscription that takes a message does not turn it into a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct PlanFailure {
    /// The kind of failure.
    pub kind: PlanFailureKind,
    /// What a person needs to know to fix it, in the words of Segment's runtime; never contains a value.
    pub detail: String,
}

/// Kinds of [`PlanFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanFailureKind {
    /// Segment's destination would not send it either.
    Invalid,
    /// Its user id is a word that means "no id".
    PlaceholderId,
}

impl PlanFailure {
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self { kind: PlanFailureKind::Invalid, detail: detail.into() }
    }
}
