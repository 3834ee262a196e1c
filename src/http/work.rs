//! Judges small bodies on the thread that serves the connection, and large ones apart, few at a time.
//!
//! A decoded message takes up to fifty times its length, so that is what memory is bounded by here: of large messages
//! only one in the whole process is decoded at a time (see [`crate::large`]), and of small ones no more than there are
//! threads.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::{ApiError, Contract};
use crate::large::LARGE_BYTES;

/// Permits for work on large bodies, one for each processor: more at a time would end no sooner.
pub(super) struct LargeBodies {
    permits: Semaphore,
    /// How long a body may wait for a permit: it holds memory that others could use.
    wait_max: Duration,
}

impl LargeBodies {
    pub(super) fn new(wait_max: Duration) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { permits: Semaphore::new(processors), wait_max }
    }

    /// Runs the work on a body of this length, or asks its sender to retry if no permit is free in time.
    pub(super) async fn on<T>(
        &self,
        contract: Contract,
        body_bytes: usize,
        work: impl FnOnce() -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if body_bytes <= LARGE_BYTES {
            return work();
        }
        // The semaphore is never closed.
        let Ok(_permit) = timeout(self.wait_max, self.permits.acquire()).await else {
            return Err(contract.not_now(
                "too many large bodies came at once: send the request again after Retry-After",
            ));
        };
        // Other tasks on this thread must not wait for it.
        tokio::task::block_in_place(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_large_body_waits_for_a_permit_only_so_long() {
        let bodies = LargeBodies::new(Duration::from_secs(4));
        let processors = bodies.permits.available_permits();
        let all = bodies.permits.acquire_many(u32::try_from(processors).unwrap()).await.unwrap();
        for (contract, status) in [(Contract::Tracking, 429), (Contract::Webhook, 503)] {
            let waited = bodies.on(contract, LARGE_BYTES + 1, || -> Result<(), _> { panic!() });
            let error = waited.await.unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (status, "not_now"));
            // Small ones need no permit.
            assert_eq!(bodies.on(contract, LARGE_BYTES, || Ok(1)).await, Ok(1));
        }
        drop(all);
        assert_eq!(bodies.permits.available_permits(), processors, "all permits are back");
    }
}
