//! Stores the queue. This is the only module that knows SQL. [`open`] picks the engine and returns a [`Store`]; no
//! other module names an engine, its files or its errors.
//!
//! There are two engines: `sqlite`, for one machine, and `postgres`, for several. [`crate::queue`] has the guarantees
//! and the test suite that each engine runs.

mod backlog;
mod contacts;
mod copies;
mod feedback;
mod groups;
mod meters;
mod moving;
mod new_contacts;
mod order;
mod postgres;
mod receipts;
#[cfg(test)]
mod released;
mod replay;
mod room;
mod sqlite;
mod tally;
mod values;

use std::sync::Arc;

pub use copies::{BackedUp, BackupTo, CopyError, ReErased, Restore, Restored, back_up};
pub use moving::{MoveError, Moved, Watch, keep_queue, move_queue};

use crate::config::StoreConfig;
use crate::queue::Store;

/// Why a store could not be opened. The message is for the person who starts the program, and says what to do.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreError(Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// Opens the store that the configuration names, and creates it if it does not exist.
///
/// Must be called inside a Tokio runtime.
pub async fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    if let Some(url) = &config.url {
        return match postgres::open(config, url.expose()).await {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) => Err(StoreError::new(error)),
        };
    }
    match sqlite::folder::open(config).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(StoreError::new(error)),
    }
}

/// How the schema of a store compares with the one that this program uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// There is no schema yet: [`open`] creates it.
    Missing,
    /// The schema is this program's own.
    Current {
        /// Its version.
        version: i32,
    },
    /// The schema is older: [`open`] migrates it.
    Older {
        /// Its version.
        version: i32,
        /// That of this program.
        current: i32,
    },
    /// A newer program made the schema, and this one can use it.
    Newer {
        /// Its version.
        version: i32,
        /// That of this program.
        current: i32,
    },
}

/// Reads the schema of the configured store and changes nothing. The error says why [`open`] would refuse the store.
///
/// Must be called inside a Tokio runtime.
pub async fn schema(config: &StoreConfig) -> Result<Schema, StoreError> {
    if let Some(url) = &config.url {
        return postgres::schema(config, url.expose()).await.map_err(StoreError::new);
    }
    sqlite::folder::schema(config).map_err(StoreError::new)
}

/// Whether the configured store already exists. A database on a server always counts as existing: this check guards
/// against a mistyped data folder, which a URL cannot be.
pub fn exists(config: &StoreConfig) -> bool {
    config.url.is_some() || sqlite::folder::exists(config)
}
