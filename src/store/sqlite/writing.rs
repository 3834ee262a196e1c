//! The callers' side of the writer: hands it orders, bounded by number and bytes, and waits for its answers.

use std::sync::Arc;
use std::sync::mpsc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Fault;
use super::group::{Order, Step, StepOrder};
use super::health::Health;
use super::options::SqliteOptions;
use crate::queue::{AcceptError, NewMessage};

/// Steps that may wait for the writer. More wait at their sender.
const STEPS_WAITING_MAX: u32 = 1_024;

/// The way to the writer.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) orders: mpsc::Sender<Order>,
    /// Permits for steps that wait for the writer.
    steps: Arc<Semaphore>,
    pub(super) health: Arc<Health>,
}

/// What may still wait for the writer. Each order owns its permits until it is answered, so that
/// nothing that happens to its sender can leak them.
#[derive(Debug)]
pub(super) struct Room {
    messages: Arc<Semaphore>,
    messages_max: u32,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

impl Writing {
    pub(super) fn new(orders: mpsc::Sender<Order>, health: Arc<Health>) -> Self {
        let steps = Arc::new(Semaphore::new(STEPS_WAITING_MAX as usize));
        Self { orders, steps, health }
    }

    /// Has the writer run a step, with others in one transaction.
    pub(super) async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        let permit = Arc::clone(&self.steps).acquire_owned().await;
        let (order, answer) = StepOrder::new(step, permit.map_err(|_| Fault::Closed)?);
        self.orders.send(Order::Step(Box::new(order))).map_err(|_| self.end_cause())?;
        answer.await.map_err(|_| self.end_cause())?
    }

    /// Why the writer has ended.
    pub(super) fn end_cause(&self) -> Fault {
        self.health.must_end().unwrap_or(Fault::Closed)
    }
}

impl Room {
    pub(super) fn new(options: &SqliteOptions) -> Self {
        let bounded = |max: usize| u32::try_from(max.max(1)).unwrap_or(u32::MAX);
        let semaphore =
            |max: u32| Arc::new(Semaphore::new((max as usize).min(Semaphore::MAX_PERMITS)));
        let messages_max = bounded(options.waiting_messages_max);
        let bytes_max = bounded(options.waiting_bytes_max);
        Self {
            messages: semaphore(messages_max),
            messages_max,
            bytes: semaphore(bytes_max),
            bytes_max,
        }
    }

    /// Takes room for messages, at once or not at all. A call that is larger than the whole room takes all
    /// of it: it can be written, but only alone.
    pub(super) fn admit(
        &self,
        messages: &[NewMessage],
    ) -> Result<[OwnedSemaphorePermit; 2], AcceptError> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX).min(self.messages_max);
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let take = |from: &Arc<Semaphore>, permits| {
            Arc::clone(from).try_acquire_many_owned(permits).map_err(|_| AcceptError::Busy)
        };
        Ok([take(&self.messages, count)?, take(&self.bytes, bytes)?])
    }
}
