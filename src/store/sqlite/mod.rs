//! The queue in one SQLite file: WAL, `synchronous=FULL`, group commit, no set-up.
//!
//! One thread owns the writing connection (`writer`). It writes all waiting orders in one transaction, so
//! that one sync to the disk serves many senders. Readers have their own connections and never wait for
//! the writer. Several processes may use one file: SQLite's lock serializes their transactions, which keeps
//! the order.

mod accept;
mod background;
mod backlog;
mod erase;
mod error;
mod event_names;
mod files;
pub(super) mod folder;
mod frames;
mod freeze;
mod health;
mod lease;
mod list;
mod log;
mod network;
mod open;
#[cfg(test)]
mod plans;
mod probe;
mod purge;
mod reader;
mod recent;
mod replay;
mod rows;
mod set_aside;
mod settle;
mod space;
mod tally;
#[cfg(test)]
mod tests;

mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::queue::{
    AcceptError, Accepted, BrokenMessage, Class, Depth, EventName, FailureGroups, Filter,
    FreeSpace, Frozen, Head, Housekeeping, Inbox, Job, LaneAsk, LanePart, Lease, LeaseHolder,
    LeaseRequest, Log, MessageRecord, NewMerge, NewMessage, Page, PendingAsk, ReplayAsk,
    ReplayChunk, ReplayPosition, ReplayState, Replays, Seq, Settlement, Store, Tally, TallyStep,
    Unavailable, Work, WorkError,
};
use crate::segment::{Digests, MessageHash};

use accept::Memory;
use backlog::{Backlog, Size};
use erase::Erase;
use error::{Fault, OpenError, explain};
use event_names::EventNames;
use files::Files;
use freeze::Freeze;
use health::{Health, Next};
use lease::Release;
use open::FileOptions;
use probe::{TryToWrite, verify_in_background};
use reader::Readers;
use recent::Recent;
use set_aside::SetAside;
use settle::Settle;
use space::Space;
use writer::{AcceptOrder, Order, Step, StepOrder};

/// Enough for the engines, the backlog and the health check to read concurrently.
const READERS_MAX: u32 = 4;

/// Reads for people, replays, erasures and counts at the same time. They may be slow, so they have connections
/// of their own: neither delivery nor accepting messages waits for them.
const LOOKUPS_MAX: u32 = 3;

/// Steps that may wait for the writer. More wait at their sender.
const STEPS_WAITING_MAX: u32 = 1_024;

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
    /// Payload bytes that may be pending before more messages are refused. At least 1.
    pub backlog_bytes_max: u64,
    /// Free bytes of the disk below which what can wait is refused; `None`: 256 MiB, or a tenth of the disk if that
    /// is less.
    pub free_bytes_min: Option<u64>,
    /// Newest messages whose ids and persons are kept in memory until they are sorted into their tables, some
    /// 150 bytes each; as many again may arrive meanwhile. At least 1.
    pub recent_max: usize,
    /// Idle time after which the newest messages are sorted into their tables, if there are enough of them.
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
    /// The key of the installation, if the schema is made; `None`: a random one.
    pub installation_key: Option<[u8; 32]>,
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
            backlog_bytes_max: 10 * 1024 * 1024 * 1024,
            free_bytes_min: None,
            recent_max: 256 * 1024,
            quiet: Duration::from_millis(20),
            pages_max: None,
            delivered_retention: DAY * 7,
            failed_retention: DAY * 30,
            records_retention: DAY * 90,
            busy_timeout: Duration::from_secs(5),
            installation_key: None,
        }
    }

    fn file(&self) -> FileOptions {
        FileOptions {
            path: self.path.clone(),
            busy_timeout: self.busy_timeout,
            pages_max: self.pages_max,
        }
    }

    /// A record must outlive its payload, and the window in which duplicates are recognized.
    fn retention(&self) -> Retention {
        let delivered = self.delivered_retention;
        let failed = self.failed_retention;
        let records = self.records_retention.max(delivered).max(failed).max(self.duplicate_window);
        Retention { delivered, failed, records }
    }
}

/// How long ended messages are kept.
#[derive(Debug, Clone, Copy)]
struct Retention {
    delivered: Duration,
    failed: Duration,
    records: Duration,
}

/// The queue in one SQLite file.
///
/// Dropped without [`Store::close`], it loses nothing that was acknowledged.
#[derive(Debug)]
pub struct SqliteStore {
    readers: Readers,
    lookups: Readers,
    writing: Writing,
    room: Room,
    backlog: Arc<Backlog>,
    space: Arc<Space>,
    health: Arc<Health>,
    arrivals: watch::Receiver<u64>,
    ended: CancellationToken,
    digests: Digests,
    retention: Retention,
    /// The last deletion whose erasure failed in this round: it must not keep later ones from being erased.
    erase_behind: AtomicI64,
    /// Ends the task that watches the free space.
    _background: DropGuard,
}

/// The way to the writer.
#[derive(Debug, Clone)]
struct Writing {
    orders: mpsc::Sender<Order>,
    /// Permits for steps that wait for the writer.
    steps: Arc<Semaphore>,
    health: Arc<Health>,
}

/// What may still wait for the writer. Each order owns its permits until it is answered, so that
/// nothing that happens to its sender can leak them.
#[derive(Debug)]
struct Room {
    messages: Arc<Semaphore>,
    messages_max: u32,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

impl SqliteStore {
    /// Opens the file, makes its schema if it is empty, and starts the writer.
    ///
    /// Must be called inside a Tokio runtime. The error says what a person can do about it.
    pub async fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        let path = options.path.clone();
        let opening = {
            let options = options.clone();
            tokio::task::spawn_blocking(move || {
                let connection = open::open(&options)?;
                let mut recent = Recent::new(options.recent_max);
                let read = recent.load(&connection).and_then(|()| digests(&connection));
                Ok((connection, recent, read.map_err(|fault| explain(&options.path, fault))?))
            })
        };
        let (connection, recent, digests) = match opening.await {
            Ok(opened) => opened?,
            Err(error) => return Err(OpenError::Open { path, source: Box::new(error) }),
        };
        let patience = options.busy_timeout.max(Duration::from_secs(1));
        let health = Arc::new(Health::new(Files::new(path.clone())));
        health.files.opened().map_err(|fault| explain(&path, fault))?;
        let of = |count| Readers::new(options.file(), Arc::clone(&health), patience, count);
        let (readers, lookups) = (of(READERS_MAX), of(LOOKUPS_MAX));
        let backlog_max =
            Size { messages: options.backlog_messages_max, bytes: options.backlog_bytes_max };
        let backlog = Backlog::open(backlog_max, &readers).await;
        let backlog = Arc::new(backlog.map_err(|fault| explain(&path, fault))?);
        let folder = network::folder_of(&path).to_owned();
        let space = Arc::new(Space::new(&path, folder, options.free_bytes_min));
        space.look(&readers).await;
        let room = Room::new(&options);
        let (orders, orders_taken) = mpsc::channel();
        let (arrived, arrivals) = watch::channel(0);
        let ended = CancellationToken::new();
        let writer = writer::Writer {
            connection: Some(connection),
            file: options.file(),
            memory: Memory {
                recent,
                event_names: EventNames::default(),
                duplicate_window: options.duplicate_window,
            },
            orders: orders_taken,
            arrived,
            quiet: options.quiet,
            // What another process erased before it was killed may still be there.
            wal_holds_erased: true,
            wal_tried_at: std::time::Instant::now(),
            remedy_failed_at: None,
            health: Arc::clone(&health),
            readers: [readers.clone(), lookups.clone()],
            runtime: Handle::current(),
            ended: ended.clone(),
        };
        writer.start().map_err(|source| OpenError::NoWriter { source })?;
        let retention = options.retention();
        let steps = Arc::new(Semaphore::new(STEPS_WAITING_MAX as usize));
        let writing = Writing { orders, steps, health: Arc::clone(&health) };
        let is_dropped = CancellationToken::new();
        let watching = background::run(Arc::clone(&space), lookups.clone(), writing.clone());
        tokio::spawn(is_dropped.clone().run_until_cancelled_owned(watching));
        Ok(Self {
            readers,
            lookups,
            writing,
            room,
            backlog,
            space,
            health,
            arrivals,
            ended,
            digests,
            retention,
            erase_behind: AtomicI64::new(0),
            _background: is_dropped.drop_guard(),
        })
    }

    /// Has the writer run a step, with others in one transaction.
    async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        self.writing.write(step).await
    }

    /// Makes messages of this size pending again, unless there is no room for more.
    async fn requeue(&self, requeue: replay::Requeue, size: Size) -> Result<u64, Fault> {
        if matches!(self.space.now(), FreeSpace::VeryLow | FreeSpace::Exhausted) {
            return Err(Fault::NoSpace);
        }
        let _admitted = self.backlog.admit(size, &self.readers).await?.ok_or(Fault::Full)?;
        self.write(requeue).await
    }
}

impl Writing {
    /// Has the writer run a step, with others in one transaction.
    async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        let permit = Arc::clone(&self.steps).acquire_owned().await;
        let (order, answer) = StepOrder::new(step, permit.map_err(|_| Fault::Closed)?);
        self.orders.send(Order::Step(Box::new(order))).map_err(|_| self.end_cause())?;
        answer.await.map_err(|_| self.end_cause())?
    }

    /// Why the writer has ended.
    fn end_cause(&self) -> Fault {
        self.health.must_end().unwrap_or(Fault::Closed)
    }
}

/// Reads the key of the installation.
fn digests(connection: &Connection) -> Result<Digests, Fault> {
    let key: Vec<u8> = connection.query_row(
        "SELECT value FROM meta WHERE name = 'installation_key'",
        [],
        |row| row.get(0),
    )?;
    let key = key.try_into().map_err(|_| Fault::Broken("the key of the installation is not whole"));
    Ok(Digests::new(&key?))
}

impl Room {
    fn new(options: &SqliteOptions) -> Self {
        let bounded = |max: usize| u32::try_from(max.max(1)).unwrap_or(u32::MAX);
        let semaphore =
            |max: u32| Arc::new(Semaphore::new((max as usize).min(Semaphore::MAX_PERMITS)));
        let messages_max = bounded(options.waiting_messages_max);
        let bytes_max = bounded(options.waiting_bytes_max);
        Self {
            messages: semaphore(messages_max),
            messages_max,
            bytes: semaphore(bytes_max),
            bytes_max,
        }
    }

    /// Takes room for messages, at once or not at all. A call that is larger than the whole room takes all
    /// of it: it can be written, but only alone.
    fn admit(
        &self,
        messages: &[NewMessage],
    ) -> Result<[tokio::sync::OwnedSemaphorePermit; 2], AcceptError> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX).min(self.messages_max);
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let take = |from: &Arc<Semaphore>, permits| {
            Arc::clone(from).try_acquire_many_owned(permits).map_err(|_| AcceptError::Busy)
        };
        Ok([take(&self.messages, count)?, take(&self.bytes, bytes)?])
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn ended(&self) -> Option<Unavailable> {
        self.ended.cancelled().await;
        self.health.must_end().map(Unavailable::from)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.lookups.close().await;
        let (reply, closed) = oneshot::channel();
        if self.writing.orders.send(Order::Close(reply)).is_ok() {
            // The writer also drops the reply when it has ended already: closed either way.
            let _ = closed.await;
        }
    }
}

#[async_trait]
impl Inbox for SqliteStore {
    async fn accept(&self, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, AcceptError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        self.health.admit()?;
        let permits = self.room.admit(&messages)?;
        let admitted = self.backlog.admit(Size::of(&messages), &self.readers).await?;
        let admitted = admitted.ok_or(AcceptError::Full)?;
        let size = Size::of(&messages);
        self.space.accepts(size.messages, size.bytes);
        let (reply, answer) = oneshot::channel();
        let order = AcceptOrder { messages, reply, permits, admitted };
        self.writing.orders.send(Order::Accept(order)).map_err(|_| self.writing.end_cause())?;
        Ok(answer.await.map_err(|_| self.writing.end_cause())??)
    }

    fn free_space(&self) -> FreeSpace {
        self.space.now()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.space.free_bytes()
    }
}

#[async_trait]
impl Work for SqliteStore {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
        Ok(self.write(ask).await?)
    }

    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable> {
        let destination = destination.to_owned();
        Ok(self.readers.read(move |snapshot| log::lease_holder(snapshot, &destination)).await?)
    }

    async fn release(&self, lease: &Lease) -> Result<(), WorkError> {
        Ok(self.write(Release(lease.clone())).await??)
    }

    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
        let destination = destination.to_owned();
        Ok(self.readers.read(move |snapshot| log::pending(snapshot, &destination, ask)).await?)
    }

    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable> {
        let (destination, ask) = (destination.to_owned(), *ask);
        Ok(self.readers.read(move |snapshot| log::of_lane(snapshot, &destination, ask)).await?)
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
        Ok(self.readers.read(move |snapshot| log::open(snapshot, seq)).await?)
    }

    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError> {
        Ok(self.write(Freeze { lease: lease.clone(), merge }).await??)
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<(), WorkError> {
        Ok(self.write(Settle { lease: lease.clone(), settlement }).await??)
    }

    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError> {
        Ok(self.write(SetAside { lease: lease.clone(), broken }).await??)
    }

    async fn destinations(&self) -> Result<Vec<String>, Unavailable> {
        Ok(self.readers.read(log::destinations).await?)
    }

    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable> {
        let destination = destination.to_owned();
        Ok(self.lookups.read(move |snapshot| log::depth(snapshot, &destination)).await?)
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
        let message_id = message_id.to_owned();
        let read = move |snapshot: &Connection| log::by_message_id(snapshot, hash, &message_id);
        Ok(self.lookups.read(read).await?)
    }

    async fn list(
        &self,
        filter: &Filter,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, Unavailable> {
        let filter = filter.clone();
        Ok(self.lookups.read(move |snapshot| list::list(snapshot, &filter, before, limit)).await?)
    }

    async fn failures(&self, filter: &Filter) -> Result<FailureGroups, Unavailable> {
        let filter = filter.clone();
        Ok(self.lookups.read(move |snapshot| list::failures(snapshot, &filter)).await?)
    }

    async fn tallies(
        &self,
        step: TallyStep,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Tally>, Unavailable> {
        Ok(self.lookups.read(move |snapshot| list::tallies(snapshot, step, from, to)).await?)
    }

    async fn event_names(&self, source: Option<&str>) -> Result<Vec<EventName>, Unavailable> {
        let source = source.map(str::to_owned);
        let read = move |snapshot: &Connection| list::event_names(snapshot, source.as_deref());
        Ok(self.lookups.read(read).await?)
    }

    fn digests(&self) -> Digests {
        self.digests.clone()
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        let (why, bytes) = match self.health.next() {
            // While all is well, nothing is written to find that out.
            Next::Read => {
                self.readers.read(open::check_schema).await?;
                return match self.space.now() {
                    FreeSpace::Exhausted => Err(Unavailable(AcceptError::Reserved.into())),
                    FreeSpace::Ample | FreeSpace::Low | FreeSpace::VeryLow => Ok(()),
                };
            }
            Next::Write { why, bytes } => (why, bytes),
            Next::Verify { why } => {
                verify_in_background(self.lookups.clone(), Arc::clone(&self.health));
                return Err(why.into());
            }
            Next::Wait { why } => return Err(why.into()),
        };
        match tokio::time::timeout(TRY_TIMEOUT, self.write(TryToWrite { bytes })).await {
            Ok(tried) => tried?,
            Err(_) => return Err(why.into()),
        }
        // Messages may be refused although a step was written.
        Ok(self.health.admit()?)
    }
}

#[async_trait]
impl Replays for SqliteStore {
    async fn replay(&self, ask: &ReplayAsk) -> Result<ReplayChunk, Unavailable> {
        let (question, digests) = (ask.clone(), self.digests.clone());
        let find = move |snapshot: &Connection| replay::find(snapshot, &question, &digests);
        let found = self.lookups.read(find).await?;
        let mut chunk = ReplayChunk { next: found.next, ..ReplayChunk::default() };
        let mut seen = None;
        for part in found.messages.chunks(replay::MESSAGES_MAX) {
            let replayable = || part.iter().filter(|message| message.is_replayable);
            let seqs: Vec<Seq> = replayable().map(|message| message.seq).collect();
            let count = seqs.len();
            if ask.is_dry_run {
                chunk.replayed += count as u64;
            } else if count > 0 {
                let bytes = replayable().map(|message| message.payload_bytes).sum();
                let requeue = replay::Requeue {
                    seqs,
                    failed_only: ask.selection.state == ReplayState::Failed,
                    subscription: ask.selection.subscription.clone(),
                    now: ask.now,
                };
                let size = Size { messages: count as u64, bytes };
                match (self.requeue(requeue, size).await, seen) {
                    (Ok(replayed), _) => chunk.replayed += replayed,
                    // The next call begins with this part, and fails unless the store works again.
                    (Err(_), Some(after)) => {
                        chunk.next = Some(ReplayPosition { after, until: found.until });
                        break;
                    }
                    (Err(fault), None) => return Err(fault.into()),
                }
            }
            chunk.without_contents += (part.len() - count) as u64;
            seen = part.last().map(|message| message.accepted);
        }
        Ok(chunk)
    }
}

#[async_trait]
impl Housekeeping for SqliteStore {
    async fn purge(&self, now: Timestamp) -> Result<u64, Unavailable> {
        Ok(self.write(purge::Purge { now, retention: self.retention }).await?)
    }

    async fn erase(&self) -> Result<u64, Unavailable> {
        let behind = self.erase_behind.load(Ordering::Relaxed);
        let next = move |snapshot: &Connection| erase::next_deletion(snapshot, behind);
        let Some(deletion) = self.lookups.read(next).await? else {
            // The next round tries those again that failed.
            self.erase_behind.store(0, Ordering::Relaxed);
            return Ok(0);
        };
        let seq = deletion.seq;
        // Found by a reader, so that the writer need not search.
        let erased = match self.lookups.read(move |snapshot| Erase::of(snapshot, deletion)).await {
            Ok(part) => self.write(part).await,
            Err(fault) => Err(fault),
        };
        if erased.is_err() {
            self.erase_behind.store(seq, Ordering::Relaxed);
        }
        Ok(erased?)
    }

    async fn newest(&self) -> Result<Option<Timestamp>, Unavailable> {
        Ok(self.lookups.read(purge::newest).await?)
    }
}
