//! Picks the engine. Nothing else outside the engines' own modules names one.

use std::sync::Arc;

use super::copies::{BackedUp, BackupTo, CopyError};
use super::error::StoreError;
use super::schema::Schema;
use super::{postgres, sqlite};
use crate::config::StoreConfig;
use crate::queue::Store;

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

/// Backs up the configured database while other processes use it. Blocks.
pub fn back_up(config: &StoreConfig, to: BackupTo<'_>) -> Result<BackedUp, CopyError> {
    match &config.url {
        Some(_) => Err(CopyError::Postgres),
        None => sqlite::backup::back_up(config, to),
    }
}
