//! What people do about contacts that would be new.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;

use crate::queue::{NewContacts, NewContactsDay, Unavailable, day_of};
use crate::store::sqlite::contacts;
use crate::store::sqlite::new_contacts::{Discard, Release, TODAY, count_held};
use crate::store::sqlite::rows::to_ms;
use crate::store::sqlite::store::SqliteStore;

#[async_trait]
impl NewContacts for SqliteStore {
    async fn new_contacts(&self, now: Timestamp) -> Result<Vec<NewContactsDay>, Unavailable> {
        let read = move |snapshot: &Connection| {
            let mut statement = snapshot.prepare_cached(TODAY)?;
            let found = statement.query_map([to_ms(day_of(now))], |row| {
                Ok(NewContactsDay {
                    destination: row.get(0)?,
                    released: row.get::<_, i64>(1)?.unsigned_abs(),
                    discarded: row.get::<_, i64>(2)?.unsigned_abs(),
                })
            })?;
            Ok(found.collect::<Result<_, _>>()?)
        };
        Ok(self.lookups.read(read).await?)
    }

    async fn count_held(&self, destination: &str) -> Result<(u64, Option<Timestamp>), Unavailable> {
        let destination = destination.to_owned();
        let count = move |snapshot: &Connection| count_held(snapshot, &destination);
        Ok(self.lookups.read(count).await?)
    }

    async fn knows_any(&self, destination: &str) -> Result<bool, Unavailable> {
        let destination = destination.to_owned();
        let read = move |snapshot: &Connection| {
            Ok(snapshot.prepare_cached(contacts::KNOWS_ANY)?.exists([destination])?)
        };
        Ok(self.lookups.read(read).await?)
    }

    async fn release_contacts(
        &self,
        destination: &str,
        count: u32,
        now: Timestamp,
    ) -> Result<(), Unavailable> {
        Ok(self.write(Release { destination: destination.to_owned(), count, now }).await?)
    }

    async fn discard_held(
        &self,
        destination: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<u64, Unavailable> {
        Ok(self.write(Discard { destination: destination.to_owned(), since, now }).await?)
    }
}
