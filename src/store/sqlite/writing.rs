//! The callers' side of the writer: hands it orders, bounded by number and bytes, and waits for its answers.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::error::Fault;
use super::group::{Order, Step, StepOrder};
use super::health::Health;
use super::recent::{Known, Wanted};

/// How many steps may wait for the writer. Further senders wait before they send.
const STEPS_WAITING_MAX: u32 = 1_024;

/// How long a reader waits for the writer, which may be in the middle of a commit. If there are many recent messages,
/// reading them takes about as long.
const FIND_TIMEOUT: Duration = Duration::from_millis(250);

/// A handle to the writer.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) orders: mpsc::Sender<Order>,
    /// Permits for steps that wait for the writer.
    steps: Arc<Semaphore>,
    pub(super) health: Arc<Health>,
}

impl Writing {
    pub(super) fn new(orders: mpsc::Sender<Order>, health: Arc<Health>) -> Self {
        let steps = Arc::new(Semaphore::new(STEPS_WAITING_MAX as usize));
        Self { orders, steps, health }
    }

    /// Has the writer run a step, together with others in one transaction.
    pub(super) async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        let permit = Arc::clone(&self.steps).acquire_owned().await;
        let (order, answer) = StepOrder::new(step, permit.map_err(|_| Fault::Closed)?);
        self.orders.send(Order::Step(Box::new(order))).map_err(|_| self.end_cause())?;
        answer.await.map_err(|_| self.end_cause())?
    }

    /// Asks the writer which of the newest messages match. Without its reply, the reader looks through all messages
    /// behind `sorted_through`.
    pub(super) async fn find(&self, wanted: Wanted) -> Known {
        let (reply, answer) = oneshot::channel();
        // If the writer has ended, the read itself succeeds or fails without its help.
        let _ = self.orders.send(Order::Find(wanted, reply));
        timeout(FIND_TIMEOUT, answer).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Returns why the writer has ended.
    pub(super) fn end_cause(&self) -> Fault {
        self.health.must_end().unwrap_or(Fault::Closed)
    }
}
