//! Judges small bodies on the thread that serves the connection, and large ones apart, few at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::HttpState;

/// Longer bodies are judged outside the threads that serve connections.
const LARGE_BODY_BYTES: usize = 256 * 1024;

/// The permits for large bodies, one for each processor. Decoded JSON takes up to a hundred times its
/// length, so more bodies at a time would need more memory and end no sooner.
pub(super) fn permits() -> Arc<Semaphore> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(processors))
}

/// Runs the work on a body of this length.
pub(super) async fn on<T>(state: &HttpState, body_bytes: usize, work: impl FnOnce() -> T) -> T {
    if body_bytes <= LARGE_BODY_BYTES {
        return work();
    }
    // The semaphore is never closed.
    let _permit = state.0.large_bodies.acquire().await;
    // Others on this thread must not wait for it.
    tokio::task::block_in_place(work)
}
