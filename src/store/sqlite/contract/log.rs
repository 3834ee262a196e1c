//! What people look up.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;

use super::intake::TRY_TIMEOUT;
use crate::queue::{
    AcceptError, Contents, EventName, FailureGroups, Filter, FreeSpace, IdentityConflict, Log,
    MessageRecord, Page, Replicas, RequestContents, RequestId, Seq, Tally, TallyStep, Unavailable,
};
use crate::segment::{Digests, MessageHash};
use crate::store::sqlite::health::Next;
use crate::store::sqlite::list;
use crate::store::sqlite::list::sought::Sought;
use crate::store::sqlite::probe::{TryToWrite, verify_in_background};
use crate::store::sqlite::recent::{Known, Wanted};
use crate::store::sqlite::store::SqliteStore;
use crate::store::sqlite::{conflicts, log, open, replicas};

#[async_trait]
impl Log for SqliteStore {
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        let message_id = message_id.to_owned();
        // Must come before the snapshot.
        let known = self.writing.find(Wanted::Id(hash.0)).await;
        let read =
            move |snapshot: &Connection| log::by_message_id(snapshot, hash, &message_id, &known);
        Ok(self.lookups.read(read).await?)
    }

    async fn message(&self, seq: Seq) -> Result<Option<MessageRecord>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| log::message(snapshot, seq)).await?)
    }

    async fn messages(&self, seqs: &[Seq]) -> Result<Vec<MessageRecord>, Unavailable> {
        let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
        Ok(self.lookups.read(move |snapshot| list::messages(snapshot, &seqs)).await?)
    }

    async fn contents(&self, seqs: &[Seq]) -> Result<Vec<Contents>, Unavailable> {
        let seqs = seqs.to_vec();
        Ok(self.lookups.read(move |snapshot| log::contents(snapshot, &seqs)).await?)
    }

    async fn request_contents(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<RequestContents>, Unavailable> {
        let requests = requests.to_vec();
        let read = move |snapshot: &Connection| log::request_contents(snapshot, &requests);
        Ok(self.lookups.read(read).await?)
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, Unavailable> {
        let sought = self.sought(filter).await;
        Ok(self.lookups.read(move |snapshot| list::list(snapshot, &sought, before, limit)).await?)
    }

    async fn failures(&self, filter: &Filter) -> Result<FailureGroups, Unavailable> {
        let sought = self.sought(filter).await;
        Ok(self.lookups.read(move |snapshot| list::failures(snapshot, &sought)).await?)
    }

    async fn tallies(
        &self,
        step: TallyStep,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Tally>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| list::tallies(snapshot, step, from, to)).await?)
    }

    async fn event_names(&self, source: Option<&str>) -> Result<Vec<EventName>, Unavailable> {
        let source = source.map(str::to_owned);
        let read = move |snapshot: &Connection| list::event_names(snapshot, source.as_deref());
        Ok(self.lookups.read(read).await?)
    }

    async fn conflicts(&self, since: Timestamp) -> Result<Vec<IdentityConflict>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| conflicts::latest(snapshot, since)).await?)
    }

    async fn replicas(&self, now: Timestamp) -> Result<Replicas, Unavailable> {
        Ok(self.lookups.read(move |snapshot| replicas::replicas(snapshot, now)).await?)
    }

    fn digests(&self) -> Digests {
        self.digests.clone()
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        let (why, bytes) = match self.health.next() {
            // A healthy store is checked without a write.
            Next::Read => {
                self.readers.read(open::check_schema).await?;
                return match self.space.now() {
                    FreeSpace::Exhausted => Err(Unavailable(AcceptError::Reserved.into())),
                    FreeSpace::Ample | FreeSpace::Low | FreeSpace::VeryLow => Ok(()),
                };
            }
            Next::Write { why, bytes } => (why, bytes),
            Next::Verify { why } => {
                verify_in_background(self.lookups.clone(), Arc::clone(&self.health));
                return Err(why.into());
            }
            Next::Wait { why } => return Err(why.into()),
        };
        match tokio::time::timeout(TRY_TIMEOUT, self.write(TryToWrite { bytes })).await {
            Ok(tried) => tried?,
            Err(_) => return Err(why.into()),
        }
        // Messages may be refused although a step was written.
        Ok(self.health.admit()?)
    }
}

impl SqliteStore {
    /// Resolves a filter. Must be called before the snapshot is made.
    async fn sought(&self, filter: &Filter) -> Sought {
        let persons: Vec<i64> = filter.persons.iter().map(|person| person.0).collect();
        let known = match persons.is_empty() {
            true => Known::default(),
            false => self.writing.find(Wanted::Persons(persons)).await,
        };
        Sought { filter: filter.clone(), known }
    }
}
