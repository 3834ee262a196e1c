//! The writer: the thread that takes orders from a queue and writes them in groups.
//!
//! While the writer commits one group, the orders of the next one gather in the queue. Callers get their answers after
//! the commit. A group that fails is rolled back as a whole. If a single order may be the cause, the writer then writes
//! each order in a transaction of its own, so that one bad order does not fail the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::accept::Memory;
use super::connection::WriterConnection;
use super::error::{Fault, advice};
use super::group::{AnyStep, Group, Order, Written, transact};
use super::health::{Health, Remedy};
use crate::queue::Accepted;
use crate::store::meters::Meters;
use crate::store::order::AcceptOrder;
use crate::telemetry;

/// Limits of one group. They limit how long a transaction holds the lock, and how long the first order of a group waits
/// for the last.
const GROUP_MESSAGES_MAX: usize = 2_000;
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
const GROUP_STEPS_MAX: usize = 256;

pub(super) struct Writer {
    pub(super) connection: WriterConnection,
    pub(super) memory: Memory,
    pub(super) meters: Meters,
    pub(super) orders: Receiver<Order>,
    pub(super) arrived: watch::Sender<u64>,
    /// How long the store must be idle before the newest messages are sorted in.
    pub(super) quiet: Duration,
    pub(super) health: Arc<Health>,
    /// Where the callers run.
    pub(super) runtime: Handle,
    /// Cancelled when the writer has ended, even by a panic.
    pub(super) ended: CancellationToken,
}

/// Orders that the writer has taken from the queue and not yet put into a group.
#[derive(Default)]
struct Waiting {
    steps: VecDeque<Box<dyn AnyStep>>,
    accepts: VecDeque<AcceptOrder<Fault>>,
    /// Set once the store is being closed. The writer takes no later order.
    closing: Option<oneshot::Sender<()>>,
}

impl Writer {
    pub(super) fn start(self) -> std::io::Result<()> {
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || self.run())?;
        Ok(())
    }

    /// Writes group after group until the store is closed or dropped, then closes the file.
    fn run(mut self) {
        let ended = self.ended.clone().drop_guard();
        let mut waiting = Waiting::default();
        loop {
            match self.wait(&mut waiting) {
                Wake::Orders => {
                    match waiting.next_group() {
                        Some(group) => self.commit(group),
                        None if waiting.closing.is_some() => break,
                        None => {}
                    }
                    // A store that is never idle must empty the write-ahead log as well.
                    self.connection.empty_wal_if_due();
                }
                Wake::Quiet => self.tidy(),
                Wake::Dropped => break,
            }
            if self.health.must_end().is_some() {
                break;
            }
        }
        if let Err(error) = self.connection.close() {
            // Nothing is lost: the next process that opens the database moves it.
            tracing::debug!(%error, "could not move the write-ahead log into the database");
        }
        // Dropping `arrived` ends the engines. `ended` comes first, so that the cause is known by then.
        drop(ended);
        drop(self);
        if let Some(reply) = waiting.closing {
            let _ = reply.send(());
        }
    }

    /// Takes all orders from the queue; waits for one if none is left.
    fn wait(&mut self, waiting: &mut Waiting) -> Wake {
        if waiting.is_empty() {
            let first = match self.patience() {
                Some(patience) => self.orders.recv_timeout(patience),
                None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(order) => self.take(waiting, order),
                Err(RecvTimeoutError::Timeout) => return Wake::Quiet,
                Err(RecvTimeoutError::Disconnected) => return Wake::Dropped,
            }
        }
        while waiting.closing.is_none()
            && let Ok(order) = self.orders.try_recv()
        {
            self.take(waiting, order);
        }
        Wake::Orders
    }

    /// Answers readers at once. All other orders wait for their group.
    fn take(&self, waiting: &mut Waiting, order: Order) {
        match order {
            Order::Accept(order) => waiting.accepts.push_back(order),
            Order::Step(step) => waiting.steps.push_back(step),
            Order::Close(reply) => waiting.closing = Some(reply),
            // The reader may be gone.
            Order::Find(wanted, reply) => drop(reply.send(self.memory.recent.find(&wanted))),
        }
    }

    /// Returns how long to wait for orders before tidying; `None` if there is nothing to tidy. After a failure there is
    /// not: the next order finds out whether writing works.
    fn patience(&self) -> Option<Duration> {
        if !self.connection.is_open() {
            None
        } else if self.memory.recent.has_enough() {
            Some(self.quiet)
        } else {
            self.connection.empties_wal_after()
        }
    }

    /// Empties the log and sorts in the newest messages while the store is idle.
    fn tidy(&mut self) {
        if self.connection.secure().is_err() {
            return;
        }
        self.connection.empty_wal();
        if self.memory.recent.has_enough() {
            let mut group = Group::default();
            let written = self.write(&mut group);
            self.finish(group, written);
        }
    }

    fn commit(&mut self, group: Group) {
        let Some(mut group) = self.admit(group) else { return };
        match self.write(&mut group) {
            Err(fault) if group.len() > 1 && !fault.is_environmental() => {
                tracing::warn!(
                    error = %telemetry::chain(&fault),
                    "could not write a group: writing its parts one by one"
                );
                self.health.ends();
                self.health.saw(&fault);
                for part in group.apart() {
                    if let Some(mut part) = self.admit(part) {
                        let written = self.write(&mut part);
                        self.finish(part, written);
                    }
                }
            }
            written => self.finish(group, written),
        }
    }

    /// Refuses the orders that must not be written now; returns the others.
    fn admit(&mut self, mut group: Group) -> Option<Group> {
        let Err(fault) = self.connection.secure() else { return Some(group) };
        // Nothing is appended to a log that must be saved first.
        if self.health.must_end().is_some() || self.health.remedy() == Some(Remedy::Save) {
            self.answer(group, Err(fault));
            return None;
        }
        if let Fault::Files { .. } = fault {
            self.report(&fault, group.bytes());
        }
        let accepts = std::mem::take(&mut group.accepts);
        self.answer(Group { accepts, ..Group::default() }, Err(fault));
        (group.len() > 0).then_some(group)
    }

    fn finish(&mut self, mut group: Group, written: Result<Written, Fault>) {
        self.health.ends();
        let answers = match written {
            Ok(written) => {
                let bytes = group.written_bytes(&written);
                let Written { mut accepted, effects } = written;
                // Checked again, since the files may have been moved during the commit.
                if let Err(fault) = self.connection.secure() {
                    let accepts = std::mem::take(&mut group.accepts);
                    self.answer(Group { accepts, ..Group::default() }, Err(fault.clone()));
                    accepted = Vec::new();
                    if self.health.must_end().is_some() {
                        self.answer(group, Err(fault));
                        return;
                    }
                    if let Fault::Files { .. } = fault {
                        self.report(&fault, bytes);
                    }
                } else if self.health.written(bytes) {
                    tracing::info!("the database can be written again");
                }
                if effects.has_erased {
                    self.connection.empty_erased();
                }
                if effects.forgets_event_names {
                    self.memory.event_names.forget();
                }
                let has_new = accepted.iter().flatten().any(|one| *one == Accepted::New);
                if has_new || effects.has_arrived {
                    self.arrived.send_modify(|count| *count = count.wrapping_add(1));
                }
                Ok(accepted)
            }
            // The broken rows of one message do not mean that the database is down. The caller logs the message.
            Err(fault) if fault.is_broken() && group.accepts.is_empty() => Err(fault),
            Err(fault) => {
                self.report(&fault, group.bytes());
                Err(fault)
            }
        };
        self.answer(group, answers);
    }

    /// Records that a group of this size was not written, or not safely. Logs it if the store was well before.
    fn report(&self, fault: &Fault, bytes: u64) {
        if !self.health.failed(fault, bytes) {
            return;
        }
        let (advice, error) = match fault {
            Fault::Database { source } => (Some(advice(source)), source.to_string()),
            other => (None, telemetry::chain(other).to_string()),
        };
        tracing::error!(error, advice, "could not write to the database");
    }

    fn answer(&self, group: Group, answers: Result<Vec<Vec<Accepted>>, Fault>) {
        // On the runtime: it wakes once for the whole group instead of once for each caller, and the messages are freed
        // on the threads that allocated them.
        self.runtime.spawn(async move { group.answer(answers) });
    }

    /// Writes a group in one transaction.
    fn write(&mut self, group: &mut Group) -> Result<Written, Fault> {
        self.health.begins();
        let began_at = Instant::now();
        group.began_at = Some(began_at);
        let connection = self.connection.get()?;
        match transact(connection, group, &mut self.memory) {
            Ok((written, rows, slice)) => {
                self.meters.committed(began_at.elapsed(), group.messages());
                if let Some(slice) = slice {
                    self.memory.recent.sorted(slice);
                }
                self.memory.recent.note(&rows);
                Ok(written)
            }
            Err(fault) => {
                self.memory.event_names.forget();
                self.connection.failed();
                Err(fault)
            }
        }
    }
}

enum Wake {
    Orders,
    /// No order has arrived for a while.
    Quiet,
    /// The store was dropped.
    Dropped,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.accepts.is_empty() && self.closing.is_none()
    }

    /// Takes steps first, so that senders never starve delivery.
    fn next_group(&mut self) -> Option<Group> {
        let steps = self.steps.len().min(GROUP_STEPS_MAX);
        let steps = self.steps.drain(..steps).collect();
        let mut group = Group { steps, ..Group::default() };
        let (mut messages, mut bytes) = (0, 0);
        while messages < GROUP_MESSAGES_MAX
            && bytes < GROUP_BYTES_MAX
            && let Some(order) = self.accepts.pop_front()
        {
            messages += order.messages.len();
            bytes += order.messages.iter().map(|message| message.payload.len()).sum::<usize>();
            group.accepts.push(order);
        }
        (group.len() > 0).then_some(group)
    }
}
