//! Runs the suite over PostgreSQL, and tests what only PostgreSQL can get wrong.

mod faults;
mod hints;
mod list;
mod plans;
mod pooled;
mod replicas;
mod retention;
mod server;
mod startup;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::server::{Server, server};
use super::connection::{Connection, Connections, Connector, Manner};
use super::error::{Fault, OpenError};
use super::migrations::Migration;
use super::opening::schema_of;
use super::options::{PostgresOptions, Time};
use super::store::PostgresStore;
use super::url::Target;
use super::{moving, numbers, partitions, rows};
use crate::config::StoreConfig;
use crate::queue::suite::*;
use crate::queue::{
    AcceptError, Accepted, Inbox as _, Lease, LeaseRequest, Log as _, NewMessage, PendingAsk, Seq,
    Settlement, Store, Work as _, WorkError,
};
use crate::simulation::simulation;

store_suite!(Schema);

// Each call takes longer than on SQLite, so there are fewer seeds.
simulation!(Schema, seeds: 10, twice: 1);

/// A separate schema in the database of the tests.
struct Schema(String);

impl Fixture for Schema {
    async fn empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // A name that must be quoted.
        Schema(format!("case \"{}\"", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(options(&self.0)).await.unwrap())
    }

    /// Closed stores leave no connection, and so no transaction. The server needs a moment to notice.
    fn left_behind(&self) -> Vec<String> {
        let count = connections_of(self);
        let look = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let target = Target::parse("store.url", &server().url()).unwrap();
                let watcher = Connector::new(target, "any").connect().await.unwrap();
                until(&watcher, &count, 0).await;
            });
        };
        match std::thread::spawn(look).join() {
            Ok(()) => Vec::new(),
            Err(_) => vec!["a connection".to_owned()],
        }
    }
}

fn options(schema: &str) -> PostgresOptions {
    let mut target = Target::parse("store.url", &server().url()).unwrap();
    target.config.application_name(schema);
    PostgresOptions {
        target,
        schema: schema.to_owned(),
        connections_max: StoreConfig::CONNECTIONS_MIN,
        duplicate_window: LIMITS.duplicate_window,
        delivered_retention: LIMITS.delivered_retention,
        failed_retention: LIMITS.failed_retention,
        records_retention: LIMITS.records_retention,
        // The cases look at single rows.
        whole_days_for: Duration::ZERO,
        installation_key: Some(INSTALLATION_KEY),
        // The cases also control the time.
        time: Time::OfCallers,
        ..PostgresOptions::new(Target::parse("store.url", &server().url()).unwrap())
    }
}

/// Returns the name of a schema that does not exist yet, as the target of a move.
pub(in crate::store) async fn new_schema() -> String {
    Schema::empty().await.0
}

pub(in crate::store) async fn move_target(schema: &str) -> moving::Target {
    moving::Target::open(options(schema)).await.unwrap()
}

pub(in crate::store) async fn open_in(schema: &str) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(options(schema)).await
}

/// Connects as another program would.
async fn raw(schema: &Schema) -> Connection {
    let target = Target::parse("store.url", &server().url()).unwrap();
    Connector::new(target, &schema.0).connect().await.unwrap()
}

async fn open(schema: &Schema) -> PostgresStore {
    PostgresStore::open(options(&schema.0)).await.unwrap()
}

/// Selects the connections of the stores on a schema.
fn connections_of(schema: &Schema) -> String {
    format!("SELECT pid FROM pg_stat_activity WHERE application_name = '{}'", schema.0)
}

/// Waits until a statement returns this many rows.
async fn until(connection: &Connection, text: &str, rows: usize) {
    let wait = async {
        while connection.query(text, &[]).await.unwrap().len() != rows {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    assert!(waited.is_ok(), "never {rows} rows: {text}");
}
