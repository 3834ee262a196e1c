//! The queue in one SQLite file: WAL, `synchronous=FULL`, group commit, no set-up.
//!
//! One thread owns the writing connection (`writer`). It writes all waiting orders in one transaction, so
//! that one sync to the disk serves many senders. Readers have their own connections and never wait for
//! the writer. Several processes may use one file: SQLite's lock serializes their transactions, which keeps
//! the order.

mod accept;
mod backlog;
mod error;
pub(super) mod folder;
mod health;
mod log;
mod network;
mod open;
mod purge;
mod recent;
mod replay;
mod steps;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::SqlitePool;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::queue::{
    AcceptError, Accepted, BrokenMessage, Class, Depth, FrozenRequest, Head, Housekeeping, Inbox,
    Job, LaneAsk, LanePart, Lease, LeaseHolder, LeaseRequest, Log, MessageRecord, NewMerge,
    NewMessage, PendingAsk, ReplayAsk, ReplayChunk, ReplayState, Replays, Seq, Settlement, Store,
    Unavailable, Work, WorkError,
};
use crate::segment::{MessageHash, PersonHash};

use super::Retention;
use backlog::Backlog;
pub(super) use error::Fault;
use error::OpenError;
use health::{Health, TryToWrite};
use recent::Recent;
use steps::{Freeze, Release, SetAside, Settle, Step};
use writer::{AcceptOrder, Order, Task};

/// Orders of the delivery engine that may wait for the writer. More wait at their sender.
const ORDERS_WAITING_MAX: usize = 1024;

/// How long a test write may take when the health of the store is checked.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);

/// The path of the file, its limits and its retention.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file, created if it does not exist. Its folder must exist.
    pub path: PathBuf,
    /// Whether the folder may be on a network disk, where SQLite's locks cannot be relied on.
    pub allow_network_disk: bool,
    /// How long a message id is remembered, to recognize duplicates.
    pub duplicate_window: Duration,
    /// Messages that may wait to be written before more are refused. At least 1.
    pub waiting_messages_max: usize,
    /// Payload bytes that may wait to be written before more are refused. At least 1.
    pub waiting_bytes_max: usize,
    /// Messages that may be pending before more are refused. At least 1.
    pub backlog_messages_max: u64,
    /// Newest messages whose ids and persons are looked up in memory, some 60 bytes each. At least 1.
    pub recent_max: usize,
    /// Idle time after which recent rows are moved into the index tables, if there are enough of them.
    pub quiet: Duration,
    /// Pages of 4 KiB that the file may have, for tests of a full disk; `None`: as many as there is
    /// room for.
    pub pages_max: Option<u32>,
    /// How long the payload of a message without a failure is kept after it is done.
    pub delivered_retention: Duration,
    /// How long the payload of a message with a failed delivery is kept after it is done.
    pub failed_retention: Duration,
    /// How long the record of a message is kept after it is done; never shorter than the others.
    pub records_retention: Duration,
    /// How long to wait for a lock that another process holds on the file.
    pub busy_timeout: Duration,
}

impl SqliteOptions {
    /// The defaults for a file: duplicates 7 days, payloads 7 and 30 days, records 90 days.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            path: path.into(),
            allow_network_disk: false,
            duplicate_window: DAY * 7,
            waiting_messages_max: 20_000,
            waiting_bytes_max: 128 * 1024 * 1024,
            backlog_messages_max: 10_000_000,
            recent_max: 256 * 1024,
            quiet: Duration::from_millis(20),
            pages_max: None,
            delivered_retention: DAY * 7,
            failed_retention: DAY * 30,
            records_retention: DAY * 90,
            busy_timeout: Duration::from_secs(5),
        }
    }

    /// A record must outlive its payload, and the window in which it tells duplicates.
    fn retention(&self) -> Retention {
        let delivered = self.delivered_retention;
        let failed = self.failed_retention;
        let records = self.records_retention.max(delivered).max(failed).max(self.duplicate_window);
        Retention { delivered, failed, records }
    }
}

/// The queue in one SQLite file. Cheap to clone: all clones share one writer.
///
/// Dropped without [`Store::close`], it loses nothing that was acknowledged.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    readers: SqlitePool,
    accepts: mpsc::Sender<AcceptOrder>,
    orders: mpsc::Sender<Order>,
    waiting: Waiting,
    backlog: Arc<Backlog>,
    recent: Arc<Recent>,
    health: Arc<Health>,
    arrivals: watch::Receiver<u64>,
    retention: Retention,
}

/// What may still wait for the writer. Each order owns its permits until it is answered, so that
/// nothing that happens to its sender can leak them.
#[derive(Debug, Clone)]
struct Waiting {
    messages: Arc<Semaphore>,
    messages_max: u32,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

impl SqliteStore {
    /// Opens the file, brings its schema up to date and starts the writer.
    ///
    /// Must be called inside a Tokio runtime. The error says what a person can do about it.
    pub async fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        let opened = open::open(&options).await?;
        let backlog = Backlog::open(options.backlog_messages_max, &opened.readers).await;
        let backlog = Arc::new(backlog.map_err(|error| open::explain(&options.path, error))?);
        let health = Arc::new(Health::open(options.path.clone()));
        let waiting = Waiting::new(&options);
        // Every accept waiting holds at least one message permit, so this cannot be full before.
        let (accepts, accepts_taken) = mpsc::channel(waiting.messages_max as usize);
        let (orders, orders_taken) = mpsc::channel(ORDERS_WAITING_MAX);
        let (arrived, arrivals) = watch::channel(0);
        let recent = Arc::new(Recent::new(options.recent_max.max(1)));
        let writer = writer::Writer {
            recent: Arc::clone(&recent),
            connection: Some(opened.writer),
            connect: opened.writer_options,
            readers: opened.readers.clone(),
            accepts: accepts_taken,
            orders: orders_taken,
            arrived,
            duplicate_window: options.duplicate_window,
            busy_timeout: options.busy_timeout,
            quiet: options.quiet,
            // What another process erased before it was killed may still be there.
            log_holds_erased: true,
            health: Arc::clone(&health),
        };
        writer.start().await.map_err(|source| OpenError::NoWriter { source })?;
        let (beside, readers) = (Arc::clone(&recent), opened.readers.clone());
        tokio::spawn(async move {
            if let Err(error) = beside.refresh_beside(&readers).await {
                // Whoever needs it tries again.
                tracing::debug!(error = %error, "could not read the newest messages");
            }
        });
        let retention = options.retention();
        Ok(Self {
            readers: opened.readers,
            accepts,
            orders,
            waiting,
            backlog,
            recent,
            health,
            arrivals,
            retention,
        })
    }

    async fn order<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        let (task, answer) = Task::new(step);
        self.orders.send(Order::Task(Box::new(task))).await.map_err(|_| Fault::Closed)?;
        answer.await.map_err(|_| Fault::Closed)?
    }
}

impl Waiting {
    fn new(options: &SqliteOptions) -> Self {
        let bounded = |max: usize| u32::try_from(max.max(1)).unwrap_or(u32::MAX);
        let messages_max = bounded(options.waiting_messages_max);
        let bytes_max = bounded(options.waiting_bytes_max);
        Self {
            messages: Arc::new(Semaphore::new(messages_max as usize)),
            messages_max,
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
        }
    }

    /// Takes room for messages, at once or not at all. A call that is larger than the whole room takes all
    /// of it: it can be written, but only alone.
    fn admit(&self, messages: &[NewMessage]) -> Result<writer::Permits, AcceptError> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX).min(self.messages_max);
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let take = |from: &Arc<Semaphore>, permits| {
            Arc::clone(from).try_acquire_many_owned(permits).map_err(|_| AcceptError::Busy)
        };
        Ok(writer::Permits::new(take(&self.messages, count)?, take(&self.bytes, bytes)?))
    }
}

#[async_trait]
impl Store for SqliteStore {
    /// Writes the waiting orders, moves the write-ahead log into the file and closes it.
    async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.orders.send(Order::Close(reply)).await.is_ok() {
            // The writer also drops the reply when it has ended already: closed either way.
            let _ = closed.await;
        }
    }

    async fn ended(&self) {
        self.orders.closed().await;
    }
}

#[async_trait]
impl Inbox for SqliteStore {
    async fn accept(&self, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, AcceptError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        // What goes into a file that was deleted would be gone with this process.
        self.health.admit()?;
        let permits = self.waiting.admit(&messages)?;
        let admitted = self.backlog.admit(messages.len(), &self.readers).await?;
        let (reply, answer) = oneshot::channel();
        let order = AcceptOrder { messages, reply, permits, admitted };
        self.accepts.try_send(order).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => AcceptError::Busy,
            mpsc::error::TrySendError::Closed(_) => Fault::Closed.into(),
        })?;
        Ok(answer.await.map_err(|_| Fault::Closed)??)
    }
}

#[async_trait]
impl Work for SqliteStore {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
        Ok(self.order(ask).await?)
    }

    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable> {
        Ok(log::lease_holder(&self.readers, destination).await?)
    }

    async fn release(&self, lease: &Lease) -> Result<(), WorkError> {
        Ok(self.order(Release(lease.clone())).await??)
    }

    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
        Ok(log::pending(&self.readers, destination, ask).await?)
    }

    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable> {
        Ok(log::of_lane(&self.readers, &self.recent, destination, ask).await?)
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
        Ok(log::open(&self.readers, seq).await?)
    }

    async fn freeze(
        &self,
        lease: &Lease,
        merge: NewMerge,
    ) -> Result<Vec<FrozenRequest>, WorkError> {
        Ok(self.order(Freeze { lease: lease.clone(), merge }).await??)
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<(), WorkError> {
        Ok(self.order(Settle { lease: lease.clone(), settlement }).await??)
    }

    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError> {
        Ok(self.order(SetAside { lease: lease.clone(), broken }).await??)
    }

    async fn destinations(&self) -> Result<Vec<String>, Unavailable> {
        Ok(log::destinations(&self.readers).await?)
    }

    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable> {
        Ok(log::depth(&self.readers, destination).await?)
    }

    fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.clone()
    }
}

#[async_trait]
impl Log for SqliteStore {
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        Ok(log::by_message_id(&self.readers, &self.recent, hash, message_id).await?)
    }

    async fn by_person(
        &self,
        person: PersonHash,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        Ok(log::by_person(&self.readers, &self.recent, person, before, limit).await?)
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        self.health.look()?;
        open::check_schema(&self.readers).await?;
        // Only then: while all is well, nothing is written to find that out.
        let Some(failure) = self.health.failure() else { return Ok(()) };
        match tokio::time::timeout(TRY_TIMEOUT, self.order(TryToWrite)).await {
            Ok(tried) => Ok(tried?),
            Err(_) => Err(failure.into()),
        }
    }
}

#[async_trait]
impl Replays for SqliteStore {
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable> {
        let found = replay::find(&self.readers, &self.recent, ask).await?;
        let replay::Found { replayable, without_contents, next } = found;
        let mut chunk = ReplayChunk { replayed: 0, without_contents, next };
        if ask.is_dry_run {
            chunk.replayed = replayable.len() as u64;
            return Ok(chunk);
        }
        for seqs in replayable.chunks(replay::MESSAGES_MAX) {
            let requeue = replay::Requeue {
                seqs: seqs.to_vec(),
                failed_only: ask.selection.state == ReplayState::Failed,
                subscription: ask.selection.subscription.clone(),
            };
            chunk.replayed += self.order(requeue).await?;
        }
        Ok(chunk)
    }
}

#[async_trait]
impl Housekeeping for SqliteStore {
    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable> {
        Ok(self.order(purge::Purge { now, retention: self.retention }).await?)
    }

    async fn erase(&self) -> Result<u64, Unavailable> {
        Ok(self.order(purge::Erase { recent: Arc::clone(&self.recent) }).await?)
    }
}
