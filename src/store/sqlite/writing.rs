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

/// Steps that may wait for the writer. More wait at their sender.
const STEPS_WAITING_MAX: u32 = 1_024;

/// How long a reader waits for the writer, which may be in the middle of a commit. Reading the newest messages takes
/// about as long if there are many.
const FIND_TIMEOUT: Duration = Duration::from_millis(250);

/// The way to the writer.
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

    /// Has the writer run a step, with others in one transaction.
    pub(super) async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        let permit = Arc::clone(&self.steps).acquire_owned().await;
        let (order, answer) = StepOrder::new(step, permit.map_err(|_| Fault::Closed)?);
        self.orders.send(Order::Step(Box::new(order))).map_err(|_| self.end_cause())?;
        answer.await.map_err(|_| self.end_cause())?
    }

    /// Asks the writer which of the newest messages are wanted. Without its answer, the reader finds all of them behind
    /// `sorted_through`.
    pub(super) async fn find(&self, wanted: Wanted) -> Known {
        let (reply, answer) = oneshot::channel();
        // The writer has ended, or is dropped: reading fails or not, whatever is known here.
        let _ = self.orders.send(Order::Find(wanted, reply));
        timeout(FIND_TIMEOUT, answer).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Why the writer has ended.
    pub(super) fn end_cause(&self) -> Fault {
        self.health.must_end().unwrap_or(Fault::Closed)
    }
}
