//! Receipts of erasures.

use async_trait::async_trait;
use tokio_postgres::Row;

use crate::queue::{NewReceipt, Receipt, ReceiptFilter, Receipts, Unavailable, WriteAheadLog};
use crate::store::postgres::error::Fault;
use crate::store::postgres::params::params;
use crate::store::postgres::receipts::{COUNT_OPEN, FIND, LIST, Open, receipt};
use crate::store::postgres::rows::get;
use crate::store::postgres::store::PostgresStore;

#[async_trait]
impl Receipts for PostgresStore {
    async fn open_receipt(&self, receipt: &NewReceipt) -> Result<String, Unavailable> {
        Ok(self.write(Open(receipt.clone())).await?)
    }

    async fn receipt(&self, id: &str) -> Result<Option<Receipt>, Unavailable> {
        let connection = self.lookups.get().await?;
        let row = connection.query_opt(FIND, params![id]).await?;
        connection.give_back();
        Ok(row.as_ref().map(receipt).transpose()?)
    }

    async fn receipts(
        &self,
        filter: &ReceiptFilter,
        limit: u32,
    ) -> Result<Vec<Receipt>, Unavailable> {
        let connection = self.lookups.get().await?;
        let (before, limit) = (filter.before.unwrap_or(i64::MAX), i64::from(limit));
        let (destination, is_open) = (filter.destination.as_deref(), filter.is_open);
        let rows = connection.query(LIST, params![before, destination, is_open, limit]).await?;
        connection.give_back();
        Ok(rows.iter().map(receipt).collect::<Result<_, Fault>>()?)
    }

    async fn open_erasures(&self) -> Result<Vec<(String, u64)>, Unavailable> {
        let connection = self.lookups.get().await?;
        let rows = connection.query(COUNT_OPEN, params![]).await?;
        connection.give_back();
        let read = |row: &Row| Ok((get(row, 0)?, get::<i64>(row, 1)?.unsigned_abs()));
        Ok(rows.iter().map(read).collect::<Result<_, Fault>>()?)
    }

    fn write_ahead_log(&self) -> WriteAheadLog {
        WriteAheadLog::Postgres
    }
}
