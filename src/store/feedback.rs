//! Conversions of feedback, shared by the engines.

use jiff::Timestamp;

use super::values::{duration_ms, to_ms};
use crate::queue::{
    FORWARD_BYTES_MAX, FORWARD_WAIT_MAX, FORWARDS_MAX, FeedbackRecord, Origin, OriginKind,
    SignedWebhook, forward_wait,
};

/// Builds the origin from its three columns. Returns `None` if this release does not know the kind.
pub(super) fn origin(
    kind: Option<&str>,
    id: Option<String>,
    name: Option<String>,
) -> Option<Origin> {
    Some(Origin { kind: OriginKind::parse(kind?)?, id: id?, name })
}

/// Whether another webhook may be queued for forwarding, given how many wait already and their size.
pub(super) fn has_room(waiting: i64, bytes: i64, another: &SignedWebhook) -> bool {
    let bytes = bytes.unsigned_abs().saturating_add(another.body.len() as u64);
    waiting.unsigned_abs() < FORWARDS_MAX && bytes <= FORWARD_BYTES_MAX
}

/// When a webhook that is taken now, after this many tries, is due again.
pub(super) fn due_again(now: Timestamp, tries: u32) -> i64 {
    to_ms(now).saturating_add(duration_ms(forward_wait(tries)))
}

/// The latest due time that a webhook taken now can get. A later one was stored while the clock was ahead.
pub(super) fn latest_due(now: Timestamp) -> i64 {
    to_ms(now).saturating_add(duration_ms(FORWARD_WAIT_MAX))
}

/// Merges the results of looking up several digests: newest first, each event once, at most `limit`. The number beside
/// each record is its row id.
pub(super) fn join(mut found: Vec<(i64, FeedbackRecord)>, limit: u32) -> Vec<FeedbackRecord> {
    found.sort_by(|(a_id, a), (b_id, b)| (b.at, b_id).cmp(&(a.at, a_id)));
    found.dedup_by_key(|(id, _)| *id);
    found.truncate(limit as usize);
    found.into_iter().map(|(_, record)| record).collect()
}
