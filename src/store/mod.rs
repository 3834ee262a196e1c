//! Stores the queue: the only module that knows SQL. [`open`] gives a [`Store`] and picks its engine; no other
//! module names an engine, a file or an error of one.
//!
//! There is one engine, `sqlite`. The guarantees, and the suite that each engine runs, are in
//! [`crate::queue`].

mod backlog;
mod groups;
mod room;
mod sqlite;
mod tally;
mod values;

use std::sync::Arc;

use crate::config::StoreConfig;
use crate::queue::Store;

/// Why a store could not be opened. The text is for the person who starts the program, and says what to do.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreError(Box<dyn std::error::Error + Send + Sync>);

/// Opens the store of a configuration, and creates it if there is none.
///
/// Must be called inside a Tokio runtime.
pub async fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    match sqlite::folder::open(config).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(StoreError(Box::new(error))),
    }
}

/// Whether the store of a configuration was created before.
pub fn exists(config: &StoreConfig) -> bool {
    sqlite::folder::exists(config)
}
