//! The thread that owns the one writing connection, and its group commit.
//!
//! While one group is being written, the next one gathers. An order is answered only after the commit of
//! its group. A group that fails is rolled back as a whole; if a single order may be to blame, each order
//! is then written by itself, so that it cannot harm the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Fault;
use super::accept::{self, Memory};
use super::backlog::Admitted;
use super::error::advice;
use super::health::{Health, Remedy};
use super::open::{FileOptions, check_schema, empty_wal};
use super::reader::Readers;
use super::recent::{Row, Slice};
use super::tally::Tallies;
use crate::queue::{Accepted, NewMessage};
use crate::telemetry;

/// Bounds of one group: they bound how long a transaction holds the lock and how long its first
/// order waits for its last.
const GROUP_MESSAGES_MAX: usize = 2_000;
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
const GROUP_STEPS_MAX: usize = 256;

/// How long to wait before the write-ahead log is emptied again, if a reader kept it from being emptied.
const EMPTY_WAL_EVERY: Duration = Duration::from_secs(1);

/// How long to wait for readers at work when the write-ahead log is emptied. Meanwhile nothing is written.
const EMPTY_WAL_PATIENCE: Duration = Duration::from_millis(50);

/// How long other processes may take to notice that the log was moved, and to close the database.
const ALONE_PATIENCE: Duration = Duration::from_secs(10);
const ALONE_PAUSE: Duration = Duration::from_millis(20);

/// How long to wait before an unsafe store is made safe again, if that failed.
const REMEDY_EVERY: Duration = Duration::from_secs(1);

/// Copies as much of the log into the database as readers allow.
const MOVE_LOG: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// What a step, and a message beside its payload, may take in the file, for the size of a group.
const STEP_BYTES: u64 = 4_096;
const MESSAGE_BYTES: u64 = 512;

/// Something to be written.
pub(super) enum Order {
    Accept(AcceptOrder),
    Step(Box<dyn AnyStep>),
    Close(oneshot::Sender<()>),
}

/// Messages to be accepted.
#[derive(Debug)]
pub(super) struct AcceptOrder {
    pub(super) messages: Vec<NewMessage>,
    pub(super) reply: oneshot::Sender<Result<Vec<Accepted>, Fault>>,
    /// Room in the queue for the writer, given back when the order is dropped.
    pub(super) permits: [OwnedSemaphorePermit; 2],
    pub(super) admitted: Admitted,
}

/// Writes that belong together, in a transaction with others. May be run again after the transaction was
/// rolled back.
pub(super) trait Step: Send + 'static {
    type Output: Send + 'static;

    fn run(&self, transaction: &Connection, effects: &mut Effects) -> Result<Self::Output, Fault>;
}

/// What the steps of a transaction did, beyond their outputs.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Something was certainly written.
    pub(super) has_written: bool,
    /// At least this much was written on trial.
    pub(super) proven_bytes: u64,
    /// There may be messages for the engines to see.
    pub(super) has_arrived: bool,
    /// Contents were erased, which the write-ahead log may still hold.
    pub(super) has_erased: bool,
    /// Names of events may have been deleted.
    pub(super) forgets_event_names: bool,
    pub(super) tallies: Tallies,
}

/// A step on its way through a group, whatever its output.
pub(super) trait AnyStep: Send {
    fn run(&mut self, transaction: &Connection, effects: &mut Effects) -> Result<(), Fault>;
    fn answer(self: Box<Self>, committed: Result<(), Fault>);
}

pub(super) struct StepOrder<S: Step> {
    step: S,
    output: Option<S::Output>,
    reply: oneshot::Sender<Result<S::Output, Fault>>,
    /// Room in the queue for the writer.
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
        // A step of a group that was committed has run.
        let answer = committed.and_then(|()| output.ok_or(Fault::Closed));
        // The caller may have gone away; what was written stays.
        let _ = reply.send(answer);
    }
}

#[derive(Default)]
struct Group {
    steps: Vec<Box<dyn AnyStep>>,
    accepts: Vec<AcceptOrder>,
}

impl Group {
    fn len(&self) -> usize {
        self.steps.len() + self.accepts.len()
    }

    /// About how much room it takes.
    fn bytes(&self) -> u64 {
        let accepts: u64 = self.accepts.iter().flat_map(|order| &order.messages).map(size).sum();
        accepts + self.steps.len() as u64 * STEP_BYTES
    }

    /// The same, but only for what was certainly written.
    fn written_bytes(&self, written: &Written) -> u64 {
        let Written { accepted, effects } = written;
        let all = self.accepts.iter().zip(accepted);
        let all = all.flat_map(|(order, accepted)| order.messages.iter().zip(accepted));
        let new = all.filter(|(_, accepted)| **accepted == Accepted::New);
        let new: u64 = new.map(|(message, _)| size(message)).sum();
        let steps = if effects.has_written { STEP_BYTES } else { 0 };
        new + steps.max(effects.proven_bytes)
    }

    /// One group for each order, in the same sequence.
    fn apart(self) -> impl Iterator<Item = Group> {
        let steps =
            self.steps.into_iter().map(|step| Group { steps: vec![step], accepts: Vec::new() });
        let accepts =
            self.accepts.into_iter().map(|order| Group { steps: Vec::new(), accepts: vec![order] });
        steps.chain(accepts)
    }

    fn answer(self, committed: Result<Vec<Vec<Accepted>>, Fault>) {
        let of_steps = committed.as_ref().map(|_| ()).map_err(Fault::clone);
        for step in self.steps {
            step.answer(of_steps.clone());
        }
        let mut accepted = committed.map(Vec::into_iter);
        for AcceptOrder { reply, permits, admitted, .. } in self.accepts {
            let answer = match &mut accepted {
                Ok(accepted) => accepted.next().ok_or(Fault::Closed),
                Err(fault) => Err(fault.clone()),
            };
            // Release the permits before replying.
            drop((permits, admitted));
            let _ = reply.send(answer);
        }
    }
}

fn size(message: &NewMessage) -> u64 {
    message.payload.len() as u64 + MESSAGE_BYTES
}

pub(super) struct Writer {
    /// `None` after a failure: the next group opens another.
    pub(super) connection: Option<Connection>,
    pub(super) file: FileOptions,
    pub(super) memory: Memory,
    pub(super) orders: Receiver<Order>,
    pub(super) arrived: watch::Sender<u64>,
    /// How long the store must be idle before the newest messages are sorted in.
    pub(super) quiet: Duration,
    /// Whether the write-ahead log may hold contents that were erased.
    pub(super) wal_holds_erased: bool,
    /// When the writer last tried to empty the write-ahead log.
    pub(super) wal_tried_at: Instant,
    /// When making the store safe again failed.
    pub(super) remedy_failed_at: Option<Instant>,
    pub(super) health: Arc<Health>,
    /// All other connections of this store.
    pub(super) readers: [Readers; 2],
    /// Where the callers run.
    pub(super) runtime: Handle,
    /// Cancelled when the writer has ended, in whatever way.
    pub(super) ended: CancellationToken,
}

/// Orders that were taken from the channel and wait for their group.
#[derive(Default)]
struct Waiting {
    steps: VecDeque<Box<dyn AnyStep>>,
    accepts: VecDeque<AcceptOrder>,
    /// Set once the store is to be closed: nothing that arrived later is taken.
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
                    // A store that is never idle must empty the write-ahead log too.
                    if self.wal_tried_at.elapsed() >= EMPTY_WAL_EVERY {
                        self.empty_wal();
                    }
                }
                Wake::Quiet => self.tidy(),
                Wake::Dropped => break,
            }
            if self.health.must_end().is_some() {
                break;
            }
        }
        if let Err(error) = self.close() {
            // Nothing is lost: the next process that opens the file does it.
            tracing::debug!(%error, "could not move the write-ahead log into the database");
        }
        // Before `arrived` is dropped, which ends the engines: nobody may take that for the cause.
        drop(ended);
        drop(self);
        if let Some(reply) = waiting.closing {
            let _ = reply.send(());
        }
    }

    /// Moves the write-ahead log into the file, and closes it. If the last group failed, the connection was
    /// given up and readers cannot do this, so another one is opened.
    fn close(&mut self) -> Result<(), Fault> {
        if let Err(fault) = self.health.check(self.connection.as_ref()) {
            tracing::debug!(%fault, "closing a database that is not safe");
        }
        if self.health.must_end().is_some() {
            // The log is incomplete: the missing part must not be copied into the database as zeros.
            if let Some(connection) = self.connection.take() {
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
                close(connection);
            }
            return Ok(());
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.file.open_writer()?,
        };
        let emptied = empty_wal(&connection);
        close(connection);
        emptied?;
        Ok(())
    }

    /// Waits for orders if none are left, and takes all that there are.
    fn wait(&mut self, waiting: &mut Waiting) -> Wake {
        if waiting.is_empty() {
            let first = match self.patience() {
                Some(patience) => self.orders.recv_timeout(patience),
                None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(order) => waiting.take(order),
                Err(RecvTimeoutError::Timeout) => return Wake::Quiet,
                Err(RecvTimeoutError::Disconnected) => return Wake::Dropped,
            }
        }
        while waiting.closing.is_none()
            && let Ok(order) = self.orders.try_recv()
        {
            waiting.take(order);
        }
        Wake::Orders
    }

    /// How long to wait for orders before the writer tidies; `None`: there is nothing to tidy. After a
    /// failure the next order finds out whether writing works.
    fn patience(&self) -> Option<Duration> {
        self.connection.as_ref()?;
        if self.memory.recent.has_enough() {
            Some(self.quiet)
        } else {
            self.wal_holds_erased.then_some(EMPTY_WAL_EVERY)
        }
    }

    /// Uses the time while the store is idle.
    fn tidy(&mut self) {
        if self.secure().is_err() {
            return;
        }
        self.empty_wal();
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

    /// Refuses what must not be written now; returns the rest.
    fn admit(&mut self, mut group: Group) -> Option<Group> {
        let Err(fault) = self.secure() else { return Some(group) };
        // A log that must be saved is not written to.
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

    /// Fails unless everything that is committed stays, so that messages can be acknowledged. Makes an unsafe store safe
    /// where the writer can.
    fn secure(&mut self) -> Result<(), Fault> {
        let checked = self.health.check(self.connection.as_ref());
        let Some(remedy) = self.health.remedy() else { return checked };
        if self.remedy_failed_at.is_some_and(|at| at.elapsed() < REMEDY_EVERY) {
            return checked;
        }
        let cured = match remedy {
            Remedy::Save => self.save_log(),
            Remedy::Reopen => self.reopen(),
        };
        self.remedy_failed_at = cured.is_err().then(Instant::now);
        if let Err(fault) = &cured {
            let error = telemetry::chain(fault);
            tracing::warn!(%error, ?remedy, "could not make the database safe again; trying again");
        }
        cured.and_then(|()| self.health.admit())
    }

    /// Moves a log with wrong checksums into the database and empties it, through the index, which still finds all its
    /// pages. No connection is closed before: once all were closed, the next one would only find the frames before the
    /// first wrong one.
    fn save_log(&mut self) -> Result<(), Fault> {
        if self.connection.is_none() {
            self.open()?;
            // The connection shows whether the log was cut, too: then its index must not be followed.
            self.health.check(self.connection.as_ref()).or_else(|fault| match fault {
                Fault::LogOverwritten => Ok(()),
                fault => Err(fault),
            })?;
        }
        let connection = self.connection.as_ref().ok_or(Fault::Closed)?;
        if !empty_wal(connection)? {
            return Err(Fault::KeptByReader);
        }
        self.health.saved();
        Ok(())
    }

    /// Closes all connections of this process, and opens the files that are there now.
    fn reopen(&mut self) -> Result<(), Fault> {
        let [readers, lookups] = self.readers.clone();
        let pause = async { (readers.pause().await, lookups.pause().await) };
        let _paused = self.runtime.block_on(pause);
        self.health.files.look_at_database()?;
        if self.health.must_be_alone() {
            self.close_moved_log()?;
            self.health.was_alone();
        }
        self.give_up_connection();
        self.open()?;
        self.health.reopened();
        Ok(())
    }

    /// Copies a log that is no longer at its path into the database, through the connection that has it open, and
    /// waits until no process has the database open: to go on earlier would give one database two logs.
    fn close_moved_log(&mut self) -> Result<(), Fault> {
        let mark = self.health.files.mark_log()?;
        if let Some(connection) = &self.connection
            && mark.is_harmless()
        {
            // By itself, so that the connection, and with it the log, stays open if there is no room.
            connection.query_row(MOVE_LOG, [], |_| Ok(()))?;
        }
        self.give_up_connection();
        let began = Instant::now();
        while self.health.files.has(&mark) {
            if began.elapsed() >= ALONE_PATIENCE {
                self.health.lost(&Fault::NotAlone);
                return Err(Fault::NotAlone);
            }
            std::thread::sleep(ALONE_PAUSE);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Fault> {
        self.health.files.look_at_database()?;
        let connection = self.file.open_writer()?;
        // Reading opens the log and its index too.
        check_schema(&connection)?;
        self.health.files.opened()?;
        self.connection = Some(connection);
        Ok(())
    }

    fn give_up_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            close(connection);
            self.health.files.closed();
        }
    }

    /// Moves the write-ahead log into the file and empties it, if it may still hold what was erased. A reader that
    /// works for longer than [`EMPTY_WAL_PATIENCE`] prevents it; then it is tried again later.
    fn empty_wal(&mut self) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.wal_holds_erased) else {
            return;
        };
        self.wal_tried_at = Instant::now();
        let emptied =
            connection.busy_timeout(EMPTY_WAL_PATIENCE).and_then(|()| empty_wal(connection));
        let emptied = connection.busy_timeout(self.file.busy_timeout).and(emptied);
        match emptied {
            Ok(is_empty) => self.wal_holds_erased = !is_empty,
            Err(error) => {
                tracing::debug!(%error, "could not empty the write-ahead log; trying again");
            }
        }
    }

    fn finish(&mut self, mut group: Group, written: Result<Written, Fault>) {
        self.health.ends();
        let answers = match written {
            Ok(written) => {
                let bytes = group.written_bytes(&written);
                let Written { mut accepted, effects } = written;
                // Only now: the files may have been taken away during the commit.
                if let Err(fault) = self.secure() {
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
                    self.wal_holds_erased = true;
                    self.empty_wal();
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
            // Broken rows of a message do not mean that the database is down. The caller names the message.
            Err(fault) if fault.is_broken() && group.accepts.is_empty() => Err(fault),
            Err(fault) => {
                self.report(&fault, group.bytes());
                Err(fault)
            }
        };
        self.answer(group, answers);
    }

    /// Notes that a group of this size was not written, or not safely, and logs it if that is news.
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
        // On the runtime: it is woken once for the group, not once for each caller, and what the group held is
        // freed where it was made.
        self.runtime.spawn(async move { group.answer(answers) });
    }

    /// Writes a group in one transaction. After a failure the state of the connection is not known
    /// (a full disk may have ended the transaction already), so it is given up.
    fn write(&mut self, group: &mut Group) -> Result<Written, Fault> {
        self.health.begins();
        if self.connection.is_none() {
            self.open()?;
        }
        let connection = self.connection.as_mut().ok_or(Fault::Closed)?;
        match transact(connection, group, &mut self.memory) {
            Ok((written, rows, slice)) => {
                if let Some(slice) = slice {
                    self.memory.recent.sorted(slice);
                }
                self.memory.recent.note(&rows);
                Ok(written)
            }
            Err(fault) => {
                self.memory.event_names.forget();
                // A log that was moved or must be saved is only reached through this connection.
                if self.health.files.look().is_ok() && self.health.remedy() != Some(Remedy::Save) {
                    self.give_up_connection();
                }
                Err(fault)
            }
        }
    }
}

enum Wake {
    Orders,
    /// No order arrived for a while.
    Quiet,
    /// The store was dropped.
    Dropped,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.accepts.is_empty() && self.closing.is_none()
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Accept(order) => self.accepts.push_back(order),
            Order::Step(step) => self.steps.push_back(step),
            Order::Close(reply) => self.closing = Some(reply),
        }
    }

    /// Steps first, so that senders never starve the delivery.
    fn next_group(&mut self) -> Option<Group> {
        let steps = self.steps.len().min(GROUP_STEPS_MAX);
        let mut group = Group { steps: self.steps.drain(..steps).collect(), accepts: Vec::new() };
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

/// What a transaction wrote.
struct Written {
    accepted: Vec<Vec<Accepted>>,
    effects: Effects,
}

fn transact(
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
    std::mem::take(&mut effects.tallies).write(&transaction)?;
    let slice = memory.recent.sort_slice(&transaction, group.len() == 0)?;
    crate::crash::point("commit.before");
    transaction.commit()?;
    crate::crash::point("commit.after");
    Ok((Written { accepted, effects }, rows, slice))
}

/// Closes a connection; what it had begun is rolled back.
fn close(connection: Connection) {
    if let Err((_, error)) = connection.close() {
        tracing::debug!(%error, "could not close a connection");
    }
}
