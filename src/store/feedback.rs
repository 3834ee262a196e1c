//! Conversion of feedback that the engines share.

use jiff::Timestamp;

use super::values::{duration_ms, to_ms};
use crate::queue::{
    FORWARD_BYTES_MAX, FORWARD_WAIT_MAX, FORWARDS_MAX, FeedbackRecord, Origin, OriginKind,
    SignedWebhook, forward_wait,
};

/// The origin in its three columns. A kind that this release does not know is left out.
pub(super) fn origin(
    kind: Option<&str>,
    id: Option<String>,
    name: Option<String>,
) -> Option<Origin> {
    Some(Origin { kind: OriginKind::parse(kind?)?, id: id?, name })
}

/// Whether another webhook may wait to be handed on, beside so many that wait.
pub(super) fn has_room(waiting: i64, bytes: i64, another: &SignedWebhook) -> bool {
    let bytes = bytes.unsigned_abs().saturating_add(another.body.len() as u64);
    waiting.unsigned_abs() < FORWARDS_MAX && bytes <= FORWARD_BYTES_MAX
}

/// Until when a webhook is left alone that is taken for the given time.
pub(super) fn due_again(now: Timestamp, tries: u32) -> i64 {
    to_ms(now).saturating_add(duration_ms(forward_wait(tries)))
}

/// What is due later than this was taken while the clock was ahead.
pub(super) fn latest_due(now: Timestamp) -> i64 {
    to_ms(now).saturating_add(duration_ms(FORWARD_WAIT_MAX))
}

/// Joins what the look-ups of several digests found: sorted, each event once, at most `limit`. The first value of each
/// is its number.
pub(super) fn join(mut found: Vec<(i64, FeedbackRecord)>, limit: u32) -> Vec<FeedbackRecord> {
    found.sort_by(|(a_id, a), (b_id, b)| (b.at, b_id).cmp(&(a.at, a_id)));
    found.dedup_by_key(|(id, _)| *id);
    found.truncate(limit as usize);
    found.into_iter().map(|(_, record)| record).collect()
}
