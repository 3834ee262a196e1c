//! What people do about contacts that would be new.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::queue::{NewContacts, NewContactsDay, Unavailable, day_of};
use crate::store::postgres::contacts;
use crate::store::postgres::error::Fault;
use crate::store::postgres::new_contacts::{Discard, Release, TODAY, count_held};
use crate::store::postgres::params::params;
use crate::store::postgres::rows::{get, to_ms};
use crate::store::postgres::store::PostgresStore;

#[async_trait]
impl NewContacts for PostgresStore {
    async fn new_contacts(&self, now: Timestamp) -> Result<Vec<NewContactsDay>, Unavailable> {
        let connection = self.lookups.get().await?;
        let rows = connection.query(TODAY, params![to_ms(day_of(now))]).await?;
        connection.give_back();
        let read = |row: &tokio_postgres::Row| {
            Ok(NewContactsDay {
                destination: get(row, 0)?,
                released: get::<i64>(row, 1)?.unsigned_abs(),
                discarded: get::<i64>(row, 2)?.unsigned_abs(),
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, Fault>>()?)
    }

    async fn count_held(&self, destination: &str) -> Result<(u64, Option<Timestamp>), Unavailable> {
        let connection = self.lookups.get().await?;
        let counted = count_held(&connection, destination).await?;
        connection.give_back();
        Ok(counted)
    }

    async fn knows_any(&self, destination: &str) -> Result<bool, Unavailable> {
        let connection = self.lookups.get().await?;
        let found = connection.query_opt(contacts::KNOWS_ANY, params![destination]).await?;
        connection.give_back();
        Ok(found.is_some())
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
