//! Counts tasks that panicked, so that a bug that one message triggers does not stop its lane forever.
//!
//! A panic is a bug of this program, but its cause may be temporary. So the task is repeated, each time after a longer
//! wait and without neighbours, which may have caused it. A message whose step panics every time is set aside.

use std::collections::HashMap;
use std::time::Duration;

use crate::queue::Seq;
use crate::segment::LaneKey;

/// A message is set aside after this many panics in a row.
const PANICS_MAX: u32 = 5;

/// The waits after a panic: each is twice as long as the one before.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The work of a task that may panic: a step of a message in this lane, or reading the lane (`None`).
pub(super) type Task = (LaneKey, Option<Seq>);

/// How many times in a row each task panicked.
#[derive(Debug, Default)]
pub(super) struct Panics {
    counts: HashMap<Task, u32>,
}

impl Panics {
    /// Returns how many times in a row it panicked.
    pub(super) fn count(&self, task: Task) -> u32 {
        self.counts.get(&task).copied().unwrap_or_default()
    }

    /// Returns how many times it panicked, if that is too often to repeat it.
    pub(super) fn too_many(&self, task: Task) -> Option<u32> {
        Some(self.count(task)).filter(|count| *count >= PANICS_MAX)
    }

    /// Notes that it panicked; returns how long its lane waits.
    pub(super) fn note(&mut self, task: Task) -> Duration {
        let count = self.counts.entry(task).or_default();
        *count = count.saturating_add(1);
        WAIT_MIN.saturating_mul(2_u32.saturating_pow(*count - 1)).min(WAIT_MAX)
    }

    /// Notes that it ended without a panic.
    pub(super) fn forget(&mut self, task: Task) {
        self.counts.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let mut panics = Panics::default();
        let task = (LaneKey(7), Some(Seq(1)));
        let waits: Vec<u64> = (0..40).map(|_| panics.note(task).as_secs()).collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[39], 60);
        assert_eq!((panics.count(task), panics.too_many(task)), (40, Some(40)));
        assert_eq!(panics.too_many((LaneKey(7), None)), None);
        panics.forget(task);
        assert_eq!(panics.count(task), 0);
    }
}
