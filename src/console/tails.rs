//! The slots for live lists of messages.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The most live lists of one process. Each reads the store twice a second, or less often if that takes long.
pub(super) const TAILS_MAX: usize = 10;

/// The slots for live lists, which end when the program does.
#[derive(Debug, Clone)]
pub struct Tails {
    pub(super) places: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
}

impl Tails {
    /// Live lists that end when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(TAILS_MAX)), stop }
    }
}
