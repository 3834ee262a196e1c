//! The store: opens the file, and holds the state that its callers share.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::accept::Memory;
use super::connection::WriterConnection;
use super::error::{Fault, OpenError, explain};
use super::event_names::EventNames;
use super::files::Files;
use super::group::Step;
use super::health::Health;
use super::open::{self, FileOptions};
use super::options::{Retention, SqliteOptions};
use super::reader::Readers;
use super::recent::Recent;
use super::replay::Requeue;
use super::restored::Restorations;
use super::space::Space;
use super::writer::Writer;
use super::writing::Writing;
use super::{background, log, network};
use crate::config::WalMode;
use crate::queue::FreeSpace;
use crate::segment::Digests;
use crate::store::backlog::{Backlog, Pending, Size};
use crate::store::meters::Meters;
use crate::store::room::Room;

/// How many readers serve the engines, the backlog and the health check: enough for all to read concurrently.
pub(super) const READERS_MAX: u32 = 4;

/// How many readers serve people, replays, erasures and counts. Their reads may be slow, so they have separate
/// connections: neither delivery nor accepting messages waits for them.
pub(super) const LOOKUPS_MAX: u32 = 3;

/// The queue in one SQLite file.
///
/// Dropped without [`close`](crate::queue::Store::close), it loses nothing that was acknowledged.
#[derive(Debug)]
pub struct SqliteStore {
    pub(super) readers: Readers,
    pub(super) lookups: Readers,
    pub(super) writing: Writing,
    pub(super) room: Room,
    pub(super) backlog: Arc<Backlog>,
    pub(super) space: Arc<Space>,
    pub(super) health: Arc<Health>,
    pub(super) arrivals: watch::Receiver<u64>,
    pub(super) ended: CancellationToken,
    pub(super) digests: Digests,
    pub(super) restorations: Arc<Restorations>,
    pub(super) wal: WalMode,
    pub(super) retention: Retention,
    /// The last deletion whose erasure failed in this round. Later ones must be erased all the same.
    pub(super) erase_behind: AtomicI64,
    /// Ends the task that watches the free space.
    _background: DropGuard,
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
                let read = recent
                    .load(&connection)
                    .and_then(|()| Ok((digests(&connection)?, Restorations::load(&connection)?)));
                Ok((connection, recent, read.map_err(|fault| explain(&options.path, fault))?))
            })
        };
        let (connection, recent, (digests, restorations)) = match opening.await {
            Ok(opened) => opened?,
            Err(error) => return Err(OpenError::Open { path, source: Box::new(error) }),
        };
        let patience = options.busy_timeout.max(Duration::from_secs(1));
        let health = Arc::new(Health::new(Files::new(path.clone())));
        health.files.opened().map_err(|fault| explain(&path, fault))?;
        let of =
            |count| Readers::new(FileOptions::new(&options), Arc::clone(&health), patience, count);
        let (readers, lookups) = (of(READERS_MAX), of(LOOKUPS_MAX));
        let backlog_max =
            Size { messages: options.backlog_messages_max, bytes: options.backlog_bytes_max };
        let backlog = Backlog::open(backlog_max, &readers).await;
        let backlog = Arc::new(backlog.map_err(|fault| explain(&path, fault))?);
        let folder = network::folder_of(&path).to_owned();
        let space = Arc::new(Space::new(&path, folder, options.free_bytes_min));
        space.look(&readers).await;
        let room = Room::new(options.waiting_messages_max, options.waiting_bytes_max);
        let (orders, orders_taken) = mpsc::channel();
        let (arrived, arrivals) = watch::channel(0);
        let ended = CancellationToken::new();
        let connection = WriterConnection::new(
            connection,
            FileOptions::new(&options),
            Arc::clone(&health),
            [readers.clone(), lookups.clone()],
            Handle::current(),
        );
        let writer = Writer {
            connection,
            memory: Memory {
                recent,
                event_names: EventNames::default(),
                duplicate_window: options.duplicate_window,
            },
            meters: Meters::new(),
            orders: orders_taken,
            arrived,
            quiet: options.quiet,
            health: Arc::clone(&health),
            runtime: Handle::current(),
            ended: ended.clone(),
        };
        writer.start().map_err(|source| OpenError::NoWriter { source })?;
        let retention = options.retention();
        let writing = Writing::new(orders, Arc::clone(&health));
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
            restorations: Arc::new(restorations),
            wal: options.wal,
            retention,
            erase_behind: AtomicI64::new(0),
            _background: is_dropped.drop_guard(),
        })
    }

    /// Has the writer run a step, together with others in one transaction.
    pub(super) async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        self.writing.write(step).await
    }

    /// Makes messages of this size pending again, unless there is no room for more.
    pub(super) async fn make_pending(&self, requeue: Requeue, size: Size) -> Result<u64, Fault> {
        if matches!(self.space.now(), FreeSpace::VeryLow | FreeSpace::Exhausted) {
            return Err(Fault::NoSpace);
        }
        let _admitted = self.backlog.admit(size, &self.readers).await?.ok_or(Fault::Full)?;
        self.write(requeue).await
    }
}

impl Pending for Readers {
    type Fault = Fault;

    async fn count(&self) -> Result<Size, Fault> {
        self.read(log::backlog).await
    }
}

/// Reads the key of the installation.
pub(super) fn digests(connection: &Connection) -> Result<Digests, Fault> {
    let key: Vec<u8> = connection.query_row(
        "SELECT value FROM meta WHERE name = 'installation_key'",
        [],
        |row| row.get(0),
    )?;
    let key = key.try_into().map_err(|_| Fault::Broken("the key of the installation is not whole"));
    Ok(Digests::new(&key?))
}
