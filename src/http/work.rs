//! Where bodies are judged: small ones at once, large ones apart, and few of these at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::HttpState;

/// Bodies above this many bytes are worked on outside the threads that serve connections.
const LARGE_BODY_BYTES: usize = 256 * 1024;

/// Places for large bodies: one for each processor. JSON takes up to a hundred times its length
/// once it is decoded, so that more at a time would need memory and end no sooner.
pub(super) fn places() -> Arc<Semaphore> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(processors))
}

/// Does the work that a body of so many bytes needs.
pub(super) async fn on<T>(state: &HttpState, body_bytes: usize, work: impl FnOnce() -> T) -> T {
    if body_bytes <= LARGE_BODY_BYTES {
        return work();
    }
    // The semaphore is never closed.
    let _place = state.0.large_bodies.acquire().await;
    // Others on this thread must not wait for it.
    tokio::task::block_in_place(work)
}
