//! Metrics of write transactions. The handles are looked up once.

use std::time::Duration;

use metrics::{Histogram, histogram};

use crate::telemetry;

/// The metrics of one writer.
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

    /// Records a committed transaction that accepted this many messages, possibly none.
    pub(super) fn committed(&self, took: Duration, messages: usize) {
        self.seconds.record(took);
        if messages > 0 {
            self.messages.record(messages as f64);
        }
    }
}
