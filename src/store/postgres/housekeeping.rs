//! Makes the partitions of the coming days, and removes data that is past its retention or must be erased.

use std::sync::{Mutex, PoisonError};

use super::connection::Connections;
use super::error::Fault;
use super::params::params;
use super::purge::Purger;
use super::rows::get;
use super::{numbers, partitions};

/// The time of the database in Unix milliseconds.
const NOW: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The connections and the state of a process's chores.
#[derive(Debug)]
pub(super) struct Chores {
    /// Purge and erasure may run at the same time, and have a connection each, since both may wait long.
    pub(super) connections: Connections,
    pub(super) purger: Purger,
    /// The next call of [`erase`](crate::queue::Housekeeping::erase) begins after this deletion, so that a failing one
    /// does not keep others waiting.
    pub(super) erase_behind: Mutex<i64>,
}

impl Chores {
    pub(super) fn new(connections: Connections) -> Self {
        Self { connections, purger: Purger::new(), erase_behind: Mutex::default() }
    }
}

/// Locks a value. Each change is a single assignment, so a panic cannot leave it half-done.
pub(super) fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the partitions of today and of the next days; returns the time of the database in Unix milliseconds.
pub(super) async fn make_days_ahead(connections: &Connections) -> Result<i64, Fault> {
    let connection = connections.get().await?;
    let now = get(&connection.query_one(NOW, params![]).await?, 0)?;
    let today = numbers::day_at(now);
    partitions::make(&connection, (today..=today + partitions::DAYS_AHEAD).collect()).await?;
    connection.give_back();
    Ok(now)
}
