//! What the program costs and how late it is, at rest and with a million messages waiting.
//!
//! `cargo bench --bench backlog`, with `BACKLOG_WAITING` messages (1,000,000). The program is the real
//! one, with its defaults: 10 requests a second. Loops is a server in this process that takes everything
//! and notes when. For each: how long the program takes to be ready, its memory, the time from the
//! acknowledgement of a sign-up (identify and track of a new person) until the first byte of its first
//! request and of its event is at Loops, and how many requests a second are made meanwhile.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
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

/// A sign-up makes two requests: less than the rate, so that at rest none waits for it.
const SIGN_UP_EVERY: Duration = Duration::from_millis(300);
const SIGN_UPS: usize = 100;
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
    for waiting in [0, waiting] {
        let folder = tempfile::tempdir().unwrap();
        println!("{waiting} messages waiting:");
        if waiting > 0 {
            import(folder.path(), loops, waiting);
        }
        measure(folder.path(), loops, &seen).await;
    }
}

async fn take(State(seen): State<Seen>, request: Request<Body>) -> axum::Json<Value> {
    let came = Instant::now();
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    seen.lock().unwrap().push((came, body));
    axum::Json(json!({"success": true, "id": "c1"}))
}

fn command(what: &str, folder: &Path, loops: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
    command.arg(what).arg("--data").arg(folder.join("data"));
    command.env_clear().stdout(Stdio::null()).stderr(Stdio::null()).envs([
        ("LOOPS_API_KEY", "k"),
        ("LOOPS_BASE_URL", format!("http://{loops}/api/v1").as_str()),
        ("SEGMENT_WRITE_KEY", "k"),
    ]);
    command
}

/// Identifies of as many people.
fn import(folder: &Path, loops: SocketAddr, waiting: usize) {
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
    let status = command("import", folder, loops).arg(&file).status().unwrap();
    assert!(status.success(), "the import failed: {status}");
    println!("  import        {:>9.0} messages/s", waiting as f64 / began.elapsed().as_secs_f64());
}

async fn measure(folder: &Path, loops: SocketAddr, seen: &Seen) {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let mut process =
        command("serve", folder, loops).args(["--listen", &address.to_string()]).spawn().unwrap();
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
    for (what, times) in [("first byte", &mut firsts), ("event", &mut events)] {
        times.sort_unstable();
        println!(
            "  {what:<13} {:>9.1} ms after the acknowledgement (p50), {:.1} ms (p99)",
            milliseconds(times[times.len() / 2]),
            milliseconds(times[times.len() * 99 / 100])
        );
    }
    println!("  requests      {:>9.1} a second", requests as f64 / began.elapsed().as_secs_f64());
    println!(
        "  memory        {:>9} MB, at most {} MB",
        memory(&process, "VmRSS:"),
        memory(&process, "VmHWM:")
    );
    process.kill().unwrap();
    process.wait().unwrap();
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
