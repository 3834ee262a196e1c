//! A wall clock that follows the simulated time, and can be set.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::clock::Clock;

/// When each simulation begins, in seconds since the epoch.
const BEGINNING: i64 = 1_700_000_000;

#[derive(Debug)]
pub(super) struct SimulatedClock {
    began: Instant,
    /// By how much the clock is wrong, in milliseconds.
    off_by: AtomicI64,
}

impl SimulatedClock {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), off_by: AtomicI64::new(0) }
    }

    /// Returns by how much the clock is wrong.
    pub(super) fn off_by(&self) -> SignedDuration {
        SignedDuration::from_millis(self.off_by.load(Ordering::Relaxed))
    }

    /// Sets the clock forward, or back if `by` is negative.
    pub(super) fn jump(&self, by: SignedDuration) {
        self.off_by.fetch_add(by.as_millis() as i64, Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.began.elapsed().as_millis() as i64;
        let ms = BEGINNING * 1_000 + elapsed + self.off_by.load(Ordering::Relaxed);
        Timestamp::from_millisecond(ms).unwrap()
    }
}
