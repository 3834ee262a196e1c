//! Acknowledged messages a second, as ratios in one run. One command: `cargo bench --bench ingest`.
//!
//! Five servers in this process, each loaded by 64 connections in turn, round after round. A ratio is the
//! median of those of the rounds: the speed of a machine that others share drifts by more than what is
//! looked for.
//!
//! * `parse`: a bare axum server that parses the same JSON and answers;
//! * `insert`: the same, with a bare SQLite insert in group commit before the answer;
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
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use base64::Engine as _;
use metrics_exporter_prometheus::PrometheusHandle;
use segment_loops::app::App;
use segment_loops::clock::SystemClock;
use segment_loops::config::{self, Flags};
use segment_loops::http::server::{ServerLimits, serve};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
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
    let inserter = inserter(folder.path()).await;
    let insert = serve_bare(Router::new().fallback(post(insert)).with_state(inserter)).await;
    let history = folder.path().join("history");
    std::fs::create_dir(&history).unwrap();
    let filled = Ours::filled(&history, metrics.clone(), waiting).await;
    filled.stop().await;
    all_done(&history).await;
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
        for (one, other) in [(2, 0), (2, 1), (4, 2), (4, 3)] {
            let ratio = median(rounds.iter().map(|round| round[one].rate / round[other].rate));
            println!("  {} / {} = {ratio:.2}", names[one], names[other]);
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
    let limits = ServerLimits { header_timeout: Duration::from_secs(30), connections_max: 1_000 };
    tokio::spawn(serve(listener, app, limits, CancellationToken::new(), Duration::ZERO));
    address
}

async fn parse(body: Bytes) -> &'static str {
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(value.is_object());
    r#"{"success":true}"#
}

type Inserter = mpsc::Sender<(Vec<String>, oneshot::Sender<()>)>;

/// Inserts what waits in one transaction: SQLite in WAL with synchronous=FULL, no index.
async fn inserter(folder: &std::path::Path) -> Inserter {
    let mut connection = SqliteConnectOptions::new()
        .filename(folder.join("bare.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "4000")
        .disable_statement_logging()
        .connect()
        .await
        .unwrap();
    sqlx::query("CREATE TABLE bare (id INTEGER PRIMARY KEY, body TEXT)")
        .execute(&mut connection)
        .await
        .unwrap();
    let (sender, mut receiver) = mpsc::channel::<(Vec<String>, oneshot::Sender<()>)>(1_024);
    tokio::spawn(async move {
        while let Some(first) = receiver.recv().await {
            let mut group = vec![first];
            while group.len() < 512
                && let Ok(next) = receiver.try_recv()
            {
                group.push(next);
            }
            sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
            for body in group.iter().flat_map(|(bodies, _)| bodies) {
                let insert = sqlx::query("INSERT INTO bare (body) VALUES (?)").bind(body.as_str());
                insert.execute(&mut connection).await.unwrap();
            }
            sqlx::query("COMMIT").execute(&mut connection).await.unwrap();
            for (_, reply) in group {
                let _ = reply.send(());
            }
        }
    });
    sender
}

async fn insert(State(inserter): State<Inserter>, body: Bytes) -> &'static str {
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let bodies = match value.get("batch").and_then(serde_json::Value::as_array) {
        Some(batch) => batch.iter().map(ToString::to_string).collect(),
        None => vec![value.to_string()],
    };
    let (reply, done) = oneshot::channel();
    inserter.send((bodies, reply)).await.unwrap();
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
async fn all_done(folder: &std::path::Path) {
    let database = SqliteConnectOptions::new().filename(folder.join("ours/segment-loops.db"));
    let mut connection = database.connect().await.unwrap();
    sqlx::query("UPDATE messages SET state = 1, is_planned = 1, done_at = received_at")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
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
