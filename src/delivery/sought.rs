//! The contacts about which Loops was asked. This process remembers for a while that Loops does not have a contact.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::queue::KnownContact;
use crate::segment::PersonDigest;

/// The most contacts that are remembered. When there are more, all are forgotten, and Loops is asked again.
const SOUGHT_MAX: usize = 100_000;

/// How long a contact counts as absent after Loops said so. It is not forever, because someone else may create it.
const ABSENT_FOR: Duration = Duration::from_secs(10 * 60);

/// The contacts that Loops was asked about, except those that it has.
#[derive(Debug, Default)]
pub(super) struct SoughtBefore(Mutex<HashMap<PersonDigest, Finding>>);

#[derive(Debug, Clone, Copy)]
enum Finding {
    /// Loops said at this time that it does not have the contact.
    Absent(Instant),
    /// Loops gave no usable response.
    Unanswered {
        /// When it was first asked.
        first: Instant,
        /// How many times it was asked.
        count: u32,
    },
}

impl SoughtBefore {
    pub(super) fn is_absent(&self, key: PersonDigest) -> bool {
        match self.lock().get(&key) {
            Some(Finding::Absent(at)) => at.elapsed() < ABSENT_FOR,
            Some(Finding::Unanswered { .. }) | None => false,
        }
    }

    pub(super) fn absent(&self, key: PersonDigest) {
        self.note(key, Finding::Absent(Instant::now()));
    }

    /// Notes that Loops gave no usable response; returns for how long and how many times in a row.
    pub(super) fn unanswered(&self, key: PersonDigest) -> (Duration, u32) {
        let before = self.lock().get(&key).copied();
        let (first, count) = match before {
            Some(Finding::Unanswered { first, count }) => (first, count.saturating_add(1)),
            Some(Finding::Absent(_)) | None => (Instant::now(), 1),
        };
        self.note(key, Finding::Unanswered { first, count });
        (first.elapsed(), count)
    }

    pub(super) fn forget(&self, key: PersonDigest) {
        self.lock().remove(&key);
    }

    fn note(&self, key: PersonDigest, finding: Finding) {
        let mut sought = self.lock();
        if sought.len() >= SOUGHT_MAX {
            sought.clear();
        }
        sought.insert(key, finding);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PersonDigest, Finding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A contact that Loops must be asked about.
pub(super) struct Sought {
    pub(super) contact: KnownContact,
    pub(super) user: Option<String>,
    pub(super) email: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PersonDigest = PersonDigest(7);

    #[tokio::test(start_paused = true)]
    async fn a_contact_counts_as_absent_for_some_minutes() {
        let sought = SoughtBefore::default();
        assert!(!sought.is_absent(KEY));
        sought.absent(KEY);
        tokio::time::advance(ABSENT_FOR - Duration::from_secs(1)).await;
        assert!(sought.is_absent(KEY) && !sought.is_absent(PersonDigest(8)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!sought.is_absent(KEY));
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_not_an_absent_contact() {
        let sought = SoughtBefore::default();
        assert_eq!(sought.unanswered(KEY), (Duration::ZERO, 1));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(sought.unanswered(KEY), (Duration::from_secs(5), 2));
        assert!(!sought.is_absent(KEY));
        sought.absent(KEY);
        assert!(sought.is_absent(KEY));
        assert_eq!(sought.unanswered(KEY), (Duration::ZERO, 1), "it begins anew");
    }
}
