//! Judges small bodies on the thread that serves the connection, and large ones apart, few at a time.
//!
//! A decoded message takes up to fifty times its length, so that is what memory is bounded by here: of large messages
//! only one in the whole process is decoded at a time, and of small ones no more than there are threads.

use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::HttpState;

/// Longer bodies are judged outside the threads that serve connections, and longer messages take turns.
const LARGE_BYTES: usize = 64 * 1024;

/// The permits for large bodies, one for each processor: more at a time would end no sooner.
pub(super) fn permits() -> Arc<Semaphore> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(processors))
}

/// Runs the work on a body of this length.
pub(super) async fn on<T>(state: &HttpState, body_bytes: usize, work: impl FnOnce() -> T) -> T {
    if body_bytes <= LARGE_BYTES {
        return work();
    }
    // The semaphore is never closed.
    let _permit = state.0.large_bodies.acquire().await;
    // Others on this thread must not wait for it.
    tokio::task::block_in_place(work)
}

/// The turn to decode something large; the next one begins when it is dropped.
pub(super) struct Turn<'s> {
    _guard: MutexGuard<'s, ()>,
}

/// Waits for a turn to decode this many bytes; `None`: they need none. Only within [`on`], with a body at least as
/// long, and never with another turn in hand.
pub(super) fn turn(state: &HttpState, bytes: usize) -> Option<Turn<'_>> {
    let turns = &state.0.turns;
    (bytes > LARGE_BYTES)
        .then(|| Turn { _guard: turns.lock().unwrap_or_else(PoisonError::into_inner) })
}
