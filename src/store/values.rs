//! Values as every engine stores them. Times are Unix milliseconds.

use std::time::Duration;

use jiff::Timestamp;

/// A time as it is stored.
pub(super) fn to_ms(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// A stored time. A value out of range, which no release has stored, counts as the epoch.
pub(super) fn from_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A duration as it is stored.
pub(super) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Warnings as they are stored.
pub(super) fn to_json(warnings: &[String]) -> Option<String> {
    (!warnings.is_empty()).then(|| serde_json::Value::from(warnings).to_string())
}

/// A stored number that fits into 32 bits.
pub(super) fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
