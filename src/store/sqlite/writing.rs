//! The callers' side of the writer: hands it orders, bounded by number and bytes, and waits for its answers.

use std::sync::Arc;
use std::sync::mpsc;

use tokio::sync::Semaphore;

use super::error::Fault;
use super::group::{Order, Step, StepOrder};
use super::health::Health;

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
