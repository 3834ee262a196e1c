//! The task that writes the steps of delivery in groups. It has its own connection, so that accepting messages and
//! delivering them do not wait for each other.
//!
//! While one group is being written, the next one gathers. A step is answered only after its group is committed. A
//! group that fails is rolled back as a whole. If a single step may be to blame, each step is then written separately.
//!
//! A step locks its rows in an order that all steps of its kind share, but a group locks the rows of one step after those
//! of another. So the groups of two processes can deadlock, such as outcomes here and webhooks there that are about the
//! same contacts. Locking the rows of the whole group first would not prevent it, since steps also insert rows that the
//! other group may insert. The server ends one of the two groups within a second, and that group is written again after
//! a pause, in which the other one can be committed.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{Connection, Connections, Pooled};
use super::error::Fault;
use super::options::Time;
use super::transaction::{GROUP_TIMEOUT, TRIES_MAX};
use super::{partitions, tally};
use crate::store::tally::Tallies;

/// The maximum number of steps in a group.
const GROUP_STEPS_MAX: usize = 256;

/// The longest pause before the first repetition of a group that the server ended in favour of another one; the second
/// repetition waits up to twice as long, and so on. Random, so that two groups do not meet again.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Writes that belong together. A step shares its transaction with others, and may run again after a rollback.
#[async_trait]
pub(super) trait Step: Send + Sync + 'static {
    type Output: Send + 'static;

    async fn run(
        &self,
        transaction: &Connection,
        effects: &mut Effects,
    ) -> Result<Self::Output, Fault>;
}

/// Effects of the steps of a transaction, besides their outputs.
#[derive(Debug)]
pub(super) struct Effects {
    pub(super) tallies: Tallies,
    /// The days of new numbers, which may have no partitions yet.
    pub(super) days: Vec<i32>,
    pub(super) time: Time,
}

impl Effects {
    pub(super) fn new(time: Time) -> Self {
        Self { tallies: Tallies::default(), days: Vec::new(), time }
    }
}

/// A step of a group, with its output type hidden.
#[async_trait]
pub(super) trait AnyStep: Send {
    async fn run(&mut self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault>;
    fn answer(self: Box<Self>, committed: Result<(), Fault>);
}

pub(super) struct StepOrder<S: Step> {
    step: S,
    output: Option<S::Output>,
    reply: oneshot::Sender<Result<S::Output, Fault>>,
    /// The permit of the task's queue.
    _permit: OwnedSemaphorePermit,
}

impl<S: Step> StepOrder<S> {
    pub(super) fn new(
        step: S,
        permit: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Result<S::Output, Fault>>) {
        let (reply, answer) = oneshot::channel();
        (Self { step, output: None, reply, _permit: permit }, answer)
    }
}

#[async_trait]
impl<S: Step> AnyStep for StepOrder<S> {
    async fn run(&mut self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        self.output = Some(self.step.run(transaction, effects).await?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), Fault>) {
        let Self { output, reply, .. } = *self;
        // Each step of a committed group has run.
        let answer = committed.and_then(|()| output.ok_or(Fault::Closed));
        // The caller may be gone; the writes stay.
        let _ = reply.send(answer);
    }
}

/// The task that writes steps.
pub(super) struct Stepper {
    pub(super) connections: Connections,
    pub(super) time: Time,
    pub(super) orders: UnboundedReceiver<Box<dyn AnyStep>>,
    pub(super) closing: CancellationToken,
    /// Cancels a token when the task ends, for whatever reason.
    pub(super) ended: DropGuard,
}

struct Memory {
    connections: Connections,
    /// `None` after a failure; the next group makes a new connection.
    connection: Option<Pooled>,
    time: Time,
}

impl Stepper {
    /// Writes group after group until the store is closed or dropped.
    pub(super) async fn run(self) {
        let Self { connections, time, mut orders, closing, ended } = self;
        let mut memory = Memory { connections, connection: None, time };
        loop {
            let mut group = Vec::new();
            tokio::select! {
                biased;
                received = orders.recv_many(&mut group, GROUP_STEPS_MAX) => if received == 0 { break },
                // Steps sent before are still received.
                () = closing.cancelled(), if !orders.is_closed() => orders.close(),
            }
            if !group.is_empty() {
                memory.write(group).await;
            }
        }
        if let Some(connection) = memory.connection.take() {
            connection.close().await;
        }
        drop(ended);
    }
}

impl Memory {
    /// Writes a group and answers its steps.
    async fn write(&mut self, mut group: Vec<Box<dyn AnyStep>>) {
        match self.commit(&mut group).await {
            // No step is to blame for a lock, and each of them would wait for it.
            Err(fault) if fault.is_answer() && !fault.is_locked_out() && group.len() > 1 => {
                for step in group {
                    let mut alone = vec![step];
                    let committed = self.commit(&mut alone).await;
                    answer(alone, committed);
                }
            }
            committed => answer(group, committed),
        }
    }

    /// Writes steps in one transaction.
    async fn commit(&mut self, group: &mut [Box<dyn AnyStep>]) -> Result<(), Fault> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut effects = Effects::new(self.time);
            let tried = tokio::time::timeout(GROUP_TIMEOUT, async {
                let tried = self.try_to_commit(group, &mut effects).await;
                if let Err(fault) = &tried {
                    self.recover(fault, effects.days).await;
                }
                tried
            });
            let fault = match tried.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(fault)) => fault,
                Err(_) => {
                    self.connection.take().inspect(|connection| connection.outdate());
                    Fault::Slow
                }
            };
            if tries >= TRIES_MAX || !(fault.is_conflict() || fault.is_missing_partition()) {
                return Err(fault);
            }
            if fault.is_conflict() {
                tokio::time::sleep((PAUSE_MAX * tries).mul_f64(fastrand::f64())).await;
            }
        }
    }

    /// Rolls back, and makes missing partitions. If that fails, the next group makes a new connection.
    async fn recover(&mut self, fault: &Fault, days: Vec<i32>) {
        if let Some(connection) = self.connection.take()
            && fault.is_answer()
            && connection.batch("ROLLBACK").await.is_ok()
            && (!fault.is_missing_partition() || partitions::make(&connection, days).await.is_ok())
        {
            self.connection = Some(connection);
        }
    }

    async fn try_to_commit(
        &mut self,
        group: &mut [Box<dyn AnyStep>],
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        self.connection.take_if(|connection| connection.is_useless());
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.connections.get_to_write().await?),
        };
        connection.begin().await?;
        for step in group {
            step.run(connection, effects).await?;
        }
        tally::write(connection, std::mem::take(&mut effects.tallies)).await?;
        crate::crash::point("commit.before");
        connection.batch("COMMIT").await?;
        crate::crash::point("commit.after");
        Ok(())
    }
}

fn answer(group: Vec<Box<dyn AnyStep>>, committed: Result<(), Fault>) {
    for step in group {
        step.answer(committed.clone());
    }
}
