//! Judges small bodies on the thread that serves the connection, and large ones separately, a few at a time.
//!
//! A decoded message takes up to fifty times its length. To bound that memory, the whole process decodes only one large
//! message at a time (see [`crate::large`]), and no more small ones than there are threads.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::{ApiError, Contract};
use crate::large::LARGE_BYTES;

/// Permits for work on large bodies, one for each processor: more at a time would not finish sooner.
pub(super) struct LargeBodies {
    permits: Semaphore,
    /// How long a body may wait for a permit, because it holds memory that others could use.
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
                "too many large bodies arrived at once: send the request again after Retry-After",
            ));
        };
        // Other tasks on this thread must not wait for this work.
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
            // Small bodies need no permit.
            assert_eq!(bodies.on(contract, LARGE_BYTES, || Ok(1)).await, Ok(1));
        }
        drop(all);
        assert_eq!(bodies.permits.available_permits(), processors, "all permits are back");
    }
}
