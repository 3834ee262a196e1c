//! The result of a replay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::queue;

/// What a replay did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Whether messages were only counted.
    pub dry_run: bool,
    /// How many messages are pending again; in a dry run, how many would be.
    pub replayed: u64,
    /// How many matching messages cannot be replayed, because their contents were deleted or a deletion of their
    /// person followed.
    pub without_contents: u64,
    /// With `onlyChanged`, how many matching messages were left out, because the current subscriptions make the same
    /// requests or none that could be sent.
    pub unchanged: u64,
    /// With `onlyChanged`, how many messages are replayed for each subscription.
    pub by_subscription: BTreeMap<String, u64>,
    /// Where to continue: send it in the next request, with the same criteria; null when all is done.
    #[schema(required)]
    pub r#continue: Option<ReplayPosition>,
}

/// Where a replay continues.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayPosition {
    /// Continues after this `seq`.
    pub after: i64,
    /// Ends with this `seq`.
    pub until: i64,
}

impl From<queue::ReplayPosition> for ReplayPosition {
    fn from(position: queue::ReplayPosition) -> Self {
        Self { after: position.after.0, until: position.until.0 }
    }
}

impl From<ReplayPosition> for queue::ReplayPosition {
    fn from(position: ReplayPosition) -> Self {
        Self { after: queue::Seq(position.after), until: queue::Seq(position.until) }
    }
}
