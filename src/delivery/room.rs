//! The memory of messages that are being delivered.
//!
//! A step may have to wait for Loops' response with its request in memory. The number of concurrent steps bounds the
//! memory of small messages. Each destination keeps only a few large messages in memory at a time: the lanes of the
//! other large messages wait (see [`Lanes`](super::lanes::Lanes)), while small messages go on.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::large::{LARGE_BYTES, Turns};

/// How many messages are opened and planned at a time. A message is short, but its decoded form is not.
const PREPARED_MAX: usize = 4;

/// How many large messages of a destination are in memory at a time. Their length does not matter, so that the longest
/// get the same chance. If Loops responds within 400 ms, that is enough for its usual rate of 10 a second.
pub(super) const LARGE_MAX: usize = 4;

/// The room for preparing messages, for all destinations of the process. Clones share it.
#[derive(Debug, Clone)]
pub struct Room {
    prepared: Arc<Semaphore>,
    pub(super) turns: Turns,
}

/// The right to open small messages and to plan them.
#[derive(Debug)]
pub(super) struct Preparing {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Creates an empty room in which large messages take these turns to be decoded.
    pub fn new(turns: Turns) -> Self {
        Self { prepared: Arc::new(Semaphore::new(PREPARED_MAX)), turns }
    }

    /// Waits until a message may be opened and planned. Deadlocks if all callers already hold that right.
    pub(super) async fn prepare(&self) -> Preparing {
        // The semaphore is never closed.
        Preparing { _permit: Arc::clone(&self.prepared).acquire_owned().await.ok() }
    }
}

/// The room for the large messages of one destination.
#[derive(Debug)]
pub(super) struct LargeRoom(Arc<Semaphore>);

/// The right to keep one large message in memory.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl LargeRoom {
    /// Takes a place; `None` if all are taken.
    pub(super) fn take(&self) -> Option<Place> {
        let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Place { _permit: permit })
    }
}

impl Default for LargeRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_MAX)))
    }
}

/// Returns whether a message of this many bytes needs a [`Place`].
pub(super) fn is_large(bytes: usize) -> bool {
    bytes > LARGE_BYTES
}
