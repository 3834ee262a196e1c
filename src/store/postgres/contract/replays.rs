//! Replays.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::queue::{
    DeliveryState, ReplayAsk, ReplayChunk, ReplayPosition, Replays, Seq, Unavailable,
};
use crate::store::backlog::Size;
use crate::store::postgres::awaiting;
use crate::store::postgres::error::Fault;
use crate::store::postgres::params::Array;
use crate::store::postgres::replay::{Requeue, end_of_order, find};
use crate::store::postgres::store::PostgresStore;
use crate::store::replay::{self, MESSAGES_MAX, Part};

#[async_trait]
impl Replays for PostgresStore {
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable> {
        let position = match ask.position {
            Some(position) => position,
            None => {
                let until = end_of_order(&self.lookups).await?;
                ReplayPosition { after: Seq::default(), until }
            }
        };
        let connection = self.lookups.get().await?;
        let found = find(&connection, ask, position, &self.digests).await?;
        connection.give_back();
        replay::replay(self, ask, found).await
    }

    async fn revive(&self, now: Timestamp) -> Result<Vec<String>, Unavailable> {
        let connection = self.lookups.get().await?;
        let due = awaiting::due(&connection, MESSAGES_MAX).await?;
        connection.give_back();
        let mut revived = Vec::new();
        for due in due {
            let requeue = Requeue {
                seqs: Array(vec![due.seq]),
                only: Some(DeliveryState::Failed),
                subscription: Some(&due.subscription),
                again: None,
                is_revival: true,
                now,
                time: self.time,
            };
            let size = Size { messages: 1, bytes: due.payload_bytes };
            if self.make_pending(requeue, size).await? > 0 {
                revived.push(due.destination);
            }
        }
        Ok(revived)
    }
}

impl replay::Requeue for PostgresStore {
    async fn requeue(&self, ask: &ReplayAsk, part: Part) -> Result<u64, Unavailable> {
        let size = part.size();
        let requeue = Requeue {
            seqs: part.seqs.iter().map(|seq| seq.0).collect(),
            only: ask.selection.state.only(),
            subscription: ask.selection.filter.subscription.as_deref(),
            again: part.again,
            is_revival: false,
            now: ask.now,
            time: self.time,
        };
        Ok(self.make_pending(requeue, size).await?)
    }
}

impl PostgresStore {
    /// Makes messages pending again as soon as the backlog has room.
    async fn make_pending(&self, requeue: Requeue<'_>, size: Size) -> Result<u64, Fault> {
        let _admitted = self.backlog.admit(size, &self.readers).await?.ok_or(Fault::Full)?;
        let replayed = requeue.run(&self.lookups).await?;
        if replayed > 0 {
            // Replays are never urgent, so other processes need no hint: they find them at their next poll.
            self.hints.has_arrived([]);
        }
        Ok(replayed)
    }
}
