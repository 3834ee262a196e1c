//! Counts and logs rejections. The counter is exact; the log lines are limited.
//!
//! The lines are limited because strangers can cause rejections as often as they like, and the log may be on the same
//! disk as the messages.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::time::Instant;

use super::line_limit::LineLimit;
use crate::telemetry;

/// The most log lines a minute about one code at one source.
const LINES_MAX: u32 = 20;

/// How far back rejections are counted for people, in intervals of [`PART`].
const COUNTED: Duration = Duration::from_secs(60 * 60);
/// The length of the intervals in which rejections are counted.
const PART: Duration = Duration::from_secs(60);

/// How many requests and messages were rejected in the last hour, by source and code. The source is empty if it is
/// not known.
pub type RejectedCounts = BTreeMap<String, BTreeMap<String, u64>>;

/// Counts rejections and bounds their log lines.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    /// By code and source. There are few of both, because senders cannot make them up.
    kinds: Mutex<HashMap<&'static str, HashMap<String, Kind>>>,
}

/// The rejections of one code at one source.
#[derive(Debug)]
struct Kind {
    lines: LineLimit,
    /// For each interval of [`PART`]: when it began, and the number of rejections.
    recent: VecDeque<(Instant, u64)>,
}

impl Rejections {
    /// Counts rejected requests or messages. If they may have a log line, returns how many such calls had no line since
    /// the last one. `source` is empty if it is not known.
    pub(super) fn count(
        &self,
        source: &str,
        endpoint: &'static str,
        code: &'static str,
        count: u64,
    ) -> Option<u64> {
        let labels = [
            ("source", source.to_owned()),
            ("endpoint", endpoint.to_owned()),
            ("code", code.to_owned()),
        ];
        counter!(telemetry::REJECTED, &labels).increment(count);
        let mut kinds = self.lock();
        let by_source = kinds.entry(code).or_default();
        if !by_source.contains_key(source) {
            let kind = Kind { lines: LineLimit::new(LINES_MAX), recent: VecDeque::new() };
            by_source.insert(source.to_owned(), kind);
        }
        let kind = by_source.get_mut(source)?;
        let now = Instant::now();
        kind.recent.retain(|(at, _)| now.duration_since(*at) <= COUNTED);
        match kind.recent.back_mut() {
            Some((at, known)) if now.duration_since(*at) < PART => *known += count,
            _ => kind.recent.push_back((now, count)),
        }
        kind.lines.line(now)
    }

    /// Returns the rejections of the last hour.
    pub(super) fn recent(&self) -> RejectedCounts {
        let now = Instant::now();
        let mut counts = RejectedCounts::new();
        for (code, by_source) in &*self.lock() {
            for (source, kind) in by_source {
                let recent =
                    kind.recent.iter().filter(|(at, _)| now.duration_since(*at) <= COUNTED);
                let count = recent.map(|(_, count)| count).sum::<u64>();
                if count > 0 {
                    counts.entry(source.clone()).or_default().insert((*code).to_owned(), count);
                }
            }
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, HashMap<String, Kind>>> {
        // A panic cannot leave a map half changed.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rejections_of_the_last_hour_are_counted() {
        let rejections = Rejections::default();
        let counted = |source: &str| rejections.recent().remove(source).unwrap_or_default();
        for minute in 0..90 {
            rejections.count("web", "/v1/batch", "bad_json", 2);
            if minute == 0 {
                rejections.count("", "/v1/batch", "unauthorized", 1);
                assert_eq!(counted(""), [("unauthorized".to_owned(), 1)].into());
            }
            tokio::time::advance(PART).await;
        }
        assert_eq!(counted("web"), [("bad_json".to_owned(), 120)].into());
        assert_eq!(counted(""), [].into());
        tokio::time::advance(COUNTED).await;
        assert_eq!(rejections.recent(), RejectedCounts::new());
    }

    #[test]
    fn each_code_of_each_source_has_its_own_lines() {
        let rejections = Rejections::default();
        for (source, code) in [("", "bad_json"), ("web", "bad_json"), ("web", "nobody")] {
            let lines = (0..100).filter_map(|_| rejections.count(source, "/v1/batch", code, 1));
            assert_eq!(lines.count(), LINES_MAX as usize, "{source} {code}");
        }
    }
}
