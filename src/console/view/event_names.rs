//! Names of events.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue;

/// Names of events.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventNames {
    /// The names, most recently seen first.
    pub event_names: Vec<EventName>,
}

/// The name of an event that a source sends.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventName {
    /// Name of the source.
    pub source: String,
    /// The name, cut after 200 bytes. `(other)` stands for all names after the source's first 10,000.
    pub name: String,
    /// When it was first seen.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen_at: Timestamp,
    /// When it was last seen, to the minute.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
}

impl From<Vec<queue::EventName>> for EventNames {
    fn from(names: Vec<queue::EventName>) -> Self {
        let of = |name: queue::EventName| {
            let queue::EventName { source, name, first_seen_at, last_seen_at } = name;
            EventName { source, name, first_seen_at, last_seen_at }
        };
        Self { event_names: names.into_iter().map(of).collect() }
    }
}
