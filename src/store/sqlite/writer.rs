//! The one writer: everything that waits to be written becomes one transaction.
//!
//! A commit costs a flush to the disk, however much is in it. While one runs, further operations
//! gather, and go together into the next. Nothing is answered before its commit.

use std::sync::Mutex;
use std::sync::PoisonError;

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::{accept, purge, steps, unavailable};
use crate::queue::{
    Accepted, FrozenRequest, Lease, LeaseRequest, NewMessage, NewPlan, QueueError, Seq, Settlement,
};

/// The most operations in one transaction: bounds how long the first of them waits.
const GROUP_MAX: usize = 512;

/// The most messages in one transaction.
const GROUP_MESSAGES_MAX: usize = 4_000;

type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// Something to be written, and where its answer goes.
#[derive(Debug)]
pub(super) enum Op {
    Accept {
        messages: Vec<NewMessage>,
        reply: Reply<Vec<Accepted>>,
        _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    },
    Lease {
        ask: LeaseRequest,
        reply: Reply<Option<Lease>>,
    },
    Release {
        lease: Lease,
        reply: Reply<()>,
    },
    Freeze {
        lease: Lease,
        seq: Seq,
        plan: NewPlan,
        reply: Reply<Vec<FrozenRequest>>,
    },
    Settle {
        lease: Lease,
        settlement: Settlement,
        reply: Reply<()>,
    },
    Purge {
        times: purge::Times,
        reply: Reply<u64>,
    },
}

/// What an operation came to, to be told after the commit.
enum Applied {
    Accepted(Vec<Accepted>),
    Leased(Option<Lease>),
    Stepped(Result<(), QueueError>),
    Frozen(Result<Vec<FrozenRequest>, QueueError>),
    Purged(u64),
}

/// The writer's handle.
#[derive(Debug)]
pub(super) struct Writer {
    ops: Mutex<Option<mpsc::UnboundedSender<Op>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    arrivals: watch::Receiver<u64>,
}

/// The writer went away.
#[derive(Debug, thiserror::Error)]
#[error("the store is closed")]
struct Closed;

impl Writer {
    /// Starts the writer on its connection; `window` is the duplicate window in milliseconds.
    pub(super) fn start(connection: SqliteConnection, window: i64) -> Self {
        // Not bounded here: messages are by permits, everything else by the engine's bounds.
        let (sender, receiver) = mpsc::unbounded_channel();
        let (arrived, arrivals) = watch::channel(0);
        let task = Task { connection, receiver, arrived, window };
        let task = tokio::spawn(task.run());
        Self { ops: Mutex::new(Some(sender)), task: Mutex::new(Some(task)), arrivals }
    }

    /// Hands an operation over and waits for its answer. A caller that stops waiting does not undo it.
    pub(super) async fn ask<T>(
        &self,
        op: impl FnOnce(Reply<T>) -> Op,
    ) -> Result<Result<T, QueueError>, QueueError> {
        let (reply, answer) = oneshot::channel();
        let sender = self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sender = sender.ok_or_else(|| unavailable(Closed))?;
        sender.send(op(reply)).map_err(|_| unavailable(Closed))?;
        drop(sender);
        answer.await.map_err(|_| unavailable(Closed))
    }

    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.clone()
    }

    /// Writes what waits and closes the connection.
    pub(super) async fn close(&self) {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).take();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(fault) = task.await
        {
            error!(%fault, "the writer broke off");
        }
    }
}

struct Task {
    connection: SqliteConnection,
    receiver: mpsc::UnboundedReceiver<Op>,
    arrived: watch::Sender<u64>,
    window: i64,
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.receiver.recv().await {
            let group = self.gather(first);
            self.write(group).await;
        }
        // Fold the log into the file, so that a copy of the file alone is whole.
        if let Err(fault) =
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut self.connection).await
        {
            warn!(%fault, "the database's log could not be folded in");
        }
        if let Err(fault) = self.connection.close().await {
            warn!(%fault, "the database was not closed cleanly");
        }
    }

    fn gather(&mut self, first: Op) -> Vec<Op> {
        let mut messages = first.messages();
        let mut group = vec![first];
        while group.len() < GROUP_MAX && messages < GROUP_MESSAGES_MAX {
            let Ok(op) = self.receiver.try_recv() else {
                break;
            };
            messages += op.messages();
            group.push(op);
        }
        group
    }

    async fn write(&mut self, group: Vec<Op>) {
        match self.transaction(&group).await {
            Ok(applied) => self.answer(group, applied),
            Err(fault) if group.len() > 1 => {
                warn!(%fault, operations = group.len(), "a transaction failed; trying its parts one by one");
                for op in group {
                    self.write_alone(op).await;
                }
            }
            Err(fault) => {
                for op in group {
                    op.refuse(&fault);
                }
            }
        }
    }

    async fn write_alone(&mut self, op: Op) {
        let group = vec![op];
        match self.transaction(&group).await {
            Ok(applied) => self.answer(group, applied),
            Err(fault) => group.into_iter().for_each(|op| op.refuse(&fault)),
        }
    }

    fn answer(&self, group: Vec<Op>, applied: Vec<Applied>) {
        let mut has_messages = false;
        for (op, applied) in group.into_iter().zip(applied) {
            has_messages |= op.messages() > 0;
            op.answer(applied);
        }
        if has_messages {
            self.arrived.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    async fn transaction(&mut self, group: &[Op]) -> Result<Vec<Applied>, sqlx::Error> {
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await;
        let result = match begun {
            Ok(_) => apply(&mut self.connection, group, self.window).await,
            Err(fault) => Err(fault),
        };
        let result = match result {
            Ok(applied) => {
                sqlx::query("COMMIT").execute(&mut self.connection).await.map(|_| applied)
            }
            Err(fault) => Err(fault),
        };
        if result.is_err() {
            // SQLite may have rolled back by itself, as it does on a full disk: then this says that
            // there is no transaction, which is what is wanted.
            let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
        }
        result
    }
}

async fn apply(
    connection: &mut SqliteConnection,
    group: &[Op],
    window: i64,
) -> Result<Vec<Applied>, sqlx::Error> {
    let messages: Vec<&NewMessage> = group
        .iter()
        .filter_map(|op| match op {
            Op::Accept { messages, .. } => Some(messages),
            _ => None,
        })
        .flatten()
        .collect();
    let mut accepted = accept::accept(connection, &messages, window).await?.into_iter();
    let mut applied = Vec::with_capacity(group.len());
    for op in group {
        applied.push(match op {
            Op::Accept { messages, .. } => {
                Applied::Accepted(accepted.by_ref().take(messages.len()).collect())
            }
            Op::Lease { ask, .. } => Applied::Leased(steps::lease(connection, ask).await?),
            Op::Release { lease, .. } => Applied::Stepped(steps::release(connection, lease).await?),
            Op::Freeze { lease, seq, plan, .. } => {
                Applied::Frozen(steps::freeze(connection, lease, *seq, plan).await?)
            }
            Op::Settle { lease, settlement, .. } => {
                Applied::Stepped(steps::settle(connection, lease, settlement).await?)
            }
            Op::Purge { times, .. } => Applied::Purged(purge::purge(connection, times).await?),
        });
    }
    Ok(applied)
}

impl Op {
    fn messages(&self) -> usize {
        match self {
            Op::Accept { messages, .. } => messages.len(),
            _ => 0,
        }
    }

    /// Tells what it came to. Whoever asked may have gone away: that is no fault.
    fn answer(self, applied: Applied) {
        match (self, applied) {
            (Op::Accept { reply, .. }, Applied::Accepted(accepted)) => {
                drop(reply.send(Ok(accepted)))
            }
            (Op::Lease { reply, .. }, Applied::Leased(lease)) => drop(reply.send(Ok(lease))),
            (Op::Release { reply, .. } | Op::Settle { reply, .. }, Applied::Stepped(result)) => {
                drop(reply.send(result));
            }
            (Op::Freeze { reply, .. }, Applied::Frozen(result)) => drop(reply.send(result)),
            (Op::Purge { reply, .. }, Applied::Purged(rows)) => drop(reply.send(Ok(rows))),
            // Dropping the reply tells the caller that the store does not work.
            (op, _) => error!(?op, "an operation got the answer of another"),
        }
    }

    fn refuse(self, fault: &sqlx::Error) {
        let fault = || unavailable(Fault(fault.to_string()));
        match self {
            Op::Accept { reply, .. } => drop(reply.send(Err(fault()))),
            Op::Lease { reply, .. } => drop(reply.send(Err(fault()))),
            Op::Release { reply, .. } | Op::Settle { reply, .. } => drop(reply.send(Err(fault()))),
            Op::Freeze { reply, .. } => drop(reply.send(Err(fault()))),
            Op::Purge { reply, .. } => drop(reply.send(Err(fault()))),
        }
    }
}

/// A fault of the database, told to everyone whom it struck.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Fault(String);
