//! The database, its limits and its retention.

use std::time::Duration;

use super::error::OpenError;
use super::migrations::{MIGRATIONS, Migration};
use super::url::Target;
use crate::config::{NotifyMode, StoreConfig};

/// The clock from which message numbers and lease expiries are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// The database's clock, which is the same for all processes.
    OfDatabase,
    /// The times that callers pass, for tests that control the time.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests decide the time"))]
    OfCallers,
}

/// The database, its limits and its retention.
#[derive(Debug, Clone)]
pub(super) struct PostgresOptions {
    /// How to connect.
    pub(super) target: Target,
    /// Name of the schema, which is created if it does not exist.
    pub(super) schema: String,
    /// Where to listen for hints from other processes, and the configuration key that says so. `None` means that hints
    /// are neither sent nor received.
    pub(super) listen: Option<(Target, &'static str)>,
    /// The maximum number of connections.
    pub(super) connections_max: u32,
    /// How long a message id is remembered, to recognize duplicates.
    pub(super) duplicate_window: Duration,
    /// Messages that may wait to be written before more are refused. At least 1.
    pub(super) waiting_messages_max: usize,
    /// Payload bytes that may wait to be written before more are refused. At least 1.
    pub(super) waiting_bytes_max: usize,
    /// Messages that may be pending before more are refused. At least 1.
    pub(super) backlog_messages_max: u64,
    /// Payload bytes that may be pending before more messages are refused. At least 1.
    pub(super) backlog_bytes_max: u64,
    /// How long the payload of a message without a failure is kept after it is done.
    pub(super) delivered_retention: Duration,
    /// How long the payload of a message with a failed delivery is kept after it is done.
    pub(super) failed_retention: Duration,
    /// How long the record of a message is kept after it is done; never shorter than the others.
    pub(super) records_retention: Duration,
    /// How long rows past their retention wait until their whole day is, so that its partitions can be dropped. After
    /// that, the rows are deleted one by one.
    pub(super) whole_days_for: Duration,
    /// How long to wait for a free connection.
    pub(super) patience: Duration,
    /// The key of the installation, used when the schema is made; `None` generates a random one.
    pub(super) installation_key: Option<[u8; 32]>,
    /// The clock to use.
    pub(super) time: Time,
    /// The migrations that lead to this version's schema.
    pub(super) migrations: &'static [Migration],
}

impl PostgresOptions {
    /// The defaults for a database: duplicates 7 days, payloads 7 and 30 days, records 90 days.
    pub(super) fn new(target: Target) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            target,
            listen: None,
            schema: "segment_loops".to_owned(),
            connections_max: 10,
            duplicate_window: DAY * 7,
            waiting_messages_max: 20_000,
            waiting_bytes_max: 128 * 1024 * 1024,
            backlog_messages_max: 10_000_000,
            backlog_bytes_max: 10 * 1024 * 1024 * 1024,
            delivered_retention: DAY * 7,
            failed_retention: DAY * 30,
            records_retention: DAY * 90,
            whole_days_for: DAY + DAY / 2,
            patience: Duration::from_secs(5),
            installation_key: None,
            time: Time::OfDatabase,
            migrations: MIGRATIONS,
        }
    }

    /// A record must outlive its payload, and the window in which duplicates are recognized.
    pub(super) fn retention(&self) -> Retention {
        let delivered = self.delivered_retention;
        let failed = self.failed_retention;
        let records = self.records_retention.max(delivered).max(failed).max(self.duplicate_window);
        Retention { delivered, failed, records, whole_days_for: self.whole_days_for }
    }
}

/// How long ended messages are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub(super) delivered: Duration,
    pub(super) failed: Duration,
    pub(super) records: Duration,
    pub(super) whole_days_for: Duration,
}

pub(super) fn options(config: &StoreConfig, url: &str) -> Result<PostgresOptions, OpenError> {
    let hours = |hours: u64| Duration::from_secs(hours.saturating_mul(3_600));
    let target = Target::parse("store.url", url)?;
    let listen = match (config.notify, &config.listen_url) {
        (NotifyMode::Off, _) => None,
        (NotifyMode::Auto, None) => Some((target.clone(), "store.url")),
        (NotifyMode::Auto, Some(url)) => {
            let key = "store.listen_url";
            Some((Target::parse(key, url.expose())?, key))
        }
    };
    Ok(PostgresOptions {
        listen,
        schema: config.schema.clone(),
        connections_max: config.connections_max,
        duplicate_window: hours(config.duplicate_window_h),
        waiting_messages_max: config.waiting_messages_max,
        waiting_bytes_max: config.waiting_bytes_max,
        backlog_messages_max: config.backlog_messages_max,
        backlog_bytes_max: config.backlog_bytes_max,
        delivered_retention: hours(config.delivered_retention_h),
        failed_retention: hours(config.failed_retention_h),
        records_retention: hours(config.records_retention_h),
        ..PostgresOptions::new(target)
    })
}
