//! The store: the state that its callers share.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::Connections;
use super::error::Fault;
use super::hints::Hints;
use super::housekeeping::Chores;
use super::options::{Retention, Time};
use super::steps::{AnyStep, Step, StepOrder};
use crate::segment::Digests;
use crate::store::backlog::Backlog;
use crate::store::order::AcceptOrder;
use crate::store::room::Room;

/// The queue in a PostgreSQL database.
///
/// Dropped without [`close`](crate::queue::Store::close), it loses nothing that was acknowledged.
#[derive(Debug)]
pub(in crate::store) struct PostgresStore {
    /// Connections of the engines.
    pub(super) readers: Connections,
    /// Connections for people and replays. Their reads may be slow, and neither delivery nor accepting messages waits
    /// for them.
    pub(super) lookups: Connections,
    pub(super) leasing: Connections,
    pub(super) accepting: UnboundedSender<AcceptOrder<Fault>>,
    pub(super) stepping: UnboundedSender<Box<dyn AnyStep>>,
    /// Permits for steps that wait for their task.
    pub(super) steps: Arc<Semaphore>,
    pub(super) room: Room,
    pub(super) backlog: Arc<Backlog>,
    pub(super) hints: Arc<Hints>,
    pub(super) closing: CancellationToken,
    /// Cancelled when each of the two writing tasks has ended.
    pub(super) ended: [CancellationToken; 2],
    /// Cancelled when the task for hints has ended. It ends with the store.
    pub(super) hinted: CancellationToken,
    pub(super) _hinting: DropGuard,
    pub(super) digests: Digests,
    pub(super) retention: Retention,
    pub(super) chores: Chores,
    pub(super) time: Time,
}

impl PostgresStore {
    /// Writes a step together with others in one transaction.
    pub(super) async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        let permit = Arc::clone(&self.steps).acquire_owned().await;
        let (order, answer) = StepOrder::new(step, permit.map_err(|_| Fault::Closed)?);
        self.stepping.send(Box::new(order)).map_err(|_| Fault::Closed)?;
        answer.await.map_err(|_| Fault::Closed)?
    }
}
