//! Orders to write, and the group of them that one transaction writes.
//!
//! An order keeps its permits in the writer's queue until it is answered. A group is answered only after its commit.

use std::time::Instant;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::accept::{self, Memory};
use super::error::Fault;
use super::open::check_schema;
use super::recent::{Known, Row, Slice, Wanted};
use super::tally;
use crate::queue::{Accepted, NewMessage};
use crate::store::order::AcceptOrder;
use crate::store::tally::Tallies;

/// Estimates for the size of a group: the bytes of a step, and of a message in addition to its payload.
const STEP_BYTES: u64 = 4_096;
const MESSAGE_BYTES: u64 = 512;

/// Something to write, or to look up in the writer's memory.
pub(super) enum Order {
    Accept(AcceptOrder<Fault>),
    Find(Wanted, oneshot::Sender<Known>),
    Step(Box<dyn AnyStep>),
    Close(oneshot::Sender<()>),
}

/// Writes that belong together. A step shares its transaction with others, and may run again after a rollback.
pub(super) trait Step: Send + 'static {
    type Output: Send + 'static;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<Self::Output, Fault>;
}

/// Effects of the steps of a transaction that the writer must act on.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// A step has written something.
    pub(super) has_written: bool,
    /// The largest trial write, in bytes.
    pub(super) proven_bytes: u64,
    /// The engines may find new work.
    pub(super) has_arrived: bool,
    /// Contents were erased that the write-ahead log may still hold.
    pub(super) has_erased: bool,
    /// Names of events may have been deleted.
    pub(super) forgets_event_names: bool,
    pub(super) tallies: Tallies,
}

/// A step of a group, with its output type hidden.
pub(super) trait AnyStep: Send {
    fn run(&mut self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault>;
    fn answer(self: Box<Self>, committed: Result<(), Fault>);
}

pub(super) struct StepOrder<S: Step> {
    step: S,
    output: Option<S::Output>,
    reply: oneshot::Sender<Result<S::Output, Fault>>,
    /// The permit of the writer's queue.
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

impl<S: Step> AnyStep for StepOrder<S> {
    fn run(&mut self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault> {
        self.output = Some(self.step.run(transaction, effects)?);
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

#[derive(Default)]
pub(super) struct Group {
    pub(super) steps: Vec<Box<dyn AnyStep>>,
    pub(super) accepts: Vec<AcceptOrder<Fault>>,
    /// When its transaction began; `None` before that.
    pub(super) began_at: Option<Instant>,
}

impl Group {
    pub(super) fn len(&self) -> usize {
        self.steps.len() + self.accepts.len()
    }

    /// The messages to be accepted.
    pub(super) fn messages(&self) -> usize {
        self.accepts.iter().map(|order| order.messages.len()).sum()
    }

    /// Estimates the bytes that the group takes in the file.
    pub(super) fn bytes(&self) -> u64 {
        let accepts: u64 = self.accepts.iter().flat_map(|order| &order.messages).map(size).sum();
        accepts + self.steps.len() as u64 * STEP_BYTES
    }

    /// The same estimate for the orders that have written something: duplicates have not.
    pub(super) fn written_bytes(&self, written: &Written) -> u64 {
        let Written { accepted, effects } = written;
        let all = self.accepts.iter().zip(accepted);
        let all = all.flat_map(|(order, accepted)| order.messages.iter().zip(accepted));
        let new = all.filter(|(_, accepted)| **accepted == Accepted::New);
        let new: u64 = new.map(|(message, _)| size(message)).sum();
        let steps = if effects.has_written { STEP_BYTES } else { 0 };
        new + steps.max(effects.proven_bytes)
    }

    /// Splits the group into one group for each order, in the same sequence.
    pub(super) fn apart(self) -> impl Iterator<Item = Group> {
        let steps =
            self.steps.into_iter().map(|step| Group { steps: vec![step], ..Group::default() });
        let accepts = self
            .accepts
            .into_iter()
            .map(|order| Group { accepts: vec![order], ..Group::default() });
        steps.chain(accepts)
    }

    pub(super) fn answer(self, committed: Result<Vec<Vec<Accepted>>, Fault>) {
        let (group_messages, began_at) = (self.messages(), self.began_at);
        let of_steps = committed.as_ref().map(|_| ()).map_err(Fault::clone);
        for step in self.steps {
            step.answer(of_steps.clone());
        }
        let mut accepted = committed.map(Vec::into_iter);
        for order in self.accepts {
            let outcome = match &mut accepted {
                Ok(accepted) => accepted.next().ok_or(Fault::Closed),
                Err(fault) => Err(fault.clone()),
            };
            order.answer(outcome, began_at, group_messages);
        }
    }
}

fn size(message: &NewMessage) -> u64 {
    message.payload.len() as u64 + MESSAGE_BYTES
}

/// The results of a transaction.
pub(super) struct Written {
    pub(super) accepted: Vec<Vec<Accepted>>,
    pub(super) effects: Effects,
}

pub(super) fn transact(
    connection: &mut Connection,
    group: &mut Group,
    memory: &mut Memory,
) -> Result<(Written, Vec<Row>, Option<Slice>), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    check_schema(&transaction)?;
    let mut effects = Effects::default();
    for step in &mut group.steps {
        step.run(&transaction, &mut effects)?;
    }
    let calls: Vec<&[NewMessage]> =
        group.accepts.iter().map(|order| order.messages.as_slice()).collect();
    let mut rows = Vec::new();
    let mut accepted = Vec::new();
    if !calls.is_empty() || effects.has_arrived {
        rows = memory.recent.unknown(&transaction)?;
        accepted = accept::accept(&transaction, memory, &calls, &mut rows, &mut effects.tallies)?;
    }
    tally::write(std::mem::take(&mut effects.tallies), &transaction)?;
    let slice = memory.recent.sort_slice(&transaction, group.len() == 0)?;
    crate::crash::point("commit.before");
    transaction.commit()?;
    crate::crash::point("commit.after");
    Ok((Written { accepted, effects }, rows, slice))
}
