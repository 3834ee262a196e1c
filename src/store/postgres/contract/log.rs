//! What people look up.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::queue::{
    Contents, EventName, FailureGroups, Filter, IdentityConflict, Log, MessageRecord, Page,
    Replicas, RequestContents, RequestId, Seq, Tally, TallyStep, Unavailable,
};
use crate::segment::{Digests, MessageHash};
use crate::store::postgres::options::Time;
use crate::store::postgres::store::PostgresStore;
use crate::store::postgres::{conflicts, contents, list, records, replicas, schema, startup};

#[async_trait]
impl Log for PostgresStore {
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        let connection = self.lookups.get().await?;
        let found = records::by_message_id(&connection, hash, message_id).await?;
        connection.give_back();
        Ok(found)
    }

    async fn message(&self, seq: Seq) -> Result<Option<MessageRecord>, Unavailable> {
        let connection = self.lookups.get().await?;
        let found = records::records(&connection, vec![seq.0]).await?;
        connection.give_back();
        Ok(found.into_iter().next().map(|(_, record)| record).transpose()?)
    }

    async fn messages(&self, seqs: &[Seq]) -> Result<Vec<MessageRecord>, Unavailable> {
        let seqs = seqs.iter().map(|seq| seq.0).collect();
        let connection = self.lookups.get().await?;
        let found = list::messages(&connection, seqs).await?;
        connection.give_back();
        Ok(found)
    }

    async fn contents(&self, seqs: &[Seq]) -> Result<Vec<Contents>, Unavailable> {
        let connection = self.lookups.get().await?;
        let contents = contents::read(&connection, seqs).await?;
        connection.give_back();
        Ok(contents)
    }

    async fn request_contents(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<RequestContents>, Unavailable> {
        let connection = self.lookups.get().await?;
        let contents = records::request_contents(&connection, requests).await?;
        connection.give_back();
        Ok(contents)
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, Unavailable> {
        let connection = self.lookups.get().await?;
        let page = list::list(&connection, filter, before, limit).await?;
        connection.give_back();
        Ok(page)
    }

    async fn failures(&self, filter: &Filter) -> Result<FailureGroups, Unavailable> {
        let connection = self.lookups.get().await?;
        let groups = list::failures(&connection, filter).await?;
        connection.give_back();
        Ok(groups)
    }

    async fn tallies(
        &self,
        step: TallyStep,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Tally>, Unavailable> {
        let connection = self.lookups.get().await?;
        let tallies = list::tallies(&connection, step, from, to).await?;
        connection.give_back();
        Ok(tallies)
    }

    async fn event_names(&self, source: Option<&str>) -> Result<Vec<EventName>, Unavailable> {
        let connection = self.lookups.get().await?;
        let names = list::event_names(&connection, source).await?;
        connection.give_back();
        Ok(names)
    }

    async fn conflicts(&self, since: Timestamp) -> Result<Vec<IdentityConflict>, Unavailable> {
        let connection = self.lookups.get().await?;
        let found = conflicts::latest(&connection, since).await?;
        connection.give_back();
        Ok(found)
    }

    async fn replicas(&self, now: Timestamp) -> Result<Replicas, Unavailable> {
        let now = (self.time == Time::OfCallers).then_some(now);
        let snapshot = self.lookups.snapshot().await?;
        let found = replicas::replicas(&snapshot, now).await?;
        snapshot.end().await?;
        Ok(found)
    }

    fn digests(&self) -> Digests {
        self.digests.clone()
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        let connection = self.readers.get().await?;
        startup::check_writable(&connection).await?;
        schema::check(&connection).await?;
        connection.give_back();
        Ok(())
    }
}
