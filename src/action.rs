//! Actions, the endpoints at Loops that their requests go to, and the reasons why nothing is done. The queue stores
//! these words, the destination plans with them, and the client of Loops sends by them.

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

/// The endpoint at Loops that a request goes to.
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
    /// The person was erased less than `erased_block_days` ago.
    Erased,
    /// Loops is not known to have the contact, and the message may not create it.
    UnknownContact,
    /// The message was replayed, and none of the subscriptions that it was replayed for takes it now, or its person was
    /// deleted in the meantime.
    Replay,
    /// A record has a reason that this release does not know.
    Unknown,
}

/// Why no subscription took a message, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmatched {
    /// The reason.
    pub reason: UnmatchedReason,
    /// The same in words. It never holds a part of the message.
    pub detail: String,
}

impl ActionKind {
    /// All actions.
    pub const ALL: [ActionKind; 3] =
        [ActionKind::CreateOrUpdateContact, ActionKind::SendEvent, ActionKind::DeleteContact];

    /// Returns the name in Segment's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            ActionKind::CreateOrUpdateContact => "createOrUpdateContact",
            ActionKind::SendEvent => "sendEvent",
            ActionKind::DeleteContact => "deleteContact",
        }
    }

    /// Reads the name of an action.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    /// Returns the action whose requests go to an endpoint.
    pub fn at(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::UpdateContact => ActionKind::CreateOrUpdateContact,
            Endpoint::SendEvent => ActionKind::SendEvent,
            Endpoint::DeleteContact => ActionKind::DeleteContact,
        }
    }
}

impl Endpoint {
    /// All endpoints.
    pub const ALL: [Endpoint; 3] =
        [Endpoint::UpdateContact, Endpoint::SendEvent, Endpoint::DeleteContact];

    /// Returns the HTTP method.
    pub fn method(self) -> &'static str {
        match self {
            Endpoint::UpdateContact => "PUT",
            Endpoint::SendEvent | Endpoint::DeleteContact => "POST",
        }
    }

    /// Returns the path below the base URL (`https://app.loops.so/api/v1`).
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::UpdateContact => "/contacts/update",
            Endpoint::SendEvent => "/events/send",
            Endpoint::DeleteContact => "/contacts/delete",
        }
    }

    /// Reads what [`Endpoint::path`] returns.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// Returns whether Loops accepts an `Idempotency-Key` here: only for events, according to its contract.
    pub fn takes_idempotency_key(self) -> bool {
        matches!(self, Endpoint::SendEvent)
    }
}

impl UnmatchedReason {
    /// The reasons that this release gives.
    pub const ALL: [UnmatchedReason; 6] = [
        UnmatchedReason::NoSubscription,
        UnmatchedReason::Integrations,
        UnmatchedReason::Consent,
        UnmatchedReason::Erased,
        UnmatchedReason::UnknownContact,
        UnmatchedReason::Replay,
    ];

    /// Returns the name of the reason, as it is stored and shown.
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

    /// Reads what [`UnmatchedReason::as_str`] returns.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}
