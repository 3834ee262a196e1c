//! Counts by interval.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::{self, Stage, TallyStep};

/// Counts by interval.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tallies {
    /// The length of the intervals.
    pub step: TallyStep,
    /// The counts in order of time, without zeros.
    pub tallies: Vec<Tally>,
}

/// A count of one interval.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tally {
    /// When the interval began.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What is counted.
    pub stage: Stage,
    /// Name of the destination.
    pub destination: String,
    /// Name of the source.
    pub source: String,
    /// Name of the subscription, for deliveries; null also if they failed before they were matched.
    #[schema(required)]
    pub subscription: Option<String>,
    /// Why, for unmatched messages and failed deliveries.
    #[schema(required)]
    pub reason: Option<String>,
    /// How many.
    pub count: u64,
}

impl From<queue::Tally> for Tally {
    fn from(tally: queue::Tally) -> Self {
        let queue::Tally { at, stage, destination, source, subscription, reason, count } = tally;
        Self { at, stage, destination, source, subscription, reason, count }
    }
}
