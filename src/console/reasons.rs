//! Why messages failed, were not needed or were not taken, in words, and what to do about it.

use crate::action::UnmatchedReason;
use crate::queue::{Failure, FailureReason, NotNeeded};

/// Explains the reason of a failure.
pub(super) fn meaning(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::Refused => "Loops refused the request",
        FailureReason::Expired => "it became too old to be sent",
        FailureReason::Invalid => "the mapping makes no request of it that Loops could take",
        FailureReason::PlaceholderId => "its user id is a word that stands for no id",
        FailureReason::Discarded => "it was held back and discarded",
        FailureReason::Unreadable => "the stored message cannot be read",
        FailureReason::Unknown => "a later version of this program recorded why",
    }
}

/// Explains why no subscription took a message, by the reason under which it is counted.
pub(super) fn meaning_unmatched(reason: &str) -> &'static str {
    match UnmatchedReason::parse(reason).unwrap_or(UnmatchedReason::Unknown) {
        UnmatchedReason::NoSubscription => "no trigger of an enabled subscription matched",
        UnmatchedReason::Integrations => "the sender turned this destination off (`integrations`)",
        UnmatchedReason::Consent => "the person did not consent",
        UnmatchedReason::Erased => "the person was erased a short time ago (`erased_block_days`)",
        UnmatchedReason::UnknownContact => {
            "Loops is not known to have the contact, and it may not be created"
        }
        UnmatchedReason::Replay => "what they were replayed for does not take them any more",
        UnmatchedReason::Unknown => "a later version of this program recorded why",
    }
}

/// Says why a delivery failed, with the details as `say` shows them.
pub(super) fn why(failure: &Failure, say: impl Fn(&str) -> String) -> String {
    match failure.detail.as_str() {
        "" => meaning(failure.reason).to_owned(),
        detail => format!("{}: {}", meaning(failure.reason), say(detail)),
    }
}

/// Says why a delivery has no request. The details hold no values of a message.
pub(super) fn why_not_needed(why: &NotNeeded) -> String {
    format!("Not sent: {}.", why.detail)
}

/// Says what to do about failures for a reason.
pub(super) fn advice(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::Refused => {
            "Fix what Loops complains of, in the mapping, in the data or in Loops, then replay the messages."
        }
        FailureReason::Expired => {
            "They were not sent, since it was too late: replay those that are still worth sending."
        }
        FailureReason::Invalid => {
            "Change the mapping so that it fills what is missing, then reload and replay the messages."
        }
        FailureReason::PlaceholderId => {
            "Fix the sender, which sends a word in place of an id; a replay would fail in the same way."
        }
        FailureReason::Discarded => {
            "Replay the messages if their contacts are to be created after all."
        }
        FailureReason::Unreadable => {
            "This is a fault of the stored data or of this program: please report it, with the lines of the log."
        }
        FailureReason::Unknown => {
            "Run the version of this program that recorded it, or a later one."
        }
    }
}
