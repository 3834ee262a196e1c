//! The order to stop, and by when.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Stops engines. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    deadline: Arc<OnceLock<Instant>>,
}

impl Stop {
    /// Stops: what is under way may end until `deadline`. Only the first order counts.
    pub fn by(&self, deadline: Instant) {
        self.deadline.get_or_init(|| deadline);
        self.token.cancel();
    }

    /// Whether the order was given.
    pub(super) fn is_ordered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for the order; returns the deadline.
    pub(super) async fn ordered(&self) -> Instant {
        self.token.cancelled().await;
        // It is set before the token is cancelled.
        self.deadline.get().copied().unwrap_or_else(Instant::now)
    }
}
