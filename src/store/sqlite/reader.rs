//! The connections for readers. They never wait for the writer, and each read sees one snapshot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Fault;
use super::health::Health;
use super::open::FileOptions;

/// Cheap to clone: all clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: FileOptions,
    health: Arc<Health>,
    /// The maximum number of connections.
    count: u32,
    /// How long a read waits for a connection.
    patience: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(
        file: FileOptions,
        health: Arc<Health>,
        patience: Duration,
        count: u32,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(count as usize));
        let idle = Mutex::default();
        Self { shared: Arc::new(Shared { file, health, count, patience, permits, idle }) }
    }

    /// Runs a read in one snapshot, on a thread where it may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let found = shared.read(read);
            if let Err(fault) = &found {
                shared.health.saw(fault);
            }
            found
        };
        self.run_blocking(read).await
    }

    /// Runs work that opens its own connection, and must close it, on a thread where it may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FileOptions) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let shared = Arc::clone(&self.shared);
        self.run_blocking(move || work(&shared.file)).await
    }

    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let permit = Arc::clone(&self.shared.permits).acquire_owned();
        let permit = tokio::time::timeout(self.shared.patience, permit)
            .await
            .map_err(|_| Fault::NoReader)?
            .map_err(|_| Fault::Closed)?;
        let working = tokio::task::spawn_blocking(move || {
            let found = work();
            // Released only once the connection is back or closed, since `close` waits for the permits.
            drop(permit);
            found
        });
        match working.await {
            Ok(found) => found,
            // A bug in this program: pass the panic on to the calling task, as if the read had run there.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Fault::Closed),
        }
    }

    /// Waits for running reads, then closes all connections. Later reads wait until the permit is dropped.
    pub(super) async fn pause(&self) -> Option<OwnedSemaphorePermit> {
        // Fails only if it was closed before.
        let permits = Arc::clone(&self.shared.permits).acquire_many_owned(self.shared.count).await;
        self.shared.idle().clear();
        permits.ok()
    }

    /// Waits for running reads, then closes all connections. Later reads fail.
    pub(super) async fn close(&self) {
        // Fails only if it was closed before.
        let permits = self.shared.permits.acquire_many(self.shared.count).await;
        self.shared.permits.close();
        self.shared.idle().clear();
        drop(permits);
    }
}

impl Shared {
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            // Files other than the writer's would show other data.
            None => {
                self.health.files.look()?;
                self.file.open_reader()?
            }
        };
        let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let found = read(&snapshot);
        // Nothing was written; this only ends the snapshot.
        let is_sound = snapshot.commit().is_ok();
        let is_spoiled = |fault: &Fault| fault.is_environmental() || fault.is_damage();
        if is_sound && !found.as_ref().is_err_and(is_spoiled) {
            self.idle().push(connection);
        }
        found
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Each change is a single push or pop.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
