//! The order to stop, with its deadline.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Stops engines. All clones share one order.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    deadline: Arc<OnceLock<Instant>>,
}

impl Stop {
    /// Orders the stop: requests in flight may finish until `deadline`. Only the first order counts.
    pub fn by(&self, deadline: Instant) {
        self.deadline.get_or_init(|| deadline);
        self.token.cancel();
    }

    /// Returns whether the order was given.
    pub(super) fn is_ordered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for the order; returns the deadline.
    pub(super) async fn ordered(&self) -> Instant {
        self.token.cancelled().await;
        // `by` sets the deadline before it cancels the token.
        self.deadline.get().copied().unwrap_or_else(Instant::now)
    }
}
