//! One HTTP call for a request.

use std::time::Duration;

use jiff::Timestamp;

/// One HTTP call for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The status of the response; `None` if there was none.
    pub status: Option<u16>,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// The beginning of the response, or the network error.
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
    /// A later attempt may succeed.
    Retry,
    /// Loops does not accept the API key.
    Unauthorized,
    /// Loops will never take the request.
    Refused,
    /// The server responds with 404 to every path: the base URL is wrong.
    NotFound,
    /// Read from the store, but unknown to this release.
    Unknown,
}

impl AttemptOutcome {
    /// The outcomes that this release records.
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

    /// Returns the name, as stored and shown.
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

    /// Parses the result of [`AttemptOutcome::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}
