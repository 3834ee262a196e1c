//! Metrics of the transactions that write, each found once.

use std::time::Duration;

use metrics::{Histogram, histogram};

use crate::telemetry;

/// Those of one writer.
pub(super) struct Meters {
    seconds: Histogram,
    messages: Histogram,
}

impl Meters {
    pub(super) fn new() -> Self {
        Self {
            seconds: histogram!(telemetry::STORE_COMMIT_SECONDS),
            messages: histogram!(telemetry::STORE_GROUP_MESSAGES),
        }
    }

    /// A transaction was committed that accepted this many messages, perhaps none.
    pub(super) fn committed(&self, took: Duration, messages: usize) {
        self.seconds.record(took);
        if messages > 0 {
            self.messages.record(messages as f64);
        }
    }
}
