//! Why a delivery failed, or was delivered without a request.

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub reason: FailureReason,
    /// What a person needs to know to fix it.
    pub detail: String,
}

/// Why a delivery failed, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// Loops refused its request.
    Refused,
    /// It was too late to send it, or to retry it.
    Expired,
    /// The mapping does not yield a request that Segment's destination would send.
    Invalid,
    /// Its user id is a placeholder that stands for "no id".
    PlaceholderId,
    /// It was held, and then discarded by an operator.
    Discarded,
    /// The stored message or its records cannot be read or contradict each other, or its delivery panicked
    /// again and again.
    Unreadable,
    /// Read from the store, but unknown to this release.
    Unknown,
}

impl FailureReason {
    /// The reasons that this release gives.
    pub const ALL: [FailureReason; 6] = [
        FailureReason::Refused,
        FailureReason::Expired,
        FailureReason::Invalid,
        FailureReason::PlaceholderId,
        FailureReason::Discarded,
        FailureReason::Unreadable,
    ];

    /// Returns the name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::Refused => "refused",
            FailureReason::Expired => "expired",
            FailureReason::Invalid => "invalid",
            FailureReason::PlaceholderId => "placeholder_id",
            FailureReason::Discarded => "discarded",
            FailureReason::Unreadable => "unreadable",
            FailureReason::Unknown => "unknown",
        }
    }

    /// Parses the result of [`FailureReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Why a delivery counts as delivered without a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotNeeded {
    /// The reason.
    pub reason: NotNeededReason,
    /// The reason as a sentence for people; never holds a value.
    pub detail: String,
}

/// Why a delivery counts as delivered without a request, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotNeededReason {
    /// Loops has accepted all its values before.
    Unchanged,
    /// Loops has newer values of all its properties.
    Stale,
    /// Read from the store, but unknown to this release.
    Unknown,
}

impl NotNeededReason {
    /// The reasons that this release gives.
    pub const ALL: [NotNeededReason; 2] = [NotNeededReason::Unchanged, NotNeededReason::Stale];

    /// Returns the name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            NotNeededReason::Unchanged => "unchanged",
            NotNeededReason::Stale => "stale",
            NotNeededReason::Unknown => "unknown",
        }
    }

    /// Parses the result of [`NotNeededReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}
