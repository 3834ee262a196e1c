//! Decoding a message takes up to fifty times its length in memory, so the process decodes only one large message at a time,
//! incoming or outgoing.

use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::block_in_place;

/// Messages above this size are large. It is Segment's own limit, so they are rare.
pub const LARGE_BYTES: usize = 32 * 1024;

/// The turns to decode large messages, first come, first served. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<()>>);

/// A turn to decode something large. The next one begins when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for a turn to decode this many bytes; returns `None` if they are too few to need one. Deadlocks if the caller
    /// already holds a turn.
    pub fn block(&self, bytes: usize) -> Option<Turn> {
        if bytes <= LARGE_BYTES {
            return None;
        }
        let mutex = || Arc::clone(&self.0);
        let guard = mutex().try_lock_owned();
        let guard = guard.unwrap_or_else(|_| block_in_place(|| mutex().blocking_lock_owned()));
        Some(Turn { _guard: guard })
    }

    /// Decodes this many bytes when their turn comes. Other tasks of this thread do not wait for large ones.
    pub async fn decode<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> T {
        if bytes <= LARGE_BYTES {
            return work();
        }
        let _turn = self.0.lock().await;
        match Handle::current().runtime_flavor() {
            // This runtime has no other thread to which tasks could move.
            RuntimeFlavor::CurrentThread => work(),
            _ => block_in_place(work),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_large_message_is_decoded_at_a_time() {
        let turns = Turns::default();
        // Nothing else holds it, so a second holder would find it locked.
        let decoder = Arc::new(std::sync::Mutex::new(0));
        let mut decoding = JoinSet::new();
        for is_arriving in [true, false].repeat(20) {
            let (turns, decoder) = (turns.clone(), Arc::clone(&decoder));
            let decode = move || {
                let mut decoded = decoder.try_lock().expect("two are decoded at a time");
                std::thread::yield_now();
                *decoded += 1;
            };
            decoding.spawn(async move {
                match is_arriving {
                    true => {
                        let _turn = turns.block(LARGE_BYTES + 1);
                        decode();
                    }
                    false => turns.decode(LARGE_BYTES + 1, decode).await,
                }
            });
        }
        decoding.join_all().await;
        assert_eq!(*decoder.lock().unwrap(), 40);
    }

    #[tokio::test]
    async fn small_messages_need_no_turn() {
        let turns = Turns::default();
        let _turn = turns.0.lock().await;
        assert!(turns.block(LARGE_BYTES).is_none());
        assert_eq!(turns.decode(LARGE_BYTES, || 1).await, 1);
        let waiting = turns.decode(LARGE_BYTES + 1, || 1);
        assert!(timeout(Duration::from_millis(10), waiting).await.is_err());
    }
}
