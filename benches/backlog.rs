//! What the program costs and how late it is, at rest and with a million messages waiting.
//!
//! `cargo bench --bench backlog` over SQLite, `cargo bench --bench backlog -- postgres` over a PostgreSQL server that
//! it starts; with `BACKLOG_WAITING` messages (1,000,000). The program is the real one, with its defaults: 10 requests
//! a second. Loops is a server in this process that takes everything and notes when. For each: how long the program
//! takes to be ready, its memory, the time from the acknowledgement of a sign-up (identify and track of a new person)
//! until the first byte of its first request and of its event is at Loops, how many requests a second are made
//! meanwhile, and how long a page of one person's messages takes.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a command for developers"
)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use serde_json::{Value, json};

#[path = "../src/store/postgres/tests/server.rs"]
mod server;

/// A sign-up makes two requests: less than the rate, so that at rest none waits for it.
const SIGN_UP_EVERY: Duration = Duration::from_millis(300);
const SIGN_UPS: usize = 100;
/// Pages of different people.
const PAGES: usize = 200;
const TOKEN: &str = "admin";
const BODY_BYTES_MAX: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(600);

/// When the head of each request came, and its body.
type Seen = Arc<Mutex<Vec<(Instant, Value)>>>;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let waiting = std::env::var("BACKLOG_WAITING").map_or(1_000_000, |text| text.parse().unwrap());
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let loops = listener.local_addr().unwrap();
    let router = Router::new().fallback(take).with_state(Arc::clone(&seen));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let is_postgres = std::env::args().any(|argument| argument == "postgres");
    let server = is_postgres.then(|| server::Server::start("shared_buffers = 512MB"));
    for waiting in [0, waiting] {
        let folder = tempfile::tempdir().unwrap();
        let mut setup = vec![
            ("LOOPS_API_KEY", "k".to_owned()),
            ("LOOPS_BASE_URL", format!("http://{loops}/api/v1")),
            ("SEGMENT_WRITE_KEY", "k".to_owned()),
            ("ADMIN_TOKEN", TOKEN.to_owned()),
        ];
        let data = folder.path().join("data").display().to_string();
        setup.push(("SEGMENT_LOOPS__STORE__DATA", data));
        if let Some(server) = &server {
            setup.push(("DATABASE_URL", server.url()));
            setup.push(("SEGMENT_LOOPS__STORE__SCHEMA", format!("waiting_{waiting}")));
        }
        println!("{waiting} messages waiting:");
        if waiting > 0 {
            import(&setup, folder.path(), waiting);
        }
        measure(&setup, &seen).await;
    }
}

async fn take(State(seen): State<Seen>, request: Request<Body>) -> axum::Json<Value> {
    let came = Instant::now();
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    seen.lock().unwrap().push((came, body));
    axum::Json(json!({"success": true, "id": "c1"}))
}

/// The environment of the program.
type Setup = [(&'static str, String)];

fn command(what: &str, setup: &Setup) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
    command.arg(what).env_clear().envs(setup.iter().cloned());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Identifies of as many people.
fn import(setup: &Setup, folder: &Path, waiting: usize) {
    let mut lines = String::new();
    for n in 0..waiting {
        writeln!(
            lines,
            r#"{{"type":"identify","messageId":"import-{n}","userId":"user_{n}","traits":{{"email":"user_{n}@example.com","firstName":"Ada","plan":"pro"}}}}"#
        )
        .unwrap();
    }
    let file = folder.join("import.jsonl");
    std::fs::write(&file, lines).unwrap();
    let began = Instant::now();
    let status = command("import", setup).arg(&file).status().unwrap();
    assert!(status.success(), "the import failed: {status}");
    println!("  import        {:>9.0} messages/s", waiting as f64 / began.elapsed().as_secs_f64());
}

async fn measure(setup: &Setup, seen: &Seen) {
    let address: SocketAddr =
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let mut process =
        command("serve", setup).args(["--listen", &address.to_string()]).spawn().unwrap();
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let ready = format!("http://{address}/readyz");
    while !client.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200) {
        assert!(began.elapsed() < PATIENCE, "the program is not ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("  ready after   {:>9.2} s", began.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!(
        "  memory        {:>9} MB, at most {} MB",
        memory(&process, "VmRSS:"),
        memory(&process, "VmHWM:")
    );
    let (began, before) = (Instant::now(), seen.lock().unwrap().len());
    let mut acked = Vec::new();
    for n in 0..SIGN_UPS {
        tokio::time::sleep(SIGN_UP_EVERY).await;
        let user = format!("new-{address}-{n}");
        let messages = json!({"batch": [
            {"type": "identify", "userId": user, "traits": {"email": format!("{n}@example.com")}},
            {"type": "track", "userId": user, "event": "Signed Up"},
        ]});
        let request = client.post(format!("http://{address}/v1/batch")).basic_auth("k", Some(""));
        let answer = request.body(messages.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        acked.push((Instant::now(), user));
    }
    let mut firsts = Vec::new();
    let mut events = Vec::new();
    for (at, user) in acked {
        let (first, event) = arrived(seen, &user).await;
        firsts.push(first.saturating_duration_since(at));
        events.push(event.saturating_duration_since(at));
    }
    let requests = seen.lock().unwrap().len() - before;
    print("first byte", "after the acknowledgement ", firsts);
    print("event", "after the acknowledgement ", events);
    println!("  requests      {:>9.1} a second", requests as f64 / began.elapsed().as_secs_f64());
    println!(
        "  memory        {:>9} MB, at most {} MB",
        memory(&process, "VmRSS:"),
        memory(&process, "VmHWM:")
    );
    let mut pages = Vec::new();
    for n in 0..PAGES {
        let page = format!("http://{address}/api/messages?userId=user_{n}");
        let began = Instant::now();
        let answer = client.get(page).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
        pages.push(began.elapsed());
    }
    print("page", "", pages);
    process.kill().unwrap();
    process.wait().unwrap();
}

fn print(what: &str, since: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!(
        "  {what:<13} {:>9.1} ms {since}(p50), {:.1} ms (p99)",
        milliseconds(times[times.len() / 2]),
        milliseconds(times[times.len() * 99 / 100])
    );
}

/// When a person's first request came, and the event.
async fn arrived(seen: &Seen, user: &str) -> (Instant, Instant) {
    let began = Instant::now();
    loop {
        {
            let seen = seen.lock().unwrap();
            let mut own = seen.iter().filter(|(_, body)| body["userId"] == user);
            let first = own.clone().next();
            let event = own.find(|(_, body)| !body["eventName"].is_null());
            if let (Some((first, _)), Some((event, _))) = (first, event) {
                return (*first, *event);
            }
        }
        assert!(began.elapsed() < PATIENCE, "{user} never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// A line of what the system knows of a process, in megabytes.
fn memory(process: &Child, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let rest = status.lines().find_map(|all| all.strip_prefix(line)).unwrap();
    rest.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}
