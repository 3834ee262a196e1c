//! The memory that the heads of requests (their paths and headers) may take at once, over all connections.
//!
//! The first bytes of a head are part of what every connection costs. The rest is taken from one [`HeadBudget`] as it
//! is read, and held until the response has been produced. A connection for whose head there is no room is closed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in units of this many bytes.
const UNIT: usize = 1_024;

/// The memory of heads, in bytes. A head takes at most 48 KiB beyond its free part: 24 KiB for its bytes (see
/// `server::HEADER_BYTES_MAX`) and as much for 256 headers once they are parsed. So at least 170 of the longest heads
/// have room at a time, or 680 with the 20 KB that Segment's subscription destination sends in a header.
const BUDGET_BYTES: usize = 8 * 1_024 * 1_024;

/// The most bytes of a read. hyper's buffer grows with what a read returns, so this bounds what a connection takes while
/// it receives a body.
pub(super) const READ_BYTES_MAX: usize = 8 * 1_024;

/// The bytes of each head that are free: as many as one read returns, so that a short head always fits, even if part of
/// the body arrives with it.
const FREE_BYTES: usize = READ_BYTES_MAX;

/// The bytes that a header takes beside its text once it is parsed (measured: 120).
const HEADER_BYTES: usize = 128;
/// The first headers of each request, which are not paid for once they are parsed.
const FREE_HEADERS: usize = 64;

/// The memory that heads may still take. Clones share it.
#[derive(Debug, Clone)]
pub struct HeadBudget(Arc<Semaphore>);

impl Default for HeadBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES / UNIT)))
    }
}

/// The budget has no room for the head of a request.
#[derive(Debug, thiserror::Error)]
#[error("the heads of other requests take all the memory for heads")]
pub(super) struct NoRoom;

/// The head of the request that a connection is currently receiving or processing. Clones share it: the stream counts
/// the bytes that it reads, and the service notes when a request has its response.
#[derive(Debug, Clone)]
pub(super) struct Head(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    budget: HeadBudget,
    bytes: usize,
    is_complete: bool,
    permit: Option<OwnedSemaphorePermit>,
}

/// A request with a complete head. Dropping it gives back the memory of the head.
#[derive(Debug)]
pub(super) struct Answering(Head);

impl Head {
    pub(super) fn new(budget: &HeadBudget) -> Self {
        let budget = budget.clone();
        Self(Arc::new(Mutex::new(State { budget, bytes: 0, is_complete: false, permit: None })))
    }

    /// Pays for bytes that were read, unless they belong to a body.
    pub(super) fn read(&self, bytes: usize) -> Result<(), NoRoom> {
        let mut state = self.state();
        if state.is_complete {
            return Ok(());
        }
        state.bytes += bytes;
        let due = state.bytes.saturating_sub(FREE_BYTES);
        state.hold(due)
    }

    /// Pays for the parsed headers of a request, until it has its response.
    pub(super) fn complete(&self, headers: usize) -> Result<Answering, NoRoom> {
        let mut state = self.state();
        let parsed = headers.saturating_sub(FREE_HEADERS) * HEADER_BYTES;
        let due = state.bytes.saturating_sub(FREE_BYTES) + parsed;
        state.is_complete = true;
        state.hold(due)?;
        Ok(Answering(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between plain assignments leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes units until it holds at least this many bytes.
    fn hold(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| NoRoom)?;
        let more = Arc::clone(&self.budget.0).try_acquire_many_owned(more).map_err(|_| NoRoom)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.bytes = 0;
        state.is_complete = false;
        state.permit = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: usize = BUDGET_BYTES / UNIT;

    fn left(budget: &HeadBudget) -> usize {
        budget.0.available_permits()
    }

    #[test]
    fn a_head_is_paid_for_until_its_request_is_answered() {
        let budget = HeadBudget::default();
        let head = Head::new(&budget);
        // (the bytes that are read, the units that the head then holds)
        for (bytes, held) in [(FREE_BYTES, 0), (1, 1), (UNIT - 1, 1), (1, 2), (20 * UNIT, 22)] {
            head.read(bytes).unwrap();
            assert_eq!(left(&budget), UNITS - held, "{bytes}");
        }
        let answering = head.complete(FREE_HEADERS + UNIT / HEADER_BYTES).unwrap();
        assert_eq!(left(&budget), UNITS - 23);
        // The body is paid for elsewhere.
        head.read(10_000_000).unwrap();
        assert_eq!(left(&budget), UNITS - 23);
        drop(answering);
        assert_eq!(left(&budget), UNITS);
        head.read(FREE_BYTES).unwrap();
        assert_eq!(left(&budget), UNITS);
        head.read(5 * UNIT).unwrap();
        drop(head);
        assert_eq!(left(&budget), UNITS, "the connection has ended");
    }

    #[test]
    fn long_heads_leave_room_for_short_ones() {
        let budget = HeadBudget::default();
        let heads: Vec<_> = (0..1_000).map(|_| Head::new(&budget)).collect();
        let long = heads.iter().filter(|head| head.read(32 * UNIT).is_ok()).count();
        assert_eq!(long, UNITS / 24);
        let short = Head::new(&budget);
        short.read(FREE_BYTES).unwrap();
        let answering = short.complete(FREE_HEADERS).unwrap();
        drop((answering, heads));
        assert_eq!(left(&budget), UNITS);
        assert!(short.complete(10_000_000).is_err());
    }
}
