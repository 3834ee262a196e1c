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

#[path = "../load/mod.rs"]
mod load;
mod postgres;
mod sqlite;

use std::collections::HashMap;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use metrics_exporter_prometheus::PrometheusHandle;
use segment_loops::app::{App, Outlets};
use segment_loops::clock::SystemClock;
use segment_loops::config::{self, Flags};
use segment_loops::http::server::{ServerLimits, serve};
use segment_loops::telemetry::Traces;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use load::{CONNECTIONS, Load, NEXT_ID, client, load, quartiles};

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_secs(1);
/// Before it is measured, what was just started compiles its statements.
const WARM_UP: Duration = Duration::from_secs(2);
const BATCH: usize = 100;
/// As the service has it: the other servers get it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        let outlets = Outlets { metrics, traces: Traces::default() };
        let app = App::start(config, load, Arc::new(SystemClock), outlets).await.unwrap();
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
