//! When a failed request is retried: exponential backoff with full jitter.

use std::time::Duration;

use jiff::Timestamp;

/// When failed requests are retried.
#[derive(Debug, Clone, Copy)]
pub struct RetryOptions {
    /// The shortest wait, which is also the base of the backoff.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// How long after its first attempt a request is retried. Loops keeps idempotency keys for 24 h.
    pub window: Duration,
}

impl RetryOptions {
    /// Returns the wait after attempt number `attempt` (1 for the first). It is random, between `min` and a limit that
    /// doubles with each attempt, so that requests that failed together are not retried together.
    pub fn delay(&self, attempt: u32) -> Duration {
        let doubled = self.min.saturating_mul(2u32.saturating_pow(attempt.clamp(1, 31)));
        let longest = doubled.min(self.max).max(self.min);
        let spread = longest - self.min;
        self.min + spread.mul_f64(fastrand::f64())
    }

    /// Returns how long to wait for a retry whose time was read from disk. If that would be longer than the longest
    /// wait, the clock was set back after the time was written, or the longest wait was shortened. The retry is then
    /// due now.
    pub fn wait_for(&self, due_at: Timestamp, now: Timestamp) -> Duration {
        let wait = Duration::try_from(due_at.duration_since(now)).unwrap_or_default();
        if wait > self.max.max(self.min) { Duration::ZERO } else { wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: RetryOptions = RetryOptions {
        min: Duration::from_secs(1),
        max: Duration::from_secs(600),
        window: Duration::from_secs(24 * 3600),
    };

    #[test]
    fn waits_grow_and_are_bounded() {
        for (attempt, longest) in
            [(0, 2), (1, 2), (2, 4), (5, 32), (9, 512), (10, 600), (4_000_000, 600)]
        {
            let longest = Duration::from_secs(longest);
            let delays = (0..200).map(|_| OPTIONS.delay(attempt)).collect::<Vec<_>>();
            for delay in &delays {
                assert!((OPTIONS.min..=longest).contains(delay), "{attempt}: {delay:?}");
            }
            // The waits are spread over the whole range.
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            let spread = longest - OPTIONS.min;
            assert!(*most > OPTIONS.min + spread / 2, "{attempt}: {most:?}");
            assert!(*least < OPTIONS.min + spread / 2, "{attempt}: {least:?}");
        }
    }

    #[test]
    fn a_retry_waits_until_it_is_due_but_never_longer_than_any_wait() {
        let now: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
        for (due_at, seconds) in [
            ("2026-11-23T00:00:01Z", 1),
            ("2026-11-23T00:10:00Z", 600),
            ("2026-11-23T00:00:00Z", 0),
            ("2026-11-22T00:00:00Z", 0),
            // The clock was set back, by an hour or by decades.
            ("2026-11-23T00:10:01Z", 0),
            ("2026-11-23T01:00:01Z", 0),
            ("2079-01-01T00:00:00Z", 0),
        ] {
            let wait = OPTIONS.wait_for(due_at.parse().unwrap(), now);
            assert_eq!(wait, Duration::from_secs(seconds), "{due_at}");
        }
        // A retry may wait longer if the longest wait allows it.
        let slow = RetryOptions { min: Duration::from_secs(7_200), ..OPTIONS };
        let wait = slow.wait_for("2026-11-23T01:00:00Z".parse().unwrap(), now);
        assert_eq!(wait, Duration::from_secs(3_600));
    }
}
