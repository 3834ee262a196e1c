//! Stores the queue: the only module that knows SQL. [`open`] gives a [`Store`] and picks its engine; no other
//! module names an engine, a file or an error of one.
//!
//! There are two engines: `sqlite`, for one machine, and `postgres`, for several. The guarantees, and the suite that
//! each engine runs, are in [`crate::queue`].

mod backlog;
mod contacts;
mod copies;
mod feedback;
mod groups;
mod meters;
mod moving;
mod new_contacts;
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

/// Why a store could not be opened. The text is for the person who starts the program, and says what to do.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreError(Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// Opens the store of a configuration, and creates it if there is none.
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

/// How the schema of a store compares with that of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// There is none: [`open`] creates it.
    Missing,
    /// It is that of this program.
    Current {
        /// Its version.
        version: i32,
    },
    /// [`open`] migrates it.
    Older {
        /// Its version.
        version: i32,
        /// That of this program.
        current: i32,
    },
    /// A newer program made it, and this one can use it.
    Newer {
        /// Its version.
        version: i32,
        /// That of this program.
        current: i32,
    },
}

/// Looks at the schema of a configuration's store, and changes nothing. The error says why [`open`] would refuse it.
///
/// Must be called inside a Tokio runtime.
pub async fn schema(config: &StoreConfig) -> Result<Schema, StoreError> {
    if let Some(url) = &config.url {
        return postgres::schema(config, url.expose()).await.map_err(StoreError::new);
    }
    sqlite::folder::schema(config).map_err(StoreError::new)
}

/// Whether the store of a configuration was created before. A database on a server counts as such: who names it
/// has not mistyped a folder.
pub fn exists(config: &StoreConfig) -> bool {
    config.url.is_some() || sqlite::folder::exists(config)
}
