//! Bounds the pending messages, by number and by bytes.
//!
//! Counting gets slower as the backlog grows, so it is not done for each message. Each count sets how much may be
//! admitted until the next one. New messages, replays and duplicates in this process use that up, while delivery makes
//! room unnoticed. So before messages are rejected, the backlog counts again, and all senders wait for the count.
//!
//! Other processes on the same data admit messages too. A count is used for at most [`RENEW_EVERY`], or 20 times as
//! long as it took, whichever is longer. Several processes together may exceed the bound by as much as they admit in
//! that time. A call or a part of a replay that begins below the bound is admitted as a whole.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::NewMessage;
use crate::telemetry;

/// An engine that can count its pending messages.
pub(super) trait Pending: Clone + Send + Sync + 'static {
    /// Why a count failed.
    type Fault: Send;

    /// The number of all pending messages, and the bytes of their payloads.
    fn count(&self) -> impl Future<Output = Result<Size, Self::Fault>> + Send;
}

/// A count that found the backlog full stays valid for 10 times as long as it took, at most a second.
const COUNT_RESTS: u32 = 10;
const COUNT_REST_MAX: Duration = Duration::from_secs(1);

/// While messages are admitted, a background count runs this often. Between two counts it rests for at least 20 times
/// as long as the last one took.
const RENEW_EVERY: Duration = Duration::from_secs(2);
const RENEW_RESTS: u32 = 20;

/// A number of messages, and the bytes of their payloads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Backlog {
    max: Size,
    room: Mutex<Room>,
    /// If the last count found the backlog full, the time until which that holds. Locked while counting.
    full_until: tokio::sync::Mutex<Option<Instant>>,
    /// Notified when admitted messages are no longer in flight.
    landed: Notify,
    /// Shows how many messages are in flight.
    waiting: Gauge,
}

#[derive(Debug)]
struct Room {
    /// How much may be admitted before the next count. Duplicates and failed writes use it up as well, which only
    /// brings the next count forward.
    left: Size,
    /// Messages that were admitted but may not be written yet, so a count may miss them.
    in_flight: Size,
    /// When the next background count is due; `None` while one is running.
    renew_at: Option<Instant>,
    /// Messages admitted since the background count began, so it may miss them.
    since: Size,
}

/// Messages on their way into the database; dropped once they are stored or have failed.
#[derive(Debug)]
pub(super) struct Admitted {
    backlog: Arc<Backlog>,
    size: Size,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut room = self.backlog.room();
        room.in_flight = room.in_flight.less(self.size);
        self.backlog.waiting.set(room.in_flight.messages as f64);
        drop(room);
        self.backlog.landed.notify_waiters();
    }
}

impl Size {
    const ZERO: Self = Self { messages: 0, bytes: 0 };

    /// The size of these messages.
    pub(super) fn of(messages: &[NewMessage]) -> Self {
        let bytes = messages.iter().map(|message| message.payload.len() as u64).sum();
        Self { messages: messages.len() as u64, bytes }
    }

    /// Whether no room is left: not one message, or not one byte.
    fn is_used_up(self) -> bool {
        self.messages == 0 || self.bytes == 0
    }

    fn less(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }
}

impl Backlog {
    /// Counts the messages that are already pending.
    pub(super) async fn open<P: Pending>(max: Size, pending: &P) -> Result<Self, P::Fault> {
        let max = Size { messages: max.messages.max(1), bytes: max.bytes.max(1) };
        let left = max.less(pending.count().await?);
        let waiting = gauge!(telemetry::STORE_WAITING);
        waiting.set(0.0);
        Ok(Self {
            max,
            room: Mutex::new(Room {
                left,
                in_flight: Size::ZERO,
                renew_at: Some(Instant::now() + RENEW_EVERY),
                since: Size::ZERO,
            }),
            full_until: tokio::sync::Mutex::new(None),
            landed: Notify::new(),
            waiting,
        })
    }

    /// Admits messages of this size if there is room for at least one message and one byte. Returns `None` if there is
    /// not.
    pub(super) async fn admit<P: Pending>(
        self: &Arc<Self>,
        size: Size,
        pending: &P,
    ) -> Result<Option<Admitted>, P::Fault> {
        self.renew_if_old(pending);
        if let Some(admitted) = self.try_admit(size) {
            return Ok(Some(admitted));
        }
        let mut full_until = self.full_until.lock().await;
        loop {
            // Another sender may have counted in the meantime.
            if let Some(admitted) = self.try_admit(size) {
                return Ok(Some(admitted));
            }
            let began = Instant::now();
            if full_until.is_some_and(|until| began < until) {
                return Ok(None);
            }
            let landed = self.landed.notified();
            // Nothing is admitted until there is room again, so this cannot grow during the count.
            let in_flight = self.room().in_flight;
            let room = self.max.less(pending.count().await?);
            if room.is_used_up() {
                let now = Instant::now();
                *full_until = Some(now + ((now - began) * COUNT_RESTS).min(COUNT_REST_MAX));
                return Ok(None);
            }
            let left = room.less(in_flight);
            if left.is_used_up() {
                // The messages in flight may or may not be part of the count.
                landed.await;
            } else {
                self.room().left = left;
            }
        }
    }

    /// Starts a background count if the last one is old, since other processes admit messages too.
    fn renew_if_old<P: Pending>(self: &Arc<Self>, pending: &P) {
        let began = Instant::now();
        let mut room = self.room();
        if room.renew_at.is_none_or(|at| began < at) {
            return;
        }
        room.renew_at = None;
        // Messages in flight may be written before the count, after it, or never.
        room.since = room.in_flight;
        drop(room);
        let (backlog, pending) = (Arc::clone(self), pending.clone());
        tokio::spawn(async move {
            let counted = pending.count().await;
            let now = Instant::now();
            let mut room = backlog.room();
            if let Ok(counted) = counted {
                room.left = backlog.max.less(counted).less(room.since);
            }
            room.renew_at = Some(now + RENEW_EVERY.max((now - began) * RENEW_RESTS));
        });
    }

    /// Makes the next call count again.
    #[cfg(test)]
    pub(super) fn make_old(&self) {
        self.room().renew_at = Some(Instant::now());
    }

    /// Whether no background count is running.
    #[cfg(test)]
    pub(super) fn is_renewed(&self) -> bool {
        self.room().renew_at.is_some()
    }

    fn try_admit(self: &Arc<Self>, size: Size) -> Option<Admitted> {
        let mut room = self.room();
        if room.left.is_used_up() {
            return None;
        }
        room.left = room.left.less(size);
        room.in_flight = room.in_flight.plus(size);
        self.waiting.set(room.in_flight.messages as f64);
        room.since = room.since.plus(size);
        Some(Admitted { backlog: Arc::clone(self), size })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Each change is a few assignments that cannot panic.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
