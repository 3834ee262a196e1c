//! What can be done with a message: the actions, the endpoints of Loops that their requests go to, and
//! the reasons why nothing is done. The words that the queue keeps, the destination plans with and the
//! client of Loops sends by.

/// What a subscription does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActionKind {
    /// Creates a contact or updates it.
    CreateOrUpdateContact,
    /// Sends an event.
    SendEvent,
    /// Deletes a contact.
    DeleteContact,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `PUT /contacts/update`: creates the contact if there is none.
    UpdateContact,
    /// `POST /events/send`.
    SendEvent,
    /// `POST /contacts/delete`.
    DeleteContact,
}

/// Why no subscription took a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnmatchedReason {
    /// No trigger of an enabled subscription matched.
    NoSubscription,
    /// `integrations` of the message turns the destination off.
    Integrations,
    /// The person did not consent to the categories that the destination is for.
    Consent,
    /// Its person was erased a short time ago: `erased_block_days`.
    Erased,
    /// Loops is not known to have its contact, and it may not create it.
    UnknownContact,
    /// It was replayed, and none of the subscriptions that it was replayed for takes it now, or its person
    /// was deleted meanwhile.
    Replay,
    /// A reason of another release, in a record.
    Unknown,
}

/// Why no subscription took a message, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmatched {
    /// The reason.
    pub reason: UnmatchedReason,
    /// The same in words; never holds a part of the message.
    pub detail: String,
}

impl ActionKind {
    /// All of them.
    pub const ALL: [ActionKind; 3] =
        [ActionKind::CreateOrUpdateContact, ActionKind::SendEvent, ActionKind::DeleteContact];

    /// As Segment's configuration names it.
    pub fn as_str(self) -> &'static str {
        match self {
            ActionKind::CreateOrUpdateContact => "createOrUpdateContact",
            ActionKind::SendEvent => "sendEvent",
            ActionKind::DeleteContact => "deleteContact",
        }
    }

    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    /// The action whose requests go there.
    pub fn at(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::UpdateContact => ActionKind::CreateOrUpdateContact,
            Endpoint::SendEvent => ActionKind::SendEvent,
            Endpoint::DeleteContact => ActionKind::DeleteContact,
        }
    }
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Endpoint; 3] =
        [Endpoint::UpdateContact, Endpoint::SendEvent, Endpoint::DeleteContact];

    /// The HTTP method.
    pub fn method(self) -> &'static str {
        match self {
            Endpoint::UpdateContact => "PUT",
            Endpoint::SendEvent | Endpoint::DeleteContact => "POST",
        }
    }

    /// The path below the base URL (`https://app.loops.so/api/v1`).
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::UpdateContact => "/contacts/update",
            Endpoint::SendEvent => "/events/send",
            Endpoint::DeleteContact => "/contacts/delete",
        }
    }

    /// Reads [`Endpoint::path`] back.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// Whether Loops takes an `Idempotency-Key` here: only for events, by its contract.
    pub fn takes_idempotency_key(self) -> bool {
        matches!(self, Endpoint::SendEvent)
    }
}

impl UnmatchedReason {
    /// Those that this release gives.
    pub const ALL: [UnmatchedReason; 6] = [
        UnmatchedReason::NoSubscription,
        UnmatchedReason::Integrations,
        UnmatchedReason::Consent,
        UnmatchedReason::Erased,
        UnmatchedReason::UnknownContact,
        UnmatchedReason::Replay,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            UnmatchedReason::NoSubscription => "no_subscription",
            UnmatchedReason::Integrations => "integrations",
            UnmatchedReason::Consent => "consent",
            UnmatchedReason::Erased => "erased",
            UnmatchedReason::UnknownContact => "unknown_contact",
            UnmatchedReason::Replay => "replay",
            UnmatchedReason::Unknown => "unknown",
        }
    }

    /// Reads [`UnmatchedReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}
