//! A bound on how many messages may be pending. Counting them takes longer the more there are, so the
//! count is an upper estimate, that grows with what is accepted here, and is made anew when it comes
//! to the bound. What other processes accept is found then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::time::Instant;

use crate::queue::AcceptError;
use crate::store::{Fault, sql};

/// How often the messages are counted at most, while there are too many of them.
const COUNT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Backlog {
    max: u64,
    /// Not below what is pending, as far as this process knows.
    estimate: AtomicU64,
    counted_at: Mutex<Option<Instant>>,
}

impl Backlog {
    /// Counts what is pending already.
    pub(super) async fn open(max: u64, readers: &SqlitePool) -> Result<Self, sqlx::Error> {
        let estimate = AtomicU64::new(count(readers).await?);
        Ok(Self { max: max.max(1), estimate, counted_at: Mutex::new(None) })
    }

    /// Fails while there are as many as may be.
    pub(super) async fn admit(&self, readers: &SqlitePool) -> Result<(), AcceptError> {
        if self.is_full() && self.may_count() {
            let pending = count(readers).await.map_err(Fault::from)?;
            self.estimate.store(pending, Ordering::Relaxed);
        }
        if self.is_full() { Err(AcceptError::Full) } else { Ok(()) }
    }

    /// Takes note of messages that were accepted.
    pub(super) fn add(&self, messages: usize) {
        self.estimate.fetch_add(messages as u64, Ordering::Relaxed);
    }

    fn is_full(&self) -> bool {
        self.estimate.load(Ordering::Relaxed) >= self.max
    }

    fn may_count(&self) -> bool {
        // A panic cannot leave a single assignment half done.
        let mut counted_at = self.counted_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = counted_at.is_none_or(|at| at.elapsed() >= COUNT_EVERY);
        if is_due {
            *counted_at = Some(Instant::now());
        }
        is_due
    }
}

async fn count(readers: &SqlitePool) -> Result<u64, sqlx::Error> {
    let pending: i64 = sqlx::query_scalar(sql::BACKLOG).fetch_one(readers).await?;
    Ok(pending.unsigned_abs())
}
