//! The rate of the team, over a sliding window: no second, wherever it begins, has more requests.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The length of the window: Loops' limits are per second.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts occurrences within the last second.
#[derive(Debug, Default)]
pub(super) struct SlidingSecond(VecDeque<Instant>);

impl SlidingSecond {
    /// Returns how many were noted less than a second before `now`.
    pub(super) fn count(&mut self, now: Instant) -> usize {
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.len()
    }

    /// Notes an occurrence at `now`; returns how many there are, including this one.
    pub(super) fn note(&mut self, now: Instant) -> usize {
        let before = self.count(now);
        self.0.push_back(now);
        before + 1
    }

    /// Notes an occurrence at `now`, unless there are `limit` already. Returns how many more fit.
    pub(super) fn admit(&mut self, now: Instant, limit: u32) -> Option<u32> {
        let before = u32::try_from(self.count(now)).unwrap_or(u32::MAX);
        let remaining = limit.checked_sub(before)?.checked_sub(1)?;
        self.0.push_back(now);
        Some(remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_the_limit_in_any_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = SlidingSecond::default();
        // A window that restarts at each full second would let four through by 1100 ms.
        let cases = [
            (900, Some(1)),
            (950, Some(0)),
            (999, None),
            (1100, None),
            (1899, None),
            (1900, Some(0)),
            (1949, None),
            (1950, Some(0)),
            (4000, Some(1)),
        ];
        for (ms, expected) in cases {
            assert_eq!(window.admit(at(ms), 2), expected, "at {ms} ms");
        }
        assert_eq!(SlidingSecond::default().admit(start, 0), None);
    }
}
