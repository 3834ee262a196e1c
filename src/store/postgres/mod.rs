//! The queue in a PostgreSQL database, for several processes. Every process accepts messages; each destination is
//! delivered by the process that holds its lease.
//!
//! Two tasks own the writing connections, and each writes all its waiting calls in one transaction: `accept` accepts
//! messages, `steps` writes the steps of delivery. Leases have their own connection. Reads share a few more. Every
//! statement is unnamed and no connection has a state beyond its transaction, so a pooler in transaction mode may stand
//! between.
//!
//! SQLite has only one writer at a time; here, row locks give the same guarantees. A destination's stream is locked
//! while messages get their numbers, so that numbers become visible in order and duplicates are found across processes.
//! A destination's lease is locked while a step is written, so that no other process takes it meanwhile.

mod accept;
mod audit;
mod awaiting;
mod catalogue;
mod conflicts;
mod connection;
mod contacts;
mod contents;
mod erase;
mod error;
mod event_names;
mod feedback;
mod freeze;
mod hints;
mod housekeeping;
mod lease;
mod list;
mod log;
pub(super) mod moving;
mod new_contacts;
pub(super) mod numbers;
mod opt_outs;
mod params;
mod partitions;
mod purge;
mod receipts;
mod records;
mod replay;
mod replicas;
mod rows;
mod schema;
mod set_aside;
mod settle;
mod startup;
mod statement;
mod steps;
mod tally;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod url;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{NotifyMode, StoreConfig};
use crate::queue::{
    AcceptError, AuditEntry, BrokenMessage, CarriedPart, Class, Committed, Contact, Depth,
    FreeSpace, Frozen, Head, HoldsAnswer, HoldsAsk, Inbox, Job, KnownContact, LaneAsk, LanePart,
    Lease, LeaseHolder, LeaseRequest, NewMerge, NewMessage, OptOut, PendingAsk, RequestId, Seq,
    Settled, Settlement, Store, StoredCatalogue, Unavailable, Work, WorkError,
};
use crate::segment::{Digests, LaneKey, PersonDigest};
use crate::store::Schema;
use crate::store::backlog::{Backlog, Pending, Size};
use crate::store::order::AcceptOrder;
use crate::store::room::Room;
use crate::telemetry::TraceContext;

use catalogue::KeepCatalogue;
use connection::{Connection, Connections, Connector, Manner, address};
use error::{Fault, OpenError};
use freeze::Freeze;
use hints::{Hinter, Hints};
use housekeeping::Chores;
use rows::to_ms;
use schema::Migration;
use set_aside::SetAside;
use settle::Settle;
use steps::{AnyStep, Step, StepOrder};
use url::Target;

/// How many steps may wait for their task. Further senders wait before they send.
const STEPS_WAITING_MAX: u32 = 1_024;

/// The connections of the two tasks that write.
const WRITING: u32 = 2;

/// The connections of the chores. They may wait long, since nothing waits for them.
const CHORES: u32 = 2;

/// How many given-up connections of each of these tasks may still wait for the server, besides the one in use. One,
/// because a new connection may reach another server, or may not need the lock that the old one waits for. If the new
/// one waits as well, a third would not help.
const GIVEN_UP: u32 = 1;

/// How long these tasks wait for a connection.
const SOON: Duration = Duration::from_secs(1);

/// The connection that takes and renews leases.
const LEASING: u32 = 1;

/// The connection that listens for hints.
const LISTENING: u32 = 1;

/// The clock from which message numbers and lease expiries are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// The database's clock, which is the same for all processes.
    OfDatabase,
    /// The times that callers pass, for tests that control the time.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests decide the time"))]
    OfCallers,
}

/// The database, its limits and its retention.
#[derive(Debug, Clone)]
struct PostgresOptions {
    /// How to connect.
    target: Target,
    /// Name of the schema, which is created if it does not exist.
    schema: String,
    /// Where to listen for hints from other processes, and the configuration key that says so. `None` means that hints
    /// are neither sent nor received.
    listen: Option<(Target, &'static str)>,
    /// The maximum number of connections.
    connections_max: u32,
    /// How long a message id is remembered, to recognize duplicates.
    duplicate_window: Duration,
    /// Messages that may wait to be written before more are refused. At least 1.
    waiting_messages_max: usize,
    /// Payload bytes that may wait to be written before more are refused. At least 1.
    waiting_bytes_max: usize,
    /// Messages that may be pending before more are refused. At least 1.
    backlog_messages_max: u64,
    /// Payload bytes that may be pending before more messages are refused. At least 1.
    backlog_bytes_max: u64,
    /// How long the payload of a message without a failure is kept after it is done.
    delivered_retention: Duration,
    /// How long the payload of a message with a failed delivery is kept after it is done.
    failed_retention: Duration,
    /// How long the record of a message is kept after it is done; never shorter than the others.
    records_retention: Duration,
    /// How long rows past their retention wait until their whole day is, so that its partitions can be dropped. After
    /// that, the rows are deleted one by one.
    whole_days_for: Duration,
    /// How long to wait for a free connection.
    patience: Duration,
    /// The key of the installation, used when the schema is made; `None` generates a random one.
    installation_key: Option<[u8; 32]>,
    /// The clock to use.
    time: Time,
    /// The migrations that lead to this version's schema.
    migrations: &'static [Migration],
}

impl PostgresOptions {
    /// The defaults for a database: duplicates 7 days, payloads 7 and 30 days, records 90 days.
    fn new(target: Target) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            target,
            listen: None,
            schema: "segment_loops".to_owned(),
            connections_max: 10,
            duplicate_window: DAY * 7,
            waiting_messages_max: 20_000,
            waiting_bytes_max: 128 * 1024 * 1024,
            backlog_messages_max: 10_000_000,
            backlog_bytes_max: 10 * 1024 * 1024 * 1024,
            delivered_retention: DAY * 7,
            failed_retention: DAY * 30,
            records_retention: DAY * 90,
            whole_days_for: DAY + DAY / 2,
            patience: Duration::from_secs(5),
            installation_key: None,
            time: Time::OfDatabase,
            migrations: schema::MIGRATIONS,
        }
    }

    /// A record must outlive its payload, and the window in which duplicates are recognized.
    fn retention(&self) -> Retention {
        let delivered = self.delivered_retention;
        let failed = self.failed_retention;
        let records = self.records_retention.max(delivered).max(failed).max(self.duplicate_window);
        Retention { delivered, failed, records, whole_days_for: self.whole_days_for }
    }
}

/// All migrations.
#[cfg(test)]
pub(super) fn migrations() -> Vec<&'static str> {
    schema::MIGRATIONS.iter().map(|migration| migration.sql).collect()
}

/// How long ended messages are kept.
#[derive(Debug, Clone, Copy)]
struct Retention {
    delivered: Duration,
    failed: Duration,
    records: Duration,
    whole_days_for: Duration,
}

/// The queue in a PostgreSQL database.
///
/// Dropped without [`Store::close`], it loses nothing that was acknowledged.
#[derive(Debug)]
pub(super) struct PostgresStore {
    /// Connections of the engines.
    readers: Connections,
    /// Connections for people and replays. Their reads may be slow, and neither delivery nor accepting messages waits
    /// for them.
    lookups: Connections,
    leasing: Connections,
    accepting: UnboundedSender<AcceptOrder<Fault>>,
    stepping: UnboundedSender<Box<dyn AnyStep>>,
    /// Permits for steps that wait for their task.
    steps: Arc<Semaphore>,
    room: Room,
    backlog: Arc<Backlog>,
    hints: Arc<Hints>,
    closing: CancellationToken,
    /// Cancelled when each of the two writing tasks has ended.
    ended: [CancellationToken; 2],
    /// Cancelled when the task for hints has ended. It ends with the store.
    hinted: CancellationToken,
    _hinting: DropGuard,
    digests: Digests,
    retention: Retention,
    chores: Chores,
    time: Time,
}

/// Opens the configured database.
pub(super) async fn open(config: &StoreConfig, url: &str) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(options(config, url)?).await
}

/// Compares the schema at a URL with that of this program. Only reads.
pub(super) async fn schema(config: &StoreConfig, url: &str) -> Result<Schema, OpenError> {
    schema_of(options(config, url)?).await
}

async fn schema_of(options: PostgresOptions) -> Result<Schema, OpenError> {
    let address = address(&options.target.config);
    let connector = Connector::new(options.target.clone(), &options.schema);
    let connection = connect(&connector, &address).await?;
    startup::check(&connection, &address).await?;
    let found = schema::state(&connection, &options, &address).await?;
    connection.close().await;
    Ok(found)
}

async fn connect(connector: &Connector, address: &str) -> Result<Connection, OpenError> {
    let address = address.to_owned();
    connector.connect().await.map_err(|fault| match fault {
        Fault::Connect { source, .. } => OpenError::Connect { address, source: Box::new(source) },
        other => OpenError::Open { address, source: other.into() },
    })
}

fn options(config: &StoreConfig, url: &str) -> Result<PostgresOptions, OpenError> {
    let hours = |hours: u64| Duration::from_secs(hours.saturating_mul(3_600));
    let target = Target::parse("store.url", url)?;
    let listen = match (config.notify, &config.listen_url) {
        (NotifyMode::Off, _) => None,
        (NotifyMode::Auto, None) => Some((target.clone(), "store.url")),
        (NotifyMode::Auto, Some(url)) => {
            let key = "store.listen_url";
            Some((Target::parse(key, url.expose())?, key))
        }
    };
    Ok(PostgresOptions {
        listen,
        schema: config.schema.clone(),
        connections_max: config.connections_max,
        duplicate_window: hours(config.duplicate_window_h),
        waiting_messages_max: config.waiting_messages_max,
        waiting_bytes_max: config.waiting_bytes_max,
        backlog_messages_max: config.backlog_messages_max,
        backlog_bytes_max: config.backlog_bytes_max,
        delivered_retention: hours(config.delivered_retention_h),
        failed_retention: hours(config.failed_retention_h),
        records_retention: hours(config.records_retention_h),
        ..PostgresOptions::new(target)
    })
}

impl PostgresStore {
    /// Connects, makes the schema if there is none, and starts the writing tasks.
    ///
    /// Must be called inside a Tokio runtime. The error says what a person can do about it.
    async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let address = address(&options.target.config);
        let connector = Connector::new(options.target.clone(), &options.schema);
        let connection = connect(&connector, &address).await?;
        startup::check(&connection, &address).await?;
        let digests = schema::open(&connection, &options, &address).await?;
        connection.close().await;
        let of = |manner, count| Connections::new(connector.with(manner), count, options.patience);
        let sharing = options.connections_max.max(StoreConfig::CONNECTIONS_MIN);
        let sharing = sharing - WRITING - LEASING - CHORES - LISTENING;
        let looking_up = (sharing / 2).max(2);
        let readers = of(Manner::READING, sharing - looking_up);
        let lookups = of(Manner::LOOKING_UP, looking_up);
        let leasing = of(Manner::READING, LEASING);
        let chores = of(Manner::CHORES, CHORES);
        let writing = || Connections::new(connector.with(Manner::WRITING), GIVEN_UP + 1, SOON);
        let failed =
            |fault: Fault| OpenError::Open { address: address.clone(), source: fault.into() };
        if options.time == Time::OfDatabase {
            housekeeping::make_days_ahead(&chores).await.map_err(failed)?;
        }
        let backlog_max =
            Size { messages: options.backlog_messages_max, bytes: options.backlog_bytes_max };
        let backlog = Arc::new(Backlog::open(backlog_max, &readers).await.map_err(failed)?);
        let (accepting, accepts) = mpsc::unbounded_channel();
        let (stepping, steps) = mpsc::unbounded_channel();
        let hints = Arc::new(Hints::new());
        let closing = CancellationToken::new();
        let ended = [CancellationToken::new(), CancellationToken::new()];
        let writer = accept::Writer {
            connections: writing(),
            duplicate_window: options.duplicate_window,
            time: options.time,
            orders: accepts,
            hints: Arc::clone(&hints),
            closing: closing.clone(),
            ended: ended[0].clone().drop_guard(),
        };
        let stepper = steps::Stepper {
            connections: writing(),
            time: options.time,
            orders: steps,
            closing: closing.clone(),
            ended: ended[1].clone().drop_guard(),
        };
        tokio::spawn(writer.run());
        tokio::spawn(stepper.run());
        let (hinted, hinting) = (CancellationToken::new(), closing.child_token());
        let guard = hinted.clone().drop_guard();
        if let Some((target, key)) = options.listen.clone() {
            let hinter = Hinter {
                hints: Arc::clone(&hints),
                connections: readers.clone(),
                connector: Connector::new(target, &options.schema),
                listens_at: key,
                schema: options.schema.clone(),
                closing: hinting.clone(),
                ended: guard,
            };
            tokio::spawn(hinter.run());
        }
        Ok(Self {
            readers,
            lookups,
            leasing,
            accepting,
            stepping,
            steps: Arc::new(Semaphore::new(STEPS_WAITING_MAX as usize)),
            room: Room::new(options.waiting_messages_max, options.waiting_bytes_max),
            backlog,
            hints,
            closing,
            ended,
            hinted,
            _hinting: hinting.drop_guard(),
            digests,
            retention: options.retention(),
            chores: Chores::new(chores),
            time: options.time,
        })
    }

    /// Writes a step together with others in one transaction.
    async fn write<S: Step>(&self, step: S) -> Result<S::Output, Fault> {
        let permit = Arc::clone(&self.steps).acquire_owned().await;
        let (order, answer) = StepOrder::new(step, permit.map_err(|_| Fault::Closed)?);
        self.stepping.send(Box::new(order)).map_err(|_| Fault::Closed)?;
        answer.await.map_err(|_| Fault::Closed)?
    }
}

impl Pending for Connections {
    type Fault = Fault;

    async fn count(&self) -> Result<Size, Fault> {
        let connection = self.get().await?;
        let size = work::backlog(&connection).await?;
        connection.give_back();
        Ok(size)
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn ended(&self) -> Option<Unavailable> {
        let [accepting, stepping] = &self.ended;
        tokio::select! {
            () = accepting.cancelled() => {}
            () = stepping.cancelled() => {}
        }
        (!self.closing.is_cancelled()).then(|| Fault::Closed.into())
    }

    async fn close(&self) {
        self.closing.cancel();
        for ended in &self.ended {
            ended.cancelled().await;
        }
        self.hinted.cancelled().await;
        self.readers.close().await;
        self.lookups.close().await;
        self.leasing.close().await;
        self.chores.connections.close().await;
    }
}

#[async_trait]
impl Inbox for PostgresStore {
    async fn commit(&self, messages: Vec<NewMessage>) -> Result<Committed, AcceptError> {
        if messages.is_empty() {
            return Ok(Committed::default());
        }
        let permits = self.room.admit(&messages)?;
        let admitted = self.backlog.admit(Size::of(&messages), &self.readers).await?;
        let admitted = admitted.ok_or(AcceptError::Full)?;
        let (reply, answer) = oneshot::channel();
        let queued_at = Instant::now();
        let order = AcceptOrder { messages, queued_at, reply, permits, admitted };
        self.accepting.send(order).map_err(|_| Fault::Closed)?;
        Ok(answer.await.map_err(|_| Fault::Closed)??)
    }

    /// The disk of the database cannot be seen from here.
    fn free_space(&self) -> FreeSpace {
        FreeSpace::Ample
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

#[async_trait]
impl Work for PostgresStore {
    async fn lease(&self, ask: LeaseRequest) -> Result<Option<Lease>, Unavailable> {
        let destination = ask.destination.clone();
        let asked = lease::request(&self.leasing, &ask, self.time).await;
        self.hints.leased(&destination, matches!(asked, Ok(Some(_))));
        Ok(asked?)
    }

    async fn lease_holder(&self, destination: &str) -> Result<Option<LeaseHolder>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = work::lease_holder(&connection, destination).await?;
        connection.give_back();
        Ok(found)
    }

    async fn release(&self, lease: &Lease) -> Result<(), WorkError> {
        self.hints.leased(&lease.destination, false);
        Ok(lease::release(&self.leasing, lease).await??)
    }

    async fn pending(
        &self,
        destination: &str,
        ask: [PendingAsk; Class::COUNT],
    ) -> Result<[Vec<Head>; Class::COUNT], Unavailable> {
        let connection = self.readers.get().await?;
        let found = work::pending(&connection, destination, ask).await?;
        connection.give_back();
        Ok(found)
    }

    async fn of_lane(&self, destination: &str, ask: &LaneAsk) -> Result<LanePart, Unavailable> {
        let connection = self.readers.get().await?;
        let found = work::of_lane(&connection, destination, *ask).await?;
        connection.give_back();
        Ok(found)
    }

    async fn open(&self, seq: Seq) -> Result<Option<Job>, WorkError> {
        let snapshot = self.readers.snapshot().await?;
        let found = work::open(&snapshot, seq).await?;
        snapshot.end().await?;
        Ok(found)
    }

    async fn subscriptions(&self, request: RequestId) -> Result<Vec<String>, Unavailable> {
        let connection = self.readers.get().await?;
        let subscriptions = contents::subscriptions(&connection, request).await?;
        connection.give_back();
        Ok(subscriptions)
    }

    async fn parts(&self, request: RequestId) -> Result<Vec<CarriedPart>, Unavailable> {
        let snapshot = self.readers.snapshot().await?;
        let parts = contents::parts(&snapshot, request).await?;
        snapshot.end().await?;
        Ok(parts)
    }

    async fn traces(&self, request: RequestId) -> Result<Vec<Option<TraceContext>>, Unavailable> {
        let connection = self.readers.get().await?;
        let traces = contents::traces(&connection, request).await?;
        connection.give_back();
        Ok(traces)
    }

    async fn contacts(
        &self,
        destination: &str,
        keys: &[PersonDigest],
    ) -> Result<Vec<Contact>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = contacts::contacts(&connection, destination, keys).await?;
        connection.give_back();
        Ok(found)
    }

    async fn unknown_contacts(
        &self,
        destination: &str,
        contacts: &[KnownContact],
    ) -> Result<Vec<KnownContact>, Unavailable> {
        let connection = self.readers.get().await?;
        let mut unknown = Vec::new();
        for contact in contacts {
            let ids = (contact.key, contact.email);
            if !contacts::is_known(&connection, destination, ids, i64::MAX).await? {
                unknown.push(*contact);
            }
        }
        connection.give_back();
        Ok(unknown)
    }

    async fn make_known(
        &self,
        destination: &str,
        contacts: &[KnownContact],
        now: Timestamp,
    ) -> Result<u64, Unavailable> {
        let (destination, mut contacts) = (destination.to_owned(), contacts.to_vec());
        contacts.sort_unstable_by_key(|contact| contact.key);
        Ok(self.write(new_contacts::MakeKnown { destination, contacts, now }).await?)
    }

    async fn opt_outs(
        &self,
        destination: &str,
        persons: &[PersonDigest],
    ) -> Result<Vec<OptOut>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = opt_outs::find(&connection, destination, persons).await?;
        connection.give_back();
        Ok(found)
    }

    async fn deleted_at(
        &self,
        destination: &str,
        persons: &[PersonDigest],
        since: Timestamp,
    ) -> Result<Option<Timestamp>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = receipts::deleted_at(&connection, destination, persons, since).await?;
        connection.give_back();
        Ok(found)
    }

    async fn freeze(&self, lease: &Lease, merge: NewMerge) -> Result<Frozen, WorkError> {
        Ok(self.write(Freeze { lease: lease.clone(), merge }).await??)
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<Settled, WorkError> {
        Ok(self.write(Settle { lease: lease.clone(), settlement }).await??)
    }

    async fn set_aside(
        &self,
        lease: &Lease,
        broken: BrokenMessage,
    ) -> Result<Option<String>, WorkError> {
        Ok(self.write(SetAside { lease: lease.clone(), broken }).await??)
    }

    async fn held_lanes(&self, destination: &str) -> Result<Vec<(Seq, LaneKey)>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = new_contacts::held_lanes(&connection, destination).await?;
        connection.give_back();
        Ok(found)
    }

    async fn holds(&self, destination: &str, ask: HoldsAsk) -> Result<HoldsAnswer, Unavailable> {
        let snapshot = self.readers.snapshot().await?;
        let found = new_contacts::holds(&snapshot, destination, ask).await?;
        snapshot.end().await?;
        Ok(found)
    }

    async fn catalogue(
        &self,
        destination: &str,
        known: Option<Timestamp>,
    ) -> Result<Option<StoredCatalogue>, Unavailable> {
        let connection = self.lookups.get().await?;
        let found = catalogue::find(&connection, destination, known.map(to_ms)).await?;
        connection.give_back();
        Ok(found)
    }

    async fn keep_catalogue(
        &self,
        lease: &Lease,
        catalogue: &StoredCatalogue,
        audit: Option<&AuditEntry>,
    ) -> Result<(), WorkError> {
        let (lease, catalogue, audit) = (lease.clone(), catalogue.clone(), audit.cloned());
        Ok(self.write(KeepCatalogue { lease, catalogue, audit }).await??)
    }

    async fn destinations(&self) -> Result<Vec<String>, Unavailable> {
        let connection = self.readers.get().await?;
        let found = work::destinations(&connection).await?;
        connection.give_back();
        Ok(found)
    }

    async fn depth(&self, destination: &str) -> Result<Depth, Unavailable> {
        let snapshot = self.lookups.snapshot().await?;
        let depth = work::depth(&snapshot, destination).await?;
        snapshot.end().await?;
        Ok(depth)
    }

    fn arrivals(&self) -> watch::Receiver<u64> {
        self.hints.arrivals()
    }
}
