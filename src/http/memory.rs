//! The memory that requests may take at once: for their bodies, and for the messages decoded from them.
//!
//! Each request has an [`Account`] of the one [`Budget`]. It pays for the body while that is received and decompressed,
//! then for the messages until the store is done with them, then for a long response until the client has read it. The
//! sender of a request for which there is no room is asked to retry.
//!
//! Decoded messages are not paid for. A request decodes one message at a time, and the whole process only one large
//! message, which takes up to fifty times its length (see [`super::work`]).

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in units of this many bytes, so that a semaphore's counter can hold it.
const UNIT: usize = 1_024;

/// The first bytes of each request are paid for from a part of the budget that nothing else may use.
const SMALL_BYTES: usize = 16 * 1_024;

/// The most memory that one request takes, as a multiple of the largest body: the body, and messages of up to twice its
/// size, with their records.
pub(crate) const BODIES_PER_REQUEST: usize = 4;

/// The memory that may still be taken.
///
/// It has three parts. A quarter pays for the first 16 KiB of requests and nothing else, so that small requests get
/// in beside large ones. About a third, `open`, is for everyone, and the rest is for senders whose headers carry
/// a secret: slow unauthenticated uploads cannot keep those senders out.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    small: Arc<Semaphore>,
    open: Arc<Semaphore>,
    known: Arc<Semaphore>,
}

/// The budget has no room for more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// One request's share of the budget. It is given back when the account is dropped.
#[derive(Debug)]
pub(super) struct Account {
    budget: Budget,
    is_known: bool,
    permits: Vec<OwnedSemaphorePermit>,
    units: usize,
}

impl Budget {
    /// Creates a budget of this many bytes in all. One request with the largest body always has room: twice that body,
    /// compressed and not, while its sender is unknown, and then everything that it takes.
    pub(super) fn new(bytes: usize, body_bytes_max: usize) -> Self {
        let semaphore = |bytes: usize| {
            Arc::new(Semaphore::new(bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)))
        };
        let small = bytes / 4;
        let open = small.max(body_bytes_max.saturating_mul(2));
        let both = (bytes - small).max(body_bytes_max.saturating_mul(BODIES_PER_REQUEST));
        let known = both.saturating_sub(open);
        Self { small: semaphore(small), open: semaphore(open), known: semaphore(known) }
    }

    /// Returns an account that holds nothing, for a sender who is not known.
    pub(super) fn account(&self) -> Account {
        Account { budget: self.clone(), is_known: false, permits: Vec::new(), units: 0 }
    }
}

impl Account {
    /// Lets the account use the part for known senders, including for memory that it already holds from the part for
    /// everyone.
    pub(super) fn set_known(&mut self) {
        if std::mem::replace(&mut self.is_known, true) {
            return;
        }
        for permit in &mut self.permits {
            if Arc::ptr_eq(permit.semaphore(), &self.budget.open)
                && let Ok(other) = take(&self.budget.known, permit.num_permits())
            {
                *permit = other;
            }
        }
    }

    /// Takes or gives back units until the account holds this many bytes.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let due = bytes.div_ceil(UNIT);
        while self.units > due {
            self.give_back(self.units - due);
        }
        let small = due.min(SMALL_BYTES / UNIT);
        if small > self.units {
            let units = small - self.units;
            match take(&self.budget.small, units) {
                Ok(permit) => self.add(permit),
                Err(NoRoom) => self.take_large(units)?,
            }
        }
        self.take_large(due.saturating_sub(self.units))
    }

    /// Takes this many more bytes.
    pub(super) fn add_bytes(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.hold((self.units * UNIT).saturating_add(bytes))
    }

    /// Turns the bytes into shared ones that keep this account open until their last owner drops them.
    pub(super) fn bind(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Bound { bytes, _account: self })
    }

    /// Takes units for more than the first bytes of a request, from one part or from both.
    fn take_large(&mut self, units: usize) -> Result<(), NoRoom> {
        let Budget { open, known, .. } = &self.budget;
        let of_known = match self.is_known {
            true => units.min(known.available_permits()),
            false => 0,
        };
        // Others may take some in the meantime. The request is then rejected, as it might have been a moment later.
        let parts = [(known, of_known), (open, units - of_known)];
        let parts = parts.map(|(part, units)| (units > 0).then(|| take(part, units)).transpose());
        let [from_known, from_open] = parts;
        let taken = [from_known?, from_open?];
        taken.into_iter().flatten().for_each(|permit| self.add(permit));
        Ok(())
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

    fn held(budget: &Budget, is_known: bool, bytes: usize) -> Option<Account> {
        let mut account = budget.account();
        if is_known {
            account.set_known();
        }
        account.hold(bytes).ok().map(|()| account)
    }

    /// Holds as much as senders can, in requests of these lengths.
    fn all(budget: &Budget, is_known: bool, lengths: &[usize]) -> Vec<Account> {
        let of_length = |bytes| std::iter::from_fn(move || held(budget, is_known, bytes));
        lengths.iter().copied().flat_map(of_length).collect()
    }

    #[test]
    fn large_requests_leave_room_for_small_ones() {
        let budget = Budget::new(1_000_000, 100_000);
        let large = all(&budget, true, &[500_000, 100_000, 20_000]);
        assert!(held(&budget, true, 20_000).is_none());
        let small: Vec<_> = (0..4).map(|_| held(&budget, true, SMALL_BYTES).unwrap()).collect();
        drop((large, small));
        assert!(held(&budget, true, 600_000).is_some());
    }

    #[test]
    fn strangers_leave_room_for_known_senders() {
        let budget = Budget::new(1_000_000, 100_000);
        let strangers = all(&budget, false, &[300_000, 100_000, 20_000, 1]);
        assert!(held(&budget, false, 1).is_none());
        let large = held(&budget, true, 400_000).unwrap();
        let small = held(&budget, true, SMALL_BYTES).unwrap();
        drop((strangers, large, small));
        // A request with the largest body always has room: for the body, compressed and not, and then for its messages.
        let mut largest = held(&budget, false, 200_000).unwrap();
        assert_eq!(largest.hold(300_000), Err(NoRoom));
        let _other = held(&budget, false, 50_000).unwrap();
        largest.set_known();
        largest.hold(600_000).unwrap();
        drop(largest);
        // A sender that has become known takes nothing from the part for everyone.
        let mut now_known = held(&budget, false, 180_000).unwrap();
        assert!(held(&budget, false, 100_000).is_none());
        now_known.set_known();
        assert!(held(&budget, false, 100_000).is_some());
    }

    #[test]
    fn an_account_holds_what_it_was_last_told_and_gives_back_the_rest() {
        let budget = Budget::new(100 * UNIT, 0);
        let of = |parts: &[&Semaphore]| parts.iter().map(|part| part.available_permits()).sum();
        let left =
            || -> (usize, usize) { (of(&[&budget.small]), of(&[&budget.known, &budget.open])) };
        let mut account = budget.account();
        account.set_known();
        // (the bytes held, the units left for small requests and for all others)
        let cases = [
            (1, (24, 75)),
            (2 * UNIT, (23, 75)),
            (16 * UNIT, (9, 75)),
            (17 * UNIT, (9, 74)),
            (60 * UNIT, (9, 31)),
            (70 * UNIT, (9, 21)),
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
        // A failed addition changes nothing.
        assert_eq!(left(), (9, 0));
        let bytes = account.bind(vec![1, 2, 3]);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&part[..], left()), (&[2, 3][..], (9, 0)));
        drop(part);
        assert_eq!(left(), (25, 75));
    }
}
