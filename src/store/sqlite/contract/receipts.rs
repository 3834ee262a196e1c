//! Receipts of erasures.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _};

use crate::config::WalMode;
use crate::queue::{NewReceipt, Receipt, ReceiptFilter, Receipts, Unavailable, WriteAheadLog};
use crate::store::sqlite::error::Fault;
use crate::store::sqlite::receipts::{FIND, Open, count_open, list, receipt};
use crate::store::sqlite::store::SqliteStore;

#[async_trait]
impl Receipts for SqliteStore {
    async fn open_receipt(&self, receipt: &NewReceipt) -> Result<String, Unavailable> {
        Ok(self.write(Open(receipt.clone())).await?)
    }

    async fn receipt(&self, id: &str) -> Result<Option<Receipt>, Unavailable> {
        let id = id.to_owned();
        let find = move |snapshot: &Connection| {
            let mut find = snapshot.prepare_cached(FIND)?;
            Ok::<_, Fault>(find.query_row([id], receipt).optional()?)
        };
        Ok(self.lookups.read(find).await?)
    }

    async fn receipts(
        &self,
        filter: &ReceiptFilter,
        limit: u32,
    ) -> Result<Vec<Receipt>, Unavailable> {
        let filter = filter.clone();
        Ok(self.lookups.read(move |snapshot| list(snapshot, &filter, limit)).await?)
    }

    async fn open_erasures(&self) -> Result<Vec<(String, u64)>, Unavailable> {
        Ok(self.lookups.read(count_open).await?)
    }

    fn write_ahead_log(&self) -> WriteAheadLog {
        match self.wal {
            WalMode::Own => WriteAheadLog::Truncated,
            WalMode::External => WriteAheadLog::External,
        }
    }
}
