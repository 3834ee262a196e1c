//! Bounds the messages that wait to be written.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::queue::{AcceptError, NewMessage};

/// The room for messages that wait for the writer. Each order owns its permits until it is answered, so they cannot
/// leak, whatever happens to the sender.
#[derive(Debug)]
pub(super) struct Room {
    messages: Arc<Semaphore>,
    messages_max: u32,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

impl Room {
    /// Room for this many messages and payload bytes, each at least 1.
    pub(super) fn new(messages: usize, bytes: usize) -> Self {
        let bounded = |max: usize| u32::try_from(max.max(1)).unwrap_or(u32::MAX);
        let semaphore =
            |max: u32| Arc::new(Semaphore::new((max as usize).min(Semaphore::MAX_PERMITS)));
        let messages_max = bounded(messages);
        let bytes_max = bounded(bytes);
        Self {
            messages: semaphore(messages_max),
            messages_max,
            bytes: semaphore(bytes_max),
            bytes_max,
        }
    }

    /// Takes room for messages, or fails at once. A call that is larger than the whole room takes all of it, so it can
    /// still be written, but only alone.
    pub(super) fn admit(
        &self,
        messages: &[NewMessage],
    ) -> Result<[OwnedSemaphorePermit; 2], AcceptError> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX).min(self.messages_max);
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let take = |from: &Arc<Semaphore>, permits| {
            Arc::clone(from).try_acquire_many_owned(permits).map_err(|_| AcceptError::Busy)
        };
        Ok([take(&self.messages, count)?, take(&self.bytes, bytes)?])
    }
}
