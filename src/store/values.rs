//! Conversions between values and their stored form, the same in every engine. Times are Unix milliseconds.

use std::time::Duration;

use jiff::Timestamp;

use crate::queue::{Consequence, DeliveryState};

/// Returns the stored form of a time.
pub(super) fn to_ms(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// Reads a stored time. A value out of range, which no release ever stores, counts as the epoch.
pub(super) fn from_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Returns the stored form of a duration.
pub(super) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the stored form of warnings; `None` if there are none.
pub(super) fn to_json(warnings: &[String]) -> Option<String> {
    (!warnings.is_empty()).then(|| serde_json::Value::from(warnings).to_string())
}

/// Reads a stored count as 32 bits. A value out of range becomes the maximum.
pub(super) fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Returns the state of a request that ended, or goes on, in this way.
pub(super) fn request_state(consequence: &Consequence) -> &'static str {
    match consequence {
        Consequence::Delivered => DeliveryState::Delivered.as_str(),
        Consequence::Shadowed => DeliveryState::Shadowed.as_str(),
        Consequence::Failed(_) => DeliveryState::Failed.as_str(),
        Consequence::TakenApart | Consequence::EventDelivered | Consequence::EventFailed(_) => {
            "taken_apart"
        }
        Consequence::Begin | Consequence::Retry(_) | Consequence::Hold { .. } => {
            DeliveryState::Pending.as_str()
        }
    }
}
