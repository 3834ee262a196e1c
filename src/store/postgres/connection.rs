//! Connections: makes them, runs statements, and pools the few that readers share.
//!
//! No connection has state that outlives a transaction, so a pooler in transaction mode may stand in between.
//!
//! A connection that is given up in the middle of a transaction is closed, and the server rolls back. But the server
//! notices that only after the running statement ends, and that statement may wait for a lock or a standby. So the
//! statement is canceled where that is harmless, and until the server responds, the connection counts towards the limit
//! of its kind. However often connections are given up, no more than the limit are open.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Notification, Row};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::error::{Fault, Reason};
use super::params::Param;
use super::tls::Tls;
use super::url::Target;

/// How long to wait for a connection, and then for each response of the server. Behind a load balancer, connections to
/// a dead server may stay open without any response.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The isolation level matters: a statement that waited for a lock must see what was committed under that lock. The
/// server ends a transaction whose process has stopped in the middle, since other processes wait for its locks. It also
/// gives up waiting for a lock before this process does, so that the connection stays usable. Every statement has an
/// index, but the planner has no statistics for a day that has just begun.
const BEGIN: &str = "
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL idle_in_transaction_session_timeout = 5000; SET LOCAL lock_timeout = 15000;
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off";
/// All statements see the same snapshot.
const BEGIN_SNAPSHOT: &str = "
    BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 5000";

/// How connections of a kind are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// How long to wait for each response.
    answers_within: Duration,
    /// Whether a given-up statement is canceled.
    cancels: bool,
    /// How long a given-up connection counts towards the limit while its server does not respond.
    kept: Duration,
}

impl Manner {
    /// For leases and for the reads that delivery waits for.
    pub(super) const READING: Self = Self::within(ANSWER_TIMEOUT);
    /// For people's look-ups and for replays, which may search whole days.
    pub(super) const LOOKING_UP: Self = Self::within(Duration::from_secs(300));
    /// For chores, which may wait until other transactions have ended.
    pub(super) const CHORES: Self = Self::within(Duration::from_secs(3_600));
    /// For the tasks that write. A commit that waits for a standby must not be canceled: it would take effect on this
    /// server only, so a repeated message would count as a duplicate, and be lost in a failover. The connection counts
    /// towards the limit for so long because every other one would wait for the same standby. It does not count for
    /// ever, since the address may lead to another server by now, and the old one may never respond.
    pub(super) const WRITING: Self =
        Self { answers_within: ANSWER_TIMEOUT, cancels: false, kept: Duration::from_secs(3_600) };

    pub(super) const fn within(answers_within: Duration) -> Self {
        Self { answers_within, cancels: true, kept: Duration::from_secs(10) }
    }
}

/// How long a given-up statement may continue before it is canceled.
const CANCEL_AFTER: Duration = Duration::from_millis(250);

/// Makes connections to one database.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    config: Arc<Config>,
    tls: Tls,
    address: Arc<str>,
    schema: Schema,
    manner: Manner,
    /// Counts how often the server turned out to be read-only, or did not respond.
    generation: Arc<AtomicU64>,
}

/// The quoted name of the schema, with a dot.
#[derive(Debug, Clone)]
pub(super) struct Schema(Arc<str>);

impl Schema {
    pub(super) fn new(name: &str) -> Self {
        Schema(format!("\"{}\".", name.replace('"', "\"\"")).into())
    }

    /// Returns a statement with qualified names of tables: each `@` is replaced by the schema.
    pub(super) fn sql(&self, text: &str) -> String {
        text.replace('@', &self.0)
    }
}

impl Connector {
    pub(super) fn new(target: Target, schema: &str) -> Self {
        let Target { mut config, tls } = target;
        const PATIENCE: Duration = Duration::from_secs(10);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(PATIENCE);
        }
        if config.get_application_name().is_none() {
            config.application_name("segment-loops");
        }
        config.tcp_user_timeout(PATIENCE);
        config.keepalives_idle(PATIENCE);
        config.keepalives_interval(Duration::from_secs(2));
        let address = address(&config).into();
        let (schema, manner) = (Schema::new(schema), Manner::READING);
        Self { config: Arc::new(config), tls, address, schema, manner, generation: Arc::default() }
    }

    /// Returns a connector for another kind of connection to the same database.
    pub(super) fn with(&self, manner: Manner) -> Self {
        Self { manner, ..self.clone() }
    }

    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        self.connect_hearing(|_| {}).await
    }

    /// Makes a connection that calls `hear` with each notification, and drops `hear` when the connection ends.
    pub(super) async fn connect_hearing(
        &self,
        hear: impl Fn(&Notification) + Send + 'static,
    ) -> Result<Connection, Fault> {
        let generation = self.generation.load(Ordering::Relaxed);
        let connecting = timeout(ANSWER_TIMEOUT, self.config.connect(self.tls.clone()));
        let connected = connecting.await.map_err(|_| Fault::Slow)?;
        let (client, mut driver) = connected.map_err(|source| Fault::Connect {
            address: Arc::clone(&self.address),
            source: source.into(),
        })?;
        let messages = async move {
            while let Some(message) = poll_fn(|context| driver.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => hear(&notification),
                    // Notices may quote contents.
                    Ok(_) => {}
                    // Callers that wait for a response get the error, too.
                    Err(error) => {
                        let error = Reason::from(error);
                        debug!(%error, "a connection to the database ended");
                        break;
                    }
                }
            }
        };
        let place = Place::default();
        let given_up = CancellationToken::new();
        let driving = drive(
            messages,
            given_up.clone(),
            (client.cancel_token(), self.tls.clone()),
            self.manner,
            place.clone(),
        );
        Ok(Connection {
            client,
            schema: self.schema.clone(),
            driver: tokio::spawn(driving),
            given_up: given_up.drop_guard(),
            place,
            manner: self.manner,
            generation,
            current: Arc::clone(&self.generation),
        })
    }
}

/// Reads from and writes to the socket of a connection until it ends.
async fn drive(
    messages: impl Future<Output = ()>,
    given_up: CancellationToken,
    (cancel, tls): (CancelToken, Tls),
    manner: Manner,
    place: Place,
) {
    let mut messages = pin!(messages);
    tokio::select! {
        () = &mut messages => return,
        () = given_up.cancelled() => {}
    }
    // The connection closes itself once no response is pending.
    if timeout(CANCEL_AFTER, &mut messages).await.is_err() {
        if manner.cancels {
            // If canceling fails, the server may be gone.
            let _ = timeout(manner.kept, cancel.cancel_query(tls)).await;
        }
        let _ = timeout(manner.kept, messages).await;
    }
    drop(place);
}

/// Returns the address of a database, without user name and password.
pub(super) fn address(config: &Config) -> String {
    let ports = config.get_ports();
    let of = |(index, host): (usize, &Host)| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(folder) => format!("{}:{port}", folder.display()),
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(of).collect();
    hosts.join(", ")
}

/// A connection. Futures of its methods that one task polls together are pipelined, in the order of their first poll.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    schema: Schema,
    /// The task that reads from and writes to the socket.
    driver: JoinHandle<()>,
    /// Tells the task that the connection is no longer used. Dropped after the client.
    given_up: DropGuard,
    place: Place,
    manner: Manner,
    /// The connector's generation when the connection was made, and the current one.
    generation: u64,
    current: Arc<AtomicU64>,
}

impl Connection {
    pub(super) async fn query(&self, text: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Fault> {
        self.answer(self.client.query_typed(&self.schema.sql(text), params)).await
    }

    /// Returns the first row, if any.
    pub(super) async fn query_opt(
        &self,
        text: &str,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Fault> {
        Ok(self.query(text, params).await?.into_iter().next())
    }

    /// Returns the only row of a statement that always returns one.
    pub(super) async fn query_one(&self, text: &str, params: &[Param<'_>]) -> Result<Row, Fault> {
        let row = self.query_opt(text, params).await?;
        row.ok_or(Fault::Broken("a statement that always returns a row returned none"))
    }

    /// Returns how many rows changed.
    pub(super) async fn execute(&self, text: &str, params: &[Param<'_>]) -> Result<u64, Fault> {
        self.answer(self.client.execute_typed(&self.schema.sql(text), params)).await
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<(), Fault> {
        self.batch(BEGIN).await
    }

    /// Runs statements without parameters.
    pub(super) async fn batch(&self, text: &str) -> Result<(), Fault> {
        self.answer(self.client.batch_execute(&self.schema.sql(text))).await
    }

    /// Waits for a response, but not for ever.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        let Ok(answer) = timeout(self.manner.answers_within, answer).await else {
            self.outdate();
            return Err(Fault::Slow);
        };
        answer.map_err(|error| {
            if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
                self.outdate();
            }
            error.into()
        })
    }

    /// Replaces all connections of this generation: the server was demoted or is gone, the URL may lead to another one,
    /// and reads from the old one may be out of date.
    pub(super) fn outdate(&self) {
        let (old, new) = (self.generation, self.generation.wrapping_add(1));
        // If this fails, another connection has done it.
        let _ = self.current.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Closes the connection properly, and waits a moment for that.
    pub(super) async fn close(self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let Self { client, driver, given_up, .. } = self;
        drop((client, given_up));
        let _ = timeout(PATIENCE, driver).await;
    }

    /// Whether the connection must be replaced.
    pub(super) fn is_useless(&self) -> bool {
        self.client.is_closed() || self.generation != self.current.load(Ordering::Relaxed)
    }
}

/// A connection's slot within the limit of its kind. It is free once both the user of the connection and its task are
/// gone.
#[derive(Debug, Clone, Default)]
struct Place(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Place {
    fn set(&self, permit: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, permit)
    }
}

/// A small pool of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    /// The maximum number of connections, including given-up ones that wait for the server.
    count: u32,
    /// How long to wait for a connection.
    patience: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Connections {
    pub(super) fn new(connector: Connector, count: u32, patience: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(count as usize));
        let idle = Mutex::default();
        Self { shared: Arc::new(Shared { connector, count, patience, permits, idle }) }
    }

    /// Returns a connection for single statements.
    pub(super) async fn get(&self) -> Result<Pooled, Fault> {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&shared.permits).acquire_owned();
        let permit = timeout(shared.patience, permit)
            .await
            .map_err(|_| Fault::NoConnection)?
            .map_err(|_| Fault::Closed)?;
        let idle = loop {
            let idle = shared.idle().pop();
            if !idle.as_ref().is_some_and(Connection::is_useless) {
                break idle;
            }
        };
        let connection = match idle {
            Some(connection) => connection,
            None => shared.connector.connect().await?,
        };
        connection.place.set(Some(permit));
        Ok(Pooled { connection, shared })
    }

    /// Returns a connection for a task that writes.
    pub(super) async fn get_to_write(&self) -> Result<Pooled, Fault> {
        self.get().await.map_err(|fault| match fault {
            // All others wait for the server.
            Fault::NoConnection => Fault::Slow,
            fault => fault,
        })
    }

    /// Returns a connection on which all reads see the same snapshot.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Fault> {
        let pooled = self.get().await?;
        pooled.batch(BEGIN_SNAPSHOT).await?;
        Ok(Snapshot(pooled))
    }

    /// Returns a connection with an open transaction, which must be committed.
    pub(super) async fn transaction(&self) -> Result<Transaction, Fault> {
        let pooled = self.get().await?;
        pooled.begin().await?;
        Ok(Transaction(pooled))
    }

    /// Waits for running calls, then closes all connections. Later calls fail.
    pub(super) async fn close(&self) {
        // Fails only if it was closed before.
        let permits = self.shared.permits.acquire_many(self.shared.count).await;
        self.shared.permits.close();
        let idle = std::mem::take(&mut *self.shared.idle());
        for connection in idle {
            connection.close().await;
        }
        drop(permits);
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Each change is a single push or pop.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pooled connection. Unless it is given back, dropping it closes it, and it counts towards the limit until it has
/// ended.
#[derive(Debug)]
pub(super) struct Pooled {
    connection: Connection,
    shared: Arc<Shared>,
}

impl Pooled {
    /// Returns the connection to the pool. No statement may be running on it.
    pub(super) fn give_back(self) {
        let Self { connection, shared } = self;
        let permit = connection.place.set(None);
        shared.idle().push(connection);
        // Released only once the connection is back, since `close` waits for the permits.
        drop(permit);
    }

    /// Closes the connection properly.
    pub(super) async fn close(self) {
        self.connection.close().await;
    }
}

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// A snapshot. If dropped without [`Snapshot::end`], its connection is closed.
#[derive(Debug)]
pub(super) struct Snapshot(Pooled);

impl Snapshot {
    pub(super) async fn end(self) -> Result<(), Fault> {
        self.0.batch("COMMIT").await?;
        self.0.give_back();
        Ok(())
    }
}

impl Deref for Snapshot {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

/// A transaction. If dropped without [`Transaction::commit`], its connection is closed, which rolls it back.
#[derive(Debug)]
pub(super) struct Transaction(Pooled);

impl Transaction {
    pub(super) async fn commit(self) -> Result<(), Fault> {
        self.0.batch("COMMIT").await?;
        self.0.give_back();
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}
