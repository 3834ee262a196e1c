//! Connections: how one is made, how a statement is run, and the few that readers share.
//!
//! No connection has a state that outlives a transaction, so a pooler in transaction mode may stand between. A
//! connection that is given up in the middle of something is closed, and the server rolls back what it had begun.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Notification, Row};
use tracing::debug;

use super::Fault;
use super::params::Param;
use super::tls::Tls;
use super::url::Target;

/// How long to wait for a connection, and then for each answer of the server. Behind a load balancer, connections to a
/// server that is gone may stay open, and nothing answers them.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The same for people's questions and for replays, which may search whole days.
pub(super) const LONG_ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// The same for chores, which may wait until other transactions have ended.
pub(super) const LONGEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The server ends a transaction whose process has stopped in the middle of it: other processes wait for its locks. And
/// it ends one that waits for a lock for nearly as long as this process waits for the answer: it would not notice that
/// nobody waits any more, and each further try would add a connection to those that wait. Every statement has its index,
/// but the planner knows nothing of the rows of a day that has just begun.
const BEGIN: &str =
    "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 5000; SET LOCAL lock_timeout = 15000;
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// Makes connections to one database.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    config: Arc<Config>,
    tls: Tls,
    address: Arc<str>,
    schema: Schema,
    /// How long to wait for each answer.
    patience: Duration,
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
        let address = address(&config).into();
        let schema = Schema::new(schema);
        Self {
            config: Arc::new(config),
            tls,
            address,
            schema,
            patience: ANSWER_TIMEOUT,
            generation: Arc::default(),
        }
    }

    /// Makes connections that wait this long for each answer.
    pub(super) fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
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
            source: Arc::new(source),
        })?;
        let driver = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| driver.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => hear(&notification),
                    // Notices may quote contents.
                    Ok(_) => {}
                    // Those who wait for an answer learn of it, too.
                    Err(error) => {
                        debug!(%error, "a connection to the database ended");
                        break;
                    }
                }
            }
        });
        let current = Arc::clone(&self.generation);
        let (schema, patience) = (self.schema.clone(), self.patience);
        Ok(Connection { client, schema, patience, driver, generation, current })
    }
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
    /// How long to wait for each answer.
    patience: Duration,
    /// The task that reads from and writes to the socket.
    driver: JoinHandle<()>,
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
        let Ok(answer) = timeout(self.patience, answer).await else {
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
        drop(self.client);
        let _ = timeout(PATIENCE, self.driver).await;
    }

    /// Whether another connection is needed.
    pub(super) fn is_useless(&self) -> bool {
        self.client.is_closed() || self.generation != self.current.load(Ordering::Relaxed)
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
    /// The most connections.
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
        Ok(Pooled { connection, shared, permit })
    }

    /// A connection on which all reads see the same snapshot.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Fault> {
        let pooled = self.get().await?;
        pooled.batch("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
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

/// A shared connection. Unless it is given back, it is closed when dropped.
#[derive(Debug)]
pub(super) struct Pooled {
    connection: Connection,
    shared: Arc<Shared>,
    permit: OwnedSemaphorePermit,
}

impl Pooled {
    /// Lets others use the connection. Nothing may be under way on it.
    pub(super) fn give_back(self) {
        let Self { connection, shared, permit } = self;
        shared.idle().push(connection);
        // Not before the connection is back: `close` waits for the permits.
        drop(permit);
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
