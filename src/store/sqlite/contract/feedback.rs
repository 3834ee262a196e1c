//! What Loops reports.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::queue::{
    Feedback, FeedbackRecord, Forward, FreeSpace, NewFeedback, Recorded, Unavailable,
};
use crate::segment::PersonDigest;
use crate::store::sqlite::error::Fault;
use crate::store::sqlite::feedback::{
    EndForward, Record, TakeForwards, by_destination, by_person, last_heard,
};
use crate::store::sqlite::store::SqliteStore;

#[async_trait]
impl Feedback for SqliteStore {
    async fn record(&self, feedback: NewFeedback) -> Result<Recorded, Unavailable> {
        if self.space.now() == FreeSpace::Exhausted {
            return Err(Fault::NoSpace.into());
        }
        // As for messages: while the files may have been moved away, nothing may be acknowledged.
        self.health.admit()?;
        let recorded = self.write(Record(feedback)).await?;
        self.health.admit()?;
        Ok(recorded)
    }

    async fn by_person(
        &self,
        persons: &[PersonDigest],
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable> {
        let persons = persons.to_vec();
        Ok(self.lookups.read(move |snapshot| by_person(snapshot, &persons, limit)).await?)
    }

    async fn by_destination(
        &self,
        destination: &str,
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable> {
        let destination = destination.to_owned();
        Ok(self.lookups.read(move |snapshot| by_destination(snapshot, &destination, limit)).await?)
    }

    async fn last_heard(&self, destination: &str) -> Result<Option<Timestamp>, Unavailable> {
        let destination = destination.to_owned();
        Ok(self.lookups.read(move |snapshot| last_heard(snapshot, &destination)).await?)
    }

    async fn take_forwards(
        &self,
        destination: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Forward>, Unavailable> {
        let take = TakeForwards { destination: destination.to_owned(), now, limit };
        // Check with a reader first, so that an idle store does not wake the writer.
        let looked_for = TakeForwards { limit: 1, ..take.clone() };
        if self.lookups.read(move |snapshot| looked_for.find(snapshot)).await?.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.write(take).await?)
    }

    async fn end_forward(&self, destination: &str, webhook_id: &str) -> Result<(), Unavailable> {
        let (destination, webhook_id) = (destination.to_owned(), webhook_id.to_owned());
        Ok(self.write(EndForward { destination, webhook_id }).await?)
    }
}
