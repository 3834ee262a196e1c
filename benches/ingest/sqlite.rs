//! Over SQLite, beside `parse`:
//!
//! * `insert`: a bare server that also inserts what it parsed into our tables, with our indices, on a thread of its
//!   own, in group commit, before it answers: what a simple program would do;
//! * `ours`: the service, from the socket to the durable inbox, with an empty database in each round;
//! * `history`: the service with `INGEST_WAITING` messages (1,000,000) that are done: an empty queue;
//! * `backlog`: the service with as many that wait to be delivered.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::{
    BATCH, CONNECTIONS, Call, GROUP_MAX, Inserter, LOADS, Load, NEXT_ID, Ours, ROUND, ROUNDS,
    WARM_UP, client, digest, load, report, serve_insert, text,
};

/// How long the store may still be busy after a round: that must not fall into another's time.
const REST: Duration = Duration::from_secs(3);

const NAMES: [&str; 5] = ["parse", "insert", "ours", "history", "backlog"];
const RATIOS: [(usize, usize); 7] = [(2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1), (4, 3)];

pub(super) async fn run(parse: SocketAddr, metrics: PrometheusHandle) {
    let waiting: usize =
        std::env::var("INGEST_WAITING").map_or(1_000_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let insert = serve_insert(inserter(folder.path())).await;
    let history = folder.path().join("history");
    filled(&history, metrics.clone(), waiting).await.stop().await;
    all_done(&history);
    let history = start(&history, metrics.clone()).await;
    let backlog = filled(&folder.path().join("backlog"), metrics.clone(), waiting).await;
    tokio::time::sleep(REST).await;
    for (what, path, of) in LOADS {
        println!("{what}, {CONNECTIONS} connections, {ROUNDS} rounds of {ROUND:?} each:");
        let mut rounds: Vec<Vec<Load>> = Vec::new();
        for _ in 0..ROUNDS {
            let parsed = load(&[parse], path, of, ROUND).await;
            let inserted = load(&[insert], path, of, ROUND).await;
            let folder = tempfile::tempdir().unwrap();
            let ours = start(folder.path(), metrics.clone()).await;
            load(&[ours.address], path, of, WARM_UP).await;
            let empty = load(&[ours.address], path, of, ROUND).await;
            ours.stop().await;
            let done = load(&[history.address], path, of, ROUND).await;
            tokio::time::sleep(REST).await;
            let waiting = load(&[backlog.address], path, of, ROUND).await;
            tokio::time::sleep(REST).await;
            rounds.push(vec![parsed, inserted, empty, done, waiting]);
        }
        report(&NAMES, &rounds, &RATIOS);
    }
    history.stop().await;
    backlog.stop().await;
}

/// The service on a folder.
async fn start(folder: &Path, metrics: PrometheusHandle) -> Ours {
    Ours::start(&[("SEGMENT_LOOPS__STORE__DATA", folder.to_str().unwrap())], metrics).await
}

/// The service with this many messages.
async fn filled(folder: &Path, metrics: PrometheusHandle, messages: usize) -> Ours {
    let ours = start(folder, metrics).await;
    let began = Instant::now();
    fill(ours.address, messages).await;
    let took = began.elapsed().as_secs_f64();
    println!("{messages} messages accepted, {:.0} messages/s", messages as f64 / took);
    ours
}

/// Has the service accept this many messages, of 10,000 people.
async fn fill(address: SocketAddr, waiting: usize) {
    let until = NEXT_ID.load(Ordering::Relaxed) + waiting as u64;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn(async move {
                while NEXT_ID.load(Ordering::Relaxed) < until {
                    let until = Instant::now() + ROUND / 100;
                    client(address, "/v1/batch", BATCH, until, Duration::ZERO).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// Makes all messages done, as if each had been delivered.
fn all_done(folder: &Path) {
    let database = Connection::open(folder.join("segment-loops.db")).unwrap();
    let done = "UPDATE messages SET state = 1, is_planned = 1, done_at = received_at";
    database.execute(done, []).unwrap();
}

/// The thread that inserts: SQLite in WAL with synchronous=FULL, as the service has it.
fn inserter(folder: &Path) -> Inserter {
    let mut connection = Connection::open(folder.join("insert.db")).unwrap();
    connection.set_prepared_statement_cache_capacity(100);
    for (pragma, value) in [
        ("journal_mode", "wal"),
        ("synchronous", "full"),
        ("wal_autocheckpoint", "4000"),
        ("cache_size", "-65536"),
        ("temp_store", "memory"),
        ("secure_delete", "on"),
    ] {
        connection.pragma_update(None, pragma, value).unwrap();
    }
    connection.execute_batch(include_str!("../../src/store/sqlite/schema.sql")).unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut seq = 0;
        let mut group: Vec<Call> = Vec::new();
        while receiver.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            let transaction = connection.transaction().unwrap();
            for message in group.iter().flat_map(|(messages, _)| messages) {
                seq += 1;
                insert(&transaction, seq, message);
            }
            transaction.commit().unwrap();
            for (_, reply) in group.drain(..) {
                let _ = reply.send(());
            }
        }
    });
    sender
}

fn insert(transaction: &Connection, seq: i64, message: &Value) {
    let message_id = text(message, "/messageId");
    let (id, lane) = (digest(message_id), digest(text(message, "/userId")));
    let email = digest(text(message, "/context/traits/email"));
    let payload = serde_json::to_vec(message).unwrap();
    let bytes = i64::try_from(payload.len()).unwrap();
    let execute = |text: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(text).unwrap().execute(values).unwrap();
    };
    execute(
        "INSERT INTO messages (seq, class, message_hash, lane, email, received_at, event_id, kind, source,
                               destination, message_id, payload_bytes)
         VALUES (?1, 0, ?2, ?3, ?4, 0, 1, ?5, 'default', 'default', ?6, ?7)",
        params![seq, id, lane, email, text(message, "/type"), message_id, bytes],
    );
    execute("INSERT INTO payloads (seq, payload) VALUES (?1, ?2)", params![seq, payload]);
    execute("INSERT INTO message_ids (message_hash, seq) VALUES (?1, ?2)", params![id, seq]);
    for person in [lane, email] {
        execute("INSERT INTO persons (person, seq) VALUES (?1, ?2)", params![person, seq]);
    }
}
