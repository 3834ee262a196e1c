//! What Loops reports.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::queue::{Feedback, FeedbackRecord, Forward, NewFeedback, Recorded, Unavailable};
use crate::segment::PersonDigest;
use crate::store::feedback::join;
use crate::store::postgres::error::Fault;
use crate::store::postgres::feedback::{
    BY_DESTINATION, BY_PERSON, EndForward, LAST_HEARD, Record, TakeForwards, record,
};
use crate::store::postgres::params::params;
use crate::store::postgres::rows::{from_ms, get};
use crate::store::postgres::store::PostgresStore;

#[async_trait]
impl Feedback for PostgresStore {
    async fn record(&self, feedback: NewFeedback) -> Result<Recorded, Unavailable> {
        Ok(self.write(Record(feedback)).await?)
    }

    async fn by_person(
        &self,
        persons: &[PersonDigest],
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable> {
        let connection = self.lookups.get().await?;
        let mut found = Vec::new();
        for person in persons {
            let (person, limit) = (person.0, i64::from(limit));
            for row in connection.query(BY_PERSON, params![person, limit]).await? {
                found.push(record(&row)?);
            }
        }
        connection.give_back();
        Ok(join(found, limit))
    }

    async fn by_destination(
        &self,
        destination: &str,
        limit: u32,
    ) -> Result<Vec<FeedbackRecord>, Unavailable> {
        let connection = self.lookups.get().await?;
        let limit = i64::from(limit);
        let rows = connection.query(BY_DESTINATION, params![destination, limit]).await?;
        let found = rows.iter().map(|row| Ok(record(row)?.1)).collect::<Result<_, Fault>>()?;
        connection.give_back();
        Ok(found)
    }

    async fn last_heard(&self, destination: &str) -> Result<Option<Timestamp>, Unavailable> {
        let connection = self.lookups.get().await?;
        let at: Option<i64> =
            get(&connection.query_one(LAST_HEARD, params![destination]).await?, 0)?;
        connection.give_back();
        Ok(at.map(from_ms))
    }

    async fn take_forwards(
        &self,
        destination: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Forward>, Unavailable> {
        let destination = destination.to_owned();
        Ok(self.write(TakeForwards { destination, now, limit }).await?)
    }

    async fn end_forward(&self, destination: &str, webhook_id: &str) -> Result<(), Unavailable> {
        let (destination, webhook_id) = (destination.to_owned(), webhook_id.to_owned());
        Ok(self.write(EndForward { destination, webhook_id }).await?)
    }
}
