//! Kills the program again and again while it works, and compares what it acknowledged with what Loops
//! got: nothing missing, no event twice, the order of each person kept, the rate never passed.
//!
//! `cargo bench --bench torture`, for `TORTURE_S` seconds (30). The program is the real one, killed
//! with `kill -9` at random; Loops is the sandbox in this process, slow, failing and dropping
//! connections before and after they took effect. Ends with exit code 1 if a promise is broken.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a command for developers"
)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use segment_loops::clock::SystemClock;
use segment_loops::http::server::{ServerLimits, serve};
use segment_loops::sandbox::{Faults, Sandbox, SandboxOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const RATE: u32 = 200;
const SENDERS: usize = 6;
const USERS_PER_SENDER: usize = 4;
/// How long the rest may take at the end.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a sender was told is stored: its number, the user, whether it is an event.
type Acked = Arc<Mutex<Vec<(String, u64, bool)>>>;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let seconds = std::env::var("TORTURE_S").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let sandbox = Sandbox::new(
        SandboxOptions {
            api_key: None,
            team_name: "Torture".to_owned(),
            faults: Faults {
                rate_limit: RATE,
                latency_ms: 5,
                error_rate: 0.1,
                error_status: 503,
                reset_before_rate: 0.05,
                reset_after_rate: 0.05,
                ..Faults::default()
            },
        },
        Arc::new(SystemClock),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let loops = listener.local_addr().unwrap();
    let limits = ServerLimits::default();
    let router = sandbox.router();
    tokio::spawn(async move {
        serve(listener, router, limits, CancellationToken::new(), Duration::ZERO).await;
    });
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let acked = Acked::default();
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| tokio::spawn(send(sender, address, Arc::clone(&acked), Arc::clone(&stop))))
        .collect();
    let mut process = start(folder.path(), address, loops);
    let mut kills = 0;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(200..1_800))).await;
        process.kill().unwrap();
        process.wait().unwrap();
        kills += 1;
        process = start(folder.path(), address, loops);
    }
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    let is_drained = drain(address).await;
    process.kill().unwrap();
    process.wait().unwrap();
    let broken = judge(&sandbox, &acked.lock().unwrap(), is_drained);
    println!("kills {kills}, {broken:?}");
    std::process::exit(i32::from(!broken.is_empty()));
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start(folder: &Path, address: SocketAddr, loops: SocketAddr) -> Child {
    Command::new(env!("CARGO_BIN_EXE_segment-loops"))
        .args(["serve", "--listen", &address.to_string(), "--data"])
        .arg(folder.join("data"))
        .env_clear()
        .envs([
            ("LOOPS_API_KEY", "k"),
            ("LOOPS_BASE_URL", format!("http://{loops}/api/v1").as_str()),
            ("SEGMENT_WRITE_KEY", "k"),
            ("LOOPS_RATE_LIMIT", RATE.to_string().as_str()),
            ("SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS", "20"),
            ("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "300"),
            ("SEGMENT_LOOPS__DELIVERY__LEASE_TTL_MS", "600"),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Sends identifies and tracks of its own users, each until it is acknowledged, as SDKs do.
async fn send(sender: usize, address: SocketAddr, acked: Acked, stop: Arc<AtomicBool>) {
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    for n in 0_u64.. {
        let user = format!("s{sender}-{}", fastrand::usize(0..USERS_PER_SENDER));
        let is_event = fastrand::bool();
        let kind = if is_event { "track" } else { "identify" };
        // Every other identify says nothing new: it can be merged.
        let is_new = is_event || n % 2 == 0;
        // With an address, since Loops makes no contact of a user id alone.
        let email = format!("{user}@example.com");
        let fields = if is_new {
            json!({"email": email, "n": n})
        } else {
            json!({"email": email, "plan": "pro"})
        };
        let message = json!({"type": kind, "userId": user, "messageId": format!("{sender}-{n}"),
            "event": "E", "properties": fields, "traits": fields});
        loop {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let request =
                client.post(format!("http://{address}/v1/{kind}")).basic_auth("k", Some(""));
            if request
                .body(message.to_string())
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if is_new {
            acked.lock().unwrap().push((user, n, is_event));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until nothing is pending.
async fn drain(address: SocketAddr) -> bool {
    let began = Instant::now();
    let mut empty = 0;
    while began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Ok(answer) = reqwest::get(format!("http://{address}/metrics")).await else { continue };
        let text = answer.text().await.unwrap_or_default();
        let depth =
            text.lines().find(|line| line.starts_with("segment_loops_queue_depth_messages{"));
        empty = if depth.is_some_and(|line| line.ends_with(" 0")) { empty + 1 } else { 0 };
        // It is measured every few seconds only.
        if empty > 6 {
            return true;
        }
    }
    false
}

/// The promises that were broken.
fn judge(sandbox: &Sandbox, acked: &[(String, u64, bool)], is_drained: bool) -> Vec<String> {
    let events = sandbox.events();
    let counts = sandbox.counts();
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    let seen: Vec<(String, u64)> = events
        .iter()
        .filter_map(|event| {
            Some((event.user_id.clone()?, number(event.event_properties.get("n"))?))
        })
        .collect();
    let distinct: HashSet<&(String, u64)> = seen.iter().collect();
    let sent: Vec<(String, u64)> = acked
        .iter()
        .filter(|(.., is_event)| *is_event)
        .map(|(user, n, _)| (user.clone(), *n))
        .collect();
    let missing = sent.iter().filter(|event| !distinct.contains(event)).count();
    let twice = seen.len() - distinct.len();
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut disordered = 0;
    for (user, n) in &seen {
        disordered += usize::from(last.insert(user, *n).is_some_and(|before| before > *n));
    }
    // Each contact has its last trait, or one that was sent behind it.
    let mut traits: HashMap<&str, u64> = HashMap::new();
    for (user, n, _) in acked.iter().filter(|(.., is_event)| !is_event) {
        traits.insert(user, *n);
    }
    let contacts: HashMap<String, u64> = sandbox
        .contacts()
        .iter()
        .filter_map(|contact| {
            Some((contact["userId"].as_str()?.to_owned(), number(contact.get("n"))?))
        })
        .collect();
    let stale = traits
        .iter()
        .filter(|(user, n)| contacts.get(**user).is_none_or(|found| found < n))
        .count();
    println!(
        "acknowledged with something new {}, of these events {}; at Loops events {}, contacts {}, requests {}, most in one second {} of {RATE}, limited {}",
        acked.len(),
        sent.len(),
        seen.len(),
        contacts.len(),
        counts.requests,
        counts.most_in_one_second,
        counts.rate_limited,
    );
    let checks = [
        (missing, "acknowledged events missing"),
        (twice, "events accepted twice"),
        (disordered, "events out of order"),
        (stale, "contacts without their last trait"),
        (usize::from(counts.most_in_one_second > u64::from(RATE)), "seconds above the rate"),
        (usize::from(!is_drained), "backlogs that did not drain"),
    ];
    let broken = checks.iter().filter(|(count, _)| *count > 0);
    broken.map(|(count, what)| format!("{count} {what}")).collect()
}
