//! The options of a store.

use std::path::PathBuf;
use std::time::Duration;

use super::migrations::MIGRATIONS;
use crate::config::WalMode;

/// The path of the file, its limits and its retention.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file, created if it does not exist. Its folder must exist.
    pub path: PathBuf,
    /// Whether the folder may be on a network disk, where SQLite's locks cannot be relied on.
    pub allow_network_disk: bool,
    /// How long a message id is remembered, to recognize duplicates.
    pub duplicate_window: Duration,
    /// Messages that may wait to be written before more are refused. At least 1.
    pub waiting_messages_max: usize,
    /// Payload bytes that may wait to be written before more are refused. At least 1.
    pub waiting_bytes_max: usize,
    /// Messages that may be pending before more are refused. At least 1.
    pub backlog_messages_max: u64,
    /// Payload bytes that may be pending before more messages are refused. At least 1.
    pub backlog_bytes_max: u64,
    /// Free bytes on the disk below which messages that can wait are refused; `None` means 256 MiB, or a tenth of the
    /// disk if that is less.
    pub free_bytes_min: Option<u64>,
    /// Newest messages whose ids and persons are kept in memory until they are sorted into their tables, some
    /// 150 bytes each; as many again may arrive meanwhile. At least 1.
    pub recent_max: usize,
    /// Idle time after which the newest messages are sorted into their tables, if there are enough of them.
    pub quiet: Duration,
    /// Pages of 4 KiB that the file may have, for tests of a full disk; `None` means no limit.
    pub pages_max: Option<u32>,
    /// How long the payload of a message without a failure is kept after it is done.
    pub delivered_retention: Duration,
    /// How long the payload of a message with a failed delivery is kept after it is done.
    pub failed_retention: Duration,
    /// How long the record of a message is kept after it is done; never shorter than the others.
    pub records_retention: Duration,
    /// Who moves the write-ahead log into the file.
    pub wal: WalMode,
    /// How long to wait for a lock that another process holds on the file.
    pub busy_timeout: Duration,
    /// The key of the installation, used when the schema is made; `None` generates a random one.
    pub installation_key: Option<[u8; 32]>,
    /// The migrations that lead to this version's schema.
    pub migrations: &'static [&'static str],
}

impl SqliteOptions {
    /// The defaults for a file: duplicates 7 days, payloads 7 and 30 days, records 90 days.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            path: path.into(),
            allow_network_disk: false,
            duplicate_window: DAY * 7,
            waiting_messages_max: 20_000,
            waiting_bytes_max: 128 * 1024 * 1024,
            backlog_messages_max: 10_000_000,
            backlog_bytes_max: 10 * 1024 * 1024 * 1024,
            free_bytes_min: None,
            recent_max: 256 * 1024,
            quiet: Duration::from_millis(20),
            pages_max: None,
            delivered_retention: DAY * 7,
            failed_retention: DAY * 30,
            records_retention: DAY * 90,
            wal: WalMode::Own,
            busy_timeout: Duration::from_secs(5),
            installation_key: None,
            migrations: MIGRATIONS,
        }
    }

    /// A record must outlive its payload, and the window in which duplicates are recognized.
    pub(super) fn retention(&self) -> Retention {
        let delivered = self.delivered_retention;
        let failed = self.failed_retention;
        let records = self.records_retention.max(delivered).max(failed).max(self.duplicate_window);
        Retention { delivered, failed, records }
    }
}

/// How long ended messages are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) delivered: Duration,
    pub(super) failed: Duration,
    pub(super) records: Duration,
}
