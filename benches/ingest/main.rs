//! Acknowledged messages a second, as ratios in one run: `cargo bench --bench ingest` over SQLite,
//! `cargo bench --bench ingest -- postgres` over a PostgreSQL server that it starts (Debian: postgresql).
//!
//! Servers in this process, each loaded by 64 connections in turn, round after round. A ratio is the median of
//! those of the rounds, with the quartiles: the speed of a machine that others share drifts by more than what is
//! looked for. `sqlite` and `postgres` say which servers; `parse`, a bare axum server that parses the same JSON
//! and answers, is among them.
//!
//! The load shares the machine's cores with the servers: only the ratios mean something.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a command for developers"
)]

mod postgres;
mod sqlite;

use std::collections::HashMap;
use std::hash::{Hash as _, Hasher as _};
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
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(1);
/// Before it is measured, what was just started compiles its statements.
const WARM_UP: Duration = Duration::from_secs(2);
const BATCH: usize = 100;
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
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().unwrap();
    // Log lines are made as in production, and thrown away.
    tracing_subscriber::fmt().json().with_writer(std::io::sink).init();
    let parse = serve_bare(Router::new().fallback(post(parse))).await;
    if std::env::args().any(|argument| argument == "postgres") {
        postgres::run(parse, metrics).await;
    } else {
        sqlite::run(parse, metrics).await;
    }
}

/// What is loaded: calls of one message, then batches.
const LOADS: [(&str, &str, usize); 2] =
    [("single calls", "/v1/track", 1), ("batches of 100", "/v1/batch", BATCH)];

/// Prints the medians of the rounds, and of their ratios with the quartiles.
fn report(names: &[&str], rounds: &[Vec<Load>], ratios: &[(usize, usize)]) {
    for (server, name) in names.iter().enumerate() {
        println!(
            "  {name:7} {:>8.0} messages/s, p99 {:.1} ms",
            quartiles(rounds.iter().map(|round| round[server].rate))[1],
            quartiles(rounds.iter().map(|round| round[server].p99_ms))[1],
        );
    }
    for &(one, other) in ratios {
        let rate = quartiles(rounds.iter().map(|round| round[one].rate / round[other].rate));
        let p99 = quartiles(rounds.iter().map(|round| round[one].p99_ms / round[other].p99_ms));
        println!(
            "  {:7} / {:7} = {:.2} ({:.2} to {:.2}), p99 {:.2}",
            names[one], names[other], rate[1], rate[0], rate[2], p99[1]
        );
    }
}

struct Load {
    rate: f64,
    p99_ms: f64,
}

/// The lower quartile, the median and the upper quartile.
fn quartiles(figures: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures[(figures.len() - 1) * quarter / 4])
}

/// A round of load, spread over servers; fails unless every answer is 200.
async fn load(to: &[SocketAddr], path: &'static str, of: usize, long: Duration) -> Load {
    let began = Instant::now();
    let addresses = to.iter().copied().cycle().take(CONNECTIONS);
    let clients: Vec<_> =
        addresses.map(|address| tokio::spawn(client(address, path, of, began + long))).collect();
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
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert!(value.is_object());
    r#"{"success":true}"#
}

/// The messages of a call to a bare server, to be answered once they are stored.
type Call = (Vec<Value>, oneshot::Sender<()>);
type Inserter = UnboundedSender<Call>;

/// Calls that are inserted in one transaction.
const GROUP_MAX: usize = 512;

/// A bare server that parses a call and has it inserted before it answers.
async fn serve_insert(inserter: Inserter) -> SocketAddr {
    serve_bare(Router::new().fallback(post(insert)).with_state(inserter)).await
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

fn text<'a>(message: &'a Value, pointer: &str) -> &'a str {
    message.pointer(pointer).and_then(Value::as_str).unwrap()
}

/// Stands in for the digests of our tables.
fn digest(text: &str) -> i64 {
    let mut hasher = std::hash::DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().cast_signed()
}

/// The service, with a Loops that is not there: everything accepted stays pending.
struct Ours {
    address: SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Ours {
    /// With these variables, which say where messages are stored.
    async fn start(store: &[(&str, &str)], metrics: PrometheusHandle) -> Self {
        let all = [
            ("LOOPS_API_KEY", "bench"),
            ("LOOPS_BASE_URL", "http://127.0.0.1:9/api/v1"),
            ("SEGMENT_WRITE_KEY", "bench"),
        ];
        let environment: HashMap<String, String> = all
            .iter()
            .chain(store)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let flags =
            Flags { listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))), ..Flags::default() };
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

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}
