//! The thread that owns the one writing connection, and its group commit.
//!
//! While one group is being written, the next one gathers. An order is answered only after the commit of
//! its group. A group that fails is rolled back as a whole; if a single order may be to blame, each order
//! is then written by itself, so that it cannot harm the others.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, SqlitePool};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::accept;
use super::backlog::Admitted;
use super::health::Health;
use super::open::{discard, is_environmental};
use super::recent::{Moved, Recent, Row};
use super::steps::Step;
use crate::queue::{Accepted, NewMessage};
use crate::store::Fault;
use crate::telemetry;

/// Bounds of one group: they bound how long a transaction holds the lock and how long its first
/// order waits for its last.
const GROUP_MESSAGES_MAX: usize = 2_000;
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
const GROUP_TASKS_MAX: usize = 256;

/// Messages to be accepted.
#[derive(Debug)]
pub(super) struct AcceptOrder {
    pub(super) messages: Vec<NewMessage>,
    pub(super) reply: oneshot::Sender<Result<Vec<Accepted>, Fault>>,
    pub(super) permits: Permits,
    pub(super) admitted: Admitted,
}

/// Room in the waiting line, given back when the order is dropped.
#[derive(Debug)]
pub(super) struct Permits {
    _messages: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Permits {
    pub(super) fn new(messages: OwnedSemaphorePermit, bytes: OwnedSemaphorePermit) -> Self {
        Self { _messages: messages, _bytes: bytes }
    }
}

/// Anything else to be written.
pub(super) enum Order {
    Task(Box<dyn AnyTask>),
    Close(oneshot::Sender<()>),
}

/// A step on its way through a group, whatever it answers.
#[async_trait]
pub(super) trait AnyTask: Send {
    async fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), Fault>;
    fn answer(self: Box<Self>, committed: Result<(), Fault>);
    /// Whether, once it was run, the store is known to take what is written.
    fn proves_writing(&self) -> bool;
    /// Whether it may have brought messages for the engines to see.
    fn arrives(&self) -> bool;
    /// Whether it is one that erases.
    fn erases(&self) -> bool;
    /// Whether it erased anything, once it was run.
    fn has_erased(&self) -> bool;
}

pub(super) struct Task<S: Step> {
    step: S,
    output: Option<S::Output>,
    reply: oneshot::Sender<Result<S::Output, Fault>>,
}

impl<S: Step> Task<S> {
    pub(super) fn new(step: S) -> (Self, oneshot::Receiver<Result<S::Output, Fault>>) {
        let (reply, answer) = oneshot::channel();
        (Self { step, output: None, reply }, answer)
    }
}

#[async_trait]
impl<S: Step> AnyTask for Task<S> {
    async fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), Fault> {
        self.output = Some(self.step.run(connection).await?);
        Ok(())
    }

    fn proves_writing(&self) -> bool {
        self.output.as_ref().is_some_and(S::proves_writing)
    }

    fn arrives(&self) -> bool {
        S::ARRIVES
    }

    fn erases(&self) -> bool {
        S::ERASES
    }

    fn has_erased(&self) -> bool {
        self.output.as_ref().is_some_and(S::has_erased)
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
    tasks: Vec<Box<dyn AnyTask>>,
    accepts: Vec<AcceptOrder>,
    messages: usize,
    bytes: usize,
}

impl Group {
    fn len(&self) -> usize {
        self.tasks.len() + self.accepts.len()
    }

    fn add(&mut self, order: AcceptOrder) {
        self.messages += order.messages.len();
        self.bytes += order.messages.iter().map(|message| message.payload.len()).sum::<usize>();
        self.accepts.push(order);
    }

    /// One group for each order, in the same sequence.
    fn apart(self) -> impl Iterator<Item = Group> {
        let tasks =
            self.tasks.into_iter().map(|task| Group { tasks: vec![task], ..Group::default() });
        let accepts = self.accepts.into_iter().map(|order| {
            let mut group = Group::default();
            group.add(order);
            group
        });
        tasks.chain(accepts)
    }

    fn answer(self, committed: Result<Vec<Vec<Accepted>>, Fault>) {
        let told = committed.as_ref().map(|_| ()).map_err(Fault::clone);
        for task in self.tasks {
            task.answer(told.clone());
        }
        match committed {
            Ok(answers) => {
                for (order, accepted) in self.accepts.into_iter().zip(answers) {
                    drop((order.permits, order.admitted));
                    let _ = order.reply.send(Ok(accepted));
                }
            }
            Err(fault) => {
                for order in self.accepts {
                    drop((order.permits, order.admitted));
                    let _ = order.reply.send(Err(fault.clone()));
                }
            }
        }
    }
}

pub(super) struct Writer {
    /// `None` after a failure: the next group opens another.
    pub(super) connection: Option<SqliteConnection>,
    pub(super) connect: SqliteConnectOptions,
    pub(super) readers: SqlitePool,
    pub(super) recent: Arc<Recent>,
    pub(super) accepts: mpsc::Receiver<AcceptOrder>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) arrived: watch::Sender<u64>,
    pub(super) duplicate_window: Duration,
    /// How long a lock of another process is waited for.
    pub(super) busy_timeout: Duration,
    /// How long nothing must have come before the newest messages are moved.
    pub(super) quiet: Duration,
    /// Whether the write-ahead log may hold contents that were erased.
    pub(super) log_holds_erased: bool,
    pub(super) health: Arc<Health>,
}

impl Writer {
    /// Runs on a thread of its own: a group passes some twenty times between here and SQLite's thread,
    /// and beside the tasks of the server each of those would wait its turn.
    pub(super) async fn start(self) -> std::io::Result<()> {
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    let _ = tell.send(Ok(()));
                    runtime.block_on(self.run());
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        told.await.map_err(std::io::Error::other)?
    }

    /// Writes group after group until the store is closed or dropped, then closes the file.
    async fn run(mut self) {
        let mut closing = Vec::new();
        while let Some(group) = self.next_group(&mut closing).await {
            self.commit(group).await;
        }
        self.readers.close().await;
        if let Err(error) = self.close().await {
            // Nothing is lost: the next process that opens the file does it.
            tracing::debug!(error = %error, "could not check-point the database");
        }
        for reply in closing {
            let _ = reply.send(());
        }
    }

    /// Moves the write-ahead log into the file, and closes it. If the last group failed, the connection was
    /// given up and readers cannot do this, so another one is opened.
    async fn close(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect.connect().await?,
        };
        let moved = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
        discard(connection).await;
        moved.map(drop)
    }

    /// Waits for an order and takes all that wait with it. An empty group: none came for a while, and
    /// there is something to be moved. `None`: there will be no more.
    async fn next_group(&mut self, closing: &mut Vec<oneshot::Sender<()>>) -> Option<Group> {
        let mut group = Group::default();
        while group.len() == 0 {
            tokio::select! {
                biased;
                Some(order) = self.orders.recv() => self.take(order, &mut group, closing),
                Some(order) = self.accepts.recv() => group.add(order),
                () = tokio::time::sleep(self.quiet), if self.may_move() => return Some(group),
                else => return None,
            }
        }
        while group.tasks.len() < GROUP_TASKS_MAX
            && let Ok(order) = self.orders.try_recv()
        {
            self.take(order, &mut group, closing);
        }
        while group.messages < GROUP_MESSAGES_MAX
            && group.bytes < GROUP_BYTES_MAX
            && let Ok(order) = self.accepts.try_recv()
        {
            group.add(order);
        }
        Some(group)
    }

    /// Whether there is something to be moved, and nothing that speaks against it: after a failure it is
    /// left to what comes to find out whether writing works.
    fn may_move(&self) -> bool {
        self.connection.is_some() && !self.orders.is_closed() && self.recent.has_enough()
    }

    fn take(&mut self, order: Order, group: &mut Group, closing: &mut Vec<oneshot::Sender<()>>) {
        match order {
            Order::Task(task) => group.tasks.push(task),
            Order::Close(reply) => {
                self.orders.close();
                self.accepts.close();
                closing.push(reply);
            }
        }
    }

    async fn commit(&mut self, mut group: Group) {
        let erases = group.tasks.iter().any(|task| task.erases());
        match self.write(&mut group).await {
            Err(fault) if group.len() > 1 && !is_environmental(&fault) => {
                tracing::warn!(
                    error = %telemetry::chain(&fault),
                    "could not write a group: writing its parts one by one"
                );
                for mut part in group.apart() {
                    let written = self.write(&mut part).await;
                    self.finish(part, written);
                }
            }
            written => self.finish(group, written),
        }
        // Also when an earlier one erased, and readers were at work then.
        if erases && self.log_holds_erased {
            self.empty_log().await;
        }
    }

    /// Moves the write-ahead log into the file and empties it: it still holds what was deleted. Readers
    /// that are at work are not waited for, since nothing is written meanwhile: the next one does it.
    async fn empty_log(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        match empty_log(connection, self.busy_timeout).await {
            Ok(is_emptied) => self.log_holds_erased = !is_emptied,
            Err(error) => {
                tracing::debug!(error = %error, "could not empty the write-ahead log; trying again");
            }
        }
    }

    fn finish(&mut self, group: Group, written: Result<Vec<Vec<Accepted>>, Fault>) {
        match &written {
            Ok(answers) => {
                self.log_holds_erased |= group.tasks.iter().any(|task| task.has_erased());
                let has_new = answers.iter().flatten().any(|accepted| *accepted == Accepted::New);
                let proves = has_new || group.tasks.iter().any(|task| task.proves_writing());
                if self.health.written(proves) {
                    tracing::info!("the database can be written again");
                }
                if has_new || group.tasks.iter().any(|task| task.arrives()) {
                    self.arrived.send_modify(|count| *count = count.wrapping_add(1));
                }
            }
            // It says nothing of what can be written. The caller names the message.
            Err(fault) if fault.is_broken() => {}
            Err(fault) => {
                if self.health.failed(fault) {
                    let (advice, error) = match fault {
                        Fault::Database { advice, source } => (Some(*advice), source.to_string()),
                        other => (None, other.to_string()),
                    };
                    tracing::error!(error, advice, "could not write to the database");
                }
            }
        }
        group.answer(written);
    }

    /// Writes a group in one transaction. After a failure the state of the connection is not known
    /// (a full disk may have ended the transaction already), so it is given up.
    async fn write(&mut self, group: &mut Group) -> Result<Vec<Vec<Accepted>>, Fault> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect.connect().await?,
        };
        let written = transact(&mut connection, group, &self.recent, self.duplicate_window).await;
        match written {
            Ok(Written { accepted, added, moved }) => {
                self.connection = Some(connection);
                self.recent.committed(&added, moved);
                Ok(accepted)
            }
            Err(error) => {
                self.recent.rolled_back();
                discard(connection).await;
                Err(error)
            }
        }
    }
}

/// What a transaction wrote.
struct Written {
    accepted: Vec<Vec<Accepted>>,
    added: Vec<Row>,
    moved: Option<Moved>,
}

async fn transact(
    connection: &mut SqliteConnection,
    group: &mut Group,
    recent: &Recent,
    duplicate_window: Duration,
) -> Result<Written, Fault> {
    // Before it begins: where that fails, it is rolled back all the same, to what was known before.
    recent.begin();
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for task in &mut group.tasks {
        task.run(&mut transaction).await?;
    }
    let calls: Vec<&[NewMessage]> =
        group.accepts.iter().map(|order| order.messages.as_slice()).collect();
    let (accepted, added) =
        accept::accept(&mut transaction, recent, &calls, duplicate_window).await?;
    if group.tasks.iter().any(|task| task.arrives()) {
        recent.read_page(&mut transaction).await?;
    }
    let moved = recent.move_slice(&mut transaction, group.len() == 0).await?;
    crate::crash::point("commit.before");
    transaction.commit().await?;
    crate::crash::point("commit.after");
    Ok(Written { accepted, added, moved })
}

/// Empties the write-ahead log if no reader needs it; answers whether it is empty.
async fn empty_log(
    connection: &mut SqliteConnection,
    busy_timeout: Duration,
) -> Result<bool, sqlx::Error> {
    sqlx::query("PRAGMA busy_timeout = 0").execute(&mut *connection).await?;
    let emptied = sqlx::query_scalar::<_, i64>("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(&mut *connection)
        .await;
    let patience = format!("PRAGMA busy_timeout = {}", busy_timeout.as_millis());
    sqlx::query(sqlx::AssertSqlSafe(patience)).execute(connection).await?;
    // The first column tells whether it was held up.
    Ok(emptied? == 0)
}
