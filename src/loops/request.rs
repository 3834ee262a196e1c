//! The requests that deliver something, as Loops' published contract has them.

use bytes::Bytes;

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

/// A request to be made: where it goes and its JSON body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where it goes.
    pub endpoint: Endpoint,
    /// The body, as JSON.
    pub body: Bytes,
}
