//! Removes data that is past its retention or must be erased.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;

use crate::queue::{CheckIn, Housekeeping, Unavailable};
use crate::store::sqlite::erase::{self, Erase};
use crate::store::sqlite::purge;
use crate::store::sqlite::replicas::CheckOut;
use crate::store::sqlite::store::SqliteStore;

#[async_trait]
impl Housekeeping for SqliteStore {
    async fn check_in(&self, process: &CheckIn) -> Result<(), Unavailable> {
        Ok(self.write(process.clone()).await?)
    }

    async fn check_out(&self, name: &str) -> Result<(), Unavailable> {
        Ok(self.write(CheckOut(name.to_owned())).await?)
    }

    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable> {
        Ok(self.write(purge::Purge { now, retention: self.retention }).await?)
    }

    async fn erase(&self, now: Timestamp) -> Result<u64, Unavailable> {
        let behind = self.erase_behind.load(Ordering::Relaxed);
        let next = move |snapshot: &Connection| erase::next_deletion(snapshot, behind);
        let Some(deletion) = self.lookups.read(next).await? else {
            // The next round retries the failed ones.
            self.erase_behind.store(0, Ordering::Relaxed);
            return Ok(0);
        };
        let seq = deletion.seq;
        // A reader does the searching, so that the writer need not.
        let erased =
            match self.lookups.read(move |snapshot| Erase::of(snapshot, deletion, now)).await {
                Ok(part) => self.write(part).await,
                Err(fault) => Err(fault),
            };
        if erased.is_err() {
            self.erase_behind.store(seq, Ordering::Relaxed);
        }
        Ok(erased?)
    }

    async fn newest(&self) -> Result<Option<Timestamp>, Unavailable> {
        Ok(self.lookups.read(purge::newest).await?)
    }
}
