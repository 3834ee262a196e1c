//! The store as a whole, and the acceptance of messages.

use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::queue::{AcceptError, Committed, FreeSpace, Inbox, NewMessage, Store, Unavailable};
use crate::store::backlog::Size;
use crate::store::order::AcceptOrder;
use crate::store::postgres::error::Fault;
use crate::store::postgres::store::PostgresStore;

#[async_trait]
impl Store for PostgresStore {
    async fn ended(&self) -> Option<Unavailable> {
        let [accepting, stepping] = &self.ended;
        tokio::select! {
            () = accepting.cancelled() => {}
            () = stepping.cancelled() => {}
        }
        (!self.closing.is_cancelled()).then(|| Fault::Closed.into())
    }

    async fn close(&self) {
        self.closing.cancel();
        for ended in &self.ended {
            ended.cancelled().await;
        }
        self.hinted.cancelled().await;
        self.readers.close().await;
        self.lookups.close().await;
        self.leasing.close().await;
        self.chores.connections.close().await;
    }
}

#[async_trait]
impl Inbox for PostgresStore {
    async fn commit(&self, messages: Vec<NewMessage>) -> Result<Committed, AcceptError> {
        if messages.is_empty() {
            return Ok(Committed::default());
        }
        let permits = self.room.admit(&messages)?;
        let admitted = self.backlog.admit(Size::of(&messages), &self.readers).await?;
        let admitted = admitted.ok_or(AcceptError::Full)?;
        let (reply, answer) = oneshot::channel();
        let queued_at = Instant::now();
        let order = AcceptOrder { messages, queued_at, reply, permits, admitted };
        self.accepting.send(order).map_err(|_| Fault::Closed)?;
        Ok(answer.await.map_err(|_| Fault::Closed)??)
    }

    /// The disk of the database cannot be seen from here.
    fn free_space(&self) -> FreeSpace {
        FreeSpace::Ample
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}
