//! Reads the messages to compare from the store: the latest that meet some conditions, backwards in bounded steps.

use std::time::Duration;

use tokio::time::Instant;

use super::work::{BATCH_LENGTH, Broken, Comparing, Given, GivenContents};
use crate::queue::{Filter, Log, MessageRecord, Seq, Unavailable};

/// The most messages that are examined: this many for each one that is wanted, but not fewer than the minimum.
const EXAMINED_EACH: usize = 20;
const EXAMINED_MIN: usize = 2000;

/// How many records a step reads, at first and at most. The first step is usually enough. Each step reads four times as
/// many as the one before, because over PostgreSQL a step costs about as much as its records.
const STEP_MIN: u32 = 100;
const STEP_MAX: u32 = 1_000;

/// How long a comparison keeps reading. It returns what it has found by then.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// Which received messages to compare.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// The conditions that messages must meet.
    pub filter: Filter,
    /// How many messages are wanted.
    pub last: usize,
    /// A message that comes first, whether or not it meets the conditions.
    pub first: Option<Seq>,
}

/// Why received messages could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReceivedError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Unavailable),
    /// The comparison failed.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Comparing {
    /// Compares received messages.
    pub async fn with_received(mut self, log: &dyn Log, ask: &Ask) -> Result<Self, ReceivedError> {
        if let Some(first) = ask.first
            && let Some(record) = log.message(first).await?
        {
            self = self.records(log, &[record]).await?;
        }
        let examined_max = EXAMINED_MIN.max(ask.last.saturating_mul(EXAMINED_EACH)) as u64;
        let began = Instant::now();
        let (mut before, mut step) = (None, STEP_MIN);
        loop {
            let page = log.list(&ask.filter, before, step).await?;
            let others = |record: &MessageRecord| Some(record.seq) != ask.first;
            let records: Vec<_> = page.messages.into_iter().filter(others).collect();
            for records in records.chunks(BATCH_LENGTH) {
                self = self.records(log, records).await?;
                if self.is_done() {
                    return Ok(self);
                }
            }
            let Some(next) = page.next else {
                self.compared_mut().looked.complete = true;
                return Ok(self);
            };
            let left = examined_max.saturating_sub(self.compared_mut().looked.messages);
            if left == 0 || began.elapsed() >= BUSY_MAX {
                return Ok(self);
            }
            before = Some(next);
            step = (step * 4).min(STEP_MAX).min(u32::try_from(left).unwrap_or(STEP_MAX));
        }
    }

    /// Compares the messages of a few records.
    async fn records(
        mut self,
        log: &dyn Log,
        records: &[MessageRecord],
    ) -> Result<Self, ReceivedError> {
        let looked = &mut self.compared_mut().looked;
        looked.messages += records.len() as u64;
        let times = records.iter().map(|record| record.received_at);
        looked.since = looked.since.into_iter().chain(times).min();
        let candidates: Vec<&MessageRecord> =
            records.iter().filter(|record| self.may_take(record)).collect();
        if candidates.is_empty() {
            return Ok(self);
        }
        let seqs: Vec<Seq> = candidates.iter().map(|record| record.seq).collect();
        let contents = log.contents(&seqs).await?;
        let missing = seqs.len() - contents.len();
        self.compared_mut().looked.without_contents += missing as u64;
        let given = contents.into_iter().map(|contents| {
            let record = candidates.iter().find(|record| record.seq == contents.seq);
            Given {
                seq: Some(contents.seq.0),
                received_at: record.map(|record| record.received_at),
                contents: GivenContents::Stored(contents),
            }
        });
        Ok(self.batch(given.collect()).await?)
    }
}
