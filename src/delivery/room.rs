//! The memory of messages that are being delivered.
//!
//! A step may wait for as long as Loops takes to answer, with its request in memory. Small messages are bounded by the number
//! of steps at a time. Of large ones, each destination has only a few in memory: the lanes of the others wait (see
//! [`Lanes`](super::lanes::Lanes)), and small messages go on.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::large::{LARGE_BYTES, Turns};

/// How many messages are opened and planned at a time. A planned message is short, but what it is decoded to is not.
const PREPARED_MAX: usize = 4;

/// How many large messages of a destination are in memory at a time, whatever their length, so that the longest have the
/// same chance. If Loops answers within 400 ms, that is enough for its usual rate of 10 a second.
pub(super) const LARGE_MAX: usize = 4;

/// The room for preparing messages, in all destinations of the process. Its clones share it.
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
    /// An empty room, where large messages take these turns to be decoded.
    pub fn new(turns: Turns) -> Self {
        Self { prepared: Arc::new(Semaphore::new(PREPARED_MAX)), turns }
    }

    /// Waits until a message may be opened and planned. Deadlocks if all callers already hold such a right.
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
    /// Returns a place, unless all are taken.
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

/// Whether a message of this many bytes needs a [`Place`].
pub(super) fn is_large(bytes: usize) -> bool {
    bytes > LARGE_BYTES
}
