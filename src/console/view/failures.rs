//! Failures by cause.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::{self, FailureReason};

/// The latest failures, grouped by cause.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failures {
    /// The groups, largest first.
    pub groups: Vec<FailureGroup>,
    /// How many failed deliveries were read, whether or not they match.
    pub read: u64,
    /// Whether these are all matching failures; if not, older ones were not read.
    pub complete: bool,
}

/// Failed deliveries with the same cause.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureGroup {
    /// Name of the destination.
    pub destination: String,
    /// Name of the subscription; null if the messages failed before they were matched.
    #[schema(required)]
    pub subscription: Option<String>,
    /// Why the deliveries failed, for programs.
    pub reason: FailureReason,
    /// Why the deliveries failed, for people: numbers, ids, addresses and quoted values are replaced by `…`.
    /// Empty once the contents of the messages are past their retention.
    #[schema(example = "no list …")]
    pub cause: String,
    /// How many deliveries failed.
    pub deliveries: u64,
    /// When the first of them failed.
    #[schema(value_type = String, format = DateTime)]
    pub first_at: Timestamp,
    /// When the last of them failed.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Timestamp,
    /// The latest message among them.
    pub example: Example,
}

/// One message of many.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// Segment's `messageId`.
    pub message_id: String,
    /// Position in the order of acceptance.
    pub seq: i64,
}

impl From<queue::FailureGroups> for Failures {
    fn from(found: queue::FailureGroups) -> Self {
        Self {
            groups: found.groups.into_iter().map(FailureGroup::from).collect(),
            read: found.read,
            complete: found.is_complete,
        }
    }
}

impl From<queue::FailureGroup> for FailureGroup {
    fn from(group: queue::FailureGroup) -> Self {
        Self {
            destination: group.destination,
            subscription: group.subscription,
            reason: group.reason,
            cause: group.cause,
            deliveries: group.deliveries,
            first_at: group.first_at,
            last_at: group.last_at,
            example: Example { message_id: group.example, seq: group.example_seq.0 },
        }
    }
}
