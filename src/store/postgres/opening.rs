//! Opens the database: connects, makes the schema if there is none, and starts the tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Connections, Connector, Manner, address};
use super::error::{Fault, OpenError};
use super::hints::{Hinter, Hints};
use super::housekeeping::{self, Chores};
use super::options::{PostgresOptions, Time, options};
use super::store::PostgresStore;
use super::{accept, startup, steps, work};
use crate::config::StoreConfig;
use crate::store::backlog::{Backlog, Pending, Size};
use crate::store::room::Room;
use crate::store::schema::Schema;

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

/// Opens the configured database.
pub(in crate::store) async fn open(
    config: &StoreConfig,
    url: &str,
) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(options(config, url)?).await
}

/// Compares the schema at a URL with that of this program. Only reads.
pub(in crate::store) async fn schema(config: &StoreConfig, url: &str) -> Result<Schema, OpenError> {
    schema_of(options(config, url)?).await
}

pub(super) async fn schema_of(options: PostgresOptions) -> Result<Schema, OpenError> {
    let address = address(&options.target.config);
    let connector = Connector::new(options.target.clone(), &options.schema);
    let connection = connect(&connector, &address).await?;
    startup::check(&connection, &address).await?;
    let found = super::schema::state(&connection, &options, &address).await?;
    connection.close().await;
    Ok(found)
}

pub(super) async fn connect(connector: &Connector, address: &str) -> Result<Connection, OpenError> {
    let address = address.to_owned();
    connector.connect().await.map_err(|fault| match fault {
        Fault::Connect { source, .. } => OpenError::Connect { address, source: Box::new(source) },
        other => OpenError::Open { address, source: other.into() },
    })
}

impl PostgresStore {
    /// Connects, makes the schema if there is none, and starts the writing tasks.
    ///
    /// Must be called inside a Tokio runtime. The error says what a person can do about it.
    pub(super) async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let address = address(&options.target.config);
        let connector = Connector::new(options.target.clone(), &options.schema);
        let connection = connect(&connector, &address).await?;
        startup::check(&connection, &address).await?;
        let digests = super::schema::open(&connection, &options, &address).await?;
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
