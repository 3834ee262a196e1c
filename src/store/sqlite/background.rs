//! The background task of the store. Once a second, it checks the free space on the disk and verifies the write-ahead
//! log.
//!
//! While space is very low, it deletes the contents of delivered messages, oldest first, so that deliveries have room
//! and the backlog can drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::error::Fault;
use super::probe::TryToWrite;
use super::purge::MakeRoom;
use super::reader::Readers;
use super::space::Space;
use super::writing::Writing;
use crate::queue::FreeSpace;

/// The time between two checks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many rounds of deleting contents follow one check at most.
const ROUNDS_MAX: usize = 10;

/// After the log was verified, the next verification waits for this many times as long as it took, so that a large log
/// costs at most 2 % of a core.
const VERIFY_RESTS: u32 = 50;

/// Runs until the store is closed.
pub(super) async fn run(space: Arc<Space>, readers: Readers, writing: Writing) {
    let mut verify_at = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        space.look(&readers).await;
        if verify_at <= Instant::now() {
            let began = Instant::now();
            verify_log(&writing).await;
            verify_at = Instant::now() + began.elapsed() * VERIFY_RESTS;
        }
        if let Err(Fault::Closed) = make_room(&space, &writing).await {
            return;
        }
    }
}

/// Verifies the log. If bytes of it were overwritten, nothing is acknowledged any more, and the writer saves the log at
/// once.
async fn verify_log(writing: &Writing) {
    let health = Arc::clone(&writing.health);
    match tokio::task::spawn_blocking(move || health.verify_log()).await {
        Ok(Err(Fault::LogOverwritten)) => {
            // The writer saves the log before it writes anything. If it cannot, it logs why.
            let _ = writing.write(TryToWrite { bytes: 0 }).await;
        }
        Ok(Err(fault)) => tracing::debug!(%fault, "could not verify the write-ahead log"),
        // A bug in this program.
        Err(error) => tracing::error!(%error, "could not verify the write-ahead log"),
        Ok(Ok(())) => {}
    }
}

/// Deletes the contents of delivered messages while there is too little space. Fails once the store is closed.
async fn make_room(space: &Space, writing: &Writing) -> Result<(), Fault> {
    for _ in 0..ROUNDS_MAX {
        if matches!(space.now(), FreeSpace::Ample | FreeSpace::Low) {
            break;
        }
        match writing.write(MakeRoom).await {
            Ok(0) => break,
            Ok(messages) => tracing::info!(
                messages,
                "the contents of delivered messages were removed early, to make room on the disk"
            ),
            Err(Fault::Closed) => return Err(Fault::Closed),
            Err(fault) => {
                tracing::debug!(%fault, "could not make room");
                break;
            }
        }
    }
    Ok(())
}
