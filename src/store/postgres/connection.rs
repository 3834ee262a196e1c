//! Connections: how one is made, how a statement is run, and the few that readers share.
//!
//! No connection has a state that outlives a transaction, so a pooler in transaction mode may stand between. A
//! connection that is given up in the middle of something is closed, and the server rolls back what it had begun.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, Row};
use tracing::debug;

use super::Fault;
use super::params::Param;
use super::tls::Tls;
use super::url::Target;

/// The server ends a transaction whose process has stopped in the middle of it: other processes wait for its locks.
const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 5000";

/// Makes connections to one database.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    config: Arc<Config>,
    tls: Tls,
    address: Arc<str>,
    schema: Schema,
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
        Self { config: Arc::new(config), tls, address, schema: Schema::new(schema) }
    }

    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        let connected = self.config.connect(self.tls.clone()).await;
        let (client, driver) = connected.map_err(|source| Fault::Connect {
            address: Arc::clone(&self.address),
            source: Arc::new(source),
        })?;
        let driver = tokio::spawn(async move {
            // Those who wait for an answer learn of it, too.
            if let Err(error) = driver.await {
                debug!(%error, "a connection to the database ended");
            }
        });
        Ok(Connection { client, schema: self.schema.clone(), driver })
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
    /// The task that reads from and writes to the socket.
    driver: JoinHandle<()>,
}

impl Connection {
    pub(super) async fn query(&self, text: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Fault> {
        Ok(self.client.query_typed(&self.schema.sql(text), params).await?)
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
        Ok(self.client.execute_typed(&self.schema.sql(text), params).await?)
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<(), Fault> {
        self.batch(BEGIN).await
    }

    /// Runs statements without parameters.
    pub(super) async fn batch(&self, text: &str) -> Result<(), Fault> {
        Ok(self.client.batch_execute(&self.schema.sql(text)).await?)
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Takes leave of the server, and waits a moment for that.
    pub(super) async fn close(self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        drop(self.client);
        let _ = tokio::time::timeout(PATIENCE, self.driver).await;
    }

    fn is_closed(&self) -> bool {
        self.client.is_closed()
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
        let permit = tokio::time::timeout(shared.patience, permit)
            .await
            .map_err(|_| Fault::NoConnection)?
            .map_err(|_| Fault::Closed)?;
        let idle = loop {
            let idle = shared.idle().pop();
            if !idle.as_ref().is_some_and(Connection::is_closed) {
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

    /// A connection beside the shared ones, for what may wait for a long time.
    pub(super) async fn apart(&self) -> Result<Connection, Fault> {
        if self.shared.permits.is_closed() {
            return Err(Fault::Closed);
        }
        self.shared.connector.connect().await
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
