//! The memory that requests may take at once: for their bodies, and for what those become.
//!
//! A request has an [`Account`] of the one [`Budget`]. It pays for its body as it comes in and as it is
//! decompressed, then for its messages as they are stored, until the store has answered, then for a long answer
//! until the client has read it. A request for which there is no room is asked to come again.
//!
//! Decoded messages are not paid for: one is decoded at a time, and of large ones, which take up to fifty times
//! their length, only one in the whole process (see [`super::work`]).

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in units of this many bytes, so that a semaphore's counter can hold it.
const UNIT: usize = 1_024;

/// The first bytes of each request are paid for from a part of the budget that nothing else may use.
const SMALL_BYTES: usize = 16 * 1_024;

/// How many times the largest body one request takes at most: the body, and messages that may come to four times as
/// much.
pub(crate) const BODIES_PER_REQUEST: usize = 6;

/// The memory that may still be taken.
///
/// It has two parts, so that small requests get in while large ones, or slow ones whose senders are not known
/// yet, hold all the rest: a quarter pays for the first 16 KiB of requests and nothing else.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// There is no room for more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// What one request holds of the budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Account {
    budget: Budget,
    permits: Vec<OwnedSemaphorePermit>,
    units: usize,
}

impl Budget {
    /// A budget of this many bytes in all; one request with the largest body always has room in it.
    pub(super) fn new(bytes: usize, body_bytes_max: usize) -> Self {
        let semaphore = |bytes: usize| {
            Arc::new(Semaphore::new(bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)))
        };
        let small = bytes / 4;
        let large = (bytes - small).max(body_bytes_max.saturating_mul(BODIES_PER_REQUEST));
        Self { small: semaphore(small), large: semaphore(large) }
    }

    /// An account that holds nothing.
    pub(super) fn account(&self) -> Account {
        Account { budget: self.clone(), permits: Vec::new(), units: 0 }
    }
}

impl Account {
    /// Takes or gives back as much as is missing to hold this many bytes.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let due = bytes.div_ceil(UNIT);
        while self.units > due {
            self.give_back(self.units - due);
        }
        let small = due.min(SMALL_BYTES / UNIT);
        if small > self.units {
            let units = small - self.units;
            let permit =
                take(&self.budget.small, units).or_else(|_| take(&self.budget.large, units));
            self.add(permit?);
        }
        if due > self.units {
            self.add(take(&self.budget.large, due - self.units)?);
        }
        Ok(())
    }

    /// Takes this many bytes more.
    pub(super) fn add_bytes(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.hold((self.units * UNIT).saturating_add(bytes))
    }

    /// Bytes that hold this account until they are dropped, whoever has them then.
    pub(super) fn bind(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Bound { bytes, _account: self })
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        self.units += permit.num_permits();
        match self.permits.last_mut() {
            Some(last) if Arc::ptr_eq(last.semaphore(), permit.semaphore()) => last.merge(permit),
            _ => self.permits.push(permit),
        }
    }

    /// Gives back this many of the units that were taken last, or fewer.
    fn give_back(&mut self, units: usize) {
        let Some(last) = self.permits.last_mut() else { return };
        match last.split(units) {
            Some(_given_back) => self.units -= units,
            None => {
                self.units -= last.num_permits();
                self.permits.pop();
            }
        }
    }
}

fn take(from: &Arc<Semaphore>, units: usize) -> Result<OwnedSemaphorePermit, NoRoom> {
    let units = u32::try_from(units).map_err(|_| NoRoom)?;
    Arc::clone(from).try_acquire_many_owned(units).map_err(|_| NoRoom)
}

struct Bound<T> {
    bytes: T,
    _account: Account,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Bound<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(budget: &Budget, bytes: usize) -> Option<Account> {
        let mut account = budget.account();
        account.hold(bytes).ok().map(|()| account)
    }

    #[test]
    fn large_requests_leave_room_for_small_ones() {
        let budget = Budget::new(1_000_000, 100_000);
        let mut large = Vec::new();
        for bytes in [500_000, 100_000, 20_000] {
            while let Some(account) = held(&budget, bytes) {
                large.push(account);
            }
        }
        assert!(held(&budget, 20_000).is_none());
        let small: Vec<_> = (0..4).map(|_| held(&budget, SMALL_BYTES).unwrap()).collect();
        drop((large, small));
        assert!(held(&budget, 600_000).is_some());
    }

    #[test]
    fn an_account_holds_what_it_was_last_told_and_gives_back_the_rest() {
        let budget = Budget::new(100 * UNIT, 0);
        let left = || (budget.small.available_permits(), budget.large.available_permits());
        let mut account = budget.account();
        // (bytes, small and large units that are left)
        let cases = [
            (1, (24, 75)),
            (2 * UNIT, (23, 75)),
            (16 * UNIT, (9, 75)),
            (17 * UNIT, (9, 74)),
            (60 * UNIT, (9, 31)),
            (16 * UNIT + 1, (9, 74)),
            (3 * UNIT, (22, 75)),
            (0, (25, 75)),
            (91 * UNIT, (9, 0)),
        ];
        for (bytes, expected) in cases {
            account.hold(bytes).unwrap();
            assert_eq!(left(), expected, "{bytes}");
        }
        assert_eq!(account.hold(92 * UNIT), Err(NoRoom));
        // What could not be added is not held, and the rest still is.
        assert_eq!(left(), (9, 0));
        let bytes = account.bind(vec![1, 2, 3]);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&part[..], left()), (&[2, 3][..], (9, 0)));
        drop(part);
        assert_eq!(left(), (25, 75));
    }
}
