//! Connections: how one is made, how a statement is run, and the few that readers share.
//!
//! No connection has a state that outlives a transaction, so a pooler in transaction mode may stand between.
//!
//! A connection that is given up in the middle of something is closed, and the server rolls back what it had begun. But
//! it notices that only once the statement under way has ended, which may wait for a lock or a standby. So the statement
//! is canceled where that can do no harm, and until the server has answered, the connection keeps its place among the
//! connections of its kind: however often one is given up, no more than these are open.

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

use super::Fault;
use super::error::Reason;
use super::params::Param;
use super::tls::Tls;
use super::url::Target;

/// How long to wait for a connection, and then for each answer of the server. Behind a load balancer, connections to a
/// server that is gone may stay open, and nothing answers them.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The isolation level matters: a statement behind a lock must see what was committed under the lock before. The server
/// ends a transaction whose process has stopped in the middle of it: other processes wait for its locks. And it gives up
/// waiting for a lock before this process does, so that the connection can be used again. Every statement has its index, but
/// the planner knows nothing of the rows of a day that has just begun.
const BEGIN: &str = "
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL idle_in_transaction_session_timeout = 5000; SET LOCAL lock_timeout = 15000;
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off";
/// All statements see the same.
const BEGIN_SNAPSHOT: &str = "
    BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 5000";

/// How connections of a kind are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// How long to wait for each answer.
    answers_within: Duration,
    /// Whether a statement that was given up is canceled.
    cancels: bool,
    /// How long a connection that was given up, and whose server does not answer, keeps its place.
    kept: Duration,
}

impl Manner {
    /// For leases, and what delivery waits for.
    pub(super) const READING: Self = Self::within(ANSWER_TIMEOUT);
    /// For people's questions and for replays, which may search whole days.
    pub(super) const LOOKING_UP: Self = Self::within(Duration::from_secs(300));
    /// For chores, which may wait until other transactions have ended.
    pub(super) const CHORES: Self = Self::within(Duration::from_secs(3_600));
    /// For the tasks that write. A commit that waits for a standby must not be canceled: it would be in force here, so
    /// that a repeated message were taken for a duplicate, and lost with a failover. The place is kept so long because
    /// each connection would wait for the same standby. In the end another one is made: if the address leads to another
    /// server by now, the old one may never answer.
    pub(super) const WRITING: Self =
        Self { answers_within: ANSWER_TIMEOUT, cancels: false, kept: Duration::from_secs(3_600) };

    pub(super) const fn within(answers_within: Duration) -> Self {
        Self { answers_within, cancels: true, kept: Duration::from_secs(10) }
    }
}

/// How long a statement that was given up may go on before it is canceled.
const CANCEL_AFTER: Duration = Duration::from_millis(250);

/// Makes connections to one database.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    config: Arc<Config>,
    tls: Tls,
    address: Arc<str>,
    schema: Schema,
    manner: Manner,
    /// Counts how often the server turned out to be read-only, or did not answer.
    generation: Arc<AtomicU64>,
}

/// The quoted name of the schema and a dot.
#[derive(Debug, Clone)]
pub(super) struct Schema(Arc<str>);

impl Schema {
    pub(super) fn new(name: &str) -> Self {
        Schema(format!("\"{}\".", name.replace('"', "\"\"")).into())
    }

    /// A text with the names of tables qualified: each `@` stands for the schema.
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

    /// Makes connections of another kind to the same database.
    pub(super) fn with(&self, manner: Manner) -> Self {
        Self { manner, ..self.clone() }
    }

    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        self.connect_hearing(|_| {}).await
    }

    /// Makes a connection that calls `hear` with each notification. `hear` is dropped when the connection has ended.
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
                    // Those who wait for an answer learn of it, too.
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

/// Reads from and writes to the socket of a connection until it has ended.
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
    // It closes its connection once no answer is pending.
    if timeout(CANCEL_AFTER, &mut messages).await.is_err() {
        if manner.cancels {
            // If it fails, the server may be gone.
            let _ = timeout(manner.kept, cancel.cancel_query(tls)).await;
        }
        let _ = timeout(manner.kept, messages).await;
    }
    drop(place);
}

/// Where a database is, without the name of the user or a password.
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

/// A connection. Futures of its methods that are polled in one task are pipelined, in the order of their first poll.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    schema: Schema,
    /// The task that reads from and writes to the socket.
    driver: JoinHandle<()>,
    /// Tells the task that the connection is not used any more. Dropped after the client.
    given_up: DropGuard,
    place: Place,
    manner: Manner,
    /// The connector's count when the connection was made, and now.
    generation: u64,
    current: Arc<AtomicU64>,
}

impl Connection {
    pub(super) async fn query(&self, text: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Fault> {
        self.answer(self.client.query_typed(&self.schema.sql(text), params)).await
    }

    /// The first row.
    pub(super) async fn query_opt(
        &self,
        text: &str,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Fault> {
        Ok(self.query(text, params).await?.into_iter().next())
    }

    /// The only row of a statement that always returns one.
    pub(super) async fn query_one(&self, text: &str, params: &[Param<'_>]) -> Result<Row, Fault> {
        let row = self.query_opt(text, params).await?;
        row.ok_or(Fault::Broken("a statement that always returns a row returned none"))
    }

    /// Returns how many rows were changed.
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

    /// Waits for an answer, but not for ever.
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

    /// Has all connections made anew that are as old as this one: the server was demoted, or is gone, and another one
    /// may be found at the URL. What is read from the old one may be out of date.
    pub(super) fn outdate(&self) {
        let (old, new) = (self.generation, self.generation.wrapping_add(1));
        // If it fails, another connection did it.
        let _ = self.current.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Takes leave of the server, and waits a moment for that.
    pub(super) async fn close(self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let Self { client, driver, given_up, .. } = self;
        drop((client, given_up));
        let _ = timeout(PATIENCE, driver).await;
    }

    /// Whether another connection is needed.
    pub(super) fn is_useless(&self) -> bool {
        self.client.is_closed() || self.generation != self.current.load(Ordering::Relaxed)
    }
}

/// The place of a connection among those of its kind. It is free when both have gone: those who use the connection, and
/// its task.
#[derive(Debug, Clone, Default)]
struct Place(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Place {
    fn set(&self, permit: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, permit)
    }
}

/// A few connections that are shared. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    /// The most connections, with those that were given up and wait for the server.
    count: u32,
    /// How long to wait for one.
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

    /// A connection for single statements.
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

    /// A connection for a task that writes.
    pub(super) async fn get_to_write(&self) -> Result<Pooled, Fault> {
        self.get().await.map_err(|fault| match fault {
            // The others wait for the server.
            Fault::NoConnection => Fault::Slow,
            fault => fault,
        })
    }

    /// A connection on which all reads see the same snapshot.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Fault> {
        let pooled = self.get().await?;
        pooled.batch(BEGIN_SNAPSHOT).await?;
        Ok(Snapshot(pooled))
    }

    /// A connection with a transaction, which must be committed.
    pub(super) async fn transaction(&self) -> Result<Transaction, Fault> {
        let pooled = self.get().await?;
        pooled.begin().await?;
        Ok(Transaction(pooled))
    }

    /// Waits for the calls at work, then closes all connections. Later calls fail.
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

/// A shared connection. Unless it is given back, it is closed when dropped, and keeps its place until it has ended.
#[derive(Debug)]
pub(super) struct Pooled {
    connection: Connection,
    shared: Arc<Shared>,
}

impl Pooled {
    /// Lets others use the connection. Nothing may be under way on it.
    pub(super) fn give_back(self) {
        let Self { connection, shared } = self;
        let permit = connection.place.set(None);
        shared.idle().push(connection);
        // Not before the connection is back: `close` waits for the permits.
        drop(permit);
    }

    /// Takes leave of the server.
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

/// A snapshot. Dropped without [`Snapshot::end`], its connection is closed.
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

/// A transaction. Dropped without [`Transaction::commit`], its connection is closed, which rolls it back.
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
