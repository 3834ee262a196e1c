//! Makes the partitions of the coming days, and removes data that is past its retention or must be erased.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::connection::Connections;
use super::params::params;
use super::purge::{Purge, Purger};
use super::replicas::CheckOut;
use super::rows::{from_ms, get, to_ms};
use super::{Fault, PostgresStore, Time, erase, numbers, partitions, purge};
use crate::queue::{CheckIn, Housekeeping, Unavailable};

/// The time of the database in Unix milliseconds.
const NOW: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The connections and the state of a process's chores.
#[derive(Debug)]
pub(super) struct Chores {
    /// Purge and erasure may run at the same time, and have a connection each, since both may wait long.
    pub(super) connections: Connections,
    purger: Purger,
    /// The next call of [`Housekeeping::erase`] begins after this deletion, so that a failing one does not keep others
    /// waiting.
    erase_behind: Mutex<i64>,
}

impl Chores {
    pub(super) fn new(connections: Connections) -> Self {
        Self { connections, purger: Purger::new(), erase_behind: Mutex::default() }
    }
}

/// Locks a value. Each change is a single assignment, so a panic cannot leave it half-done.
fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
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

#[async_trait]
impl Housekeeping for PostgresStore {
    async fn check_in(&self, process: &CheckIn) -> Result<(), Unavailable> {
        Ok(self.write(process.clone()).await?)
    }

    async fn check_out(&self, name: &str) -> Result<(), Unavailable> {
        Ok(self.write(CheckOut(name.to_owned())).await?)
    }

    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable> {
        let mut now = to_ms(now);
        if self.time == Time::OfDatabase {
            // The database's clock decides the days of messages. The clock of this process may be ahead.
            now = now.min(make_days_ahead(&self.chores.connections).await?);
        }
        let purge = Purge {
            connections: &self.chores.connections,
            purger: &self.chores.purger,
            retention: self.retention,
            now,
        };
        match purge.run().await {
            // Ended in favour of another transaction; the next call finds the same rows.
            Err(fault) if fault.is_conflict() => Ok(0),
            purged => Ok(purged?),
        }
    }

    async fn erase(&self, now: Timestamp) -> Result<u64, Unavailable> {
        let behind = *lock(&self.chores.erase_behind);
        let connection = self.chores.connections.get().await?;
        let next = erase::next_deletion(&connection, behind).await?;
        connection.give_back();
        let Some(deletion) = next else {
            // The next round retries the failed ones.
            *lock(&self.chores.erase_behind) = 0;
            return Ok(0);
        };
        match deletion.erase(&self.chores.connections, now).await {
            Ok(rows) => {
                if rows == 0 {
                    // Another process is working on this deletion.
                    *lock(&self.chores.erase_behind) = deletion.seq;
                }
                Ok(rows)
            }
            Err(fault) => {
                *lock(&self.chores.erase_behind) = deletion.seq;
                Err(fault.into())
            }
        }
    }

    async fn newest(&self) -> Result<Option<Timestamp>, Unavailable> {
        let connection = self.chores.connections.get().await?;
        let newest = purge::newest(&connection).await?;
        connection.give_back();
        Ok(newest.map(from_ms))
    }
}
