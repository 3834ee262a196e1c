//! The store as a whole, and the acceptance of messages.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::queue::{AcceptError, Committed, FreeSpace, Inbox, NewMessage, Store, Unavailable};
use crate::store::backlog::Size;
use crate::store::order::AcceptOrder;
use crate::store::sqlite::group::Order;
use crate::store::sqlite::store::SqliteStore;

/// How long a trial write may take when the health of the store is checked.
pub(super) const TRY_TIMEOUT: Duration = Duration::from_secs(1);

#[async_trait]
impl Store for SqliteStore {
    async fn ended(&self) -> Option<Unavailable> {
        self.ended.cancelled().await;
        self.health.must_end().map(Unavailable::from)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.lookups.close().await;
        let (reply, closed) = oneshot::channel();
        if self.writing.orders.send(Order::Close(reply)).is_ok() {
            // If the writer has already ended, the reply is dropped: the store is closed either way.
            let _ = closed.await;
        }
    }
}

#[async_trait]
impl Inbox for SqliteStore {
    async fn commit(&self, messages: Vec<NewMessage>) -> Result<Committed, AcceptError> {
        if messages.is_empty() {
            return Ok(Committed::default());
        }
        self.health.admit()?;
        let permits = self.room.admit(&messages)?;
        let admitted = self.backlog.admit(Size::of(&messages), &self.readers).await?;
        let admitted = admitted.ok_or(AcceptError::Full)?;
        let size = Size::of(&messages);
        self.space.accepts(size.messages, size.bytes);
        let (reply, answer) = oneshot::channel();
        let queued_at = Instant::now();
        let order = AcceptOrder { messages, queued_at, reply, permits, admitted };
        self.writing.orders.send(Order::Accept(order)).map_err(|_| self.writing.end_cause())?;
        Ok(answer.await.map_err(|_| self.writing.end_cause())??)
    }

    fn free_space(&self) -> FreeSpace {
        self.space.now()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.space.free_bytes()
    }
}
