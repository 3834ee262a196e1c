//! Limits the log lines about an event that any client can cause as often as it likes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(60);

/// Allows a number of log lines a minute.
#[derive(Debug)]
pub(super) struct LineLimit {
    lines_max: u32,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    began: Option<Instant>,
    written: u32,
    /// Events without a line since the last line.
    unlogged: u64,
}

impl LineLimit {
    /// Allows this many lines a minute.
    pub(super) fn new(lines_max: u32) -> Self {
        Self { lines_max, lines: Mutex::default() }
    }

    /// Returns the number of events that were not logged since the last line; `None` if this event must not be logged
    /// either.
    pub(super) fn line(&self, now: Instant) -> Option<u64> {
        // A panic between plain assignments leaves nothing half done.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over =
            lines.began.is_none_or(|began| now.saturating_duration_since(began) >= PERIOD);
        if is_over {
            lines.began = Some(now);
            lines.written = 0;
        }
        if lines.written == self.lines_max {
            lines.unlogged += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_events_have_few_lines() {
        let limit = LineLimit::new(20);
        let begin = Instant::now();
        for _ in 0..20 {
            assert_eq!(limit.line(begin), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(limit.line(begin + PERIOD - Duration::from_millis(1)), None);
        }
        assert_eq!(limit.line(begin + PERIOD), Some(3));
        assert_eq!(limit.line(begin + PERIOD), Some(0));
    }
}
