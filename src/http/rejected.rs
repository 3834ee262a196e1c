//! What every rejection has: a counter, which is exact, and a log line, of which there are few.
//!
//! Strangers can have requests rejected as often as they like, and the log may be on the same disk as the messages.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use metrics::counter;
use tokio::time::Instant;

use super::line_limit::LineLimit;
use crate::telemetry;

/// The most log lines a minute about one code at one source.
const LINES_MAX: u32 = 20;

/// Counts rejections and bounds their log lines.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    /// By code and source. Both are few: senders cannot make them up.
    lines: Mutex<HashMap<&'static str, HashMap<String, LineLimit>>>,
}

impl Rejections {
    /// Counts rejected requests or messages. If they are to have a log line, returns how many such calls had none since
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
        // A panic cannot leave a map half changed.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let by_source = lines.entry(code).or_default();
        if !by_source.contains_key(source) {
            by_source.insert(source.to_owned(), LineLimit::new(LINES_MAX));
        }
        by_source.get(source)?.line(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_each_source_has_its_own_lines() {
        let rejections = Rejections::default();
        for (source, code) in [("", "bad_json"), ("web", "bad_json"), ("web", "nobody")] {
            let lines = (0..100).filter_map(|_| rejections.count(source, "/v1/batch", code, 1));
            assert_eq!(lines.count(), LINES_MAX as usize, "{source} {code}");
        }
    }
}
