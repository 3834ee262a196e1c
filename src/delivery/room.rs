//! The memory of messages that are being delivered, in all destinations of the process.
//!
//! A step may wait for as long as Loops takes to answer, with its request in memory. Small messages are bounded by the number of
//! steps at a time. Of large ones, only a few are in memory; the lanes of others wait, and small messages go on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::large::{LARGE_BYTES, Turns};

/// How many messages are opened and planned at a time. A planned message is short, but what it is decoded to is not.
const PREPARED_MAX: usize = 4;

/// How many large messages are in memory at a time, whatever their length, so that the largest have the same chance. An
/// answer of Loops takes some 300 ms, so this is twice its usual rate of 10 a second.
const LARGE_MAX: usize = 6;

/// The time between two looks at large messages for which there may be no room: each look reads one.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The room for messages. Its clones share it.
#[derive(Debug, Clone)]
pub struct Room {
    prepared: Arc<Semaphore>,
    large: Arc<Semaphore>,
    pub(super) turns: Turns,
    /// When the next lane without room may look again.
    next_look: Arc<Mutex<Instant>>,
}

/// The right to open messages and to plan them.
#[derive(Debug)]
pub(super) struct Preparing {
    _permit: Option<OwnedSemaphorePermit>,
}

/// The right to keep a message in memory.
#[derive(Debug)]
pub(super) struct Kept {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// An empty room, where large messages take these turns to be decoded.
    pub fn new(turns: Turns) -> Self {
        Self {
            prepared: Arc::new(Semaphore::new(PREPARED_MAX)),
            large: Arc::new(Semaphore::new(LARGE_MAX)),
            turns,
            next_look: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Waits until a message may be opened and planned. Never with another such right in hand.
    pub(super) async fn prepare(&self) -> Preparing {
        // The semaphore is never closed.
        Preparing { _permit: Arc::clone(&self.prepared).acquire_owned().await.ok() }
    }

    /// Makes room for a message of this many bytes; otherwise returns how long its lane should wait.
    pub(super) fn keep(&self, bytes: usize) -> Result<Kept, Duration> {
        if bytes <= LARGE_BYTES {
            return Ok(Kept { _permit: None });
        }
        match Arc::clone(&self.large).try_acquire_owned() {
            Ok(permit) => Ok(Kept { _permit: Some(permit) }),
            Err(_) => Err(self.wait()),
        }
    }

    /// Lanes look one after the other, so that a long backlog of large messages is not read over and over.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        // A panic between plain assignments leaves nothing half done.
        let mut next = self.next_look.lock().unwrap_or_else(PoisonError::into_inner);
        *next = now.max(*next) + LOOK_EVERY;
        *next - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_messages_wait_for_room_one_after_the_other_and_small_ones_do_not() {
        let room = Room::new(Turns::default());
        // Also one that is longer than all others together.
        let lengths = [LARGE_BYTES + 1, usize::MAX].into_iter().cycle();
        let mut kept: Vec<_> =
            lengths.take(LARGE_MAX).map(|bytes| room.keep(bytes).unwrap()).collect();
        for looks in 1..=3 {
            assert_eq!(room.keep(LARGE_BYTES + 1).unwrap_err(), looks * LOOK_EVERY);
        }
        for _ in 0..1_000 {
            kept.push(room.keep(LARGE_BYTES).unwrap());
        }
        tokio::time::sleep(10 * LOOK_EVERY).await;
        assert_eq!(room.clone().keep(LARGE_BYTES + 1).unwrap_err(), LOOK_EVERY, "clones share it");
        kept.remove(0);
        room.keep(LARGE_BYTES + 1).unwrap();
    }
}
