//! The data folder of a configuration, and the database file in it.

use std::path::PathBuf;
use std::time::Duration;

use super::error::OpenError;
use super::{SqliteOptions, SqliteStore};
use crate::config::StoreConfig;

/// The name of the database file.
const FILE: &str = "segment-loops.db";

fn file(config: &StoreConfig) -> PathBuf {
    config.data.join(FILE)
}

/// Whether the data folder of a configuration has a database.
pub(in crate::store) fn exists(config: &StoreConfig) -> bool {
    file(config).exists()
}

/// Opens the database in the data folder of a configuration, and creates both if they are missing.
pub(in crate::store) async fn open(config: &StoreConfig) -> Result<SqliteStore, OpenError> {
    let folder = &config.data;
    std::fs::create_dir_all(folder).map_err(|source| OpenError::NoDataFolder {
        folder: folder.display().to_string(),
        source,
    })?;
    SqliteStore::open(options(config)).await
}

fn options(config: &StoreConfig) -> SqliteOptions {
    SqliteOptions {
        allow_network_disk: config.allow_network_disk,
        duplicate_window: hours(config.duplicate_window_h),
        waiting_messages_max: config.waiting_messages_max,
        waiting_bytes_max: config.waiting_bytes_max,
        backlog_messages_max: config.backlog_messages_max,
        delivered_retention: hours(config.delivered_retention_h),
        failed_retention: hours(config.failed_retention_h),
        records_retention: hours(config.records_retention_h),
        ..SqliteOptions::new(file(config))
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours.saturating_mul(3_600))
}
