//! Replays.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;

use crate::queue::{DeliveryState, ReplayAsk, ReplayChunk, Replays, Unavailable};
use crate::store::backlog::Size;
use crate::store::replay::{MESSAGES_MAX, Part, Requeue, replay as replay_found};
use crate::store::sqlite::store::SqliteStore;
use crate::store::sqlite::{awaiting, replay};

#[async_trait]
impl Replays for SqliteStore {
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable> {
        let (question, digests) = (ask.clone(), self.digests.clone());
        let find = move |snapshot: &Connection| replay::find(snapshot, &question, &digests);
        let found = self.lookups.read(find).await?;
        replay_found(self, ask, found).await
    }

    async fn revive(&self, now: Timestamp) -> Result<Vec<String>, Unavailable> {
        let due = self.readers.read(|snapshot| awaiting::due(snapshot, MESSAGES_MAX));
        let mut revived = Vec::new();
        for due in due.await? {
            let requeue = replay::Requeue {
                seqs: vec![due.seq],
                only: Some(DeliveryState::Failed),
                subscription: Some(due.subscription),
                again: None,
                is_revival: true,
                now,
            };
            let size = Size { messages: 1, bytes: due.payload_bytes };
            if self.make_pending(requeue, size).await? > 0 {
                revived.push(due.destination);
            }
        }
        Ok(revived)
    }
}

impl Requeue for SqliteStore {
    async fn requeue(&self, ask: &ReplayAsk, part: Part) -> Result<u64, Unavailable> {
        let size = part.size();
        let requeue = replay::Requeue {
            seqs: part.seqs,
            only: ask.selection.state.only(),
            subscription: ask.selection.filter.subscription.clone(),
            again: part.again.map(|names| serde_json::Value::from(names).to_string()),
            is_revival: false,
            now: ask.now,
        };
        Ok(self.make_pending(requeue, size).await?)
    }
}
