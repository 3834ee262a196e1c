//! What the engines share about contacts at Loops.

use crate::queue::{CONTACTS_KEPT, FeedbackRecord};

/// The length of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The day of a time in milliseconds, in days since the epoch.
pub(super) fn day(at_ms: i64) -> i64 {
    at_ms.div_euclid(DAY_MS)
}

/// Contacts that were last changed before this day are forgotten.
pub(super) fn first_kept_day(now_ms: i64) -> i64 {
    day(now_ms) - (CONTACTS_KEPT.as_millis() as i64) / DAY_MS
}

/// Whether a report of Loops means that a contact no longer is as our requests made it; and then, whether it was deleted.
pub(super) fn change(feedback: &FeedbackRecord) -> Option<bool> {
    match &*feedback.event {
        "contact.deleted" => Some(true),
        "contact.unsubscribed" => Some(false),
        _ => None,
    }
}
