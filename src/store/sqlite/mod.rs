//! The store in one SQLite file: WAL, `synchronous=FULL`, one writer with group commit, a few readers.

mod accept;
mod log;
mod purge;
mod read;
mod steps;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{Semaphore, watch};

use self::writer::{Op, Writer};
use super::StoreError;
use crate::queue::{
    Accepted, Depth, FrozenRequest, Head, Housekeeping, Inbox, Job, Lease, LeaseRequest, Log,
    MessageRecord, NewMessage, NewPlan, QueueError, Seq, Settlement, Work,
};
use crate::segment::{MessageHash, PersonHash};

static MIGRATOR: Migrator = sqlx::migrate!("src/store/migrations/sqlite");

/// Connections for reading. Reads are short; the writer has a connection of its own.
const READERS: u32 = 3;

/// How long a statement waits for another process on the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a store needs to know.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The file; made if it is not there. Its folder must be.
    pub path: PathBuf,
    /// A message id that comes again within this time is a duplicate.
    pub duplicate_window: Duration,
    /// The most messages that may wait to be written.
    pub waiting_messages_max: usize,
    /// The most bytes of messages that may wait to be written.
    pub waiting_bytes_max: usize,
    /// How long payloads of delivered and unmatched messages are kept.
    pub delivered_retention: Duration,
    /// How long payloads of failed messages are kept.
    pub failed_retention: Duration,
    /// How long records without payload are kept.
    pub records_retention: Duration,
}

/// The store. Cheap to clone; all clones share one writer.
#[derive(Debug, Clone)]
pub struct SqliteStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    readers: SqlitePool,
    writer: Writer,
    options: SqliteOptions,
    /// What may still wait to be written: messages, and bytes in units of [`BYTES_UNIT`].
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Waiting bytes are counted in units of this size, so that a semaphore's counter can hold them.
const BYTES_UNIT: usize = 1_024;

impl SqliteStore {
    /// Opens the file, brings its schema up to this release, starts the writer.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let path = options.path.display().to_string();
        let open_error = |source| StoreError::Open { path: path.clone(), source };
        let mut connection = connect_options(&options.path)
            .create_if_missing(true)
            // Group commit writes many pages at once; small checkpoints would write hot ones again and again.
            .pragma("wal_autocheckpoint", "4000")
            .pragma("cache_size", "-65536")
            .connect()
            .await
            .map_err(open_error)?;
        protect(&options.path);
        migrate(&mut connection, &path).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(connect_options(&options.path).read_only(true))
            .await
            .map_err(open_error)?;
        let window = i64::try_from(options.duplicate_window.as_millis()).unwrap_or(i64::MAX);
        Ok(Self(Arc::new(Shared {
            readers,
            writer: Writer::start(connection, window),
            messages: Arc::new(Semaphore::new(
                options.waiting_messages_max.min(Semaphore::MAX_PERMITS),
            )),
            bytes: Arc::new(Semaphore::new((options.waiting_bytes_max / BYTES_UNIT).max(1))),
            options,
        })))
    }

    /// Writes what waits, and closes the file. Whoever uses the store afterwards is told that it does
    /// not work.
    pub async fn close(&self) {
        self.0.readers.close().await;
        self.0.writer.close().await;
    }
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
}

/// The file holds personal data: only its owner may read it.
fn protect(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let for_owner = std::fs::Permissions::from_mode(0o600);
        if let Err(error) = std::fs::set_permissions(path, for_owner) {
            tracing::warn!(%error, "the database's permissions cannot be set");
        }
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &str) -> Result<(), StoreError> {
    MIGRATOR.run(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
            StoreError::Newer { path: path.to_owned() }
        }
        source => StoreError::Migrate { path: path.to_owned(), source },
    })
}

/// The error of a store that did not do what it was asked.
fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> QueueError {
    QueueError::Unavailable(Box::new(error))
}

#[async_trait]
impl Inbox for SqliteStore {
    async fn accept(&self, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, QueueError> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        let units = u32::try_from(bytes.div_ceil(BYTES_UNIT)).unwrap_or(u32::MAX);
        // The permits are the operation's own: given back when it is answered or dropped.
        let count = Arc::clone(&self.0.messages).try_acquire_many_owned(count);
        let bytes = Arc::clone(&self.0.bytes).try_acquire_many_owned(units);
        let (Ok(count), Ok(bytes)) = (count, bytes) else {
            return Err(QueueError::Busy);
        };
        self.0.writer.ask(|reply| Op::Accept { messages, reply, _permits: (count, bytes) }).await?
    }
}

#[async_trait]
impl Work for SqliteStore {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, QueueError> {
        self.0.writer.ask(|reply| Op::Lease { ask, reply }).await?
    }

    async fn release(&self, lease: &Lease) -> Result<(), QueueError> {
        let lease = lease.clone();
        self.0.writer.ask(|reply| Op::Release { lease, reply }).await?
    }

    async fn pending(
        &self,
        destination: &str,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<Head>, QueueError> {
        read::pending(&self.0.readers, destination, after, limit).await.map_err(unavailable)
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, QueueError> {
        read::open(&self.0.readers, seq).await.map_err(unavailable)
    }

    async fn freeze(
        &self,
        lease: &Lease,
        seq: Seq,
        plan: NewPlan,
    ) -> Result<Vec<FrozenRequest>, QueueError> {
        let lease = lease.clone();
        self.0.writer.ask(|reply| Op::Freeze { lease, seq, plan, reply }).await?
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<(), QueueError> {
        let lease = lease.clone();
        self.0.writer.ask(|reply| Op::Settle { lease, settlement, reply }).await?
    }

    async fn depth(&self, destination: &str) -> Result<Depth, QueueError> {
        read::depth(&self.0.readers, destination).await.map_err(unavailable)
    }

    fn arrivals(&self) -> watch::Receiver<u64> {
        self.0.writer.arrivals()
    }
}

#[async_trait]
impl Log for SqliteStore {
    async fn by_message_id(
        &self,
        hash: MessageHash,
        message_id: &str,
    ) -> Result<Vec<MessageRecord>, QueueError> {
        log::by_message_id(&self.0.readers, hash, message_id).await.map_err(unavailable)
    }

    async fn by_person(
        &self,
        person: PersonHash,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Vec<MessageRecord>, QueueError> {
        log::by_person(&self.0.readers, person, before, limit).await.map_err(unavailable)
    }

    async fn ready(&self) -> Result<(), QueueError> {
        log::ready(&self.0.readers).await.map_err(unavailable)
    }
}

#[async_trait]
impl Housekeeping for SqliteStore {
    async fn purge(&self, now: Timestamp) -> Result<u64, QueueError> {
        let times = purge::Times::new(now, &self.0.options);
        self.0.writer.ask(|reply| Op::Purge { times, reply }).await?
    }
}
