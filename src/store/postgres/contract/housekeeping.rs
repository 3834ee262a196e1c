//! Removes data that is past its retention or must be erased.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::queue::{CheckIn, Housekeeping, Unavailable};
use crate::store::postgres::erase;
use crate::store::postgres::housekeeping::{lock, make_days_ahead};
use crate::store::postgres::options::Time;
use crate::store::postgres::purge::{self, Purge};
use crate::store::postgres::replicas::CheckOut;
use crate::store::postgres::rows::{from_ms, to_ms};
use crate::store::postgres::store::PostgresStore;

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
