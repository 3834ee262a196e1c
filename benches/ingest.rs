//! Acknowledged messages a second, as ratios in one run. One command: `cargo bench --bench ingest`.
//!
//! Five servers in this process, each loaded by 64 connections in turn, round after round. A ratio is the
//! median of those of the rounds: the speed of a machine that others share drifts by more than what is
//! looked for.
//!
//! * `parse`: a bare axum server that parses the same JSON and answers;
//! * `insert`: the same, and before the answer a thread of its own inserts it into our tables, with our indices,
//!   in group commit: what a simple program would do;
//! * `ours`: the service, from the socket to the durable inbox, with an empty database in each round;
//! * `history`: the service with `INGEST_WAITING` messages (1,000,000) that are done: an empty queue;
//! * `backlog`: the service with as many that wait to be delivered.
//!
//! The load shares the machine's cores with the servers: only the ratios mean something.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on shall say so and end"
)]

use std::collections::HashMap;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use base64::Engine as _;
use metrics_exporter_prometheus::PrometheusHandle;
use rusqlite::{Connection, params};
use segment_loops::app::App;
use segment_loops::clock::SystemClock;
use segment_loops::config::{self, Flags};
use segment_loops::http::server::{ServerLimits, serve};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(1);
/// Before it is measured, what was just started compiles its statements.
const WARM_UP: Duration = Duration::from_secs(2);
const BATCH: usize = 100;
/// What a store puts in order when nothing comes shall not fall into another's time.
const REST: Duration = Duration::from_secs(3);

/// As the service has it: the other servers get it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
    // Servers are left where they are: the process ends.
    runtime.shutdown_background();
}

async fn run() {
    let waiting: usize =
        std::env::var("INGEST_WAITING").map_or(1_000_000, |text| text.parse().unwrap());
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().unwrap();
    // Log lines are made as in production, and thrown away.
    tracing_subscriber::fmt().json().with_writer(std::io::sink).init();
    let folder = tempfile::tempdir().unwrap();
    let parse = serve_bare(Router::new().fallback(post(parse))).await;
    let inserter = inserter(folder.path());
    let insert = serve_bare(Router::new().fallback(post(insert)).with_state(inserter)).await;
    let history = folder.path().join("history");
    std::fs::create_dir(&history).unwrap();
    let filled = Ours::filled(&history, metrics.clone(), waiting).await;
    filled.stop().await;
    all_done(&history);
    let history = Ours::start(&history, metrics.clone()).await;
    let backlog = Ours::filled(folder.path(), metrics.clone(), waiting).await;
    tokio::time::sleep(REST).await;
    for (what, path, of) in
        [("single calls", "/v1/track", 1), ("batches of 100", "/v1/batch", BATCH)]
    {
        println!("{what}, {CONNECTIONS} connections, {ROUNDS} rounds of {ROUND:?} each:");
        let mut rounds: Vec<[Load; 5]> = Vec::new();
        for _ in 0..ROUNDS {
            let parsed = load(parse, path, of, ROUND).await;
            let inserted = load(insert, path, of, ROUND).await;
            let folder = tempfile::tempdir().unwrap();
            let ours = Ours::start(folder.path(), metrics.clone()).await;
            load(ours.address, path, of, WARM_UP).await;
            let empty = load(ours.address, path, of, ROUND).await;
            ours.stop().await;
            let done = load(history.address, path, of, ROUND).await;
            tokio::time::sleep(REST).await;
            let waiting = load(backlog.address, path, of, ROUND).await;
            tokio::time::sleep(REST).await;
            rounds.push([parsed, inserted, empty, done, waiting]);
        }
        let names = ["parse", "insert", "ours", "history", "backlog"];
        for (server, name) in names.into_iter().enumerate() {
            println!(
                "  {name:7} {:>8.0} messages/s, p99 {:.1} ms",
                median(rounds.iter().map(|round| round[server].rate)),
                median(rounds.iter().map(|round| round[server].p99_ms)),
            );
        }
        for (one, other) in [(2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1), (4, 3)] {
            let rate = median(rounds.iter().map(|round| round[one].rate / round[other].rate));
            let p99 = median(rounds.iter().map(|round| round[one].p99_ms / round[other].p99_ms));
            println!("  {:7} / {:7} = {rate:.2}, p99 {p99:.2}", names[one], names[other]);
        }
    }
    history.stop().await;
    backlog.stop().await;
}

struct Load {
    rate: f64,
    p99_ms: f64,
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A round of load; fails unless every answer is 200.
async fn load(address: SocketAddr, path: &'static str, of: usize, long: Duration) -> Load {
    let began = Instant::now();
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|_| tokio::spawn(client(address, path, of, began + long))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    let took = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    Load { rate: (times.len() * of) as f64 / took, p99_ms: p99.as_secs_f64() * 1_000.0 }
}

/// The least client that there can be: it must not take from the servers what is measured of them.
async fn client(address: SocketAddr, path: &str, of: usize, until: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let key = base64::engine::general_purpose::STANDARD.encode("bench:");
    let mut times = Vec::new();
    let mut answer = vec![0; 4_096];
    while Instant::now() < until {
        let body = body(of);
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        // Every answer is small and comes in one piece.
        let length = stream.read(&mut answer).await.unwrap();
        times.push(began.elapsed());
        assert!(
            answer[..length].starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer[..length])
        );
    }
    times
}

/// A message as analytics-node sends it, some 600 bytes.
fn message() -> String {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    format!(
        r#"{{"type":"track","messageId":"node-next-1763900000000-{id:032x}","userId":"user_{}","event":"Order Completed","timestamp":"2026-11-23T12:00:00.000Z","sentAt":"2026-11-23T12:00:00.100Z","properties":{{"orderId":"o_{id}","total":39.95,"currency":"EUR","coupon":null,"products":[{{"sku":"a-1","price":19.95,"quantity":1}},{{"sku":"b-2","price":10,"quantity":2}}]}},"context":{{"library":{{"name":"@segment/analytics-node","version":"3.1.0"}},"locale":"de-DE","timezone":"Europe/Berlin","traits":{{"email":"user_{id}@example.com"}}}},"integrations":{{}},"_metadata":{{"nodeVersion":"20.20.2","jsRuntime":"node"}}}}"#,
        id % 10_000
    )
}

fn body(of: usize) -> String {
    if of == 1 {
        return message();
    }
    let messages: Vec<String> = (0..of).map(|_| message()).collect();
    format!(r#"{{"batch":[{}],"sentAt":"2026-11-23T12:00:00.100Z"}}"#, messages.join(","))
}

async fn serve_bare(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ServerLimits::default();
    tokio::spawn(serve(listener, app, limits, CancellationToken::new(), Duration::ZERO));
    address
}

async fn parse(body: Bytes) -> &'static str {
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(value.is_object());
    r#"{"success":true}"#
}

type Inserter = mpsc::Sender<(Vec<Value>, oneshot::Sender<()>)>;

/// Calls that are inserted in one transaction.
const GROUP_MAX: usize = 512;

/// The thread that inserts: SQLite in WAL with synchronous=FULL, as the service has it.
fn inserter(folder: &std::path::Path) -> Inserter {
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
    connection.execute_batch(include_str!("../src/store/sqlite/schema.sql")).unwrap();
    let (sender, receiver) = mpsc::channel::<(Vec<Value>, oneshot::Sender<()>)>();
    std::thread::spawn(move || {
        let mut seq = 0;
        while let Ok(first) = receiver.recv() {
            let mut group = vec![first];
            group.extend(receiver.try_iter().take(GROUP_MAX));
            let transaction = connection.transaction().unwrap();
            for message in group.iter().flat_map(|(messages, _)| messages) {
                seq += 1;
                insert_one(&transaction, seq, message);
            }
            transaction.commit().unwrap();
            for (_, reply) in group {
                let _ = reply.send(());
            }
        }
    });
    sender
}

fn insert_one(transaction: &Connection, seq: i64, message: &Value) {
    let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).unwrap();
    let digest = |text: &str| {
        let mut hasher = std::hash::DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish().cast_signed()
    };
    let (id, lane) = (digest(text("/messageId")), digest(text("/userId")));
    let email = digest(text("/context/traits/email"));
    let payload = serde_json::to_vec(message).unwrap();
    let execute = |text: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(text).unwrap().execute(values).unwrap();
    };
    execute(
        "INSERT INTO messages (seq, class, message_hash, lane, email, received_at, event_id, kind, source,
                               destination, message_id, payload_bytes)
         VALUES (?1, 0, ?2, ?3, ?4, 0, 1, ?5, 'default', 'default', ?6, ?7)",
        params![seq, id, lane, email, text("/type"), text("/messageId"), i64::try_from(payload.len()).unwrap()],
    );
    execute("INSERT INTO payloads (seq, payload) VALUES (?1, ?2)", params![seq, payload]);
    execute("INSERT INTO message_ids (message_hash, seq) VALUES (?1, ?2)", params![id, seq]);
    for person in [lane, email] {
        execute("INSERT INTO persons (person, seq) VALUES (?1, ?2)", params![person, seq]);
    }
}

async fn insert(State(inserter): State<Inserter>, body: Bytes) -> &'static str {
    let mut value: Value = serde_json::from_slice(&body).unwrap();
    let messages = match value.get_mut("batch").and_then(Value::as_array_mut) {
        Some(batch) => std::mem::take(batch),
        None => vec![value],
    };
    let (reply, done) = oneshot::channel();
    inserter.send((messages, reply)).unwrap();
    done.await.unwrap();
    r#"{"success":true}"#
}

/// Has the service take in so many messages, of 10,000 people.
async fn fill(address: SocketAddr, waiting: usize) {
    let until = NEXT_ID.load(Ordering::Relaxed) + waiting as u64;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn(async move {
                while NEXT_ID.load(Ordering::Relaxed) < until {
                    client(address, "/v1/batch", BATCH, Instant::now() + ROUND / 100).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// Makes all messages done, as if each had been delivered.
fn all_done(folder: &std::path::Path) {
    let database = Connection::open(folder.join("ours/segment-loops.db")).unwrap();
    let done = "UPDATE messages SET state = 1, is_planned = 1, done_at = received_at";
    database.execute(done, []).unwrap();
}

/// The service, with a Loops that is not there: everything accepted stays pending.
struct Ours {
    address: SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Ours {
    async fn start(folder: &std::path::Path, metrics: PrometheusHandle) -> Self {
        let environment = [
            ("LOOPS_API_KEY", "bench"),
            ("LOOPS_BASE_URL", "http://127.0.0.1:9/api/v1"),
            ("SEGMENT_WRITE_KEY", "bench"),
        ];
        let environment: HashMap<String, String> = environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let flags = Flags {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            data: Some(folder.join("ours")),
            ..Flags::default()
        };
        let load = Box::new(move || config::load(&flags, environment.clone()));
        let config = load().unwrap();
        let app = App::start(config, load, Arc::new(SystemClock), metrics).await.unwrap();
        let (address, stop) = (app.address(), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            app.run(stopped).await.unwrap();
        });
        Self { address, stop, running }
    }

    /// With so many messages taken in.
    async fn filled(folder: &std::path::Path, metrics: PrometheusHandle, messages: usize) -> Self {
        let ours = Self::start(folder, metrics).await;
        let began = Instant::now();
        fill(ours.address, messages).await;
        let took = began.elapsed().as_secs_f64();
        println!("{messages} messages taken in, {:.0} messages/s", messages as f64 / took);
        ours
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}
