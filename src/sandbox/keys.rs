//! The idempotency keys that were used in the last 24 hours.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

/// How long Loops remembers a key, by its contract for events.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// The most keys that are remembered; the oldest are forgotten first. Enough for 24 hours at Loops' own rate.
const KEYS_MAX: usize = 1_000_000;

/// Remembers keys for 24 hours.
#[derive(Debug, Default)]
pub(super) struct UsedKeys {
    used: HashMap<String, Timestamp>,
    /// The keys in the order of use.
    order: VecDeque<(Timestamp, String)>,
}

impl UsedKeys {
    /// Returns whether a key was used less than 24 hours before `now`.
    pub(super) fn is_used(&self, key: &str, now: Timestamp) -> bool {
        self.used.get(key).is_some_and(|at| now.duration_since(*at) < REMEMBERED)
    }

    /// Remembers the use of a key at `now`.
    pub(super) fn remember(&mut self, key: String, now: Timestamp) {
        self.used.insert(key.clone(), now);
        self.order.push_back((now, key));
        while let Some((at, _)) = self.order.front() {
            if self.order.len() <= KEYS_MAX && now.duration_since(*at) < REMEMBERED {
                break;
            }
            let Some((at, key)) = self.order.pop_front() else {
                break;
            };
            // The key may have been used again since. Then that use counts.
            if self.used.get(&key) == Some(&at) {
                self.used.remove(&key);
            }
        }
    }
}
