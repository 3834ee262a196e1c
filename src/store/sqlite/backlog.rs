//! Bounds the number of pending messages. Counting them takes longer the more there are, so they are
//! counted only if the messages admitted since the last count could have brought them to the bound.
//! Messages are turned away only after a count, and all senders wait while one is made.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Fault;
use super::reader::Readers;
use crate::queue::AcceptError;

pub(super) const COUNT: &str = "SELECT COUNT(*) FROM messages WHERE state = 0";

/// A count that found the backlog full stays valid for 10 times as long as it took, at most a second.
const COUNT_RESTS: u32 = 10;
const COUNT_REST_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Backlog {
    max: u64,
    room: Mutex<Room>,
    /// Until when the last count is valid, if it found too many. Locked while counting.
    full_until: tokio::sync::Mutex<Option<Instant>>,
    /// Notified when something is no longer in flight.
    landed: Notify,
}

#[derive(Debug)]
struct Room {
    /// How many messages may be admitted before the pending ones must be counted again. Duplicates, and
    /// messages that could not be written, take room as well, which only brings the next count forward.
    left: u64,
    /// Messages that were admitted and may not be written yet, so that a count may miss them.
    in_flight: u64,
}

/// Messages on their way into the database; dropped once they are stored or have failed.
#[derive(Debug)]
pub(super) struct Admitted {
    backlog: Arc<Backlog>,
    messages: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.backlog.room().in_flight -= self.messages;
        self.backlog.landed.notify_waiters();
    }
}

impl Backlog {
    /// Counts what is pending already.
    pub(super) async fn open(max: u64, readers: &Readers) -> Result<Self, Fault> {
        let max = max.max(1);
        let left = max.saturating_sub(count(readers).await?);
        Ok(Self {
            max,
            room: Mutex::new(Room { left, in_flight: 0 }),
            full_until: tokio::sync::Mutex::new(None),
            landed: Notify::new(),
        })
    }

    /// Admits the messages of a call if there is room for one of them.
    pub(super) async fn admit(
        self: &Arc<Self>,
        messages: usize,
        readers: &Readers,
    ) -> Result<Admitted, AcceptError> {
        if let Some(admitted) = self.try_admit(messages) {
            return Ok(admitted);
        }
        let mut full_until = self.full_until.lock().await;
        loop {
            // Another sender may have counted meanwhile.
            if let Some(admitted) = self.try_admit(messages) {
                return Ok(admitted);
            }
            let began = Instant::now();
            if full_until.is_some_and(|until| began < until) {
                return Err(AcceptError::Full);
            }
            let landed = self.landed.notified();
            // Nothing is admitted until there is room again, so this cannot grow during the count.
            let in_flight = self.room().in_flight;
            let pending = count(readers).await?;
            let room = self.max.saturating_sub(pending);
            if room == 0 {
                let now = Instant::now();
                *full_until = Some(now + ((now - began) * COUNT_RESTS).min(COUNT_REST_MAX));
                return Err(AcceptError::Full);
            }
            let left = room.saturating_sub(in_flight);
            if left == 0 {
                // What is in flight may or may not be among those that were counted.
                landed.await;
            } else {
                self.room().left = left;
            }
        }
    }

    fn try_admit(self: &Arc<Self>, messages: usize) -> Option<Admitted> {
        let messages = messages as u64;
        let mut room = self.room();
        if room.left == 0 {
            return None;
        }
        room.left = room.left.saturating_sub(messages);
        room.in_flight += messages;
        Some(Admitted { backlog: Arc::clone(self), messages })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Each change is a few assignments that cannot panic.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn count(readers: &Readers) -> Result<u64, Fault> {
    readers
        .read(|connection| {
            let pending: i64 = connection.prepare_cached(COUNT)?.query_row([], |row| row.get(0))?;
            Ok(pending.unsigned_abs())
        })
        .await
}
